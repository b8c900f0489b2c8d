"""Answers that never touch the store: cold HEADs, relayed paths and ranges, a full disk."""

from __future__ import annotations

from dataclasses import replace

from artifactproxy.engine.answer import Answer, Chunks, Nothing
from artifactproxy.engine.describe import Entity, Head, Provenance, entity_of, head_for, relayed
from artifactproxy.engine.fill import Fill
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.relay import Relay, Through
from artifactproxy.engine.rows import begin_row
from artifactproxy.engine.teachers import Teachers
from artifactproxy.engine.terms import Tools, unpromised, vouched
from artifactproxy.errors import Fault, NotServed, StoreFull, StoreUnavailable, UpstreamAbsent
from artifactproxy.model import Absent, Ask, CacheEntry, Found, Promise, Reject, Route, Span, UpstreamHead
from artifactproxy.ports import Outcome
from artifactproxy.rules.freshness import admit


class Unstored:
    """One upstream request for one client; nothing is kept."""

    def __init__(self, tools: Tools, teachers: Teachers) -> None:
        self._tools = tools
        self._teachers = teachers
        self._relay = Relay(tools.upstream, tools.clock, tools.limits)

    async def head(self, mount: Mount, route: Route, ask: Ask, found: Found, reason: str) -> Answer:
        """HEAD of something not held: from the promise, or upstream's own HEAD."""
        promise = route.promise or found.promise
        outcome = outcome_of(mount, route, ask, "miss", reason, None)
        if route.foreign and not vouched(promise):
            promise = await self._teachers.teach(mount, route)
            if not vouched(promise):
                raise unpromised(route)
        sha256 = promise.digest("sha256") if promise else None
        if promise is None or promise.size is None or sha256 is None:
            upstream = await self._relay.head(mount, route, _url(route, promise))
            return self._heard(mount, route, ask, upstream, promise, outcome)
        entity = Entity(route.media_type, f'"{sha256.hex}"', size=promise.size, sha256=sha256.hex)
        how = Provenance("cache", "artifactproxy; hit; detail=promised", "no-cache")
        head = head_for(ask, entity, how)
        outcome.source = how.source
        return Answer(head.status, head.headers, Nothing(), outcome)

    def heard(self, mount: Mount, route: Route, ask: Ask, upstream: UpstreamHead, reason: str) -> Answer:
        """HEAD of something not held, of which upstream has just told the head."""
        outcome = outcome_of(mount, route, ask, "miss", reason, None)
        return self._heard(mount, route, ask, upstream, route.promise, outcome)

    def _heard(
        self,
        mount: Mount,
        route: Route,
        ask: Ask,
        upstream: UpstreamHead,
        promise: Promise | None,
        outcome: Outcome,
    ) -> Answer:
        now = self._tools.clock()
        # No byte will come that a digest could judge; only an empty file says all by its head.
        judged, empty = replace(upstream, framed=True), upstream.length == 0
        admission = admit(route, judged, mount.policy, now, held=None, promised=empty and vouched(promise))
        if isinstance(admission, Reject):
            self._tools.observer.increment("upstream_errors", remote=mount.name, kind=admission.fault.code)
            raise admission.fault
        if isinstance(admission, Absent):
            raise UpstreamAbsent(lacks(route), status=admission.status)
        row = begin_row(route, upstream, promise, ttl=None, now=now)
        how = Provenance("remote", "artifactproxy; fwd=miss", "no-cache")
        head = head_for(ask, entity_of(row, route, upstream.length), how)
        outcome.source = how.source
        return Answer(head.status, head.headers, Nothing(), outcome)

    async def passed(self, mount: Mount, route: Route, ask: Ask, reason: str) -> Answer:
        """Upstream's answer to this very request, its body too; asked once, of one upstream."""
        if not route.sources:
            raise NotServed("this path is not part of the repository")
        outcome = outcome_of(mount, route, ask, "relay", reason, None)
        through = await self._relay.whole(mount, route, route.sources[0], ask)
        entity = Entity(route.media_type, "", size=through.length)
        coding = (("Content-Encoding", through.coding),) if through.coding else ()
        head = head_for(Ask(ask.repo, ask.path, ask.method), entity, relayed(), coding)
        # Ranges of it are not kept apart from the whole.
        head.headers[:] = [field for field in head.headers if field[0] != "Accept-Ranges"]
        return await _through(head, through, through.length, outcome)

    async def whole(
        self, mount: Mount, route: Route, ask: Ask, found: Found, why: StoreUnavailable
    ) -> Answer:
        """Nothing can be kept or read (a full disk, a lost one): verified bytes all the same, for this
        client alone."""
        promise = route.promise or found.promise
        if not vouched(promise) and route.teachers:
            # Before anything is opened: an open answer would wait, and leak if this fails.
            promise = await self._teachers.teach(mount, route) or promise
        if route.foreign and not vouched(promise):
            raise unpromised(route)
        self._tools.observer.increment("bypassed")
        outcome = outcome_of(mount, route, ask, "relay", f"{why.detail}: passed through unstored", None)
        through = await self._relay.held(mount, route, _url(route, promise), promise)
        row = begin_row(route, through.head, promise, ttl=None, now=self._tools.clock())
        size = through.length
        try:
            head = head_for(
                without_range(ask),
                entity_of(row, route, size),
                relayed("store-full" if isinstance(why, StoreFull) else "store-unavailable"),
            )
        except Fault:
            await through.body.aclose()
            raise
        return await _through(head, through, size, outcome)

    async def part(self, mount: Mount, route: Route, span: Span, fill: Fill) -> Chunks | None:
        """A range of a body that a fill is still bringing in; None if upstream gives no such part."""
        total = fill.spool.length if fill.spool else None
        if total is None:
            return None
        url = _url(route, fill.promise)
        body = await self._relay.part(mount, route, url, span, fill.entry, total)
        return Chunks(body, span.size) if body is not None else None


async def _through(head: Head, through: Through, size: int | None, outcome: Outcome) -> Answer:
    outcome.source = "remote"
    if head.empty:
        await through.body.aclose()
        return Answer(head.status, head.headers, Nothing(), outcome)
    return Answer(head.status, head.headers, Chunks(through.body, size), outcome)


def _url(route: Route, promise: Promise | None) -> str:
    """The address an index gave is exact; the one in the route may be a guess."""
    return promise.url if promise is not None and promise.url else route.sources[0]


def outcome_of(
    mount: Mount, route: Route, ask: Ask, result: str, reason: str, entry: CacheEntry | None
) -> Outcome:
    """The record of one request, as far as the engine knows it."""
    return Outcome(
        "request",
        repo=mount.name,
        provider=mount.provider.name,
        kind=route.kind.value,
        method=ask.method,
        path=ask.path,
        result=result,
        reason=reason,
        source="cache",
        sha256=entry.ref.sha256 if entry and entry.ref else "",
        purl=route.purl,
        caller=ask.caller,
        request_id=ask.request_id,
    )


def without_range(ask: Ask) -> Ask:
    """The same ask for the whole body."""
    if "range" not in ask.headers:
        return ask
    kept = {name: value for name, value in ask.headers.items() if name != "range"}
    return replace(ask, headers=kept)


def lacks(route: Route) -> str:
    return f"upstream has no {route.filename or route.key.path}"
