"""A pytest plugin: which fault or attack each test proved, written to `--results FILE` as JSON.

A test says what it proves by its name. `test_u07_...` (several: `test_u11_u12_...`) is a row of the
fault matrix; a parameter such as `c-A04-3` is case 3 of entry A04 of the corpus, played by the
parser `c`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

_ROWS = re.compile(r"test_((?:[uclsprn]\d\d_)+)")
_CASE = re.compile(r"(?:(?P<way>\w+)-)?(?P<id>[A-G]\d\d)-(?P<number>\d+)")


def rows_of(name: str) -> list[str]:
    """The rows of the matrix that a test function proves."""
    match = _ROWS.match(name)
    return match[1].strip("_").upper().split("_") if match else []


def case_of(nodeid: str) -> tuple[str, str, str] | None:
    """Entry, case number and the way it was played, of a test of the corpus."""
    function, bracket, parameters = nodeid.rpartition("::")[2].partition("[")
    match = _CASE.fullmatch(parameters.removesuffix("]")) if bracket else None
    if match is None or "tests/corpus/" not in nodeid:
        return None
    return match["id"], match["number"], match["way"] or function.removeprefix("test_").replace("_", " ")


class Results:
    """What the reports of one session say."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            worse = self.outcomes.get(report.nodeid) == "failed"
            self.outcomes[report.nodeid] = "failed" if worse else report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def summary(self) -> dict[str, Any]:
        faults: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"passed": 0, "failed": 0, "skipped": 0, "reasons": []}
        )
        attacks: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        for nodeid, outcome in self.outcomes.items():
            name = nodeid.rpartition("::")[2].partition("[")[0]
            for row in rows_of(name) if "tests/contracts/" not in nodeid else []:
                faults[row][outcome] += 1
                reason = self.reasons.get(nodeid)
                if reason and reason not in faults[row]["reasons"]:
                    faults[row]["reasons"].append(reason)
            case = case_of(nodeid)
            if case is not None:
                entry, number, way = case
                attacks[entry][way][number] = outcome
        count = list(self.outcomes.values()).count
        return {
            "passed": count("passed"),
            "failed": count("failed"),
            "skipped": count("skipped"),
            "faults": faults,
            "attacks": attacks,
        }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", help="write which faults and attacks were proved")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("results", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(), "reliability-results")


def pytest_sessionfinish(session: pytest.Session) -> None:
    results = session.config.pluginmanager.get_plugin("reliability-results")
    if results is not None:
        write(Path(session.config.getoption("results")), results.summary())


def write(path: Path, value: object) -> None:
    """Whole or not at all: a run that is stopped leaves the results of the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
    Path(draft).replace(path)
