"""Keeping the store within its bounds: eviction, deletion in two phases, expiry, flushing.

A blob dies in steps: its rows are forgotten, it is marked doomed, a grace passes, the index is
asked again, the store deletes, the mark is buried. Whoever records it in between saves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from artifactproxy import failpoints
from artifactproxy.engine.clockwatch import ClockWatch
from artifactproxy.engine.terms import cause_of
from artifactproxy.engine.unrecorded import Unrecorded
from artifactproxy.engine.usage import Usage
from artifactproxy.errors import IndexUnavailable, StoreUnavailable
from artifactproxy.limits import Limits
from artifactproxy.model import BlobRef
from artifactproxy.ports import BlobStore, Clock, Ledger, Observer
from artifactproxy.rules.eviction import budget, choose

BATCH = 500
SEIZED = 20  # blobs at a time: whoever pushes one of them waits for the others
TURN = 0.9  # of the time between two sweeps: loops that begin together must not miss each other's turn
ORPHAN_AGE_SECONDS = 3600.0  # a blob without a row this old belongs to nobody's running fill

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """`data_limit` in bytes (None: keep a share of the disk free); `disk` gives total and free bytes
    where the blobs lie (None: not on a disk of ours, so that without a limit nothing is evicted);
    `pinned` tells that a backup runs, which no blob may leave."""

    data_limit: int | None
    disk: Callable[[], tuple[int, int]] | None
    pinned: Callable[[], bool] = lambda: False


class Janitor:
    """One loop per process. What was used and what is unrecorded each process writes down itself; the
    sweep is for one of all that share an index."""

    def __init__(
        self,
        store: BlobStore,
        ledger: Ledger,
        usage: Usage,
        unrecorded: Unrecorded,
        observer: Observer,
        bounds: Bounds,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._usage = usage
        self._unrecorded = unrecorded
        self._observer = observer
        self._bounds = bounds
        self._limits = limits
        self._clock = clock
        self._watch = ClockWatch(clock)
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="janitor")

    def hurry(self) -> None:
        """The disk is full: sweep now instead of at the next turn."""
        self._hurry.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._usage.close()
        await self._unrecorded.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_sweep = loop.time() + self._limits.sweep_every
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._limits.flush_every)
            try:
                self._calm()  # told soon, also while nothing is due
                await self._usage.flush()
                await self._unrecorded.flush()
                hurry = self._hurry.is_set()
                if hurry or loop.time() >= next_sweep:
                    self._hurry.clear()
                    next_sweep = loop.time() + self._limits.sweep_every
                    if hurry or await self._ledger.turn("sweep", self._limits.sweep_every * TURN):
                        await self.sweep()
            except Exception as error:  # noqa: BLE001 - the janitor loop is one of the three boundaries
                self._observer.warning("janitor_failed", cause=f"{type(error).__name__}: {error}")

    def _calm(self) -> float:
        """For how many seconds the clock has run evenly, judged in the moment before it is used."""
        by = self._watch.look()
        if by:
            self._observer.increment("clock_jumps")
            self._observer.warning("clock_jump", seconds=round(by), expiry_waits=self._limits.clock_hold)
        return self._watch.calm

    async def sweep(self) -> None:
        """One ordinary turn: expiry, eviction where it is needed, deletion of what is due. What goes
        by its date alone stays until a clock that jumped has run evenly for a while."""
        if self._calm() >= self._limits.clock_hold:
            await self._ledger.expire(self._clock())
        await self._tidy()
        if self._bounds.pinned():
            # Evicting would free nothing, so the next turn would evict as much again.
            return
        need, _ = await self._need()
        if need > 0:
            await self.evict(need)
        if self._calm() > self._limits.blob_grace:
            await self.collect()

    async def _tidy(self) -> None:
        """A store that cannot be tidied must not keep the index from being swept."""
        try:
            count = await self._store.tidy()
        except (StoreUnavailable, IndexUnavailable) as fault:
            self._observer.warning("not_tidied", error=fault.code, cause=cause_of(fault))
            return
        if count:
            self._observer.increment("tidied", count)
            self._observer.notice("tidied", uploads=count)

    async def _need(self) -> tuple[int, int]:
        used = (await self._ledger.totals()).bytes
        total, free = self._bounds.disk() if self._bounds.disk is not None else (0, 0)
        share = self._limits.min_free_share
        return budget(self._bounds.data_limit, used, total, free, share), used

    async def victims(self, need: int) -> list[BlobRef]:
        """The least recently used blobs that together free `need` bytes."""
        chosen: list[BlobRef] = []
        if need > 0:
            candidates = await self._ledger.coldest(100_000, math.inf)
            chosen = choose(candidates, need)
        return chosen

    async def evict(self, need: int) -> tuple[int, int]:
        """Forget and doom the coldest; returns how many blobs and bytes."""
        count = freed = 0
        for ref in await self.victims(need):
            await self._ledger.forget_blob(ref.sha256)
            if await self._ledger.doom([ref.sha256], self._clock()):
                count += 1
                freed += ref.size
            failpoints.hit("evict.marked")
        if count:
            self._observer.increment("evicted", count)
            self._observer.increment("evicted_bytes", freed)
        return count, freed

    async def collect(self, grace: float | None = None) -> tuple[int, int]:
        """Delete what was doomed before the grace; returns how many blobs and bytes."""
        grace = self._limits.blob_grace if grace is None else grace
        before = self._clock() - grace
        count = freed = 0
        while not self._bounds.pinned():
            asked = self._clock()
            condemned = await self._ledger.condemned(before, BATCH)
            if not condemned:
                break
            for few in batched(condemned, SEIZED):
                seized = await self._seize(few)
                for ref in seized:
                    # One that was put again since we asked is younger than that, and stays.
                    since = max(0.0, self._clock() - asked)
                    await self._store.delete(ref.sha256, older_than=grace + since)
                    failpoints.hit("evict.deleted")
                    freed += ref.size
                count += len(seized)
                await self._ledger.bury([ref.sha256 for ref in seized], seized=True)
                await self._forget_hollow(seized)
        return count, freed

    async def _seize(self, refs: Sequence[BlobRef]) -> list[BlobRef]:
        """Those that nobody has named since. A push of one of them waits until it is buried: what is put
        between the look at a blob's age and its deletion would be lost, and a push exists nowhere else."""
        seized = set(await self._ledger.seize([ref.sha256 for ref in refs], self._clock()))
        return [ref for ref in refs if ref.sha256 in seized]

    async def _forget_hollow(self, deleted: list[BlobRef]) -> None:
        """A row that was only refreshed while its blob was being deleted put no bytes back."""
        names = [ref.sha256 for ref in deleted]
        for sha256 in set(names) - set(await self._ledger.orphans(names)):
            if await self._store.size(sha256) is None:
                await self._ledger.forget_blob(sha256)
                await self._ledger.doom([sha256], self._clock())

    async def orphans(self) -> list[BlobRef]:
        """Blobs in the store that no row knows and no running fill can own."""
        lost: list[BlobRef] = []
        batch: list[BlobRef] = []
        if self._calm() < ORPHAN_AGE_SECONDS:
            return lost  # ages tell nothing now
        async for ref, age in self._store.scan():
            if age >= ORPHAN_AGE_SECONDS:
                batch.append(ref)
            if len(batch) >= BATCH:
                lost.extend(await self._unknown(batch))
                batch = []
        return lost + await self._unknown(batch)

    async def _unknown(self, refs: list[BlobRef]) -> list[BlobRef]:
        if not refs:
            return []
        unknown = set(await self._ledger.orphans([ref.sha256 for ref in refs]))
        return [ref for ref in refs if ref.sha256 in unknown]

    async def gc(self, *, run: bool) -> dict[str, Any]:
        """What would be freed now, or what was. Waits for the grace when it deletes."""
        need, used = await self._need()
        lost = await self.orphans()
        report: dict[str, Any] = {
            "used_bytes": used,
            "data_limit": self._bounds.data_limit,
            "disk_free_bytes": self._bounds.disk()[1] if self._bounds.disk is not None else None,
            "to_free_bytes": need,
            "orphans": len(lost),
            "orphan_bytes": sum(ref.size for ref in lost),
        }
        if not run:
            victims = await self.victims(need)
            report["evictable"] = len(victims)
            report["evictable_bytes"] = sum(ref.size for ref in victims)
            return report
        if self._bounds.pinned():
            return report | {"postponed": "a backup is running; nothing is deleted until it ends"}
        report["evicted"], report["evicted_bytes"] = await self.evict(need)
        await self._drop(lost)
        if report["evicted"]:
            await asyncio.sleep(self._limits.blob_grace)
        report["deleted"], report["deleted_bytes"] = await self.collect()
        return report

    async def _drop(self, lost: list[BlobRef]) -> None:
        """Delete orphans, and what the index may still count for them."""
        doomed = set(await self._ledger.doom([ref.sha256 for ref in lost], self._clock()))
        for few in batched([ref for ref in lost if ref.sha256 in doomed], SEIZED):
            seized = await self._seize(few)
            for ref in seized:
                await self._store.delete(ref.sha256, older_than=ORPHAN_AGE_SECONDS)
            await self._ledger.bury([ref.sha256 for ref in seized], seized=True)
            await self._forget_hollow(seized)


def batched(items: Sequence[T], size: int) -> Iterator[list[T]]:
    supply = iter(items)
    while few := list(islice(supply, size)):
        yield few
