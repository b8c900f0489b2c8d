"""Planted damage of every kind is found under its name, repaired, and then gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactproxy import inspection
from tests.backup.folders import tree
from tests.chaos import Chaos
from tests.checkup.planted import PLANTED, Planted
from tests.checkup.world import World, filled, gathered

NAMES = sorted(PLANTED)


def judged(found: list[dict], planted: Planted) -> list[dict]:
    return [f for f in found if (f["invariant"], f["kind"]) == (planted.invariant, planted.kind)]


@pytest.mark.parametrize("name", NAMES)
async def test_planted_in_a_stopped_instance(tmp_path: Path, chaos: Chaos, name: str) -> None:
    planted = PLANTED[name]
    async with filled(tmp_path, chaos) as world:
        assert await world.stopped() == ([], (await world.stopped())[1])
        planted.plant(world.data)
        before = tree(world.data)

        found, summary = await world.stopped(full=not planted.fast)
        assert judged(found, planted), found
        assert summary["found"] >= 1
        assert all(f["repaired"] is None for f in found)
        assert tree(world.data) == before, "a check changes nothing"

        found, summary = await world.stopped(full=not planted.fast, repair=True)
        assert judged(found, planted), found
        assert [f for f in found if not f["repaired"]] == []
        assert summary["found"] == summary["repaired"] >= 1

        await clean(world)
        async with world.serving() as (proxy, _):
            await world.exact(proxy)
        await clean(world)


@pytest.mark.parametrize("name", [name for name in NAMES if PLANTED[name].live])
async def test_planted_in_a_running_instance(tmp_path: Path, chaos: Chaos, name: str) -> None:
    planted = PLANTED[name]
    world = World(tmp_path, chaos)
    world.script()
    async with world.serving() as (proxy, checkup):
        await world.fill(proxy)
        full = not planted.fast
        found, summary = await gathered(checkup.fsck(full=True, repair=False))
        assert (found, summary["found"]) == ([], 0)
        planted.plant(world.data)

        found, summary = await gathered(checkup.fsck(full=full, repair=False))
        assert judged(found, planted), found
        found, summary = await gathered(checkup.fsck(full=full, repair=True))
        assert judged(found, planted), found
        assert [f for f in found if not f["repaired"]] == []
        assert summary["found"] == summary["repaired"] >= 1
        found, summary = await gathered(checkup.fsck(full=True, repair=False))
        assert (found, summary["found"]) == ([], 0)

        await world.exact(proxy)
        assert (await inspection.inspect(world.data))[0] == []
    await clean(world)


async def clean(world: World) -> None:
    found, summary = await world.stopped()
    assert (found, summary["found"]) == ([], 0)
    assert summary["checked"]["rows"] >= len(world.bodies)
    assert summary["checked"]["hashed"] == summary["checked"]["blobs"] >= len(world.bodies)
