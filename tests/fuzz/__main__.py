"""`make fuzz`: every target for a while under a coverage-guided fuzzer; exit 1 if one broke.

What was learnt is kept in `build/fuzz/` and used by the next run; an input that breaks a target
stays there as `TARGET.crash-...`, and belongs into the seeds once it is mended.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds
from tests.reliability.results import write

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
STALL = 10  # seconds for one input
MEMORY = 2048  # MiB


def run(name: str, seconds: int, seed: int) -> tuple[int, bool]:
    """Executions, and whether the target held."""
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(body)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={STALL}",
        f"-rss_limit_mb={MEMORY}",
        "-max_len=20000",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND / name}.",
        str(corpus),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *options],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 120,
    )
    counted = re.search(r"number_of_executed_units:\s+(\d+)", done.stderr)
    if done.returncode != 0 or counted is None:
        print(done.stdout[-4000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    return int(counted[1]) if counted else 0, done.returncode == 0 and counted is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "reliability" / "fuzz.json")
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names, began, executions, broken = chosen.targets or list(TARGETS), time.monotonic(), 0, []
    for number, name in enumerate(names, 1):
        count, held = run(name, chosen.seconds, chosen.seed)
        executions += count
        broken += [] if held else [name]
        print(f"[{number}/{len(names)}] {name}: {count:,} executions{'' if held else ', BROKEN'}", flush=True)
    if not chosen.targets:
        facts = {
            "command": f'make fuzz ARGS="--seconds {chosen.seconds} --seed {chosen.seed}"',
            "executions": executions,
            "targets": names,
            "seconds": round(time.monotonic() - began),
            "crashes": len(broken),
        }
        write(chosen.results, facts)
    print(f"{executions:,} executions, broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
