"""The house stands: floors, purity, sizes, complete tables, and each rule catches a planted breach."""

from __future__ import annotations

import importlib
import subprocess
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from artifactproxy.limits import Limits, RemoteLimits
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import PublicOrigins
from tests import house
from tests.house import Module

ROOT = Path(__file__).parent.parent
MODULES = [
    Module(path.relative_to(ROOT / house.PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / house.PACKAGE).rglob("*.py"))
]


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule):
    assert [breach for module in MODULES for breach in rule(module)] == []


def test_the_rules_see_the_whole_package():
    rooms = {module.room for module in MODULES}
    assert {"model", "rules", "providers", "engine", "stores", "web", "config", "cli"} <= rooms
    assert rooms <= house.TOP | set(house.FLOORS)


def test_broad_excepts_in_the_table_exist():
    """A place that has gone leaves the table, so that nothing else moves in."""
    for name, allowed in house.BROAD_EXCEPTS.items():
        source = (ROOT / house.PACKAGE / name).read_text(encoding="utf-8")
        assert source.count("except Exception") == allowed, name


def test_large_files_are_pointed_out():
    large = {m.name: lines for m in MODULES if (lines := m.source.count("\n")) > house.FILE_LINES}
    for name, lines in large.items():
        warnings.warn(f"{name} has {lines} lines; would a stranger still find the place?", stacklevel=1)
    assert all(lines <= 2 * house.FILE_LINES for lines in large.values()), large


# --- completeness


def test_every_provider_has_a_table():
    tables = {path.stem for path in (ROOT / "tests/providers/tables").glob("[!_]*.py")}
    assert set(PROVIDERS) - tables == set()


@pytest.mark.parametrize(
    ("room", "harnesses"), [("stores", "STORES"), ("indexes", "INDEXES"), ("coordination", "COORDINATORS")]
)
def test_every_kind_of_adapter_has_a_harness(room, harnesses):
    kinds = importlib.import_module(f"{house.PACKAGE}.{room}").KINDS
    found = getattr(importlib.import_module("tests.contracts.harness"), harnesses)
    assert set(kinds) == set(found)


def test_every_limit_stands_in_the_example():
    lines = (ROOT / "config.example.yaml").read_text(encoding="utf-8").splitlines()
    keys = {line.split(":")[0].strip() for line in lines}
    assert set(Limits.__dataclass_fields__) | set(RemoteLimits.__dataclass_fields__) <= keys


# --- host names


def _public_hosts() -> set[str]:
    """Whole hosts where the registry is a guest of a larger domain, else the domain it owns."""
    origins = PublicOrigins()
    owned = [origins.repository(f"pkg:{kind}/a@1") for kind in ("pypi", "npm", "cargo")]
    owned += [origins.download(f"pkg:{kind}/a@1") for kind in ("npm", "cargo")]
    guests = [origins.download(f"pkg:{kind}/a/b@1") for kind in ("golang", "maven")]
    guests += [origins.repository("pkg:maven/a/b@1"), origins.download("pkg:deb/debian/a@1?arch=all")]
    domains = {".".join((urlsplit(url).hostname or "").split(".")[-2:]) for url in owned}
    return domains | {urlsplit(url).hostname or "" for url in guests}


def test_hosts_are_resolved():
    hosts = _public_hosts()
    assert len(hosts) >= 6
    assert all("." in host for host in hosts)


def test_no_file_names_a_public_registry():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("needs git and a checkout: apt-get install git")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    texts = [
        (str(p.relative_to(ROOT)), p.read_bytes().decode("utf-8", "replace")) for p in paths if p.is_file()
    ]
    assert len(texts) > 50
    assert house.host_breaches(texts, _public_hosts()) == []


def test_requirement_files_hold_hashes_and_no_address():
    for name in ("base.txt", "dev.txt"):
        text = (ROOT / "requirements" / name).read_text()
        pinned = [line for line in text.splitlines() if "==" in line]
        assert pinned
        assert all(line.endswith("\\") for line in pinned)
        assert text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text
        assert "--index-url" not in text


# --- each rule catches a planted breach, and leaves what is allowed alone

