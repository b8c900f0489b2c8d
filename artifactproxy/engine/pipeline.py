"""The stations of a request, top to bottom; every rule lives elsewhere.

classify -> find -> decide -> (store | fill | relay) -> describe. The only station visited twice is
the index, after a hollow hit: a row whose blob is gone is forgotten and the request goes on as a
miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from artifactproxy.engine.again import instead
from artifactproxy.engine.answer import Answer, Nothing, Tail
from artifactproxy.engine.behind import Behind
from artifactproxy.engine.describe import (
    Provenance,
    arriving,
    entity_of,
    head_for,
    hit,
    page_link,
    partial,
)
from artifactproxy.engine.documents import Documents
from artifactproxy.engine.fill import Fill
from artifactproxy.engine.fills import FillTable, StaleMemory
from artifactproxy.engine.leaving import Once
from artifactproxy.engine.local import local_answer, relayed_only
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.pointers import Pointers
from artifactproxy.engine.relay import relayable
from artifactproxy.engine.shared import CONFIRMED, Shared
from artifactproxy.engine.shelf import Shelf, absence, sent
from artifactproxy.engine.teachers import Teachers
from artifactproxy.engine.terms import Opened, Plan, Settled, Source, Tools, cause_of, seen_in, withheld
from artifactproxy.engine.unfit import Unfit
from artifactproxy.engine.unstored import Unstored, outcome_of, without_range
from artifactproxy.engine.usage import Usage
from artifactproxy.errors import (
    BlobMissing,
    Busy,
    Fault,
    IndexUnavailable,
    MethodRefused,
    OfflineMiss,
    StoreAway,
    StoreFull,
    StoreUnavailable,
    UpstreamFault,
    no_repository,
)
from artifactproxy.model import (
    ArtifactKey,
    Ask,
    Fetch,
    Found,
    Kind,
    Refuse,
    Relay,
    Reply,
    Revalidate,
    Route,
    Serve,
    ServeAbsence,
)
from artifactproxy.ports import Outcome
from artifactproxy.providers._base import Page, problem_details
from artifactproxy.rules.freshness import decide

ROUTES_MAX = 10_000
# Faults of our own medium; what is broken in the document itself is no better from upstream.
PASSED_AROUND = frozenset({StoreFull.code, StoreUnavailable.code, "store_temp"})
HEALS = 3  # hollow hits of one request before the store counts as broken


class Pipeline:
    """Answers asks. `handle` raises `Fault`s; the web floor renders them with `problem`."""

    def __init__(
        self,
        mounts: Mapping[str, Mount],
        tools: Tools,
        fills: FillTable,
        documents: Documents,
        teachers: Teachers,
        usage: Usage,
    ) -> None:
        self._mounts = mounts
        self._tools = tools
        self._fills = fills
        self._usage = usage
        self._shelf = Shelf(tools, documents, usage)
        self._unstored = Unstored(tools, teachers)
        self._stale = StaleMemory(tools.limits.error_memory)
        self._pointers = Pointers(tools, fills, self._find, self._stale)
        self._shared = Shared(tools)
        self._unfit = Unfit(tools.ready_for)
        self._routes: dict[tuple[str, str, str, str], Route] = {}
        self._behind = Behind(fills, self._stale)

    async def handle(self, ask: Ask) -> Answer:
        mount, route = self.route(ask)
        if isinstance(route, Reply):
            return local_answer(mount, ask, route)
        if route.typed:
            # A part of such a document is nothing that anybody could read.
            ask = without_range(ask)
        if route.pointer:
            meant = await self._pointers.meant(mount, route, ask)
            if meant.head is not None and ask.method == "HEAD":
                answer = self._unstored.heard(mount, meant.route, ask, meant.head, "upstream was just asked")
            else:
                answer = await self._handle(mount, meant.route, ask)
            return meant.stamped(answer, mount, self._tools.clock())
        return await self._handle(mount, route, ask)

    async def _handle(self, mount: Mount, route: Route, ask: Ask) -> Answer:
        answer = await self._healing(mount, route, ask)
        self._pointers.watch(mount, route)
        return answer

    async def _healing(self, mount: Mount, route: Route, ask: Ask) -> Answer:
        for _ in range(HEALS):
            found, landing = await self._latest(route)
            try:
                if landing:
                    landed = Plan("verified a moment ago", seen=seen_in(found))
                    return await self._fetched(mount, route, ask, landed)
                return await self._answer(mount, route, ask, found)
            except BlobMissing as missing:
                try:
                    await self._heal(mount, route, missing)
                except IndexUnavailable as fault:  # the row would lead here again and again
                    lost = StoreUnavailable("the store lost this file, and the index is away")
                    lost.__cause__ = fault
                    return await self._around(mount, route, ask, found, lost)
            except StoreUnavailable as fault:
                if not _is_held(found):
                    raise
                self._tools.observer.warning(
                    "store_failed", repo=mount.name, error=fault.code, cause=cause_of(fault)
                )
                if isinstance(fault, StoreAway):
                    return await self._past(mount, route, ask, found, fault)
                return await self._around(mount, route, ask, found, fault)
        raise StoreUnavailable("the store lost this file again and again", code="hollow")

    def no_room(self, repo: str, path: str, size: int) -> None:
        """A body of unknown length did not fit after `size` bytes."""
        self._unfit.note(ArtifactKey(repo, path), size)

    def route(self, ask: Ask) -> tuple[Mount, Route | Reply]:
        """Raises `NotServed` for an unknown repository, and what `classify` raises."""
        mount = self._mounts.get(ask.repo)
        if mount is None:
            raise no_repository(ask.repo)
        if ask.method not in mount.provider.methods:
            raise MethodRefused("this repository can only be read")
        if ask.method not in ("GET", "HEAD"):
            return mount, relayed_only(mount.provider.classify(ask))
        # A route is a function of these four (law P2 of the providers), and costs as much as the
        # rest of a hit.
        asked = (ask.repo, ask.path, ask.query, ask.headers.get("accept", ""))
        route = self._routes.get(asked)
        if route is None:
            classified = mount.provider.classify(ask)
            if isinstance(classified, Reply):
                return mount, classified
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            route = self._routes[asked] = classified
        return mount, route

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """The fault in the words of the client this repository serves (RFC 9457 where none is)."""
        mount = self._mounts.get(ask.repo)
        return mount.provider.problem(fault, ask) if mount else problem_details(fault)

    async def _latest(self, route: Route) -> tuple[Found, bool]:
        """The row, and whether a newer body, which others have been answered with, is on its way into
        it: whoever comes then must not see the older one again."""
        landing = self._fills.landing(route.key) if route.kind is Kind.INDEX else None
        found = await self._find(route)
        if landing is None:
            return found, False
        if self._fills.running(route.key) is landing:
            return found, True
        return await self._find(route), False

    async def _find(self, route: Route) -> Found:
        if route.kind is Kind.PASS:
            return Found()
        try:
            return await self._tools.index.find(route.key)
        except IndexUnavailable as fault:
            # Fewer hits, but right answers: everything is a miss until the index is back.
            self._tools.observer.warning("index_failed", repo=route.key.repo, error=fault.code)
            return Found(uncertain=True)

    async def _heal(self, mount: Mount, route: Route, missing: BlobMissing) -> None:
        """Whichever row named the lost blob, none does from now on."""
        sha256 = missing.sha256
        if missing.damaged:
            self._tools.observer.increment("integrity_failures", where="local")
            self._tools.observer.warning("damaged_blob", sha256=sha256)
        self._tools.observer.increment("hollow_hits")
        self._tools.observer.warning("hollow_hit", repo=mount.name, path=route.key.path, sha256=sha256)
        self._tools.unrecorded.forget_blob(sha256)
        await self._tools.ledger.forget_blob(sha256)
        # Else it would count as held until somebody asks for it again.
        await self._tools.ledger.doom([sha256], self._tools.clock())

    async def _answer(self, mount: Mount, route: Route, ask: Ask, found: Found) -> Answer:
        decision = decide(found, route, ask, mount.policy, self._tools.clock())
        match decision:
            case Serve(entry, reason, stale, refresh):
                if refresh:
                    self._behind.refresh(mount, route, ask, found)
                detail = "stale-while-revalidate" if refresh else ("stale" if stale else "")
                return await self._shelf.held(
                    mount, route, ask, entry, reason, "stale" if stale else "hit", detail
                )
            case ServeAbsence(entry, reason):
                raise absence(route, entry)
            case Refuse(fault, _):
                raise _refused(found, fault)
            case Relay(reason):
                return await self._unstored.passed(mount, route, ask, reason)
            case Revalidate(entry, may_serve_stale, reason):
                if may_serve_stale and self._stale.recently_failed(route.key):
                    why = f"{reason}; the last refresh failed a moment ago"
                    return await self._shelf.held(mount, route, ask, entry, why, "stale", "stale-if-error")
                plan = Plan(
                    reason, entry, may_serve_stale, found.promise, ask.request_id, seen=seen_in(found)
                )
                return await self._fetched(mount, route, ask, plan)
            case Fetch(reason):
                return await self._missed(mount, route, ask, found, reason)

    async def _missed(self, mount: Mount, route: Route, ask: Ask, found: Found, reason: str) -> Answer:
        if ask.method == "HEAD" and self._head_only(route):
            return await self._unstored.head(mount, route, ask, found, reason)
        if self._fills.running(route.key) is None:
            entry = await self._shared.confirmed(mount, route)
            if entry is not None:
                return await self._shelf.held(mount, route, ask, entry, CONFIRMED, "revalidated")
        promise, why = route.promise or found.promise, withheld(found)
        plan = Plan(reason, promise=promise, request_id=ask.request_id, withhold=why, seen=seen_in(found))
        return await self._fetched(mount, route, ask, plan)

    def _head_only(self, route: Route) -> bool:
        """Whether a HEAD of something not held can do without a fill."""
        running = self._fills.running(route.key)
        opened = running is not None and running.opened.done()
        return not (route.rendered or route.derived_from or opened)

    # --- from a fill ---

    async def _fetched(self, mount: Mount, route: Route, ask: Ask, plan: Plan) -> Answer:
        lacking = self._unfit.lacking(route.key)
        if lacking is not None and relayable(route.kind, route):
            return await self._around(mount, route, ask, Found(plan.held, plan.promise), lacking)
        fill, began = self._fills.join(mount, route, plan)
        remote = not fill.body_ended
        leave = Once(fill.leave)
        try:
            return await self._from_fill(fill, route, ask, plan, leave, began=began, remote=remote)
        except StoreUnavailable as fault:
            why = fault
        finally:
            leave.unless_kept()
        return await self._around(mount, route, ask, await self._find(route), why)

    async def _past(self, mount: Mount, route: Route, ask: Ask, found: Found, why: StoreAway) -> Answer:
        """Past a store that is away: the same bytes from upstream, once for all who ask."""
        if mount.policy.offline:
            raise why
        try:
            return await self._fetched(mount, route, ask, instead(found, why, ask))
        except (UpstreamFault, Busy) as fault:
            raise why from fault

    async def _around(
        self, mount: Mount, route: Route, ask: Ask, found: Found, why: StoreUnavailable
    ) -> Answer:
        """Past a store that cannot take or give: from upstream, for this client alone. Where that
        does not help either, the client hears of our own trouble, which came first."""
        if why.code not in PASSED_AROUND or not relayable(route.kind, route) or mount.policy.offline:
            raise why
        try:
            return await self._unstored.whole(mount, route, ask, found, why)
        except (UpstreamFault, Busy) as fault:
            if isinstance(why, StoreFull):
                raise
            raise why from fault

    async def _from_fill(
        self, fill: Fill, route: Route, ask: Ask, plan: Plan, leave: Once, *, began: bool, remote: bool
    ) -> Answer:
        """`route` is this request's own: it may want another representation than who began."""
        mount = fill.mount
        opened = await asyncio.shield(fill.opened)
        if isinstance(opened, Settled):
            return await self._settled(mount, route, ask, plan, opened)
        try:
            if route.rendered or route.teaches:
                await asyncio.shield(fill.done)
            await opened.spool.presentable()
        except Fault:
            stale = fill.stale_instead()
            if stale is None:
                raise
            return await self._settled(mount, route, ask, plan, stale)
        remote = remote and not fill.ended_before
        began = began and not fill.peer
        entry, now = fill.entry, self._tools.clock()
        how = hit(entry, mount.policy, now)
        if remote:
            stored = not opened.bypass
            replaces = plan.held is not None
            how = arriving(entry, mount.policy, now, began=began, stored=stored, replaces=replaces)
        outcome = outcome_of(mount, route, ask, "miss" if remote else "hit", plan.reason, entry)
        outcome.fill_id, outcome.source = fill.id, how.source
        if route.rendered and entry.ref is not None:
            source = Source(entry.ref, entry.source, opened.spool)
            return await self._shelf.rendered(mount, route, ask, source, entry, how, outcome)
        return await self._tail(fill, ask, opened, how, outcome, leave)

    async def _tail(
        self, fill: Fill, ask: Ask, opened: Opened, how: Provenance, outcome: Outcome, leave: Once
    ) -> Answer:
        """The growing body itself, or a range of it once it is verified (design: cold ranges)."""
        route, spool = fill.route, opened.spool
        if "range" in ask.headers and ask.method == "GET" and not spool.sealed:
            relayed_part = await self._cold_range(fill, ask, opened, outcome)
            if relayed_part is not None:
                return relayed_part
        size = spool.written if spool.sealed else spool.length
        # Until it is verified only the whole may leave: a range could end before the check.
        judged = ask if spool.sealed else without_range(ask)
        extra = (*opened.headers, *page_link(ask, route, fill.entry))
        head = head_for(judged, entity_of(fill.entry, route, size), how, extra)
        self._usage.note(fill.entry, ask, sent(head, size or 0))
        if head.empty:
            return Answer(head.status, head.headers, Nothing(), outcome)
        reader = spool.reader(head.span)
        reader.on_close = leave.keep()
        length = head.span.size if head.span else size
        return Answer(head.status, head.headers, Tail(reader, length), outcome)

    async def _cold_range(self, fill: Fill, ask: Ask, opened: Opened, outcome: Outcome) -> Answer | None:
        """The range relayed from upstream, or None once the fill itself can answer."""
        mount, route, spool = fill.mount, fill.route, opened.spool
        wait = self._tools.limits.cold_range_wait if mount.cold_ranges == "relay" else None
        await asyncio.wait((fill.done,), timeout=wait if spool.length is not None else None)
        if fill.done.done() or spool.length is None:
            await asyncio.shield(fill.done)
            return None
        head = head_for(ask, entity_of(fill.entry, route, spool.length), partial())
        if head.span is None:
            return None
        part = await self._unstored.part(mount, route, head.span, fill)
        if part is None:
            await asyncio.shield(fill.done)
            return None
        outcome.result, outcome.source = "relay", "remote"
        self._usage.note(fill.entry, ask, head.span.size)
        return Answer(head.status, head.headers, part, outcome)

    async def _settled(self, mount: Mount, route: Route, ask: Ask, plan: Plan, settled: Settled) -> Answer:
        entry = settled.entry
        match settled.how:
            case "absent":
                raise absence(route, entry)
            case "landed":
                why = f"{plan.reason}; another process has fetched it meanwhile"
                return await self._shelf.held(mount, route, ask, entry, why, "hit")
            case "refreshed":
                return await self._shelf.held(mount, route, ask, entry, plan.reason, "revalidated")
            case "stale":
                self._stale.failed(route.key)
                why = f"{plan.reason}; {settled.fault.detail if settled.fault else 'upstream failed'}"
                return await self._shelf.held(mount, route, ask, entry, why, "stale", "stale-if-error")

    async def close(self) -> None:
        await self._pointers.close()
        await self._shared.close()
        await self._behind.close()


def _refused(found: Found, fault: Fault) -> Fault:
    """An index that cannot be asked has not said that it is not held."""
    if withheld(found) and isinstance(fault, OfflineMiss):
        return IndexUnavailable("nobody can tell now whether this is held")
    return fault


def _is_held(found: Found) -> bool:
    return found.entry is not None and found.entry.ref is not None
