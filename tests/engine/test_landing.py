"""How the bytes of one connection reach the disk: beside what arrives, and no further ahead than a batch."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from artifactproxy.engine.landing import BATCH_BYTES, Landing
from artifactproxy.engine.scattered import Scattered
from artifactproxy.errors import StoreFull
from artifactproxy.rules.segments import Segment

BATCH = b"x" * BATCH_BYTES


class Disk:
    """A body whose disk lets through what it is told to; nothing comes in order."""

    in_order = False

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.fault: StoreFull | None = None
        self.landings: list[tuple[int, int]] = []

    def is_next(self, offset: int) -> bool:
        return offset < 0

    async def land(self, offset: int, chunks: list[bytes]) -> None:
        await self.ready.wait()
        if self.fault is not None:
            raise self.fault
        self.landings.append((offset, sum(map(len, chunks))))

    def landed(self) -> None: ...

    async def settle(self) -> None: ...


def landing_on(disk: Disk) -> tuple[Landing, Segment]:
    segment = Segment(0, 10 * BATCH_BYTES, 0, 0)
    return Landing(cast("Scattered", disk), segment), segment


async def test_a_batch_is_read_while_the_one_before_is_on_its_way() -> None:
    disk = Disk()
    landing, segment = landing_on(disk)
    async with asyncio.timeout(20):
        await landing.write(BATCH)
        assert (segment.taken, segment.landed) == (BATCH_BYTES, 0)
        ahead = asyncio.create_task(landing.write(BATCH))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not ahead.done(), "two batches wait: the connection is paused"
        disk.ready.set()
        await ahead
        await landing.flush()
    assert disk.landings == [(0, BATCH_BYTES), (BATCH_BYTES, BATCH_BYTES)]
    assert segment.landed == segment.taken == 2 * BATCH_BYTES


async def test_a_disk_that_fails_behind_our_back_is_told_and_nothing_more_goes_to_it() -> None:
    disk = Disk()
    landing, segment = landing_on(disk)
    disk.fault = StoreFull("full")
    async with asyncio.timeout(20):
        await landing.write(BATCH)
        ahead = asyncio.create_task(landing.write(BATCH))
        disk.ready.set()
        with pytest.raises(StoreFull):
            await ahead
        with pytest.raises(StoreFull):
            await landing.flush()
    assert (disk.landings, segment.landed) == ([], 0)


async def test_what_is_dropped_is_not_on_its_way_any_more() -> None:
    disk = Disk()
    landing, segment = landing_on(disk)
    async with asyncio.timeout(20):
        await landing.write(BATCH)
        await landing.write(b"few")
        dropping = asyncio.create_task(landing.drop())
        await asyncio.sleep(0)
        assert not dropping.done()
        disk.ready.set()
        await dropping
    await asyncio.sleep(0.05)
    assert disk.landings == [(0, BATCH_BYTES)]
    assert segment.landed == BATCH_BYTES
