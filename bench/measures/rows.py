"""A million rows in PostgreSQL: does a look-up mind?"""

from __future__ import annotations

import json
import sys
from functools import partial

from bench.backends import postgres
from bench.model import Bench, Column, Goal, Result, Sample, ratio
from bench.servers import run_pinned

_MOST = 1.25
_LOAD_SECONDS, _LOOK_SECONDS = 900.0, 120.0


def measure(bench: Bench) -> Result:
    few, many = (1_000, 10_000) if bench.scale.quick else (10_000, 1_000_000)
    with postgres(bench.folder / "postgres", bench.client_cores) as server:
        urls = {rows: server.fresh_database() for rows in (few, many)}
        for rows, url in urls.items():
            _run(bench, url, rows, "load", _LOAD_SECONDS)
        samples = bench.interleaved(
            {_name(rows): partial(_sample, bench, url, rows) for rows, url in urls.items()}
        )
    times = ratio(samples, "asked", _name(many), _name(few))
    return Result(
        title="Look-ups among many rows",
        method=(
            "Rows as of package files, with their promises and blobs, loaded by COPY into two databases of one "
            "PostgreSQL (shared_buffers 256 MiB, on the loopback) and analysed. Each sample is a fresh process that looks "
            "up thousands of random keys one after the other, which the database answers, and then the same keys again, "
            "which the process remembers."
        ),
        columns=(
            Column("asked", "asked, us each", 1),
            Column("remembered", "remembered, us each", 2),
        ),
        samples=samples,
        goals=(
            Goal(
                f"a look-up among {many:,} rows",
                f"among {few:,} rows",
                f"flat: at most {_MOST} x",
                f"{times:.2f} x",
                times <= _MOST,
            ),
        ),
    )


def _name(rows: int) -> str:
    return f"{rows:,} rows"


def _sample(bench: Bench, url: str, rows: int) -> Sample:
    found: Sample = json.loads(_run(bench, url, rows, "look", _LOOK_SECONDS))
    return found


def _run(bench: Bench, url: str, rows: int, what: str, seconds: float) -> str:
    command = [sys.executable, "-m", "bench.postgres_rows", url, str(rows), what]
    return run_pinned(command, bench.server_cores, seconds)
