"""What docs/reliability.md says is what the tests did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus.entry import cases, entries
from tests.reliability.page import FAULT_PARTS, page, survived_attacks, survived_faults
from tests.reliability.results import case_of, rows_of
from tests.reliability.rows import rows

ROOT = Path(__file__).parents[2]
MATRIX = {
    "upstream": [f"U{n:02}" for n in range(1, 40)],
    "client": [f"C{n:02}" for n in range(1, 26)],
    "local": [f"L{n:02}" for n in range(1, 17)],
    "store": [f"S{n:02}" for n in range(1, 15)],
    "postgres": [f"P{n:02}" for n in range(1, 12)],
    "redis": [f"R{n:02}" for n in range(1, 9)],
    "replica": [f"N{n:02}" for n in range(1, 8)],
}
SAMPLE = """
import pytest

def test_u01_good(): ...
def test_u02_u03_bad(): assert False
@pytest.mark.skip(reason="needs a disk")
def test_l01_skipped(): ...
@pytest.fixture
def broken():
    yield
    raise OSError
def test_c01_bad_afterwards(broken): ...
def test_other(): ...
@pytest.mark.parametrize("case", [], ids=[])
def test_nothing(case): ...
"""


@pytest.mark.parametrize("part", list(FAULT_PARTS))
def test_the_matrix_is_complete(part: str) -> None:
    assert [row.id for row in rows(part)] == MATRIX[part]
    for row in rows(part):
        assert row.fault.strip(), row.id
        assert row.promise.strip(), row.id
        if row.decision is not None:
            assert list((ROOT / "docs" / "decisions").glob(f"{row.decision:04}-*.md")), row.id


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    named: set[str] = set()
    for folder in ("tests", "e2e"):
        for path in (ROOT / folder).rglob("test_*.py"):
            if "contracts" not in path.parts and path != Path(__file__):
                for name in re.findall(r"def (test_\w+)", path.read_text()):
                    named |= set(rows_of(name))
    wanted = {row for part in MATRIX.values() for row in part}
    assert named == wanted, f"without a test: {wanted - named}, without a row: {named - wanted}"


def test_the_corpus_is_well_formed() -> None:
    for entry in entries():
        assert entry.title, entry.id
        assert entry.cases, entry.id
        assert entry.must_not, entry.id
    ids = [case.id for case in cases()]
    assert len(ids) == len(set(ids))


def test_results_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "corpus"
    folder.mkdir(parents=True)
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (folder / "test_attacks.py").write_text(
        "import pytest\n@pytest.mark.parametrize('case', [1, 2], ids=['c-A04-3', 'c-A04-4'])\n"
        "def test_raw(case):\n    assert case == 1\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    out = tmp_path / "build" / "results.json"
    options = ["-q", "-p", "tests.reliability.results", "-p", "no:cacheprovider", "--results", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        check=False,
        capture_output=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 1, done.stdout
    found = json.loads(out.read_text())
    assert {row: (of["passed"], of["failed"], of["skipped"]) for row, of in found["faults"].items()} == {
        "U01": (1, 0, 0),
        "U02": (0, 1, 0),
        "U03": (0, 1, 0),
        "L01": (0, 0, 1),
        "C01": (0, 1, 0),
    }
    assert found["faults"]["L01"]["reasons"] == ["needs a disk"]
    assert found["attacks"] == {"A04": {"c": {"3": "passed", "4": "failed"}}}


def test_names() -> None:
    assert rows_of("test_u11_u12_bad_framings") == ["U11", "U12"]
    assert rows_of("test_upstream") == rows_of("test_x01_x") == []
    assert case_of("tests/corpus/test_d.py::test_behind_nginx[D06-12]") == ("D06", "12", "behind nginx")
    assert case_of("tests/web/test_d.py::test_behind_nginx[D06-12]") is None


def good_results() -> dict[str, dict[str, object]]:
    outcome = {"passed": 2, "failed": 0, "skipped": 0, "reasons": []}
    attacks = {entry.id: {"c": {str(case.number): "passed" for case in entry.cases}} for entry in entries()}
    soak = dict.fromkeys(("operations", "kills", "bodies_checked", "syscall_kills", "power_loss_states"), 9)
    return {
        "tests": {
            "passed": 9,
            "failed": 0,
            "skipped": 0,
            "faults": {row: dict(outcome) for part in MATRIX.values() for row in part},
            "attacks": attacks,
        },
        "soak": {**soak, "wrong": 0, "short": 0, "lost": 0, "command": "make soak SEED=7"},
        "fuzz": {"executions": 5, "targets": ["a"], "seconds": 60, "crashes": 0, "command": "make fuzz"},
    }


def test_a_clean_page_and_what_spoils_it() -> None:
    text, clean = page(good_results(), "2026-01-01")
    assert clean
    assert "make soak SEED=7" in text
    assert "| U01 |" in text
    for spoil in (
        lambda found: found["tests"]["faults"].pop("U01"),
        lambda found: found["tests"]["faults"]["U01"].update(failed=1),
        lambda found: found["tests"]["faults"]["U01"].update(passed=0, skipped=2, reasons=["needs root"]),
        lambda found: found["tests"].update(failed=1),
        lambda found: found["soak"].update(lost=1),
        lambda found: found["fuzz"].update(crashes=1),
    ):
        results = good_results()
        spoil(results)
        text, clean = page(results, "2026-01-01")
        assert not clean


def test_a_case_that_was_not_played_is_not_survived() -> None:
    results = good_results()["tests"]
    good, every, _ = survived_attacks(results)
    assert good == every
    for entry in entries()[:1]:
        results["attacks"][entry.id]["c"].popitem()
        assert survived_attacks(results)[0] == good - 1
    count = sum(map(len, MATRIX.values()))
    assert survived_faults(results) == (count, count)


def test_the_page_shows_every_row_and_entry() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    for part in FAULT_PARTS:
        for row in rows(part):
            assert f"| {row.id} | " in text, f"{row.id}: make reliability"
    for entry in entries():
        assert f"| {entry.id} | " in text, f"{entry.id}: make reliability"
