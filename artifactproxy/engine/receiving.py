"""Bodies that are pushed: one more source of the one ingest (`ingest.py`).

Where the store takes a body in while it arrives (`BlobStore.receive`), its bytes go from the socket
through the hasher into the store and lie on no disk of ours; elsewhere it is a spool whose file the store
takes over. Either way nothing is visible before it is verified, and success means durable bytes: here
nobody else has them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from artifactproxy.engine.ingest import Ingest, Passing
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Tools, sha256_of
from artifactproxy.errors import BodyTooLarge, BrokenPromise, Busy, IndexUnavailable, StoreUnavailable
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Kind, Promise
from artifactproxy.ports.hosting import HOLD, PART, Hosting
from artifactproxy.rules.digests import Hasher, algorithms

HOLD_SECONDS = 30.0
"""For which a push waits until a blob of the same name that is being deleted is gone."""
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Received:
    """A body that is durable, and the row that keeps it until another names it: whoever publishes that
    one lets `hold` leave with it."""

    ref: BlobRef
    hold: ArtifactKey


class Receiving:
    """`executor` hashes (None: in the loop)."""

    def __init__(self, tools: Tools, hosting: Hosting, executor: Executor | None) -> None:
        self._tools = tools
        self._hosting = hosting
        self._ingest = Ingest(tools.store)
        self._executor = executor
        self._coming: Counter[str] = Counter()  # pushes under way, by the sha256 that is wanted

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        repo: str,
        name: str,
        digests: Iterable[Digest] = (),
        length: int | None = None,
        most: int,
    ) -> Received:
        """Take in a body of at most `most` bytes that must have these digests, for this repository.

        Raises `BodyTooLarge` (at once where the length tells), `BrokenPromise` for other bytes than
        promised, what `chunks` raises, and the faults of store and index.
        """
        promise = Promise(ArtifactKey(repo, name), tuple(digests), size=length)
        with self._counted(sha256_of(promise)):
            if (length or 0) > most:
                raise too_large(most)
            return await self._received(chunks, promise, most)

    @contextmanager
    def _counted(self, sha256: str) -> Iterator[None]:
        """What became of a body, and whether two bring the same."""
        increment, result = self._tools.observer.increment, "aborted"
        if self._coming[sha256] and sha256:
            increment("dedupe_races")
        self._coming[sha256] += 1
        try:
            yield
            result = "stored"
        except (BodyTooLarge, BrokenPromise):
            result = "refused"
            raise
        except (StoreUnavailable, IndexUnavailable, Busy):
            result = "failed"
            raise
        finally:
            increment("uploads", result=result)
            self._coming[sha256] -= 1
            if not self._coming[sha256]:
                del self._coming[sha256]

    async def _received(self, chunks: AsyncIterator[bytes], promise: Promise, most: int) -> Received:
        repo, name, length = promise.key.repo, promise.key.path, promise.size
        body = await self._body(promise, length)
        try:
            async for chunk in chunks:
                if body.received + len(chunk) > most:
                    raise too_large(most)
                await body.write(chunk)
            ref = (await self._ingest.verify(body, promise)).ref
            hold = await self._held(repo, name, ref)
            stored = False
            try:
                await self._ingest.store(body, ref)
                stored = True
            finally:
                if not stored:
                    self._tools.waiting.aside(self.release(hold))
        finally:
            if isinstance(body, Spool):
                body.fail(Busy("nobody receives this body any more", code="cancelled"))
                body.finish()
            else:
                self._tools.waiting.aside(body.abandon())
        return Received(ref, hold)

    async def release(self, hold: ArtifactKey) -> None:
        """Let a body go that became nothing. Where the index is away it goes with the strays, later."""
        with suppress(IndexUnavailable):
            await self._hosting.withdraw([hold])

    async def _body(self, promise: Promise, length: int | None) -> Spool | Passing:
        tools, sha256 = self._tools, sha256_of(promise)
        if sha256 and (length is None or length > tools.limits.memory_body):
            reception = await tools.store.receive(sha256, length)
            if reception is not None:
                return Passing(reception, length, Hasher(algorithms(promise)), self._executor)
        tools.ready_for(length or 0)
        spool = tools.new_spool(length, promise)
        spool.awaited = True
        return spool

    async def _held(self, repo: str, name: str, ref: BlobRef) -> ArtifactKey:
        """Name the blob before it is put. One that is being deleted is waited for."""
        now = self._tools.clock()
        key = ArtifactKey(repo, name, f"{PART}{secrets.token_hex(16)}{HOLD}")
        entry = CacheEntry(
            key, Kind.ARTIFACT, ref, verified_by="digest", fetched_at=now, checked_at=now, first_seen=now
        )
        until = asyncio.get_running_loop().time() + HOLD_SECONDS
        while not await self._hosting.hold(entry):
            if asyncio.get_running_loop().time() > until:
                raise Busy("this blob is being deleted; try again", code="being_deleted", retry_after=5.0)
            await asyncio.sleep(_PAUSE)
        return key


def too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {most} bytes")


async def nothing() -> AsyncIterator[bytes]:
    """A body without a byte."""
    return
    yield b""
