"""docs/reliability.md from the matrix, the corpus and the results of a run of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.corpus.entry import Entry, entries
from tests.reliability.rows import Row, rows

NEEDED = {"tests": "test", "soak": "soak", "fuzz": "fuzz"}
"""Results by name, and the target that leaves them."""

FAULT_PARTS = {
    "upstream": "Upstream",
    "client": "Clients",
    "local": "This machine",
    "store": "The bucket",
    "postgres": "PostgreSQL",
    "redis": "Redis",
    "replica": "Replicas and operations",
}
ATTACK_PARTS = {
    "A": "Paths and encoding",
    "B": "Request forgery and redirects",
    "C": "Pushed documents",
    "D": "Framing and smuggling",
    "E": "Exhaustion",
    "F": "Stored content, browsers and headers",
    "G": "Identity and forged headers",
}
_INTRO = """\
What the proxy survives, proved by tests that inject each fault and play each attack for real: over sockets, on small
and failing disks, with signals and system calls that fail, with real PostgreSQL and Redis that are restarted, paused
and cut off, with an S3 that fails as told. Written by `make reliability` on {day} from the
results of the commands below; nothing here is edited by hand.

Tests of the whole program end with the checker of [checkup.md](checkup.md) finding nothing (for attacks: after every twentieth
case and at the end), no temporary file, descriptor or upstream connection left, and a normal request answered
right. *Reset* means that the connection ends so that no client can take what it
has for a whole answer. A row ends with what became of its tests in that run.

How late hits are beside crowds of idle, slow, missing and hostile clients, and what those hold, is measured in
[benchmarks-crowded.md](benchmarks-crowded.md)."""

_FIGURES = (
    ("faults survived: **{survived}/{all_faults}**", "`make test`"),
    ("attacks refused or harmless: **{refused}/{all_attacks}**, expanded **{expanded:,}**", "`make test`"),
    ("times an attack was played, by both parsers and behind nginx: {played:,}", "`make test`"),
    ("random operations, each byte held against an oracle: **{soak[operations]:,}**", "`{soak[command]}`"),
    ("killed (-9) and started again meanwhile: **{soak[kills]:,}** times", "the same"),
    (
        "bodies compared: {soak[bodies_checked]:,}; wrong **{soak[wrong]}**, short **{soak[short]}**",
        "the same",
    ),
    ("acknowledged state lost: **{soak[lost]}**", "the same"),
    ("system calls of the commit path at which it was killed: **{soak[syscall_kills]:,}**", "the same"),
    ("states a power loss may leave, each booted and checked: **{soak[power_loss_states]:,}**", "the same"),
    (
        "fuzzing: {fuzz[executions]:,} executions, {targets} targets, {minutes:.0f} minutes",
        "`{fuzz[command]}`",
    ),
    ("crashes found by it: **{fuzz[crashes]}**", "the same"),
    ("tests: {tests[passed]:,} passed, {tests[failed]} failed, {tests[skipped]} not run", "`make test`"),
)

Results = Mapping[str, Mapping[str, Any]]


def page(results: Results, day: str) -> tuple[str, bool]:
    """The text, and whether everything in it passed."""
    tests = results["tests"]
    parts = ["# Reliability", _INTRO.format(day=day), "## In figures", _figures(results)]
    for part, title in FAULT_PARTS.items():
        table = [
            (row.id, row.fault, _promise(row), fault_result(tests["faults"].get(row.id)))
            for row in rows(part)
        ]
        parts += [f"## Faults: {title}", _table(("id", "fault", "promise", "result"), table)]
    for part, title in ATTACK_PARTS.items():
        table = [
            (
                entry.id,
                entry.title,
                _expected(entry),
                attack_result(entry, tests["attacks"].get(entry.id, {})),
            )
            for entry in entries(part)
        ]
        if table:
            parts += [f"## Attacks {part}: {title}", _table(("id", "attack", "answer", "result"), table)]
    return "\n\n".join(parts) + "\n", is_clean(results)


def is_clean(results: Results) -> bool:
    tests, soak, fuzz = results["tests"], results["soak"], results["fuzz"]
    survived, all_faults = survived_faults(tests)
    refused, all_attacks, _ = survived_attacks(tests)
    wrong = tests["failed"] + soak["wrong"] + soak["short"] + soak["lost"] + fuzz["crashes"]
    return survived == all_faults and refused == all_attacks and not wrong


def survived_faults(tests: Mapping[str, Any]) -> tuple[int, int]:
    known = [row.id for part in FAULT_PARTS for row in rows(part)]
    return sum(_passes(tests["faults"].get(row)) for row in known), len(known)


def survived_attacks(tests: Mapping[str, Any]) -> tuple[int, int, int]:
    """Entries whose cases all passed, all entries, and how often a case was played and passed."""
    known = [entry for part in ATTACK_PARTS for entry in entries(part)]
    good = sum(_all_passed(entry, tests["attacks"].get(entry.id, {})) for entry in known)
    played = sum(
        outcome == "passed"
        for ways in tests["attacks"].values()
        for cases in ways.values()
        for outcome in cases.values()
    )
    return good, len(known), played


def _figures(results: Results) -> str:
    tests = results["tests"]
    survived, faults = survived_faults(tests)
    refused, attacks, played = survived_attacks(tests)
    facts = {
        **results,
        "survived": survived,
        "all_faults": faults,
        "refused": refused,
        "all_attacks": attacks,
        "played": played,
        "expanded": sum(len(entry.cases) for part in ATTACK_PARTS for entry in entries(part)),
        "minutes": results["fuzz"]["seconds"] / 60,
        "targets": len(results["fuzz"]["targets"]),
    }
    return _table(
        ("figure", "made by"), [(text.format(**facts), made.format(**facts)) for text, made in _FIGURES]
    )


def fault_result(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "**no test**"
    if found["failed"]:
        return f"**{found['failed']} failed**"
    if not found["passed"]:
        return "not run: " + "; ".join(found["reasons"])
    return f"{found['passed']} {'test passes' if found['passed'] == 1 else 'tests pass'}"


def attack_result(entry: Entry, ways: Mapping[str, Mapping[str, str]]) -> str:
    """Cases that passed, for each way they were played."""
    if not ways:
        return "**no test**"
    told = []
    for way, cases in sorted(ways.items()):
        good = sum(outcome == "passed" for outcome in cases.values())
        told.append(f"{way} {good}/{len(cases)}" if good == len(cases) else f"**{way} {good}/{len(cases)}**")
    return ", ".join(told)


def _passes(found: Mapping[str, Any] | None) -> bool:
    return bool(found and found["passed"] and not found["failed"])


def _all_passed(entry: Entry, ways: Mapping[str, Mapping[str, str]]) -> bool:
    played = {number for cases in ways.values() for number in cases}
    outcomes = {outcome for cases in ways.values() for outcome in cases.values()}
    return len(played) == len(entry.cases) and outcomes == {"passed"}


def _promise(row: Row) -> str:
    if row.decision is None:
        return row.promise
    return f"{row.promise} (decision {row.decision:04})"


def _expected(entry: Entry) -> str:
    statuses: dict[int, None] = {}
    for case in entry.cases:
        found = case.expect.get("status", [])
        statuses |= dict.fromkeys(found if isinstance(found, list) else [found])
    answer = ", ".join(map(str, sorted(statuses))) or "harmless"
    never = ", ".join(word.replace("_", " ") for word in entry.must_not)
    return f"{answer}; never: {never}" if never else answer


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    shown = [titles, ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in shown)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
