"""BlobStore of two: a remote store, which is the truth, and a disk that holds copies of some of it.

Every path that stores leaves a copy behind, and so does every whole read; hits on copies leave by
sendfile. What the disk lacks or fails at is answered from the remote store. The disk is also what gives
temp files to bodies on their way, so it must work for anything to be stored.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

from artifactproxy.errors import BlobMissing, Fault, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import BlobStore, Clock, Growing, Intake, LocalFile, Observer, Reception
from artifactproxy.stores.arrivals import Arrivals, Fetch, Spoilt
from artifactproxy.stores.copies import Copies, TierLimits
from artifactproxy.stores.fs import FsStore


class Tier:
    """`remote` has no local files of its own; `budget` in bytes is for the copies on `disk`, 0 keeps
    none. Both are started by the caller, before `start`, and closed by `close`. `fetch` is how what is
    verified here leaves the remote store, where it can do that at less cost than `open`."""

    def __init__(
        self,
        remote: BlobStore,
        disk: FsStore,
        *,
        budget: int,
        observer: Observer,
        fetch: Fetch | None = None,
        clock: Clock = time.time,
        limits: TierLimits = TierLimits(),  # noqa: B008  a frozen value
    ) -> None:
        self.remote = remote
        """The truth, for whoever must look past the copies: the scrub, fsck."""
        self._disk = disk
        self._observer = observer
        self._small = limits.small
        self._copies = Copies(disk, budget, observer, clock, limits)
        self._arrivals = Arrivals(
            fetch or remote.open, disk, self._copies, self._wrong, at_once=limits.at_once
        )
        self.temp_path = disk.temp_path
        self.sweep = disk.sweep
        self.free = disk.free
        self.pinned = disk.pinned

    @property
    def swept(self) -> int:
        return self._disk.swept

    async def start(self) -> None:
        """Begin to look through the copies that are there."""
        self._copies.start()

    async def check(self) -> None:
        """The remote store, and the disk: without temp files nothing can be stored."""
        await self.remote.check()
        try:
            await self._disk.check()
        except StoreUnavailable as fault:
            raise type(fault)(f"the disk in front of the store: {fault.detail}", code=fault.code) from fault

    async def close(self) -> None:
        await self._arrivals.close()
        await self._copies.close()
        try:
            await self.remote.close()
        finally:
            await self._disk.close()

    # --- writing ----------------------------------------------------------------------------

    async def put(self, ref: BlobRef, path: Path) -> None:
        with self._copies.second_name(ref, path) as second:
            await self.remote.put(ref, path)
            if second is not None:
                await self._copies.keep(ref, second)

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        await self.remote.put_bytes(ref, body)
        await self._copies.keep_bytes(ref, body)

    async def begin(self, sha256: str, body: Growing) -> Intake | None:
        intake = await self.remote.begin(sha256, body)
        return None if intake is None else _Intake(intake, self._copies)

    async def receive(self, sha256: str, length: int | None) -> Reception | None:
        """Without a copy here: nothing of it is written to this disk."""
        return await self.remote.receive(sha256, length)

    async def delete(self, sha256: str, *, older_than: float = 0.0) -> None:
        """The copy goes in any case: where the blob stays, a read brings it back."""
        await self.remote.delete(sha256, older_than=older_than)
        await self._forget(sha256)

    async def set_aside(self, ref: BlobRef, opened: LocalFile | None = None) -> bool:
        """What was `opened` is a copy: then the blob itself, which others serve from, stays."""
        if opened is not None:
            return await self._copies.set_aside(ref, opened)
        done = await self.remote.set_aside(ref)
        return await self._forget(ref.sha256) or done

    async def _forget(self, sha256: str) -> bool:
        await self._arrivals.forgotten(sha256)
        return await self._copies.drop(sha256)

    async def _wrong(self, ref: BlobRef) -> None:
        """The remote store holds other bytes under this name: out of reach with them."""
        self._arrivals.forget(ref.sha256)
        self._observer.increment("integrity_failures", where="store")
        self._observer.warning("damaged_blob", sha256=ref.sha256)
        try:
            await self.remote.set_aside(ref)
        except Fault as fault:
            self._observer.warning("not_set_aside", sha256=ref.sha256, error=fault.code, detail=fault.detail)

    # --- reading ----------------------------------------------------------------------------

    async def locate(self, ref: BlobRef) -> LocalFile | None:
        located = await self._copies.locate(ref)
        return await self.remote.locate(ref) if located is None else located

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]:
        chunks = await self._copies.open(ref, span)
        if chunks is not None:
            return chunks
        self._observer.increment("tier_misses")
        arrival = None
        if span.size:
            whole = span == Span(0, ref.size)
            arrival = self._arrivals.join(ref, span, begin=whole or ref.size < self._small)
        if arrival is None:
            return await self.remote.open(ref, span)
        try:
            return await arrival.read(span)
        except Spoilt:
            return await self.remote.open(ref, span)
        except StoreUnavailable as fault:
            if arrival.damaged:
                raise BlobMissing(ref.sha256) from fault
            raise

    async def address(self, ref: BlobRef, *, seconds: float, media_type: str, filename: str) -> str | None:
        return await self.remote.address(ref, seconds=seconds, media_type=media_type, filename=filename)

    async def size(self, sha256: str) -> int | None:
        return await self.remote.size(sha256)

    def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        return self.remote.scan()

    async def tidy(self) -> int:
        return await self.remote.tidy()


class _Intake:
    """A put under way in the remote store, which leaves a copy when it ends well."""

    def __init__(self, intake: Intake, copies: Copies) -> None:
        self._intake = intake
        self._copies = copies
        self.abandon = intake.abandon

    async def finish(self, ref: BlobRef, path: Path) -> None:
        with self._copies.second_name(ref, path) as second:
            await self._intake.finish(ref, path)
            if second is not None:
                await self._copies.keep(ref, second)
