"""Bringing one body in from the process that fills it, and going on without that process if need be.

The holder's spool is read as any client reads it: its tail comes once it is verified there, and a
failure there is a reset here. Everything is hashed and verified again by whoever follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from artifactproxy.engine.conversation import Admitted, Landed, RejectedError
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import sha256_of
from artifactproxy.engine.transfer import Transfer, origin_of
from artifactproxy.engine.turn import SILENCE, Turn
from artifactproxy.errors import BlobMissing, Fault, PeerGone, StoreUnavailable, UpstreamBroken
from artifactproxy.model import Absent, CacheEntry, Header, Refresh, Span, Told, UpstreamHead
from artifactproxy.ports import BlobStore, UpstreamReply
from artifactproxy.rules.digests import vouching
from artifactproxy.rules.http import strong
from artifactproxy.rules.parts import judge_part
from artifactproxy.rules.peers import FOLLOWED


@dataclass(slots=True)
class _Stored:
    """A blob in the manner of an `UpstreamReply`."""

    head: UpstreamHead
    body: AsyncIterator[bytes]
    at: str = ""

    def chunks(self) -> AsyncIterator[bytes]:
        return self.body


class _Watched:
    """The body of the process that fills. One that stands still says nothing and breaks no connection, but its
    lease ends, and may be ours then: raises `PeerGone`."""

    def __init__(self, reply: UpstreamReply, turn: Turn) -> None:
        self.head, self.at = reply.head, reply.at
        self._reply = reply
        self._turn = turn

    async def chunks(self) -> AsyncIterator[bytes]:
        blocks = aiter(self._reply.chunks())
        while (block := await self._next(blocks)) is not None:
            yield block

    async def _next(self, blocks: AsyncIterator[bytes]) -> bytes | None:
        coming = asyncio.ensure_future(anext(blocks, None))
        try:
            while not (await asyncio.wait((coming,), timeout=SILENCE))[0]:
                if await self._turn.fell_to_us() and not coming.done():
                    raise PeerGone("the process that fills this stands still")
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
        return coming.result()


class Following(Transfer):
    """A transfer whose turn may be another's. `landed` looks for the row that somebody may have
    written meanwhile, whose bytes are in `store`."""

    def __init__(
        self,
        *parts: Any,
        store: BlobStore,
        landed: Callable[[], Awaitable[CacheEntry | None]],
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self._store = store
        self._landed = landed
        self._told = Told("")

    async def run(self, *, avoid: str = "") -> Landed:
        """As `Transfer.run`. Raises `PeerGone` if whoever fills is gone before anything came of it,
        and `PassedOn` with what upstream refused it."""
        if self._turn.peer:
            landed = await self._follow()
            if landed is not None:
                return landed
        return await super().run(avoid=avoid)

    async def _follow(self) -> Landed | None:
        """None if that process brings in other bytes than those that we were promised."""
        broken: Fault
        async with AsyncExitStack() as stack:
            opened = await self._open(stack, next(iter(self._sources()), ""), [])
            reply = _Watched(opened, self._turn)
            head = reply.head
            self.upstream_status, self.source = head.status, self._source_of(head)
            if self._is_other(head):
                self._turn.alone()
                return None
            admission = await self._admit_told(head)
            self._turn.moved()
            landed = Landed(head, admission)
            if isinstance(admission, Refresh | Absent):
                return landed
            spool = self._spool = self._begin(head, admission)
            try:
                await self._pump(reply, spool)
                return landed
            except PeerGone as gone:
                broken = gone
        await self._take_over(spool, broken)
        return landed

    async def _admit_told(self, head: UpstreamHead) -> Admitted:
        try:
            return await self._admit(head)
        except RejectedError as refused:
            if head.status == 304:  # of a row that we have not seen; it is in the index by now
                raise PeerGone("what was checked there is not held here") from refused
            raise refused.fault from refused

    def _source_of(self, head: UpstreamHead) -> str:
        """Which of our sources the holder asked, as far as redirects let us tell."""
        sources = self._sources()
        asked = (source for source in sources if origin_of(source) == origin_of(head.url))
        return next(asked, sources[0] if sources else head.url)

    def _is_other(self, head: UpstreamHead) -> bool:
        """Takes note of what is told; whether it is of other bytes than those that we want."""
        if head.told is None:
            raise PeerGone("that is no process of ours")
        self._told = head.told
        promised = sha256_of(self._known)
        return bool(promised and head.told.sha256 and promised != head.told.sha256)

    # --- after a break ---

    async def _take_over(self, spool: Spool, broken: Fault) -> None:
        """First the same process is asked what became of it; then the coordinator, whose turn it is."""
        self._whole = True
        while self._turn.peer:
            await spool.drain()
            before = spool.received
            try:
                await self._continue_there(spool)
                return
            except (PeerGone, UpstreamBroken) as gone:
                broken = gone
            if spool.received > before:
                self._turn.moved()
            elif self._turn.peer:
                await self._turn.again()
        if not await self._from_store(spool):
            self._turn.took_over()
            await self._resume(spool, broken)

    async def _from_store(self, spool: Spool) -> bool:
        """Whether another follower has been faster: the rest is what it has stored."""
        row, tag = await self._landed(), self._head.headers.get("etag", "")
        if row is None or row.ref is None:
            return False
        # Else it must repeat what came so far.
        exact = sha256_of(self._known) == row.ref.sha256 or (strong(tag) and tag == row.validator_etag)
        start, size = spool.received if exact else 0, row.ref.size
        if spool.length not in (None, size) or not start <= spool.received <= size:
            return False
        try:
            body = await self._store.open(row.ref, Span(start, size))
            reply = _Stored(UpstreamHead(200, {}, size - start, framed=True, url=row.source), body)
            await (self._pump_part(reply, spool, size) if exact else self._repeat(reply, spool))
        except (BlobMissing, StoreUnavailable, UpstreamBroken):
            return False
        return True

    async def _continue_there(self, spool: Spool) -> None:
        followed, tag = self._told.fill, self._head.headers.get("etag", "")
        headers: list[Header] = [(FOLLOWED, followed)]
        if spool.received:
            headers.append(("range", f"bytes={spool.received}-"))
            if strong(tag):
                headers.append(("if-range", tag))
        async with AsyncExitStack() as stack:
            reply = _Watched(await self._open(stack, self.source, headers), self._turn)
            head = reply.head
            if self._is_other(head):
                self._turn.alone()
                raise PeerGone("that process brings in something else")
            if head.status == 206:
                # Parts of one download fit each other, whatever upstream's tag is.
                exact = self._told.fill == followed or vouching(self._known)
                stop = judge_part(head, start=spool.received, length=spool.length, etag=tag, promised=exact)
                await self._pump_part(reply, spool, stop)
            elif head.status == 200:
                await self._from_zero(reply, spool)
            else:
                raise PeerGone("that process has no body")
