"""The one way bytes become visible: verified first, then durable under their sha256.

Every source (an upstream body, later a push, a range download, a bundle member) ends here.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifactproxy import failpoints
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import disk_fault
from artifactproxy.errors import BrokenPromise
from artifactproxy.model import BlobRef, Promise
from artifactproxy.ports import BlobStore
from artifactproxy.rules.digests import check, missing


@dataclass(frozen=True, slots=True)
class Verified:
    """What the whole body is; `by` is `digest` where a promise vouched, else `framing`."""

    ref: BlobRef
    by: str


class Ingest:
    """Verifies a spool and hands it to the store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def verify(self, spool: Spool, promise: Promise | None) -> Verified:
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

    async def store(self, spool: Spool, ref: BlobRef) -> None:
        """Durable when it returns; raises `StoreUnavailable` and leaves nothing behind."""
        if spool.in_memory or spool.path is None:
            await self._store.put_bytes(ref, spool.peek(0, ref.size))
            return
        await self._store.put(ref, spool.path)
        spool.moved()
