"""A process that stops still answers those that follow it, for as long as its own clients are served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.followers.cluster import Gate, cluster

SIZE = 3_000_000


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_n02_who_drains_is_followed_until_its_clients_have_gone(
    tmp_path: Path, chaos: Chaos, unix: bool
) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, unix=unix) as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        draining = asyncio.create_task(cl[0].server.drain(0, 30))
        while not cl[0].server._closing:
            await asyncio.sleep(0)
        second = asyncio.create_task(cl[1].get("/files/f.bin"))
        await cl.joined(2)
        turned_away = await cl[0].get("/files/f.bin")
        assert (turned_away.status, turned_away.body) == (0, None)
        gate.go.set()
        assert (await first).body == (await second).body == body.bytes()
        await draining
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*cl[0].base.removeprefix("http://").split(":"))
        assert chaos.hits("/f.bin") == 1
        assert cl[1].observer.counts["takeovers"] == 0
        assert (await cl[1].get("/files/f.bin")).body == body.bytes()
        await cl.check()


async def test_without_a_fill_nobody_is_let_in(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", Gate(1.0), size=SIZE)
    async with cluster(tmp_path, chaos) as cl:
        await cl[0].server.drain(0, 30)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*cl[0].base.removeprefix("http://").split(":"))
