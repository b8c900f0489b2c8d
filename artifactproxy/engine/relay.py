"""Bodies that pass through without being stored: relayed answers, cold ranges, a full disk.

Each is closed by whoever holds the `Answer`, also when it was never iterated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import BrokenPromise, Fault, UpstreamAbsent, UpstreamBroken
from artifactproxy.limits import Limits
from artifactproxy.model import (
    Ask,
    CacheEntry,
    Header,
    Kind,
    Promise,
    Reject,
    Route,
    Span,
    UpstreamHead,
)
from artifactproxy.ports import Clock, Upstream, UpstreamReply, UpstreamRequest
from artifactproxy.rules.coding import wanted
from artifactproxy.rules.decode import Decoder
from artifactproxy.rules.digests import Hasher, algorithms, check, passing, vouching
from artifactproxy.rules.freshness import admit
from artifactproxy.rules.http import parse_content_range

HEAD_REFUSED = (403, 405, 501)  # servers that know GET only


class Passing:
    """The chunks of an open upstream answer; closing it frees the connection."""

    def __init__(self, stack: AsyncExitStack, chunks: AsyncIterator[bytes]) -> None:
        self._stack = stack
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._stack.aclose()


@dataclass(slots=True)
class Through:
    """An upstream answer that is sent on as it comes. `length` and `coding` are those of the body
    as it is handed on."""

    head: UpstreamHead
    body: Passing
    length: int | None
    coding: str = ""


class Relay:
    """Opens upstream for one request and hands the body on."""

    def __init__(self, upstream: Upstream, clock: Clock, limits: Limits) -> None:
        self._upstream = upstream
        self._clock = clock
        self._limits = limits

    async def whole(self, mount: Mount, route: Route, url: str, ask: Ask) -> Through:
        """The answer to one request, which is asked with its own method and body.

        Raises `UpstreamAbsent` for 404 and 410, and the fault of the rules for anything else that
        is not a plain 200 with an end that can be told.
        """
        most = mount.policy.max_artifact_bytes if route.max_bytes is None else route.max_bytes
        body = None if ask.method in ("GET", "HEAD") else ask.body
        request = UpstreamRequest(mount.name, url, ask.method, route.headers, most, body)
        async with AsyncExitStack() as stack:  # a fault on the way out is counted by the upstream port
            reply = await stack.enter_async_context(self._upstream.open(request))
            if reply.head.status != 200:
                raise _refusal(mount, route, reply.head, self._clock())
            if not (reply.head.framed or mount.policy.accept_unframed):
                raise UpstreamBroken("upstream sent a body without a length", code="unframed_body")
            return self._decoded(reply, stack.pop_all(), ask, most)

    def _decoded(self, reply: UpstreamReply, stack: AsyncExitStack, ask: Ask, most: int) -> Through:
        """What is gzipped goes along to a client that wants it; any other coding is undone."""
        coding = reply.head.headers.get("content-encoding", "").strip().lower().removeprefix("x-")
        chunks, length = reply.chunks(), reply.head.length
        if coding == "identity":
            coding = ""
        if coding and not (coding == "gzip" and wanted(ask.headers.get("accept-encoding")) == "gzip"):
            decoder = Decoder(coding, max_bytes=most, max_ratio=self._limits.decoded_ratio)
            chunks, length, coding = _undone(chunks, decoder), None, ""
        body = Passing(stack, _ended(chunks, self._limits.hold_back))
        return Through(reply.head, body, length, coding)

    async def head(self, mount: Mount, route: Route, url: str) -> UpstreamHead:
        """Upstream's head for this file, without its body (design: HEAD on a miss)."""
        async with self._upstream.open(UpstreamRequest(mount.name, url, "HEAD", route.headers)) as reply:
            if reply.head.status not in HEAD_REFUSED:
                return reply.head
        async with self._upstream.open(UpstreamRequest(mount.name, url, "GET", route.headers)) as reply:
            return reply.head

    async def part(
        self, mount: Mount, route: Route, url: str, span: Span, entry: CacheEntry, total: int
    ) -> Passing | None:
        """Exactly this range of a body whose total and validator are known from a running fill;
        None if upstream does not give it like that (RFC 9110 section 15.3.7)."""
        wanted: Header = ("range", f"bytes={span.start}-{span.stop - 1}")
        request = UpstreamRequest(mount.name, url, "GET", (*route.headers, wanted), span.size)
        reply, stack = await self._open(request)
        if not _is_part(reply.head, span, total, entry.validator_etag):
            await stack.aclose()
            return None
        return Passing(stack, _exactly(reply.chunks(), span.size))

    async def held(self, mount: Mount, route: Route, url: str, known: Promise | None) -> Through:
        """A whole body that cannot be stored: still never complete before it is verified."""
        request = UpstreamRequest(mount.name, url, "GET", route.headers, mount.policy.max_artifact_bytes)
        known = passing(known)
        promised = vouching(known)
        async with AsyncExitStack() as stack:
            reply = await stack.enter_async_context(self._upstream.open(request))
            admission = admit(route, reply.head, mount.policy, self._clock(), held=None, promised=promised)
            if reply.head.status != 200 or isinstance(admission, Reject):
                raise _refusal(mount, route, reply.head, self._clock())
            chunks = _verified(reply, known, self._limits.hold_back)
            return Through(reply.head, Passing(stack.pop_all(), chunks), reply.head.length)

    async def _open(self, request: UpstreamRequest) -> tuple[UpstreamReply, AsyncExitStack]:
        stack = AsyncExitStack()
        reply = await stack.enter_async_context(self._upstream.open(request))
        return reply, stack


