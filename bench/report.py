"""docs/benchmarks.md from the results of a run. Names no path, host or address of the machine."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from artifactproxy import __version__
from bench.goproxy import GOPROXY
from bench.model import CannotMeasure, Goal, Result, Scale, median
from bench.servers import tool
from bench.verdaccio import VERDACCIO
from tests.servers.minio import MODULE as MINIO

_ORIGIN = (
    "Written by `{command}` on {day}; nothing here is edited by hand. Absolute figures belong to the machine "
    "below: compare the ratios, and measure again before claiming anything."
)
_METHOD = (
    "All traffic but that to the public registries is on the loopback interface. Every figure is the median of {rounds} interleaved "
    "rounds: each variant is measured once per round, so that a drift of the machine meets all alike; least and "
    "greatest are in brackets. Servers and clients are pinned to cores with taskset. nginx has tcp_nopush off (on "
    "loopback it waits for delayed acknowledgements) and open_file_cache on; origin and proxy_cache are one nginx "
    "worker each. A ratio is that of two medians of the same run."
)


def page(results: Mapping[str, Result | str], scale: Scale, command: str, day: str, load: str) -> str:
    """The whole page; a measure that could not be taken is given as the reason."""
    parts = [
        "# Benchmarks",
        _ORIGIN.format(command=command, day=day),
        _warning(scale),
        "## Goals",
        goals_table(results),
        "## Machine and versions",
        _table(("what", "which"), [*machine(), ("load average when it began", load)]),
        "## Method",
        _METHOD.format(rounds=scale.rounds),
    ]
    for name, result in results.items():
        parts += [f"Not measured: {name}: {result}"] if isinstance(result, str) else _section(name, result)
    return "\n\n".join(part for part in parts if part) + "\n"


def _warning(scale: Scale) -> str:
    return (
        "**A quick run: small sizes and few rounds, to try the harness. Not a result.**"
        if scale.quick
        else ""
    )


def _section(name: str, result: Result) -> list[str]:
    header = ("variant", *(column.title for column in result.columns))
    rows = []
    for variant, samples in result.samples.items():
        cells = []
        for column in result.columns:
            values = [sample[column.key] for sample in samples]
            shown = f"{median(samples, column.key):.{column.digits}f}"
            if min(values) != max(values):
                shown += f" ({min(values):.{column.digits}f} to {max(values):.{column.digits}f})"
            cells.append(shown)
        rows.append((variant, *cells))
    return [f"## {result.title} (`{name}`)", result.method, _table(header, rows), *result.notes]


def goals_table(results: Mapping[str, Result | str]) -> str:
    rows: list[tuple[str, ...]] = []
    for name, result in results.items():
        if isinstance(result, str):
            rows.append((name, "", "", "", f"not measured: {result}"))
        else:
            rows += [_goal_row(goal) for goal in result.goals]
    return _table(("measure", "against", "goal", "measured", "verdict"), rows)


def _goal_row(goal: Goal) -> tuple[str, ...]:
    return (goal.measure, goal.against, goal.wanted, goal.measured, "met" if goal.met else "**not met**")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = tuple(header)
    lines = [_row(titles), _row("---" for _ in titles), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |"


def machine() -> list[tuple[str, str]]:
    cores = len(os.sched_getaffinity(0))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    packages = ("aiohttp", "uvloop", "pip")
    return [
        ("processor", f"{_processor()}, {cores} cores"),
        ("memory", f"{pages / (1 << 30):.0f} GiB"),
        ("system", f"{release}, kernel {platform.release().partition('-')[0]}, {platform.machine()}"),
        ("artifactproxy", __version__),
        ("Python", f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}"),
        ("packages", ", ".join(f"{name} {version(name)}" for name in packages)),
        ("nginx", _said("nginx", "-v")),
        ("wrk", _said("wrk", "-v")),
        ("curl, aria2c", f"{_said('curl', '--version')}, {_said('aria2c', '--version')}"),
        (
            "docker-registry, skopeo",
            f"{_said('docker-registry', '--version')}, {_said('skopeo', '--version')}",
        ),
        ("MinIO", MINIO.rpartition("-")[0].rpartition(".")[2]),
        ("Node.js, npm, verdaccio", f"{_said('node', '-v')}, {_said('npm', '-v')}, {VERDACCIO}"),
        ("Go, goproxy", f"{_said('go', 'version')}, {GOPROXY.removeprefix('v')}"),
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _said(program: str, flag: str) -> str:
    try:
        run = subprocess.run([tool(program), flag], capture_output=True, text=True, timeout=10, check=False)
    except CannotMeasure:
        return "not installed"
    found = re.search(r"\d+\.\d+[.\d]*", run.stdout + run.stderr)
    return found[0] if found else "unknown"
