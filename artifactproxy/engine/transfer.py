"""Bringing one body in: sources in order, retries before the first byte, resumes after it.

Reads upstream and writes a spool; decides nothing about storing or verifying. After a break the
rest is asked for by `Range` (with `If-Range` unless the final digest is known) and every 206 is
checked (RFC 9110 sections 13.1.5, 14.4, 15.3.7). A body nobody has read from yet may start over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.errors import (
    BrokenPromise,
    Fault,
    TooLarge,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFault,
    UpstreamSlow,
    UpstreamUnreachable,
)
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
from artifactproxy.rules.digests import passing, vouching
from artifactproxy.rules.freshness import admit, depends_on_promise
from artifactproxy.rules.http import strong
from artifactproxy.rules.parts import judge_part
from artifactproxy.rules.retry import backoff

QUICK_TRIES = 2  # for an upstream that cannot be reached at all
_UNFIT = ("bad_206", "no_resume")  # the connection is fine, but parts are not to be had


@dataclass(frozen=True, slots=True)
class Landed:
    """How the conversation ended: the head that counted and what it was admitted as."""

    head: UpstreamHead
    admission: Keep | Bypass | Refresh | Absent


class _RejectedError(Exception):
    """An upstream head that was refused; `retry` as the rules said."""

    def __init__(self, fault: Fault, *, retry: bool) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.retry = retry


class Transfer:
    """One body from upstream. `on_open` makes the spool once the head is admitted; `promise`
    waits for the teachers; `held` is the entry whose validators are sent (None: none);
    `on_trouble` hears of heads that are not admitted and of bodies that break."""

    def __init__(
        self,
        upstream: Upstream,
        mount: Mount,
        route: Route,
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
        self._held = held
        self._known = known
        self._promise = promise
        self._on_open = on_open
        self._on_trouble = on_trouble
        self._clock = clock
        self._ratio = decoded_ratio
        self._spool: Spool | None = None
        self._no_cache = False
        self._kept: Keep | Bypass = Keep(None)
        self.asked = False
        self.resumes = 0
        self.upstream_status = 0
        self.source = ""

    async def run(self, *, avoid: str = "") -> Landed:
        """Until a body is whole, or there is none to have. Raises the last `UpstreamFault`, or
        the spool's fault. `avoid` is a source that gave wrong bytes: it is asked last, and caches
        on the way are asked to step aside (RFC 9111 section 5.2.1.4)."""
        self._no_cache = bool(avoid)
        sources = tuple(sorted(self._sources(), key=lambda source: source == avoid))
        last: Fault = UpstreamUnreachable("this repository has no upstream for that path")
        for number, source in enumerate(sources):
            final = number == len(sources) - 1
            for attempt in range(self._mount.limits.retries + 1):
                try:
                    return await self._try(source, final=final)
                except _RejectedError as rejected:
                    last, again = rejected.fault, rejected.retry
                except (UpstreamUnreachable, UpstreamSlow, UpstreamBusy, UpstreamBroken) as fault:
                    if self._spool is not None:
                        raise
                    last, again = fault, _quick(fault, attempt)
                if not again or attempt == self._mount.limits.retries:
                    break
                await asyncio.sleep(backoff(attempt, self._mount.limits.retry_base, random.random()))  # noqa: S311 - jitter
            if not _other_upstream_may_help(last):
                break
        raise last

    def _sources(self) -> tuple[str, ...]:
        """The address an index gave is exact (scheme, port, signed query); ours is a guess."""
        named = self._known.url if self._known is not None else ""
        if self._route.foreign and named:
            return (named,)
        if not named:
            return self._route.sources
        return (named, *(s for s in self._route.sources if _origin(s) != _origin(named)))

    # --- one conversation ---

    async def _try(self, source: str, *, final: bool) -> Landed:
        self.source = source
        headers = [*self._route.headers, *self._validators(source)]
        if self._no_cache:
            headers.append(("cache-control", "no-cache"))
        broken: Fault
        async with self._upstream.open(self._request(source, headers)) as reply:
            self.upstream_status = reply.head.status
            admission = await self._admit(reply.head)
            asks_all = self._route.kind is Kind.ARTIFACT or self._route.absent_everywhere
            if isinstance(admission, Absent) and not final and asks_all:
                raise _RejectedError(
                    UpstreamFault("upstream does not have it", upstream_status=admission.status), retry=False
                )
            if isinstance(admission, Refresh | Absent):
                return Landed(reply.head, admission)
            spool = self._spool = self._on_open(reply.head, admission)
            landed, self._kept = Landed(reply.head, admission), admission
            try:
                await self._pump(reply, spool)
                return landed
            except (UpstreamBroken, UpstreamSlow) as fault:
                self._on_trouble(fault)  # it ends here, and never passes the port where others are counted
                broken = fault
        await self._resume(landed, spool, broken)
        return landed

    async def _admit(self, head: UpstreamHead) -> Keep | Bypass | Refresh | Absent:
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
            self._on_trouble(admission.fault)
            raise _RejectedError(admission.fault, retry=admission.retry)
        return admission

    def learnt(self, promise: Promise) -> None:
        """The teachers have spoken while the body arrives: its size bounds it from now on."""
        if not vouching(self._known):
            self._known = promise

    def _validators(self, source: str) -> list[Header]:
        held = self._held
        if held is None or held.ref is None:
            return []
        # Validators belong to the upstream that issued them (a redirect changes the host of one).
        if len(self._route.sources) > 1 and _origin(held.source) != _origin(source):
            return []
        headers: list[Header] = []
        if held.validator_etag:
            headers.append(("if-none-match", held.validator_etag))
        if held.validator_modified:
            headers.append(("if-modified-since", held.validator_modified))
        return headers

    def _request(self, url: str, headers: list[Header]) -> UpstreamRequest:
        return UpstreamRequest(
            remote=self._mount.name,
            url=url,
            headers=tuple(headers),
            max_bytes=self._max_bytes(),
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

    async def _pump(self, reply: UpstreamReply, spool: Spool) -> None:
        coding = _coding(reply.head) if self._route.kind is Kind.INDEX else ""
        if not coding:
            async for chunk in reply.chunks():
                self._judge_size(spool.received + len(chunk))
                await spool.write(chunk)
        else:
            decoder = Decoder(coding, max_bytes=self._max_bytes(), max_ratio=self._ratio)
            async for chunk in reply.chunks():
                for piece in decoder.feed(chunk):
                    await spool.write(piece)
            await spool.write(decoder.finish())
        await spool.drain()

    def _judge_size(self, size: int) -> None:
        known = self._known.size if self._known is not None else None
        if known is not None and size > known:
            raise TooLarge("the body is longer than was promised", code="overlong")

    # --- after a break ---

    async def _resume(self, landed: Landed, spool: Spool, broken: Fault) -> None:
        if not vouching(self._known):
            # What is promised by now decides how the rest may be asked for.
            self._known = await self._promise()
        sources = self._resume_sources()
        for number in range(self._mount.limits.resumes):
            self.resumes += 1
            await spool.drain()
            await asyncio.sleep(backoff(number, self._mount.limits.retry_base, random.random()))  # noqa: S311 - jitter
            source = sources[number % len(sources)]
            try:
                if await self._continue(source, landed, spool):
                    return
            except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken, UpstreamBusy) as fault:
                if fault.code not in _UNFIT:
                    broken = fault
                    continue
                await spool.drain()
                if spool.untouched:
                    spool.restart(None)  # one stream from the start, since parts lead nowhere
        raise broken

    def _resume_sources(self) -> tuple[str, ...]:
        """Other upstreams may continue only where the final digest will tell."""
        if not vouching(passing(self._known)):
            return (self.source,)
        rest = tuple(s for s in self._sources() if s != self.source)
        return (self.source, *rest)

    async def _continue(self, source: str, landed: Landed, spool: Spool) -> bool:
        """One attempt to get the rest; True when the body is whole."""
        promised = vouching(self._known)  # the whole will be judged, also where parts cannot be
        tag = landed.head.headers.get("etag", "")
        resumable = not _coding(landed.head) and (promised or strong(tag))
        headers = [*self._route.headers]
        if resumable and spool.received:
            headers.append(("range", f"bytes={spool.received}-"))
            if strong(tag) and source == self.source:
                headers.append(("if-range", tag))
        elif not spool.untouched:
            raise UpstreamBroken("upstream broke off and gave no way to continue", code="short_body")
        else:
            spool.restart(None)  # at once: nobody may begin to read what will not be continued
        async with self._upstream.open(self._request(source, headers)) as reply:
            self.upstream_status = reply.head.status
            if reply.head.status == 206:
                stop = judge_part(
                    reply.head, start=spool.received, length=spool.length, etag=tag, promised=promised
                )
                await self._pump_part(reply, spool, stop)
            elif reply.head.status == 200:
                await self._from_zero(reply, landed, spool)
            else:
                raise UpstreamBroken(
                    f"upstream answered {reply.head.status} to a request to continue",
                    code="no_resume",
                    upstream_status=reply.head.status,
                )
        return True

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

    async def _from_zero(self, reply: UpstreamReply, landed: Landed, spool: Spool) -> None:
        """A whole body came again: start over if nobody read, else it must repeat what was sent."""
        if spool.untouched:
            if _coding(reply.head) != _coding(landed.head):
                raise UpstreamBroken("upstream changed the content coding", code="changed_mid_range")
            await self._readmit(reply.head)
            await self._pump(reply, self._on_open(reply.head, self._kept))
            return
        if not (reply.head.framed or vouching(self._known)):
            raise UpstreamBroken("upstream sent a body without a length", code="unframed_body")
        if spool.length is not None and reply.head.length not in (None, spool.length):
            raise BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")
        await self._repeat(reply, spool)

    async def _readmit(self, head: UpstreamHead) -> None:
        """A body that starts over is judged by its own head, as the first one was."""
        try:
            admission = await self._admit(head)
        except _RejectedError as refused:
            raise UpstreamBroken(
                refused.fault.detail, code=refused.fault.code, upstream_status=head.status
            ) from refused
        if type(admission) is not type(self._kept):
            raise UpstreamBroken("upstream answers differently from before", code="changed_mid_range")

    async def _repeat(self, reply: UpstreamReply, spool: Spool) -> None:
        seen, prefix = 0, spool.received
        async for chunk in reply.chunks():
            overlap = min(len(chunk), max(0, prefix - seen))
            if overlap and spool.peek(seen, seen + overlap) != chunk[:overlap]:
                raise BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")
            seen += len(chunk)
            if overlap < len(chunk):
                await spool.write(chunk[overlap:])
        if seen < prefix:
            raise UpstreamBroken("the repeated body is shorter than before", code="short_body")
        await spool.drain()


def _quick(fault: Fault, attempt: int) -> bool:
    """Whether the same upstream deserves another try at once after a failure of transport."""
    if isinstance(fault, UpstreamSlow | UpstreamBusy | TooLarge):
        return False
    if isinstance(fault, UpstreamUnreachable):
        return fault.retry_after is None and attempt + 1 < QUICK_TRIES
    return isinstance(fault, UpstreamBroken) and fault.code not in ("tls", "bad_head", "bad_framing")


def _other_upstream_may_help(fault: Fault) -> bool:
    return isinstance(fault, UpstreamFault) and not isinstance(fault, UpstreamBlocked | BrokenPromise)


def _coding(head: UpstreamHead) -> str:
    coding = head.headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
