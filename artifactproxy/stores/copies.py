"""Copies of remote blobs on the disk of this machine, within a budget of bytes.

The folder is the whole state: when a copy was last used stands in the access time of its file, and
when it was put in the modification time. Several processes may share the folder. Each keeps an estimate of
what lies there and looks through it now and then; whoever finds it too full removes what was not
used for longest. A copy may vanish at any time, and no failure of the disk is a failure of a read or
of a put.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from artifactproxy.errors import BlobMissing, StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Clock, LocalFile, Observer
from artifactproxy.stores.fs import FsStore

USE_SECONDS = 60.0  # how exactly the last use is known
LEFT = 0.9  # of the budget, after an eviction
COUNT_AFTER = 20  # the folder is looked through when 1/20 of the budget came here since


@dataclass(frozen=True, slots=True)
class TierLimits:
    """A range of a blob below `small` bytes fetches all of it; `at_once` transfers of one process are
    shared by their readers, a further read has its own. Nothing is written for `shun` seconds to a disk
    that failed; `rest` seconds lie between two looks through its folder."""

    small: int = 8 * 2**20
    at_once: int = 32
    shun: float = 10.0
    rest: float = 1.0


class Copies:
    """`budget` in bytes; 0 keeps none."""

    def __init__(
        self, disk: FsStore, budget: int, observer: Observer, clock: Clock, limits: TierLimits
    ) -> None:
        self._disk = disk
        self._budget = budget
        self._observer = observer
        self._clock = clock
        self._limits = limits
        self._shunned = 0.0  # until then, in the loop's time
        self._bytes = 0
        self._grown = 0  # since the folder was last looked through
        self._full = False  # the disk has no room, whatever the budget says
        self._due = False
        self._counting: asyncio.Task[None] | None = None

    @property
    def held_bytes(self) -> int:
        """What lies here, as far as this process knows."""
        return self._bytes

    def start(self) -> None:
        """Begin to look through the folder; needs the running loop."""
        if self._budget:
            self._count_soon()

    async def close(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait((self._counting,))

    def welcome(self, ref: BlobRef, arriving: int = 0) -> bool:
        """Whether a copy of this blob would be kept, beside `arriving` bytes that are on their way."""
        if not self._budget or ref.size + arriving > self._budget:
            return False
        return not self._shunned or asyncio.get_running_loop().time() >= self._shunned

    # --- reading ----------------------------------------------------------------------------

    async def locate(self, ref: BlobRef) -> LocalFile | None:
        """The copy, opened; its use is noted."""
        if not self._budget:
            return None
        try:
            located = await self._disk.locate(ref)
        except BlobMissing as missing:
            if missing.damaged:
                self._observer.warning("damaged_copy", sha256=ref.sha256, kind="size")
            return None
        except StoreUnavailable as fault:
            self.suffer(fault)
            return None
        self._note_use(located.fd)
        self._observer.increment("tier_hits")
        return located

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes] | None:
        located = await self.locate(ref)
        return None if located is None else await self._disk.reading(located, span)

    def _note_use(self, fd: int) -> None:
        about, now = os.fstat(fd), self._clock()
        if not 0 <= now - about.st_atime < USE_SECONDS:
            with suppress(OSError):
                os.utime(fd, ns=(int(now * 1e9), about.st_mtime_ns))

    # --- keeping ----------------------------------------------------------------------------

    @contextmanager
    def second_name(self, ref: BlobRef, path: Path) -> Iterator[Path | None]:
        """Another name for a file that the remote store will consume; None where no copy is to be kept.
        What still has the name in the end is removed."""
        second = None
        if self.welcome(ref):
            second = self._disk.temp_path()
            try:
                os.link(path, second, follow_symlinks=False)
            except OSError:  # a filesystem without links: the first read makes the copy
                second = None
        try:
            yield second
        finally:
            if second is not None:
                _remove(second)

    async def keep(self, ref: BlobRef, path: Path) -> None:
        """Make the verified file at `path`, a name of the disk's own, the copy. It is gone afterwards."""
        await self._put(ref, partial(self._disk.put, ref, path))
        _remove(path)  # where not even that was tried

    async def keep_bytes(self, ref: BlobRef, body: bytes) -> None:
        if self.welcome(ref):
            await self._put(ref, partial(self._disk.put_bytes, ref, body))

    async def _put(self, ref: BlobRef, put: Callable[[], Awaitable[None]]) -> None:
        try:
            held = await self._disk.size(ref.sha256)
            await put()
        except StoreUnavailable as fault:
            self.suffer(fault)
        else:
            self._grow(ref.size - (held or 0))

    async def drop(self, sha256: str) -> bool:
        """Remove the copy; whether there was one."""
        try:
            held = await self._disk.size(sha256)
            await self._disk.delete(sha256)
        except StoreUnavailable as fault:
            self.suffer(fault)
            return False
        self._grow(-(held or 0))
        return held is not None

    async def set_aside(self, ref: BlobRef, opened: LocalFile) -> bool:
        done = await self._disk.set_aside(ref, opened)
        if done:
            self._observer.warning("damaged_copy", sha256=ref.sha256, kind="digest")
            self._grow(-ref.size)
        return done

    def suffer(self, fault: StoreUnavailable) -> None:
        """The disk failed: leave it alone for a while, and make room where that was the trouble."""
        now = asyncio.get_running_loop().time()
        if now >= self._shunned:
            self._observer.warning("tier_failed", error=fault.code, detail=fault.detail)
        self._shunned = now + self._limits.shun
        if isinstance(fault, StoreFull):
            self._full = True
            self._count_soon()

    # --- the budget -------------------------------------------------------------------------

    def _grow(self, size: int) -> None:
        self._bytes = max(0, self._bytes + size)
        self._grown += size
        self._observer.gauge("tier_bytes", self._bytes)
        if self._bytes > self._budget or self._grown * COUNT_AFTER > self._budget:
            self._count_soon()

    def _count_soon(self) -> None:
        self._due = True
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._keep_within(), name="local tier")

    async def _keep_within(self) -> None:
        while self._due:
            full, self._due, self._full, self._grown = self._full, False, False, 0
            try:
                total = 0
                async for portion in self._disk.uses():
                    total += sum(size for _, size, _ in portion)
                if (full or total > self._budget) and not self._disk.pinned():
                    total -= await self._evict(total, int(LEFT * min(total, self._budget)))
            except StoreUnavailable as fault:
                self._observer.warning("tier_uncounted", error=fault.code, detail=fault.detail)
            else:
                # What came meanwhile may be counted twice, until the next time.
                self._bytes = max(0, total + self._grown)
                self._observer.gauge("tier_bytes", self._bytes)
            await asyncio.sleep(self._limits.rest)

    async def _evict(self, total: int, keep: int) -> int:
        """Remove what was not used for longest until `keep` bytes are left of `total`; returns how
        many are gone."""
        coldest, listed, removed, freed = Coldest(total - keep), 0, 0, 0
        async for portion in self._disk.uses():
            for sha256, size, used in portion:
                listed += size
                coldest.offer(sha256, size, used)
        elsewhere = max(0, total - listed)  # another process removes as well: not the same bytes again
        for sha256, size, used in coldest.chosen():
            if removed >= listed - keep:
                break
            by_us = await self._disk.evict(sha256, used)
            freed += by_us
            # Somebody else may have been faster; what was used meanwhile stays.
            removed += size if by_us or await self._disk.size(sha256) is None else 0
        if freed:
            self._observer.increment("tier_evicted_bytes", freed)
        return removed + elsewhere


class Coldest:
    """The least recently used of what is offered, as many as are needed for `need` bytes; it holds
    hardly more than those, however many are offered."""

    def __init__(self, need: int) -> None:
        self._need = need
        self._bytes = 0
        self._heap: list[tuple[int, str, int]] = []  # the youngest first

    def offer(self, sha256: str, size: int, used: int) -> None:
        if not size:
            return  # frees nothing
        heapq.heappush(self._heap, (-used, sha256, size))
        self._bytes += size
        while self._heap and self._bytes - self._heap[0][2] >= self._need:
            self._bytes -= heapq.heappop(self._heap)[2]

    def chosen(self) -> list[tuple[str, int, int]]:
        """Name, size and last use, the oldest first."""
        return [(sha256, size, -negated) for negated, sha256, size in sorted(self._heap, reverse=True)]


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
