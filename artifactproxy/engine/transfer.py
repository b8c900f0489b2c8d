"""Bringing one body in: sources in order, retries before the first byte, resumes after it.

Reads upstream and writes a spool; decides nothing about storing or verifying. After a break the rest is asked for by `Range` (with `If-Range` unless the final digest
is known) and every 206 is checked (RFC 9110 sections 13.1.5, 14.4, 15.3.7). A body nobody has read
from yet may start over.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifactproxy.engine.conversation import Conversation, Landed, RejectedError, coding_of
from artifactproxy.engine.mirrors import Mirror
from artifactproxy.engine.progress import Progress
from artifactproxy.engine.ranges import Ranges, Terms
from artifactproxy.engine.scattered import Scattered
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import LeftOvers
from artifactproxy.engine.terms import sha256_of
from artifactproxy.errors import (
    BrokenPromise,
    Busy,
    Fault,
    StoreUnavailable,
    TooLarge,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFault,
    UpstreamSlow,
    UpstreamUnreachable,
)
from artifactproxy.model import Absent, Bypass, Header, Keep, Kind, Refresh, Span, UpstreamHead
from artifactproxy.ports import UpstreamReply
from artifactproxy.rules.digests import passing, vouching
from artifactproxy.rules.http import strong
from artifactproxy.rules.parts import judge_part
from artifactproxy.rules.ranges import large, probe, probes, validator, whole, worth
from artifactproxy.rules.retry import backoff
from artifactproxy.rules.segments import SavedMap, SegmentMap, next_to_ask, resumable

QUICK_TRIES = 2  # for an upstream that cannot be reached at all
_UNFIT = ("bad_206", "no_resume")  # the connection is fine, but parts are not to be had


class _LeftInOrder(Exception):
    """Several connections have come to nothing; the fault has been counted."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class Transfer(Conversation):
    """One body from upstream; built as a `Conversation`. `left_overs` are those of earlier lives."""

    def __init__(self, *parts: Any, left_overs: LeftOvers | None = None, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._left_overs = left_overs
        self._spool: Spool | None = None
        self._no_cache = False
        self._whole = False  # whether all of it may be read again for the sake of the rest
        self._in_parts = True  # whether it may be asked for as a range
        self._ranges: Ranges | None = None
        self._resumed = 0
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
                except RejectedError as rejected:
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
        return (named, *(s for s in self._route.sources if origin_of(s) != origin_of(named)))

    # --- one conversation ---

    async def _try(self, source: str, *, final: bool) -> Landed:
        self.source = source
        headers = [*self._route.headers, *self._validators(source)]
        if self._no_cache:
            headers.append(("cache-control", "no-cache"))
        probing = self._probes(headers)
        left = await self._left_over() if probing else None
        start = next_to_ask(left[1]) if left is not None else 0
        if probing:
            headers.append(probe(start))
        broken: Fault
        async with AsyncExitStack() as stack:
            reply = await stack.enter_async_context(self._upstream.open(self._request(source, headers)))
            length = left[1].length if left is not None else None
            head = whole(reply.head, start, length) if probing else reply.head
            if head is not None:
                self.upstream_status = head.status
                admission = await self._admit(head)
                asks_all = self._route.kind is Kind.ARTIFACT or self._route.absent_everywhere
                if isinstance(admission, Absent) and not final and asks_all:
                    raise RejectedError(
                        UpstreamFault("upstream does not have it", upstream_status=admission.status),
                        retry=False,
                    )
                landed = Landed(head, admission)
                if isinstance(admission, Refresh | Absent):
                    return landed
                in_parts = reply.head.status == 206 and self._is_worth(head, admission, left)
                spool = self._spool = self._begin(head, admission)
                try:
                    if in_parts:
                        await self._spread(stack, reply, spool, left)
                    else:
                        await self._pump(reply, spool)
                    return landed
                except _LeftInOrder as left_alone:
                    broken = left_alone.fault
                except (UpstreamBroken, UpstreamSlow) as fault:
                    # It ends here, and never passes the port where others are counted.
                    self._on_trouble(fault)
                    broken = fault
        if head is None:  # no such range there: asked again as if nothing were left, or plainly
            self._in_parts = left is not None
            self._left_overs = None
            return await self._try(source, final=final)
        await self._resume(spool, broken)
        return landed

    def _validators(self, source: str) -> list[Header]:
        held = self._held
        if held is None or held.ref is None:
            return []
        # Validators belong to the upstream that issued them (a redirect changes the host of one).
        if len(self._route.sources) > 1 and origin_of(held.source) != origin_of(source):
            return []
        headers: list[Header] = []
        if held.validator_etag:
            headers.append(("if-none-match", held.validator_etag))
        if held.validator_modified:
            headers.append(("if-modified-since", held.validator_modified))
        return headers

    # --- over several connections ---

    def _probes(self, headers: list[Header]) -> bool:
        conditional = any(name in ("if-none-match", "if-modified-since") for name, _ in headers)
        plain = not self._in_parts or self._no_cache or conditional
        return not plain and probes(self._route, self._mount.download, self._known)

    def _is_worth(
        self, head: UpstreamHead, admission: Keep | Bypass, left: tuple[Path, SavedMap] | None
    ) -> bool:
        """Whether more connections are worth it. What is left counts from then on: readers look how far it
        is as soon as it is opened."""
        wanted = worth(head, admission, self._mount.download, promised=vouching(self._known))
        if wanted and left is not None:
            self._resumed = sum(span.size for span in resumable(left[1]))
        return wanted

    async def _left_over(self) -> tuple[Path, SavedMap] | None:
        """What an earlier life has brought of these bytes; only a digest can vouch for that."""
        sha256 = sha256_of(self._known)
        if not sha256 or self._left_overs is None:
            return None
        try:
            found = await self._left_overs.find_left_over(sha256)
        except StoreUnavailable:
            return None
        known, download = self._known.size if self._known is not None else None, self._mount.download
        if found is None or known not in (None, found[1].length):
            return None
        return found if large(found[1].length, download) else None

    async def _spread(
        self, stack: AsyncExitStack, reply: UpstreamReply, spool: Spool, left: tuple[Path, SavedMap] | None
    ) -> None:
        """The rest of a body whose first answer has begun. Raises `_LeftInOrder` where it has to be
        gone on with in order, from what `spool` holds then."""
        chunks, path = reply.chunks(), None
        if left is not None:
            path = await self._left_overs.take_left_over(left[0]) if self._left_overs is not None else None
            if path is None:
                self._resumed = 0
                raise UpstreamBroken(
                    "what was left of this has been taken by another process", code="no_part"
                )
            spans = resumable(left[1])
        else:
            await spool.write(await anext(chunks, b""))  # clients wait for these first bytes
            spans = (Span(0, spool.received),)
        body = Scattered(spool, SegmentMap(spool.length or 0, spans))
        await body.begin(path)
        mirror = Mirror(self.source, validator(self._head), reply.at, direct=not reply.at)
        self._ranges = Ranges(self._terms(), body, [mirror, *self._mirrors()])
        try:
            await self._ranges.run(stack.pop_all(), chunks)
        except (UpstreamBroken, UpstreamSlow, UpstreamUnreachable, UpstreamBusy, Busy) as fault:
            raise _LeftInOrder(fault) from fault
        finally:
            self.resumes += self._ranges.failures
            if spool.fault is None:
                await body.end()

    def progress(self, spool: Spool) -> Progress:
        ranges = self._ranges
        parts = ranges.parts() if ranges is not None else ()
        landed = max(spool.received, ranges.landed if ranges is not None else 0)
        return Progress(
            spool.length, spool.written, landed, len(parts) or 1, parts, self._resumed, self.resumes
        )

    def _terms(self) -> Terms:
        return Terms(
            self._ask_part,
            self._mount.download,
            self._mount.limits,
            promised=lambda: vouching(self._known),
            sha256=lambda: sha256_of(self._known),
            judge_size=self._judge_size,
            on_trouble=self._on_trouble,
            clock=self._clock,
        )

    def _ask_part(
        self, source: str, headers: list[Header], at: str, spare: bool
    ) -> AbstractAsyncContextManager[UpstreamReply]:
        request = self._request(source, [*self._route.headers, *headers])
        return self._upstream.open(replace(request, at=at, spare=spare))

    def _mirrors(self) -> list[Mirror]:
        """Where the same bytes may be had as well, if the digest will tell."""
        if not vouching(passing(self._known)):
            return []
        return [Mirror(source) for source in self._sources() if source != self.source]

    # --- after a break ---

    async def _resume(self, spool: Spool, broken: Fault) -> None:
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
                if await self._continue(source, spool):
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

    async def _continue(self, source: str, spool: Spool) -> bool:
        """One attempt to get the rest; True when the body is whole."""
        head = self._head
        promised = vouching(self._known)  # the whole will be judged, also where parts cannot be
        tag = head.headers.get("etag", "")
        coded = bool(coding_of(head)) or (head.told is not None and head.told.decoded)
        resumable = not coded and (promised or strong(tag))
        headers = [*self._route.headers]
        if resumable and spool.received:
            headers.append(("range", f"bytes={spool.received}-"))
            if strong(tag) and source == self.source:
                headers.append(("if-range", tag))
        elif not (spool.untouched or self._whole):
            raise UpstreamBroken("upstream broke off and gave no way to continue", code="short_body")
        elif spool.untouched:
            spool.restart(None)  # at once: nobody may begin to read what will not be continued
        async with self._upstream.open(self._request(source, headers)) as reply:
            self.upstream_status = reply.head.status
            if reply.head.status == 206:
                stop = judge_part(
                    reply.head, start=spool.received, length=spool.length, etag=tag, promised=promised
                )
                await self._pump_part(reply, spool, stop)
            elif reply.head.status == 200:
                await self._from_zero(reply, spool)
            else:
                raise UpstreamBroken(
                    f"upstream answered {reply.head.status} to a request to continue",
                    code="no_resume",
                    upstream_status=reply.head.status,
                )
        return True


def _quick(fault: Fault, attempt: int) -> bool:
    """Whether the same upstream deserves another try at once after a failure of transport."""
    if isinstance(fault, UpstreamSlow | UpstreamBusy | TooLarge):
        return False
    if isinstance(fault, UpstreamUnreachable):
        return fault.retry_after is None and attempt + 1 < QUICK_TRIES
    return isinstance(fault, UpstreamBroken) and fault.code not in ("tls", "bad_head", "bad_framing")


def _other_upstream_may_help(fault: Fault) -> bool:
    return isinstance(fault, UpstreamFault) and not isinstance(fault, UpstreamBlocked | BrokenPromise)


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