def _refusal(mount: Mount, route: Route, head: UpstreamHead, now: float) -> Fault:
    admission = admit(route, head, mount.policy, now, held=None, promised=False)
    if isinstance(admission, Reject):  # first: a throttled 404 is no absence
        return admission.fault
    if head.status in (404, 410):
        return UpstreamAbsent(f"upstream has no {route.filename or route.key.path}", status=head.status)
    return UpstreamBroken(f"upstream answered {head.status}", upstream_status=head.status)


def _is_part(head: UpstreamHead, span: Span, total: int, etag: str) -> bool:
    if head.status != 206 or head.headers.get("content-encoding"):
        return False
    parsed = parse_content_range(head.headers.get("content-range", ""))
    if parsed is None or parsed[0] != span or parsed[1] not in (None, total):
        return False
    seen = head.headers.get("etag", "")
    return not (etag and seen) or etag == seen


async def _exactly(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    left = size
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise UpstreamBroken("upstream sent more than the part asked for", code="bad_206")
        yield chunk
    if left:
        raise UpstreamBroken("upstream sent less than the part asked for", code="short_body")


async def _ended(chunks: AsyncIterator[bytes], hold_back: int) -> AsyncIterator[bytes]:
    """The bytes as they come, the last `hold_back` of them only once the end was a proper one, so
    that a short body that breaks still becomes an error."""
    kept = bytearray()
    async for chunk in chunks:
        kept += chunk
        if len(kept) > hold_back:
            ready = bytes(kept[: len(kept) - hold_back])
            del kept[: len(kept) - hold_back]
            yield ready
    if kept:
        yield bytes(kept)


async def _undone(chunks: AsyncIterator[bytes], decoder: Decoder) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        for piece in decoder.feed(chunk):
            yield piece
    yield decoder.finish()


async def _verified(reply: UpstreamReply, promise: Promise | None, hold_back: int) -> AsyncIterator[bytes]:
    """The bytes as they come, the last `hold_back` of them only once the whole is verified."""
    hasher, kept, size = Hasher(algorithms(promise)), bytearray(), 0
    async for chunk in reply.chunks():
        hasher.update(chunk)
        size += len(chunk)
        kept += chunk
        if len(kept) > hold_back:
            ready = bytes(kept[: len(kept) - hold_back])
            del kept[: len(kept) - hold_back]
            yield ready
    if reply.head.length is not None and size != reply.head.length:
        raise BrokenPromise("fewer bytes came than were announced", code="short_body")
    check(promise, size=size, digests=hasher.digests())
    if kept:
        yield bytes(kept)


def relayable(kind: Kind, route: Route) -> bool:
    """Whether a body may pass through unstored: not where it must be read or rendered first."""
    return kind is Kind.ARTIFACT or not (route.rendered or route.teaches)
