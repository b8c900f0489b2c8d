"""Run measures: `python -m bench [NAMES] [--quick] [--out FILE]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from bench.measures import MEASURES
from bench.model import FULL, QUICK, Bench, CannotMeasure, Result, Scale
from bench.report import goals_table, page

_PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_MOST_SECONDS = 1200  # for one measure, before it is given up


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 measured (goals are goals, not gates), 1 a measure could not be taken, 2 usage."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the proxy beside nginx.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which measures: {' '.join(MEASURES)}; all if none"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds, to try the harness")
    parser.add_argument("--out", type=Path, help="write the page here (a whole full run: docs/benchmarks.md)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _too_long)
    scale = QUICK if options.quick else FULL
    day, load = time.strftime("%Y-%m-%d"), f"{os.getloadavg()[0]:.2f}"
    names = options.names or list(MEASURES)
    results = {name: _taken(name, scale) for name in names}
    command = " ".join(["python -m bench", *options.names, *(["--quick"] if options.quick else [])])
    whole = not options.names and not options.quick
    text = page(results, scale, "make bench" if whole else command, day, load)
    out = options.out or (_PAGE if whole else None)
    if out is not None:
        out.write_text(text)
    print(text if out is None else goals_table(results))
    return 1 if any(isinstance(result, str) for result in results.values()) else 0


def _taken(name: str, scale: Scale) -> Result | str:
    cores = sorted(os.sched_getaffinity(0))
    print(f"{name}:", file=sys.stderr, flush=True)
    signal.alarm(_MOST_SECONDS)
    try:
        with tempfile.TemporaryDirectory(prefix="artifactproxy-bench-", ignore_cleanup_errors=True) as folder:
            bench = Bench(
                Path(folder),
                scale,
                server_cores=frozenset(cores[:1]),
                client_cores=frozenset(cores[1:2] or cores),
                all_cores=frozenset(cores[:2]),
            )
            return MEASURES[name](bench)
    except CannotMeasure as trouble:
        print(f"  {trouble}", file=sys.stderr, flush=True)
        # What a program printed may name hosts and paths; the page gets the sentence before it only.
        return str(trouble).partition(":")[0]
    finally:
        signal.alarm(0)


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)  # unwinds, so that every server is ended and every folder removed


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise CannotMeasure(f"not finished in {_MOST_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
