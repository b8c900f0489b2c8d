"""The one way bytes become visible: verified first, then durable under their sha256.

Every source (an upstream body, a push, later a range download, a bundle member) ends here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from artifactproxy import failpoints
from artifactproxy.engine.reread import Hashing
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import disk_fault
from artifactproxy.errors import BrokenPromise
from artifactproxy.model import BlobRef, Digest, Promise
from artifactproxy.ports import BlobStore, Reception
from artifactproxy.rules.digests import check, missing

BATCH_BYTES = 2**20
"""Hashed at a time of a body on its way. The store holds these bytes in any case, and a thread is dear to ask."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the whole body is; `by` is `digest` where a promise vouched, else `framing`."""

    ref: BlobRef
    by: str


class Passing:
    """A body on its way straight into the store, hashed as it passes: what the ingest needs of a spool,
    without its bytes. What it must be is known from the first byte on. One task writes it, in order."""

    def __init__(
        self, reception: Reception, length: int | None, hasher: Hashing, executor: Executor | None
    ) -> None:
        self.length = length
        self.received = 0
        self.written = 0
        self._reception = reception
        self._hasher = hasher
        self._executor = executor
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._hashing: asyncio.Future[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Waits while the store is behind. Raises `StoreUnavailable`, `Busy`."""
        self.received += len(chunk)
        self._batch.append(chunk)
        self._batch_bytes += len(chunk)
        if self._batch_bytes >= BATCH_BYTES:
            await self._hash()
        await self._reception.write(chunk)
        self.written += len(chunk)

    async def _hash(self) -> None:
        """One batch at a time, beside what arrives meanwhile."""
        if self._hashing is not None:
            await self._hashing
        batch = self._batch
        self._batch, self._batch_bytes, self._hashing = [], 0, None
        if self._executor is None:
            self._update(batch)
        else:
            loop = asyncio.get_running_loop()
            self._hashing = loop.run_in_executor(self._executor, self._update, batch)

    def _update(self, batch: list[bytes]) -> None:
        for chunk in batch:
            self._hasher.update(chunk)

    async def drain(self) -> None:
        await self._hash()
        if self._hashing is not None:
            await self._hashing

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Of everything written; call after `drain`."""
        return self._hasher.digests()

    async def rehash(self, algorithms: Iterable[str]) -> tuple[Digest, ...]:
        """Its bytes are gone."""
        raise RuntimeError(f"not hashed on its way: {sorted(algorithms)}")

    async def finish(self, ref: BlobRef) -> None:
        await self._reception.finish(ref)

    async def abandon(self) -> None:
        """Also after `finish`."""
        await self._reception.abandon()


class Ingest:
    """Verifies a spool and hands it to the store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def verify(self, spool: Spool | Passing, promise: Promise | None) -> Verified:
        """Size as announced, size and digests as promised. Raises `BrokenPromise`."""
        await spool.drain()
        try:
            failpoints.hit("tmp.full")
        except OSError as error:
            raise disk_fault(error) from error
        if spool.length is not None and spool.written != spool.length:
            raise BrokenPromise(
                f"{spool.written} bytes came where {spool.length} were announced", code="short_body"
            )
        digests = spool.digests
        lacking = missing(promise, digests)
        if lacking:  # the promise was learnt after the first byte
            digests = (*digests, *await spool.rehash(lacking))
        by = check(promise, size=spool.written, digests=digests)
        sha256 = next(digest.hex for digest in digests if digest.algorithm == "sha256")
        return Verified(BlobRef(sha256, spool.written), by)

    async def store(self, spool: Spool | Passing, ref: BlobRef) -> None:
        """Durable when it returns; raises `StoreUnavailable` and leaves nothing behind."""
        if isinstance(spool, Passing):
            await spool.finish(ref)
            return
        if spool.in_memory or spool.path is None:
            await self._store.put_bytes(ref, spool.peek(0, ref.size))
            return
        await self._store.put(ref, spool.path)
        spool.moved()
