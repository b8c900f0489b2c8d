"""R01 to R03, R06: Redis is down, forgets, is slow, refuses. Clients see nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.tcp import Toxics, calm, latency, timeout
from tests.faults.machine import metric, readiness, told
from tests.faults.replicas import Replica, Replicas, load, replicas
from tests.needs import needs
from tests.servers.redis import Redis

pytestmark = needs("postgres", "redis-server")


@pytest.fixture
async def own_redis() -> AsyncIterator[Redis]:
    server = await asyncio.to_thread(Redis().start)
    yield server
    await asyncio.to_thread(server.stop)


async def is_without(replica: Replica) -> None:
    """It says so everywhere, and is ready all the same."""
    async with asyncio.timeout(20):
        while (found := await readiness(replica))[1]["mode"] != "without coordination":
            await asyncio.sleep(0.02)
    assert found[0] == 200
    assert (await replica.get("/livez")).status == 200
    assert await metric(replica, "degraded", dependency="coordination") == 1
    await told(replica, lambda line: line.get("warning") == "coordination_away")


async def is_back(cl: Replicas) -> None:
    async with asyncio.timeout(20):
        for replica in cl:
            while (await readiness(replica))[1]["mode"] != "ok":
                await asyncio.sleep(0.02)
            while await metric(replica, "degraded", dependency="coordination"):
                await asyncio.sleep(0.02)


async def test_r01_redis_is_killed_under_load(tmp_path: Path, chaos: Chaos, own_redis: Redis) -> None:
    async with replicas(tmp_path, chaos, 3, own_redis=own_redis) as cl:
        async with load(cl) as running:
            await running.more(20)
            assert set(running.asked()) <= {0, 1}, "one request upstream for each file, before"
            await asyncio.to_thread(own_redis.kill)
            await running.more(20)
            for replica in cl:
                await is_without(replica)
            await running.more(20)
            await asyncio.to_thread(own_redis.start)
            await is_back(cl)
            await running.more(20)
        running.is_right()
        await cl.next_is_right()


async def test_r01_replicas_start_without_it(tmp_path: Path, chaos: Chaos, own_redis: Redis) -> None:
    await asyncio.to_thread(own_redis.kill)
    async with replicas(tmp_path, chaos, 2, own_redis=own_redis) as cl:
        async with load(cl, 4) as running:
            await running.more(10)
            for replica in cl:
                await is_without(replica)
            await asyncio.to_thread(own_redis.start)
            await is_back(cl)
        running.is_right()
        await cl.next_is_right()


async def test_r02_everything_is_flushed_ten_times_a_second(
    tmp_path: Path, chaos: Chaos, own_redis: Redis
) -> None:
    async with replicas(
        tmp_path, chaos, 3, own_redis=own_redis, coordination={"lease": "300ms", "renew": "50ms"}
    ) as cl:
        async with load(cl) as running:
            for _ in range(30):
                await asyncio.to_thread(own_redis.ask, "FLUSHALL")
                await asyncio.sleep(0.1)
            await running.more(10)
        running.is_right()
        assert sum([await metric(replica, "lock_lost_total") for replica in cl]) > 0
        await cl.next_is_right()


async def test_r02_it_restarts_empty_again_and_again(tmp_path: Path, chaos: Chaos, own_redis: Redis) -> None:
    async with replicas(tmp_path, chaos, 3, own_redis=own_redis) as cl:
        async with load(cl) as running:
            for _ in range(4):
                await asyncio.to_thread(own_redis.restart)
                await running.more(8)
            await is_back(cl)
        running.is_right()
        await cl.next_is_right()


@pytest.mark.parametrize("toxic", [latency(3.0), timeout()], ids=["3 s late", "a black hole"])
async def test_r03_redis_answers_late_or_never(tmp_path: Path, chaos: Chaos, toxic: Toxics) -> None:
    lasting = {"budget": "50ms", "rest": "300ms"}
    async with replicas(tmp_path, chaos, 3, coordination=lasting) as cl:
        async with load(cl) as running:
            await running.more(10)
            for replica in cl:
                replica.net.redis.toxics = toxic
            await running.more(20)
            for replica in cl:
                await is_without(replica)
            waited = [await metric(replica, "redis_timeouts_total") for replica in cl]
            assert sum(waited) > 0
            await running.more(40)
            after = [await metric(replica, "redis_timeouts_total") for replica in cl]
            # Leases held at that moment are being renewed, which is more patient and holds up nobody.
            assert sum(after) - sum(waited) < 20, "while it is left alone no request waits for it"
            for replica in cl:
                replica.net.redis.toxics = calm()
            await is_back(cl)
            await running.more(10)
        running.is_right()
        await cl.next_is_right(most=3)  # a busy machine may need longer than that budget


async def read_only(server: Redis) -> None:
    await asyncio.to_thread(server.ask, "REPLICAOF", "127.0.0.1", "1")


async def full(server: Redis) -> None:
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", "1")


async def mend(server: Redis) -> None:
    await asyncio.to_thread(server.ask, "REPLICAOF", "NO", "ONE")
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize(
    ("breaks", "cause"), [(read_only, "readonly"), (full, "full")], ids=["readonly", "full"]
)
async def test_r06_it_takes_no_writes(
    tmp_path: Path, chaos: Chaos, own_redis: Redis, breaks, cause: str
) -> None:
    async with replicas(tmp_path, chaos, 3, own_redis=own_redis) as cl:
        async with load(cl) as running:
            await running.more(10)
            await breaks(own_redis)
            await running.more(10)
            for replica in cl:
                await is_without(replica)
                assert await metric(replica, "redis_errors_total", cause=cause) > 0
            await running.more(10)
            await mend(own_redis)
            await is_back(cl)
        running.is_right()
        await cl.next_is_right()


async def test_r06_keys_are_evicted_under_their_holders(
    tmp_path: Path, chaos: Chaos, own_redis: Redis
) -> None:
    """Another user of the same Redis fills it up; the least recently used keys go, ours among them."""
    own_redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    used = own_redis.ask("INFO", "memory")["used_memory"]
    own_redis.ask("CONFIG", "SET", "maxmemory", str(used + 2_000_000))

    def crowd_out() -> None:
        for number in range(40):
            own_redis.ask("SET", f"theirs:{number}", "x" * 100_000)

    async with replicas(tmp_path, chaos, 3, own_redis=own_redis) as cl:
        async with load(cl) as running:
            for _ in range(6):
                await asyncio.to_thread(crowd_out)
                await running.more(5)
        running.is_right()
        assert (await asyncio.to_thread(own_redis.ask, "INFO", "stats"))["evicted_keys"] > 0
        await is_back(cl)
        await cl.next_is_right()
