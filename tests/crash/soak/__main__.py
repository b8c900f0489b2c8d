"""`make soak ARGS="..." SEED=n`: the three engines, and their figures as JSON.

Exit code 0: nothing wrong, short or lost. 1: something was; the seed and the folder are printed, and
the folder stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.chaos import Chaos
from tests.crash.nursery import Nursery
from tests.crash.power.judge import chosen, judge
from tests.crash.power.scenarios import SCENARIOS, recorded
from tests.crash.soak import syscalls
from tests.crash.soak.drive import Tally, driven
from tests.needs import find

PARTS = ("random", "syscalls", "power")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--states", type=int, default=400, help="of each scenario of a power loss; 0: all")
    parser.add_argument("--every", type=int, default=1, help="every n-th system call only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=PARTS, action="append", help="not the others; may be repeated")
    parser.add_argument("--results", type=Path, default=Path("build/reliability/soak.json"))
    return parser.parse_args(given)


def command(options: argparse.Namespace) -> str:
    """What runs the same again: only what differs from the defaults is named."""
    usual, differs = vars(arguments([])), []
    for name, value in vars(options).items():
        if name not in ("seed", "results") and value != usual[name]:
            differs += [f"--{name} {each}" for each in (value if isinstance(value, list) else [value])]
    words = ["make", "soak", f"SEED={options.seed}"]
    return shlex.join([*words, "ARGS=" + " ".join(differs)] if differs else words)


def say(text: str) -> None:
    print(text, flush=True)


async def power_losses(folder: Path, seed: int, most: int | None, tally: Tally) -> int:
    """How many states were started on."""
    count = 0
    for scenario in SCENARIOS:
        name = scenario.__name__
        place = folder / name
        place.mkdir(parents=True)
        async with Chaos(seed=seed) as chaos:
            world = await recorded(scenario, chaos, place)
            states = chosen(world, seed, most)
            say(f"power lost during {name}: {len(states)} states of {len(world.recording.ops)} operations")
            for number, state in enumerate(states):
                try:
                    await judge(place / f"state{number}", world, state)
                except Exception as error:
                    tally.lost += 1
                    tally.failures.append(f"power loss, {name}, state {number}: {error!r}")
                count += 1
    return count


async def soak(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    parts, seed = options.only or PARTS, options.seed
    tally, kills, states = Tally(), 0, 0
    started = time.monotonic()
    if "random" in parts:
        async with driven(folder / "random", seed, say) as drive:
            tally = await drive.run(options.operations, options.kills)
    if "syscalls" in parts:
        if find("strace") is None:
            sys.exit(
                "make soak needs strace: apt-get install strace (or leave it out: --only random --only power)"
            )
        (folder / "nursery").mkdir()
        nursery = Nursery(folder / "nursery")
        try:
            kills = await syscalls.every(folder, nursery, options.every, tally, say)
        finally:
            nursery.close()
    if "power" in parts:
        states = await power_losses(folder / "power", seed, options.states or None, tally)
    return {
        "seed": seed,
        **asdict(tally),
        "syscall_kills": kills,
        "power_loss_states": states,
        "seconds": round(time.monotonic() - started),
        "command": command(options),
    }


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"seed {options.seed}, working in {folder}")
    results = asyncio.run(soak(options, folder))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=2) + "\n")
    say(json.dumps(results, indent=2))
    if results["failures"]:
        say(f"FAILED with seed {options.seed}; what is left lies in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
