"""Names that only point: upstream is asked by HEAD what they mean, and the document is that of a digest.

So a change of the name costs upstream one HEAD (which registries do not count against their limits), a
document is fetched and kept once for all names that mean it, and its bytes are judged by what it is
called. The row of the name holds the blob that it pointed at when it was last asked; it is written once
that blob is held. Where upstream's HEAD names no digest, the name is an index like any other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.describe import NAME
from artifactproxy.engine.fills import FillTable, StaleMemory
from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.rows import absent_row
from artifactproxy.engine.shelf import absence
from artifactproxy.engine.terms import Tools, stale_helps
from artifactproxy.errors import Fault, IndexUnavailable, UpstreamFault, UpstreamUnreachable
from artifactproxy.model import (
    Absent,
    ArtifactKey,
    Ask,
    CacheEntry,
    Found,
    Header,
    Keep,
    Kind,
    Reject,
    Revalidate,
    Route,
    Serve,
    ServeAbsence,
    UpstreamHead,
)
from artifactproxy.model import Refuse as RefuseDecision
from artifactproxy.ports import UpstreamRequest
from artifactproxy.rules.freshness import admit, client_cache_control, decide, fresh_for
from artifactproxy.rules.retry import backoff

_UNABLE = (405, 501)  # servers that know GET only
PENDING_MAX = 10_000

Find = Callable[[Route], Awaitable[Found]]


@dataclass(frozen=True, slots=True)
class Meant:
    """What a name means now: the route to answer by, and the row that says until when. `how` is the
    `Cache-Status` of an answer from the cache, "" where upstream was asked just now for the first time;
    `answers` are headers of the name's own. `head` is what upstream has just said of the document, where
    that is not held."""

    route: Route
    row: CacheEntry | None = None
    how: str = ""
    answers: tuple[Header, ...] = ()
    head: UpstreamHead | None = None

    def stamped(self, answer: Answer, mount: Mount, now: float) -> Answer:
        """The answer about the document as one about the name: it lasts no longer than what it means."""
        if self.row is None or answer.status >= 400:
            return answer
        control = client_cache_control(self.row, mount.policy, now)
        headers: list[Header] = [field for field in self.answers if field not in answer.headers]
        for name, value in answer.headers:
            if name == "Cache-Control" and value != "no-store":
                headers.append((name, control))
            elif name == "Cache-Status" and value.startswith(f"{NAME}; hit"):
                headers.append((name, self.how or value))
            elif name == "Age":
                headers.append((name, str(max(0, int(now - self.row.checked_at)))))
            else:
                headers.append((name, value))
        answer.headers = headers
        return answer


class Pointers:
    """`find` looks a row up, as the pipeline does; `stale` remembers whose refresh failed a moment ago."""

    def __init__(self, tools: Tools, fills: FillTable, find: Find, stale: StaleMemory) -> None:
        self._tools = tools
        self._fills = fills
        self._find = find
        self._stale = stale
        self._asking: dict[ArtifactKey, asyncio.Task[Meant]] = {}
        self._pending: dict[ArtifactKey, dict[ArtifactKey, CacheEntry]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def meant(self, mount: Mount, route: Route, ask: Ask) -> Meant:
        """Raises what `decide` refuses, upstream's absence, and its fault where nothing held helps."""
        found = await self._find(route)
        now = self._tools.clock()
        decision = decide(found, route, ask, mount.policy, now)
        match decision:
            case RefuseDecision(fault, _):
                raise fault
            case ServeAbsence(entry, _):
                raise absence(route, entry)
            case Serve(entry, _, stale, refresh):
                held = _held(mount, route, entry)
                if refresh and not self._stale.recently_failed(route.key):
                    self._ask(mount, route, entry)
                detail = "stale-while-revalidate" if refresh else "stale" if stale else ""
                return replace(held, how=_hit(entry, now, detail))
            case Revalidate(entry, may_serve_stale, _):
                held = _held(mount, route, entry)
                if may_serve_stale and self._stale.recently_failed(route.key):
                    return replace(held, how=_hit(entry, now, "stale-if-error"))
                return await self._anew(mount, route, entry, held if may_serve_stale else None)
            case _:
                return await self._anew(mount, route, None, None)

    async def _anew(
        self, mount: Mount, route: Route, entry: CacheEntry | None, instead: Meant | None
    ) -> Meant:
        """From upstream; `instead` is what is answered where it cannot say."""
        try:
            return await asyncio.shield(self._ask(mount, route, entry))
        except Fault as fault:
            if instead is None or not stale_helps(fault) or fault.status in (404, 410):
                raise
            if instead.row is None:
                return instead  # it has a document of its own, and the pipeline its ways to be stale
            self._stale.failed(route.key)
            return replace(instead, how=_hit(instead.row, self._tools.clock(), "stale-if-error"))

    def _ask(self, mount: Mount, route: Route, entry: CacheEntry | None) -> asyncio.Task[Meant]:
        """One question at a time about one name, whoever wants to know."""
        task = self._asking.get(route.key)
        if task is None:
            task = asyncio.create_task(self._resolved(mount, route, entry), name=f"ask {route.key.path}")
            self._asking[route.key] = task

            def ended(done: asyncio.Task[Meant]) -> None:
                self._asking.pop(route.key, None)
                if not done.cancelled():
                    done.exception()  # it may be that nobody waits

            task.add_done_callback(ended)
        return task

    async def _resolved(self, mount: Mount, route: Route, held: CacheEntry | None) -> Meant:
        keeper = Keeper(self._tools, mount)
        generation = await keeper.fence()
        head, ttl = await self._head(mount, route)
        now = self._tools.clock()
        if head.status in (404, 410):
            row = absent_row(route, head, status=head.status, ttl=ttl, now=now, generation=generation)
            await keeper.record(row)
            raise absence(route, row)
        pointed = mount.provider.pointed(route, head.headers.get(route.pointer, ""))
        if pointed is None:
            return Meant(route)  # it names no digest: from here on like any other index
        row = _row(route, head, held, ttl=ttl, now=now, generation=generation)
        known = await self._find(pointed)
        if known.entry is not None and known.entry.ref is not None:
            row = _pointing(row, known.entry)
            await keeper.record(row)
            same = held is not None and held.ref == row.ref
            how = f"{NAME}; fwd=stale; fwd-status={304 if same else 200}" if held else ""
            return Meant(pointed, row, how, route.answers)
        self._await(pointed.key, row)
        return Meant(pointed, row, answers=route.answers, head=head)

    # --- asking upstream ---

    async def _head(self, mount: Mount, route: Route) -> tuple[UpstreamHead, float]:
        """Upstream's answer about the name, 200 or an absence, and for how long it holds. A server that
        knows no HEAD answers with an empty one. Raises the fault of the last upstream."""
        last: Fault = UpstreamUnreachable("this repository has no upstream for that path")
        for source in route.sources:
            for attempt in range(mount.limits.retries + 1):
                again = False
                try:
                    return await self._one_head(mount, route, source)
                except _Again as refused:
                    last, again = refused.fault, True
                except UpstreamFault as fault:
                    last, again = fault, isinstance(fault, UpstreamUnreachable) and not fault.retry_after
                if not again or attempt == mount.limits.retries:
                    break
                await asyncio.sleep(backoff(attempt, mount.limits.retry_base, random.random()))  # noqa: S311 - jitter
        raise last

    async def _one_head(self, mount: Mount, route: Route, source: str) -> tuple[UpstreamHead, float]:
        request = UpstreamRequest(mount.name, source, "HEAD", route.headers)
        async with self._tools.upstream.open(request) as reply:
            head = reply.head
        if head.status in _UNABLE:
            return replace(head, status=200, headers={}), 0.0
        # Only the status counts: what kind of body will come is judged when it does.
        judged = replace(head, framed=True, headers=_statusful(head), length=None)
        admission = admit(route, judged, mount.policy, self._tools.clock(), held=None, promised=False)
        if isinstance(admission, Reject):
            self._tools.observer.increment("upstream_errors", remote=mount.name, kind=admission.fault.code)
            if admission.retry:
                raise _Again(admission.fault)
            raise admission.fault
        if isinstance(admission, Absent):
            return head, admission.ttl
        return head, (admission.ttl or 0.0) if isinstance(admission, Keep) else 0.0

    # --- rows of names whose document is still to come ---

    def _await(self, document: ArtifactKey, row: CacheEntry) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._pending.clear()
        self._pending.setdefault(document, {})[row.key] = row

    def watch(self, mount: Mount, route: Route) -> None:
        """A document was just answered: if names wait for it, they are written once it is held."""
        if route.key not in self._pending:
            return
        task = asyncio.create_task(self._write(mount, route), name=f"point {route.key.path}")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, mount: Mount, route: Route) -> None:
        fill = self._fills.running(route.key)
        if fill is not None:
            await asyncio.wait((fill.ended,))
        with suppress(IndexUnavailable):
            entry = (await self._find(route)).entry
            rows = self._pending.pop(route.key, {}) if entry is not None and entry.ref is not None else {}
            for row in rows.values():
                if entry is not None:
                    await Keeper(self._tools, mount).record(_pointing(row, entry))

    async def close(self) -> None:
        tasks: list[asyncio.Task[Meant] | asyncio.Task[None]] = [*self._asking.values(), *self._writing]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Again(Exception):
    """A refusal after which the same upstream may do better."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def _held(mount: Mount, route: Route, entry: CacheEntry) -> Meant:
    """What the row of a name points at; a row that came with its own document answers by itself."""
    pointed = mount.provider.pointed(route, entry.validator_etag) if entry.verified_by == POINTED else None
    return Meant(pointed, entry, answers=route.answers) if pointed is not None else Meant(route)


POINTED = "pointer"
"""`CacheEntry.verified_by` of a name: its validator is the digest that upstream named."""


def _row(
    route: Route, head: UpstreamHead, held: CacheEntry | None, *, ttl: float, now: float, generation: int
) -> CacheEntry:
    return CacheEntry(
        key=route.key,
        kind=Kind.INDEX,
        ref=None,
        validator_etag=head.headers.get(route.pointer, "").strip(),
        cache_control=head.headers.get("cache-control", "")[:200],
        source=head.url.partition("?")[0],
        fetched_at=now,
        checked_at=now,
        ttl=ttl,
        verified_by=POINTED,
        purl=route.purl,
        first_seen=held.first_seen if held else now,
        last_used=now,
        generation=generation,
    )


def _pointing(row: CacheEntry, document: CacheEntry) -> CacheEntry:
    return replace(row, ref=document.ref, media_type=document.media_type, etag=document.etag)


def _statusful(head: UpstreamHead) -> dict[str, str]:
    kept = ("retry-after", "cache-control")
    return {name: head.headers[name] for name in kept if name in head.headers}


def _hit(entry: CacheEntry, now: float, detail: str) -> str:
    left = fresh_for(entry, now)
    status = f"{NAME}; hit" if left is None else f"{NAME}; hit; ttl={int(left)}"
    return f"{status}; detail={detail}" if detail else status
