"""One request for one body, and what its answer does to the spool; `transfer.py` orders them.

The answer comes from upstream or from the process that fills, and is judged alike. A whole body that
comes again must repeat what was read before; a part (RFC 9110 sections 14.4, 15.3.7) must fit it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.turn import PassedOn, Turn
from artifactproxy.errors import BrokenPromise, Fault, PeerGone, TooLarge, UpstreamBroken
from artifactproxy.model import (
    Absent,
    Admission,
    Bypass,
    CacheEntry,
    Header,
    Keep,
    Kind,
    Promise,
    Refresh,
    Reject,
    Route,
    UpstreamHead,
)
from artifactproxy.ports import Clock, Upstream, UpstreamReply, UpstreamRequest
from artifactproxy.rules.decode import Decoder
from artifactproxy.rules.digests import vouching
from artifactproxy.rules.freshness import admit, depends_on_promise

Admitted = Keep | Bypass | Refresh | Absent


@dataclass(frozen=True, slots=True)
class Landed:
    """How the conversation ended: the head that counted and what it was admitted as."""

    head: UpstreamHead
    admission: Admitted


class RejectedError(Exception):
    """A head that was refused; `retry` as the rules said."""

    def __init__(self, fault: Fault, *, retry: bool) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.retry = retry


class Conversation:
    """`on_open` makes the spool once the head is admitted; `promise` waits for the teachers; `held` is
    the entry whose validators are sent (None: none); `on_trouble` hears of heads that are not admitted
    and of bodies that break. `turn` says who is asked."""

    def __init__(
        self,
        upstream: Upstream,
        mount: Mount,
        route: Route,
        turn: Turn,
        *,
        held: CacheEntry | None,
        known: Promise | None,
        promise: Callable[[], Awaitable[Promise | None]],
        on_open: Callable[[UpstreamHead, Keep | Bypass], Spool],
        on_trouble: Callable[[Fault], None],
        clock: Clock,
        decoded_ratio: int,
    ) -> None:
        self._upstream = upstream
        self._mount = mount
        self._route = route
        self._turn = turn
        self._held = held
        self._known = known
        self._promise = promise
        self._on_open = on_open
        self._on_trouble = on_trouble
        self._clock = clock
        self._ratio = decoded_ratio
        self._kept: Keep | Bypass = Keep(None)
        self._head = UpstreamHead(0, {}, None, framed=False, url="")  # of what the spool holds
        self.asked = False

    def learnt(self, promise: Promise) -> None:
        """The teachers have spoken while the body arrives: its size bounds it from now on."""
        if not vouching(self._known):
            self._known = promise

    # --- asking ---

    async def _open(self, stack: AsyncExitStack, url: str, headers: list[Header]) -> UpstreamReply:
        """Raises `PeerGone` or `PassedOn` of a process that is followed, else as the port says."""
        try:
            return await stack.enter_async_context(self._upstream.open(self._request(url, headers)))
        except PeerGone:
            raise
        except Fault as fault:
            if self._turn.peer:
                raise PassedOn(fault) from fault
            raise

    def _request(self, url: str, headers: list[Header]) -> UpstreamRequest:
        peer = self._turn.peer
        return UpstreamRequest(
            remote=self._mount.name,
            url=url,
            headers=tuple(headers),
            max_bytes=self._max_bytes(),
            peer=peer,
            key=self._route.key if peer else None,
            on_leave=self._mark_asked,
        )

    def _mark_asked(self) -> None:
        self.asked = True

    def _max_bytes(self) -> int:
        policy, route = self._mount.policy, self._route
        limit = policy.max_artifact_bytes if route.kind is Kind.ARTIFACT else policy.max_index_bytes
        if route.max_bytes is not None:
            limit = min(limit, route.max_bytes)
        if self._known is not None and self._known.size is not None:
            limit = min(limit, self._known.size)
        return limit

    # --- judging the head ---

    async def _admit(self, head: UpstreamHead) -> Admitted:
        if depends_on_promise(head) and not vouching(self._known):
            self._known = await self._promise()
        admission: Admission = admit(
            self._route,
            head,
            self._mount.policy,
            self._clock(),
            held=self._held,
            promised=vouching(self._known),
        )
        if isinstance(admission, Reject):
            if self._held is not None and head.status == 304:
                # A 304 for something we no longer hold: ask again without conditions.
                self._held = None
            if head.told is None:
                self._on_trouble(admission.fault)
            raise RejectedError(admission.fault, retry=admission.retry)
        return admission

    async def _readmit(self, head: UpstreamHead) -> None:
        """A body that starts over is judged by its own head, as the first one was."""
        try:
            admission = await self._admit(head)
        except RejectedError as refused:
            raise UpstreamBroken(
                refused.fault.detail, code=refused.fault.code, upstream_status=head.status
            ) from refused
        if type(admission) is not type(self._kept):
            raise UpstreamBroken("upstream answers differently from before", code="changed_mid_range")

    # --- bodies ---

    async def _pump(self, reply: UpstreamReply, spool: Spool) -> None:
        async for piece in self._pieces(reply):
            self._judge_size(spool.received + len(piece))
            await spool.write(piece)
        await spool.drain()

    async def _pieces(self, reply: UpstreamReply) -> AsyncIterator[bytes]:
        """The body without the content coding that indexes are asked for in."""
        if not decodes(self._route, reply.head):
            async for chunk in reply.chunks():
                yield chunk
            return
        coding = coding_of(reply.head)
        decoder = Decoder(coding, max_bytes=self._max_bytes(), max_ratio=self._ratio)
        async for chunk in reply.chunks():
            for piece in decoder.feed(chunk):
                yield piece
        yield decoder.finish()

    def _judge_size(self, size: int) -> None:
        known = self._known.size if self._known is not None else None
        if known is not None and size > known:
            raise TooLarge("the body is longer than was promised", code="overlong")

    async def _pump_part(self, reply: UpstreamReply, spool: Spool, stop: int) -> None:
        if stop > self._max_bytes():
            raise TooLarge("the continued body is longer than it may be", code="overlong")
        async for chunk in reply.chunks():
            if spool.received + len(chunk) > stop:
                raise BrokenPromise("upstream sent more than the part asked for", code="bad_206")
            await spool.write(chunk)
        await spool.drain()
        if spool.received < stop:
            raise UpstreamBroken("upstream sent less than the part it announced", code="short_body")

    def _begin(self, head: UpstreamHead, admission: Keep | Bypass) -> Spool:
        self._head, self._kept = head, admission
        return self._on_open(head, admission)

    async def _from_zero(self, reply: UpstreamReply, spool: Spool) -> None:
        """A whole body came again: start over if nobody read, else it must repeat what was sent."""
        head, before = reply.head, self._head
        if spool.untouched:
            if head.told is before.told is None and coding_of(head) != coding_of(before):
                raise UpstreamBroken("upstream changed the content coding", code="changed_mid_range")
            await self._readmit(head)
            await self._pump(reply, self._begin(head, self._kept))
            return
        if not (reply.head.framed or vouching(self._known)):
            raise UpstreamBroken("upstream sent a body without a length", code="unframed_body")
        if spool.length is not None and reply.head.length not in (None, spool.length):
            raise BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")
        await self._repeat(reply, spool)

    async def _repeat(self, reply: UpstreamReply, spool: Spool) -> None:
        seen, prefix = 0, spool.received
        async for piece in self._pieces(reply):
            overlap = min(len(piece), max(0, prefix - seen))
            if overlap and spool.peek(seen, seen + overlap) != piece[:overlap]:
                raise BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")
            seen += len(piece)
            if overlap < len(piece):
                self._judge_size(seen)
                await spool.write(piece[overlap:])
        if seen < prefix:
            raise UpstreamBroken("the repeated body is shorter than before", code="short_body")
        await spool.drain()


def decodes(route: Route, head: UpstreamHead) -> bool:
    """Whether the body is kept without the content coding it comes in."""
    return route.kind is Kind.INDEX and bool(coding_of(head))


def coding_of(head: UpstreamHead) -> str:
    coding = head.headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding
