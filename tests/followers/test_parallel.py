"""One process loads over several connections; the others read along, and go on if it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow
from tests.followers.cluster import cluster
from tests.followers.test_one_fetch import patient
from tests.followers.test_takeover import followed
from tests.house_proxy import promise

MIB = 2**20
SIZE = 6 * MIB + 99
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"


async def test_followers_read_what_comes_over_several_connections(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(3_000_000), size=SIZE)
    async with patient(tmp_path, chaos, 3, remote=REMOTE) as cl:
        answers = await asyncio.gather(*(cl[n % 3].get("/files/f.bin") for n in range(9)))
        assert {(got.status, got.body == body.bytes()) for got in answers} == {(200, True)}
        assert [seen.headers["range"] for seen in chaos.requests].count("bytes=0-") == 1
        assert len(chaos.requests) > 4
        await cl.check()
        results = sorted(fill.result for replica in cl.replicas for fill in replica.fills())
        assert results == ["followed", "followed", "stored"]


@pytest.mark.parametrize("known", [False, True], ids=["tag", "promise"])
async def test_n01_a_leader_that_loads_in_parallel_dies(tmp_path: Path, chaos: Chaos, known: bool) -> None:
    """Who followed has what had come without a gap, and asks for the rest of it."""
    body = chaos.script("/pkg-1.0.tar.gz", slow(1_500_000), size=SIZE)
    path = promise(chaos, "pkg-1.0.tar.gz", body) if known else "/files/pkg-1.0.tar.gz"
    async with cluster(tmp_path, chaos, 3, remote=REMOTE) as cl:
        leading = asyncio.create_task(cl[0].get(path))
        async with asyncio.timeout(60):
            while chaos.hits("/pkg-1.0.tar.gz") < 3:
                await asyncio.sleep(0.01)
        following = await followed(cl, (1, 2), path)
        await cl[0].kill()
        chaos.script("/pkg-1.0.tar.gz", ok(), size=SIZE)
        assert (await leading).body is None
        answers = await asyncio.gather(*following)
        assert [(got.status, got.body == body.bytes()) for got in answers] == [(200, True)] * 2
        await cl.check()
        again = await cl[2].get(path)
        assert (again.source, again.body == body.bytes()) == ("cache", True)
