"""Anything goes wrong at any time, by a seed: a whole answer has the right bytes, or there is none."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import cut, ok, slow, stall
from tests.followers.cluster import Cluster, Replica, cluster
from tests.house_proxy import Got

SIZE = 2_000_000


async def leave(replica: Replica, path: str, after: float) -> None:
    """A client that reads a little and goes."""
    asking = asyncio.create_task(replica.get(path))
    await asyncio.sleep(after)
    asking.cancel()


async def kill_leader(cl: Cluster, after: float) -> None:
    await asyncio.sleep(after)
    for replica in cl.replicas:
        if any(fill.leads for fill in replica.engine._fills._tasks):
            await replica.kill()
            return


@pytest.mark.parametrize("seed", range(8))
async def test_never_a_wrong_complete_answer(tmp_path: Path, chaos: Chaos, seed: int) -> None:
    dice = random.Random(seed)
    chunked = dice.random() < 0.5
    trouble = [
        cut(dice.random(), chunked=chunked, rst=dice.random() < 0.5),
        stall(dice.random(), seconds=0.6),
    ]
    script = [*dice.sample(trouble, dice.randint(0, 2)), slow(6000000), ok(chunked=chunked)]
    body = chaos.script("/f.bin", *script, size=SIZE)
    async with cluster(tmp_path, chaos, 3, unix=dice.random() < 0.5) as cl:
        kill = kill_leader(cl, dice.uniform(0.0, 0.4))
        leaving = [leave(dice.choice(cl.replicas), "/files/f.bin", dice.uniform(0, 0.3)) for _ in range(4)]
        reading = [dice.choice(cl.replicas).get("/files/f.bin") for _ in range(9)]
        answers: list[Got] = (await asyncio.gather(kill, *leaving, *reading))[5:]
        for got in answers:
            assert got.body is None or got.status != 200 or got.body == body.bytes()
        survivors = [replica for replica in cl.replicas if replica.alive]
        assert len(survivors) >= 2
        await cl.check()
        last = [await replica.get("/files/f.bin") for replica in survivors]
        assert all(got.body == body.bytes() for got in last)
        await cl.check()