PLANTED = [
    (house.floor_breaches, "rules/x.py", "from artifactproxy.engine import fills", True),
    (house.floor_breaches, "rules/x.py", "import artifactproxy.ports", True),
    (house.floor_breaches, "rules/x.py", "from artifactproxy import model, cli", True),
    (house.floor_breaches, "rules/x.py", "from ..providers import _base", True),
    (
        house.floor_breaches,
        "rules/x.py",
        "from . import http\nfrom artifactproxy.rules.http import http_date",
        False,
    ),
    (house.floor_breaches, "providers/x/y.py", "from ...engine import fills", True),
    (house.floor_breaches, "providers/x/y.py", "from .. import _base\nfrom . import names", False),
    (house.floor_breaches, "engine/x.py", "def f():\n    from artifactproxy.stores import fs", True),
    (house.floor_breaches, "stores/x.py", "from artifactproxy.indexes import sqlite", True),
    (house.floor_breaches, "stores/x.py", "from artifactproxy.providers import PROVIDERS", True),
    (house.floor_breaches, "web/x.py", "from artifactproxy.stores.fs import FsStore", True),
    (house.floor_breaches, "web/x.py", "from artifactproxy.engine.answer import Answer", False),
    (house.floor_breaches, "model.py", "from artifactproxy.rules import paths", True),
    (house.floor_breaches, "wiring.py", "from artifactproxy.stores import KINDS", False),
    (house.floor_breaches, "cellar/x.py", "", True),
    (house.purity_breaches, "rules/x.py", "import time", True),
    (house.purity_breaches, "rules/x.py", "import os.path", True),
    (house.purity_breaches, "providers/x.py", "import logging", True),
    (house.purity_breaches, "providers/x.py", "from random import random", True),
    (house.purity_breaches, "providers/x.py", "from urllib.request import urlopen", True),
    (house.purity_breaches, "providers/x.py", "import urllib.parse\nimport packaging.version", False),
    (house.purity_breaches, "providers/x.py", "import requests", True),
    (house.purity_breaches, "rules/x.py", "async def f(): ...", True),
    (house.purity_breaches, "rules/x.py", "open('x')", True),
    (house.purity_breaches, "rules/x.py", "import datetime\ndatetime.datetime.now()", True),
    (house.purity_breaches, "engine/x.py", "import time\nasync def f(): ...", False),
    (house.driver_breaches, "engine/x.py", "import aiohttp", True),
    (house.driver_breaches, "wiring.py", "from aiohttp import web", True),
    (house.driver_breaches, "web/x.py", "from aiohttp import web", False),
    (house.driver_breaches, "web/x.py", "from aiohttp import ClientSession", True),
    (house.driver_breaches, "web/x.py", "import aiohttp\naiohttp.ClientSession()", True),
    (house.driver_breaches, "upstream/x.py", "from aiohttp import ClientSession", False),
    (house.driver_breaches, "upstream/x.py", "from aiohttp.web import Request", True),
    (house.driver_breaches, "upstream/x.py", "import aiohttp\naiohttp.web.Application()", True),
    (house.driver_breaches, "engine/x.py", "import sqlite3", True),
    (house.driver_breaches, "indexes/x.py", "import sqlite3\nS = 'SELECT a FROM b'", False),
    (house.driver_breaches, "engine/x.py", "S = 'SELECT a FROM b'", True),
    (house.driver_breaches, "engine/x.py", "S = f'DELETE FROM {x}'", True),
    (house.driver_breaches, "engine/x.py", "'''SELECT a FROM b is what others write.'''", False),
    (house.size_breaches, "engine/x.py", "def f():\n" + "    x = 1\n" * 60, True),
    (house.size_breaches, "engine/x.py", "def f():\n" + "    x = 1\n" * 59, False),
    (house.size_breaches, "engine/x.py", "class C:\n  async def f():\n" + "    x = 1\n" * 60, True),
    (house.except_breaches, "rules/x.py", "try: f()\nexcept Exception: pass", True),
    (house.except_breaches, "rules/x.py", "try: f()\nexcept (OSError, Exception): pass", True),
    (house.except_breaches, "rules/x.py", "try: f()\nexcept: pass", True),
    (house.except_breaches, "engine/fill.py", "try: f()\nexcept BaseException: pass", True),
    (house.except_breaches, "engine/fill.py", "try: f()\nexcept Exception: pass", False),
    (house.except_breaches, "engine/fill.py", "try: f()\nexcept Exception: pass\n" * 2, True),
    (house.except_breaches, "rules/x.py", "try: f()\nexcept (OSError, ValueError): pass", False),
    (house.environment_breaches, "engine/x.py", "import os\nos.environ['A']", True),
    (house.environment_breaches, "config/x.py", "from os import getenv", True),
    (house.environment_breaches, "cli.py", "import os\nos.environ", False),
    (house.response_breaches, "web/app.py", "from aiohttp import web\nweb.StreamResponse()", True),
    (house.response_breaches, "web/respond.py", "from aiohttp import web\nweb.StreamResponse()", False),
    (house.docstring_breaches, "web/x.py", "x = 1", True),
    (house.docstring_breaches, "web/__init__.py", "", False),
    (house.name_breaches, "web/x.py", "class BlobManager: ...", True),
    (house.name_breaches, "web/x.py", "class Spool: ...", False),
    (house.noqa_breaches, "web/x.py", "x = 1  # " + "noqa: S105", True),
    (house.noqa_breaches, "web/x.py", "x = 1  # " + "noqa", True),
    (house.noqa_breaches, "web/x.py", "x = 1  # " + "noqa: S105  no secret", False),
]


@pytest.mark.parametrize(("rule", "name", "source", "is_breach"), PLANTED)
def test_a_planted_breach_is_caught(rule, name, source, is_breach):
    assert bool(rule(Module(name, source))) is is_breach


def test_every_rule_has_a_planted_breach_and_an_innocent():
    for is_breach in (True, False):
        assert {case[0] for case in PLANTED if case[3] is is_breach} == set(house.RULES)


@pytest.mark.parametrize(
    ("line", "is_breach"),
    [
        ("https://files.registry.example/x", True),
        ("see REGISTRY.example.", True),
        ("`registry.example`", True),
        ("my-registry.example", False),
        ("registry.example.org", False),
        ("registry.examples", False),
    ],
)
def test_a_planted_host_is_caught(line, is_breach):
    assert bool(house.host_breaches([("a.txt", line)], ["registry.example"])) is is_breach
