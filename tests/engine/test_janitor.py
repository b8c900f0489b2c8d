"""Who sweeps, what for, and what one bad part of it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from artifactproxy.engine.janitor import Bounds, Janitor
from artifactproxy.errors import IndexUnavailable, StoreAway
from artifactproxy.limits import Limits
from artifactproxy.model import BlobRef
from artifactproxy.ports import Totals
from tests.engine.parts import Notes

GB = 10**9


class Ledger:
    """Cold blobs of 1 GB each, all evictable; `taken` by whom the last turns were."""

    def __init__(self) -> None:
        self.cold = [BlobRef(f"{n:064x}", GB) for n in range(10)]
        self.forgotten: list[str] = []
        self.turns: list[tuple[str, float]] = []
        self.mine = True
        self.fault: Exception | None = None
        self.expired = 0

    async def turn(self, name: str, every: float) -> bool:
        self.turns.append((name, every))
        if self.fault is not None:
            raise self.fault
        return self.mine

    async def expire(self, now: float) -> int:
        del now
        self.expired += 1
        return 0

    async def totals(self) -> Totals:
        return Totals(bytes=len(self.cold) * GB)

    async def coldest(self, limit: int, before: float) -> list[tuple[BlobRef, float]]:
        del limit, before
        return [(ref, float(n)) for n, ref in enumerate(self.cold)]

    async def forget_blob(self, sha256: str) -> list[object]:
        self.forgotten.append(sha256)
        self.cold = [ref for ref in self.cold if ref.sha256 != sha256]
        return []

    async def doom(self, sha256s: list[str], at: float) -> list[str]:
        del at
        return sha256s

    async def condemned(self, before: float, limit: int) -> list[BlobRef]:
        del before, limit
        return []


class Shelf:
    def __init__(self) -> None:
        self.tidied = 0
        self.fault: Exception | None = None
        self.left = 0

    async def tidy(self) -> int:
        self.tidied += 1
        if self.fault is not None:
            raise self.fault
        return self.left

    async def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        for ref in ():
            yield ref, 0.0


class Flushed:
    """What each process writes down itself."""

    def __init__(self) -> None:
        self.flushes = self.closes = 0

    async def flush(self) -> None:
        self.flushes += 1

    async def close(self) -> None:
        self.closes += 1


class Household:
    def __init__(self, bounds: Bounds, **limits: float) -> None:
        self.ledger, self.store, self.notes = Ledger(), Shelf(), Notes()
        self.usage, self.unrecorded = Flushed(), Flushed()
        chosen = replace(Limits(), **({"clock_hold": 0.0, "blob_grace": 0.0} | limits))
        parts: list[Any] = [self.store, self.ledger, self.usage, self.unrecorded, self.notes]
        self.janitor = Janitor(*parts, bounds, chosen, lambda: 1e9)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.janitor.start()
        yield
        await self.janitor.close()


async def until(told: Any) -> None:
    async with asyncio.timeout(60):
        while not told():
            await asyncio.sleep(0.005)


BRISK = {"flush_every": 0.005, "sweep_every": 0.01}
ENOUGH = Bounds(None, lambda: (100 * GB, 50 * GB))


async def test_only_one_process_sweeps_but_all_write_down() -> None:
    house = Household(ENOUGH, **BRISK)
    house.ledger.mine = False
    async with house.running():
        await until(lambda: len(house.ledger.turns) > 3)
        assert house.ledger.expired == house.store.tidied == 0
        assert house.usage.flushes == house.unrecorded.flushes > 3
        house.ledger.mine = True
        await until(lambda: house.ledger.expired > 1)
    assert {name for name, _ in house.ledger.turns} == {"sweep"}
    assert all(every == pytest.approx(0.009) for _, every in house.ledger.turns)
    assert (house.usage.closes, house.unrecorded.closes) == (1, 1)


async def test_a_full_disk_waits_for_nobodys_turn() -> None:
    house = Household(Bounds(None, lambda: (100 * GB, 7 * GB)), flush_every=0.005)
    house.ledger.mine = False
    async with house.running():
        house.janitor.hurry()
        await until(lambda: len(house.ledger.forgotten) == 3)
    assert house.ledger.turns == []


async def test_p01_an_index_that_is_away_ends_no_loop() -> None:
    house = Household(ENOUGH, **BRISK)
    house.ledger.fault = IndexUnavailable("away")
    async with house.running():
        await until(lambda: len(house.notes.events("janitor_failed")) > 1)
        house.ledger.fault = None
        await until(lambda: house.ledger.expired > 0)
    assert house.unrecorded.flushes > 1


async def test_a_store_elsewhere_evicts_by_its_limit_alone() -> None:
    """The disk of this machine says nothing about a bucket."""
    house = Household(Bounds(None, None))
    await house.janitor.sweep()
    assert house.ledger.forgotten == []
    limited = Household(Bounds(8 * GB, None))
    await limited.janitor.sweep()
    assert len(limited.ledger.forgotten) == 2
    report = await limited.janitor.gc(run=False)
    assert (report["disk_free_bytes"], report["to_free_bytes"]) == (None, 0)


async def test_s05_what_failed_puts_left_is_finished() -> None:
    house = Household(Bounds(8 * GB, None))
    house.store.left = 3
    await house.janitor.sweep()
    assert house.notes.counts["tidied"] == 3
    house.store.fault = StoreAway("no answer")
    house.ledger.cold.append(BlobRef("f" * 64, GB))
    await house.janitor.sweep()
    assert len(house.notes.events("not_tidied")) == 1
    assert len(house.ledger.cold) == 8, "the rest of the sweep goes on"


async def test_tidying_goes_on_while_a_backup_runs() -> None:
    house = Household(Bounds(8 * GB, None, pinned=lambda: True))
    await house.janitor.sweep()
    assert (house.store.tidied, house.ledger.forgotten) == (1, [])
