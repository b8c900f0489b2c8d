# `make help` lists what there is. Everything runs in .venv, made from python3 on first use.

PYTHON ?= python3
DATA ?= ./data
ARGS ?=
SEED ?= 1
PYTEST ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes

.DEFAULT_GOAL := help
.PHONY: help serve quick test e2e e2e-ceph bench fuzz soak reliability check-clean requirements clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.base ## Run the proxy on 127.0.0.1:8080 with its data in ./data (ARGS="--listen ...")
	@exec $(BIN)/python -m artifactproxy serve --data $(DATA) $(ARGS)

quick: $(VENV)/.dev ## Lint, types, and the tests that need no I/O: seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/rules tests/providers tests/test_house.py tests/test_config.py $(PYTEST)

test: $(VENV)/.dev ## All tests that run anywhere; lists what was skipped (REQUIRE_ALL=1: fails instead)
	$(BIN)/python -m pytest -rsfE -n 2 --dist loadfile --no-loadscope-reorder tests --results build/reliability/tests.json $(PYTEST)

e2e: $(VENV)/.dev ## Real clients against a real instance
	$(BIN)/python -m pytest -rsfE e2e $(PYTEST)

e2e-ceph: $(VENV)/.dev ## The S3 store on Ceph's gateway
	$(BIN)/python -m pytest -rsfE e2e/ceph.py $(PYTEST)

bench: $(VENV)/.dev ## Measure
	$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.dev ## 100,000 random operations, kills, lost power; an oracle for every byte (SEED=2 ARGS="--only random")
	$(BIN)/python -m tests.crash.soak --seed $(SEED) $(ARGS)

fuzz: $(VENV)/.fuzz ## Parsers and rules under a coverage-guided fuzzer (ARGS="--seconds 60 TARGET...")
	$(BIN)/python -m tests.fuzz $(ARGS)

reliability: $(VENV)/.dev ## Write docs/reliability.md from the results of make test, soak and fuzz
	$(BIN)/python -m tests.reliability

check-clean: ## Fail if the checkout differs from what is committed
	@test -z "$$(git status --porcelain)" || { git status --short; echo "the checkout is not clean"; exit 1; }

requirements: $(VENV)/.dev ## Pin the dependencies again (raise them with ARGS=--upgrade)
	$(BIN)/uv pip compile pyproject.toml --output-file requirements/base.txt $(COMPILE) $(ARGS)
	$(BIN)/uv pip compile pyproject.toml requirements/dev.in --constraint requirements/base.txt \
	  --output-file requirements/dev.txt $(COMPILE) $(ARGS)
	$(BIN)/uv pip compile requirements/fuzz.in --output-file requirements/fuzz.txt $(COMPILE) $(ARGS)

clean: ## Remove what was built, but not ./data
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis artifactproxy.egg-info

COMPILE := --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate

# A stamp says that its file was installed as a whole; an interrupted run starts again.
$(VENV)/.base: requirements/base.txt | $(VENV)/.made
	$(PIP) -r requirements/base.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/.made
	$(PIP) -r requirements/dev.txt
	@touch $@ $(VENV)/.base

$(VENV)/.fuzz: requirements/fuzz.txt | $(VENV)/.dev
	$(PIP) -r requirements/fuzz.txt
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing; install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The checkout is the installation: .venv/bin/artifactproxy runs it from any folder.
	@echo "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/artifactproxy.pth"
	@printf '#!%s\nfrom artifactproxy.cli import main\n\nmain()\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/artifactproxy
	@chmod +x $(BIN)/artifactproxy
	@touch $@
