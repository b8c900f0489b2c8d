"""Start the program on a folder that a crash may have left, and hold it against what was promised."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.crash.contents import ALWAYS_STALE
from tests.crash.power.scenarios import LIMITS, World
from tests.crash.power.states import State, distinct
from tests.house_proxy import check_store, proxied


def chosen(world: World, seed: int, most: int | None) -> list[State]:
    """The states of a scenario; of more than `most` a sample."""
    states = distinct(world.recording, seed, world.since)
    if most is None or len(states) <= most:
        return states
    return random.Random(seed).sample(states, most)


async def judge(folder: Path, world: World, state: State) -> None:
    """Raises AssertionError, and then leaves `folder` for whoever wants to look."""
    folder.mkdir()
    state.make(folder / "data")
    async with proxied(folder, world.chaos.origin, top=LIMITS, remote=ALWAYS_STALE) as proxy:
        assert proxy.temp_files() == []
        if not world.damaged:
            check_store(proxy.data)
        for path, sha256 in sorted(state.acked):
            got = await proxy.get(path, Cache_Control="only-if-cached")
            assert (got.status, got.source) == (200, "cache"), f"lost: {path}: {got}"
            assert got.body in world.since_version(path, sha256), f"wrong: {path}"
        for path, versions in world.versions.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, versions[-1].bytes()), f"wrong: {path}: {got}"
        await proxy.check()
    shutil.rmtree(folder)
