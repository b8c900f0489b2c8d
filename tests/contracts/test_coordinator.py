"""C1 to C8 of `ports.Coordinator`, for every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import coordination
from artifactproxy.errors import Fault
from artifactproxy.ports import Holder
from tests.contracts.harness import COORDINATORS, Coordinators, harness_of, open_files

KEY = "tools/simple/soup/"
ADDRESSES = ("http://10.0.0.5:8080", "https://[2001:db8::5]:8443", "unix:/run/worker 3.sock")


@pytest.fixture(params=sorted(coordination.KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Coordinators:
    box: Coordinators = harness_of(COORDINATORS, request.param, tmp_path)
    return box


@pytest.fixture
async def two(box: Coordinators) -> AsyncIterator[tuple[Any, Any]]:
    async with box.open() as one, box.open() as other:
        yield one, other


def test_every_kind_loads_its_class() -> None:
    assert all(hasattr(load(), "acquire") for load in coordination.KINDS.values())
    assert set(COORDINATORS) == set(coordination.KINDS)


async def test_c1_one_live_lease_per_key(two: tuple[Any, Any]) -> None:
    holders = most = 0

    async def work(coordinator: Any) -> None:
        nonlocal holders, most
        lease = await coordinator.acquire(KEY, wait=20)
        assert lease is not None
        holders += 1
        most = max(most, holders)
        await asyncio.sleep(0.001)
        holders -= 1
        await lease.release()

    await asyncio.gather(*(work(coordinator) for coordinator in two * 10))
    assert most == 1


@pytest.mark.parametrize("address", ADDRESSES)
async def test_c2_a_holder_with_an_address_is_named_at_once(box: Coordinators, address: str) -> None:
    async with box.open(address=address) as one, box.open() as mute, box.open(address="http://me") as other:
        lease = await one.acquire(KEY, wait=0)
        async with asyncio.timeout(60):
            for asking in (mute, other):
                assert await asking.acquire(KEY, wait=60) == Holder(address)
                asked = [asking.acquire(KEY, wait=60) for _ in range(5)]
                assert await asyncio.gather(*asked) == [Holder(address)] * 5
        await lease.release()
        following = await other.acquire(KEY, wait=10)
        assert await one.acquire(KEY, wait=60) == Holder("http://me")
        await following.release()
        assert not isinstance(await mute.acquire(KEY, wait=10), Holder | None)


async def test_c2_within_a_process_nobody_is_sent_to_that_process(box: Coordinators) -> None:
    async with box.open(address=ADDRESSES[0]) as one:
        lease = await one.acquire(KEY, wait=0)
        assert await one.acquire(KEY, wait=0.05) is None
        waiting = asyncio.create_task(one.acquire(KEY, wait=10))
        await asyncio.sleep(0.01)
        await lease.release()
        following = await waiting
        assert not isinstance(following, Holder | None)
        await following.release()


async def test_c2_none_after_the_wait(two: tuple[Any, Any]) -> None:
    one, other = two
    loop = asyncio.get_running_loop()
    lease = await one.acquire(KEY, wait=0)
    assert lease is not None
    for coordinator in two:
        for wait in (0, 0.05):
            began = loop.time()
            assert await coordinator.acquire(KEY, wait=wait) is None
            assert wait - 0.01 <= loop.time() - began < wait + 1
    await lease.release()
    again = await other.acquire(KEY, wait=0)
    assert again is not None
    await again.release()


async def test_c2_a_waiter_is_served_when_the_holder_ends(two: tuple[Any, Any]) -> None:
    for coordinator in two:
        lease = await two[0].acquire(KEY, wait=0)
        waiter = asyncio.create_task(coordinator.acquire(KEY, wait=10))
        await asyncio.sleep(0.01)
        assert not waiter.done()
        await lease.release()
        async with asyncio.timeout(20):
            following = await waiter
        assert following is not None
        await following.release()


async def test_c3_a_dead_holder_frees_itself(two: tuple[Any, Any], box: Coordinators) -> None:
    holder = box.holder(KEY)
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        assert await two[0].acquire(KEY, wait=0.02) is None
        waiter = asyncio.create_task(two[0].acquire(KEY, wait=10))
        await asyncio.sleep(0.01)
    finally:
        holder.kill()
        holder.communicate()
    lease = await waiter
    assert lease is not None
    await lease.release()


async def test_c4_only_the_owner_releases(two: tuple[Any, Any]) -> None:
    one, other = two
    first = await one.acquire(KEY, wait=0)
    await first.release()
    second = await other.acquire(KEY, wait=0)
    await first.release()
    assert await one.acquire(KEY, wait=0.02) is None
    await second.release()


async def test_c5_a_lease_lasts_as_long_as_it_is_held(two: tuple[Any, Any]) -> None:
    one, other = two
    lease = await one.acquire(KEY, wait=0)
    for _ in range(5):
        assert await other.acquire(KEY, wait=0.02) is None
    await lease.release()


async def test_c6_keys_are_independent(two: tuple[Any, Any]) -> None:
    keys = [KEY, KEY + "x", "", "\0", "/", "../../escape", "\U0001f372" * 600, "\ud800"]
    leases = [await two[number % 2].acquire(key, wait=0) for number, key in enumerate(keys)]
    assert all(leases)
    for lease in leases:
        await lease.release()


async def test_c8_who_can_be_followed_is_not_alone(box: Coordinators) -> None:
    async with box.open(address=ADDRESSES[0]) as one, box.open(address=ADDRESSES[1]) as other:
        assert (one.shared, other.shared) == (True, True)


async def test_c7_a_broken_backend_gives_none(two: tuple[Any, Any], box: Coordinators) -> None:
    held = await two[0].acquire("held before", wait=0)
    box.break_backend()
    for coordinator in two:
        assert await coordinator.acquire(KEY, wait=0.02) is None
        with pytest.raises(Fault):
            await coordinator.check()
    await held.release()


@pytest.mark.parametrize("laps", range(6))
async def test_a_cancelled_waiter_blocks_nobody(two: tuple[Any, Any], laps: int) -> None:
    one, other = two
    before = open_files()
    lease = await one.acquire(KEY, wait=0)
    waiters = [asyncio.create_task(each.acquire(KEY, wait=10)) for each in (one, one, other, other)]
    for _ in range(laps):
        await asyncio.sleep(0.001)
    for waiter in waiters[::2]:
        waiter.cancel()
    await asyncio.sleep(0)
    await lease.release()
    for waiter in asyncio.as_completed((waiters[1], waiters[3]), timeout=5):
        following = await waiter  # whoever polls first
        assert following is not None
        await following.release()
    results = await asyncio.gather(waiters[0], waiters[2], return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert open_files() == before


async def test_check(two: tuple[Any, Any]) -> None:
    for coordinator in two:
        await coordinator.check()
