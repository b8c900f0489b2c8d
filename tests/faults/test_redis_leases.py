"""R05, R07, R08: leases that are lost by a failover, messages that are, and leases of others."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.coordination.redis_bulletin import RedisBulletin
from artifactproxy.model import ArtifactKey
from artifactproxy.rules.peers import lease_name
from tests.chaos import Chaos
from tests.faults.machine import metric, until
from tests.faults.replicas import Replicas, late, load, replicas
from tests.followers.cluster import Gate
from tests.needs import needs
from tests.servers import redis
from tests.servers.redis import Redis

pytestmark = needs("postgres", "redis-server")

SIZE = 3_000_000
PATIENT = {"idle": "60s"}


@pytest.fixture
async def standby() -> AsyncIterator[Redis]:
    """Another Redis, which knows nothing of what the first one holds."""
    server = await asyncio.to_thread(Redis().start)
    yield server
    await asyncio.to_thread(server.stop)


def lease_of(cl: Replicas, path: str) -> str:
    digest = hashlib.sha256(lease_name(ArtifactKey("files", path)).encode()).hexdigest()
    return f"{cl.servers.prefix}v1:lease:{digest}"


async def test_r05_a_failover_loses_the_lease(tmp_path: Path, chaos: Chaos, standby: Redis) -> None:
    """Two may fill; both end in the same blob under one row."""
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with replicas(tmp_path, chaos, 3, extra=PATIENT) as cl:
        asking = [asyncio.create_task(cl[0].get("/files/f.bin"))]
        await gate.reached.wait()
        asking.append(asyncio.create_task(cl[1].get("/files/f.bin")))
        for replica in cl:
            replica.net.redis.switch(("127.0.0.1", standby.port))
        asking.append(asyncio.create_task(cl[2].get("/files/f.bin")))
        async with asyncio.timeout(20):
            while not await metric(cl[0], "lock_lost_total"):
                await asyncio.sleep(0.02)
        gate.go.set()
        for got in await asyncio.gather(*asking):
            assert (got.status, got.body == body.bytes()) == (200, True)
        await cl.settled()
        assert chaos.hits("/f.bin") <= 3
        assert len([key for key in cl.servers.bucket.objects if key.startswith("blobs/")]) == 1
        for replica in cl:
            got = await replica.get("/files/f.bin")
            assert (got.source, got.body == body.bytes()) == ("cache", True)
        await cl.next_is_right()


async def test_r05_two_brains_that_change_places(tmp_path: Path, chaos: Chaos, standby: Redis) -> None:
    """Replicas are divided between two that both say yes, and again otherwise."""
    first, second = ("127.0.0.1", redis.shared().port), ("127.0.0.1", standby.port)
    async with replicas(tmp_path, chaos, 3) as cl:
        async with load(cl) as running:
            for turn in range(6):
                for number, replica in enumerate(cl):
                    replica.net.redis.switch(second if number == turn % 3 else first)
                await running.more(8)
        running.is_right()
        for replica in cl:
            replica.net.redis.switch(first)
        async with asyncio.timeout(20):
            for replica in cl:
                while await metric(replica, "degraded", dependency="coordination"):
                    await asyncio.sleep(0.02)
        await cl.next_is_right()


def lose_all_messages(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    lost: list[object] = []
    monkeypatch.setattr(RedisBulletin, "_heard", lambda self, raw, left: lost.append(raw))
    return lost


async def test_r07_what_others_do_is_found_without_a_message(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_all_messages(monkeypatch)
    body = chaos.script("/f.bin", late(0.1), size=SIZE)
    async with replicas(tmp_path, chaos, 3) as cl:
        crowd = [replica.get("/files/f.bin") for replica in cl for _ in range(4)]
        assert all(got.body == body.bytes() for got in await asyncio.gather(*crowd))
        await cl.settled()
        assert chaos.hits("/f.bin") == 1
        assert [(await replica.get("/files/f.bin")).source for replica in cl] == ["cache"] * 3
        assert (await cl[0].engine.purge("files"))["entries"] == 1
        async with asyncio.timeout(20):
            while (await cl[1].get("/files/f.bin")).source == "cache":
                await asyncio.sleep(0.05)
        await cl.settled()
        assert chaos.hits("/f.bin") == 2
        await until(lambda: bool(lost))
        await cl.next_is_right()


async def test_r07_who_waits_for_a_row_waits_for_a_while_and_goes_alone(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can be followed here, so the others look for the row; it does not come."""
    lose_all_messages(monkeypatch)
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, late(0.0), size=SIZE)
    async with replicas(
        tmp_path, chaos, 2, extra=PATIENT, following=False, limits={"lease_wait": "500ms"}
    ) as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        second = await cl[1].get("/files/f.bin")
        assert (second.status, second.source, second.body == body.bytes()) == (200, "remote", True)
        assert not gate.go.is_set()
        gate.go.set()
        assert (await first).body == body.bytes()
        assert chaos.hits("/f.bin") == 2
        await cl.settled()
        assert (await cl[0].get("/files/f.bin")).source == "cache"


async def test_r07_and_finds_the_row_as_soon_as_it_is_there(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_all_messages(monkeypatch)
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with replicas(
        tmp_path, chaos, 3, extra=PATIENT, following=False, limits={"lease_wait": "20s"}
    ) as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        waiting = [asyncio.create_task(cl[number].get("/files/f.bin")) for number in (1, 2, 1, 2)]
        await until(lambda: all(replica.engine.states()["fills"] for replica in cl))
        gate.go.set()
        for got in [await first, *await asyncio.gather(*waiting)]:
            assert (got.status, got.body == body.bytes()) == (200, True)
        assert chaos.hits("/f.bin") == 1


async def test_r08_a_lease_that_went_to_another_stays_with_it(tmp_path: Path, chaos: Chaos) -> None:
    """Neither renewing nor ending touches what is not ours."""
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with replicas(tmp_path, chaos, 1, extra=PATIENT) as cl:
        asking = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        name, theirs = lease_of(cl, "f.bin"), f"{'f' * 16}/1 http://127.0.0.1:1"
        ask = cl.servers.redis.ask
        assert ask("GET", name).decode().endswith(f" {cl[0].base}"), "it was ours"
        ask("SET", name, theirs, "PX", "60000")
        async with asyncio.timeout(20):
            while not await metric(cl[0], "lock_lost_total"):
                await asyncio.sleep(0.02)
        gate.go.set()
        assert (await asking).body == body.bytes()
        await cl.settled()
        assert ask("GET", name).decode() == theirs
        assert 10_000 < ask("PTTL", name) <= 60_000
        assert (await cl[0].get("/files/f.bin")).source == "cache"
        ask("DEL", name)
