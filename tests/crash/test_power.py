"""Power is lost at every moment of what the program does to its files; it starts on what is left.

A sample of the states of each scenario; `make soak` starts on all of them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.crash.power.judge import chosen, judge
from tests.crash.power.scenarios import SCENARIOS, World, recorded

SEED = int(os.environ.get("SEED", "1"))
STATES = int(os.environ.get("STATES", "6"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_l06_power_lost_during(
    tmp_path: Path, chaos: Chaos, scenario: Callable[[World], Awaitable[None]]
) -> None:
    world = await recorded(scenario, chaos, tmp_path)
    states = chosen(world, SEED, STATES)
    assert len(states) > 5, "a scenario that leaves nothing to lose proves nothing"
    for number, state in enumerate(states):
        await judge(tmp_path / f"state{number}", world, state)
