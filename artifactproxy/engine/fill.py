"""One download per key, owned by nobody's request.

A `Fill` is a task. Requests join it, wait for it to open, and read its spool at their own pace.
Order of events (design: the heart): head admitted -> bytes spooled and hashed -> framing, size and
digest checked -> index read and its promises learnt -> tail released -> bytes durable -> row
written -> out of the table. Until it is out of the table a fill may be joined, so nobody asks
upstream twice. Where another process fills, its spool takes the place of upstream, and its row that
of ours.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Collection

from artifactproxy import failpoints
from artifactproxy.engine.conversation import Landed, decodes
from artifactproxy.engine.decline import point_out
from artifactproxy.engine.following import Following
from artifactproxy.engine.ingest import Ingest
from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.lesson import Lesson
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.progress import Progress
from artifactproxy.engine.rows import absent_row, as_before, begin_row, refreshed_row, verified_row
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.standing import Standing
from artifactproxy.engine.storing import Storing
from artifactproxy.engine.temps import no_memory
from artifactproxy.engine.terms import (
    Opened,
    Plan,
    Settled,
    Source,
    Tools,
    cause_of,
    unpromised,
    vouched,
)
from artifactproxy.engine.trouble import Trouble
from artifactproxy.engine.turn import PassedOn, Turn
from artifactproxy.errors import BrokenPromise, Busy, Fault, PeerGone, UpstreamBroken
from artifactproxy.model import (
    Absent,
    BlobRef,
    Bypass,
    CacheEntry,
    Header,
    Keep,
    Kind,
    Promise,
    Refresh,
    Route,
    UpstreamHead,
)
from artifactproxy.ports import Outcome
from artifactproxy.rules.http import safe_header
from artifactproxy.rules.parts import SNIFFED, judge_unvouched


class Fill(Standing):
    """The task of one download; `Standing` is what its readers see of it."""

    def __init__(self, tools: Tools, mount: Mount, route: Route, plan: Plan, name: str) -> None:
        super().__init__(mount, route, plan, name)
        self.outcome = Outcome("fill", repo=mount.name, provider=mount.provider.name, kind=route.kind.value)
        self._tools = tools
        self._turn = Turn(tools, route.key)
        self._lesson = Lesson(tools, mount, route, plan.promise, optional=bool(plan.withhold))
        self._ingest = Ingest(tools.store)
        self._trouble = Trouble(tools, mount, route)
        self._keeper = Keeper(tools, mount)
        self._storing = Storing(tools, mount, self._ingest, self._keeper, self.vacate)
        self._latest: Following | None = None

    @property
    def promise(self) -> Promise | None:
        """What is known to be promised so far."""
        return self._lesson.promise

    @property
    def asked(self) -> bool:
        """Whether upstream has been asked; until then this fill waits for its turn or a teacher."""
        return self._latest is not None and self._latest.asked

    @property
    def leads(self) -> bool:
        """Whether it asks upstream itself, so that other processes may follow it."""
        return self._turn.leads

    @property
    def peer(self) -> str:
        """The process that is followed instead."""
        return self._turn.peer

    @property
    def progress(self) -> Progress | None:
        """How far its body is; None before there is one."""
        return None if self.spool is None or self._latest is None else self._latest.progress(self.spool)

    # --- the life of a fill ---

    async def run(self) -> None:
        started = time.monotonic()
        try:
            await self._turn.take()
            if not (self.leads and await self._landed()):
                await self._fill()
        except PassedOn as passed:
            self._fail(passed.fault)
        except Fault as fault:
            self._fail(fault)
        except asyncio.CancelledError:
            if self.verified and self.peer:
                self.outcome.result = "followed"  # nothing is lost: another process stores it
                raise
            self._fail(Busy("the download was given up because nobody waits for it", code="cancelled"))
            raise
        except MemoryError as error:
            short = no_memory()
            short.__cause__ = error
            self._fail(short)
        except Exception as error:  # noqa: BLE001 - the fill task is one of the three boundaries
            text = "".join(traceback.format_exception(error))
            self._tools.observer.warning("fill_bug", path=self.route.key.path, traceback=text[-8000:])
            bug = Fault("internal error while fetching this file")
            bug.__cause__ = error
            self._fail(bug)
        finally:
            self._lesson.end()
            self._storing.abandon()
            self._close()
            await self._turn.release()
            self._report(time.monotonic() - started)

    async def _fill(self) -> None:
        tools, route = self._tools, self.route
        if not self.plan.withhold:  # else no row comes of it, and an index that is slow to fail is not asked
            self.generation = await self._keeper.fence()
        self._lesson.begin(self._promised)
        if route.foreign and not vouched(self.promise):
            await self._lesson.learnt()
            if not vouched(self.promise):
                if route.derived_from and await self._derived():
                    return
                raise unpromised(route)
        tools.ready_for((self.promise.size if self.promise else None) or 0)
        try:
            landed = await self._brought()
            if landed is not None:
                await self._land(landed)
        except BrokenPromise as fault:
            await self._second_chance(fault)

    async def _brought(self) -> Landed | None:
        """What came of asking; None if meanwhile another process has written the row."""
        while True:
            try:
                return await self._transfer().run()
            except PeerGone:  # before anything was read of it
                await self._turn.again()
                if self.leads:
                    if await self._landed():
                        return None
                    self._turn.took_over()

    async def _landed(self) -> bool:
        """Whether others did all of it while we waited for our turn (the second look-up)."""
        row = await self._turn.landed(self.plan)
        if row is None:
            return False
        self.outcome.result = "landed"
        self.body_ended = True
        self.opened.set_result(Settled(row, "landed"))
        self.ended.set_result(row.ref is not None)
        return True

    async def _second_chance(self, fault: BrokenPromise) -> None:
        """Wrong bytes: the index may be the stale party, so it is read again. If nobody has read a
        byte yet, the file is asked for once more, from elsewhere or past caches on the way."""
        self._trouble.broken(fault)
        await self._lesson.again()
        if self.spool is None or not self.spool.untouched or self.done.done():
            raise fault
        await self.spool.drain()
        if not self.spool.untouched:
            raise fault
        self.spool.restart(None)  # at once: nobody may begin to read what is known to be wrong
        wrong = self._latest.source if self._latest is not None else ""
        self._turn.alone()
        landed = await self._transfer().run(avoid=wrong)
        if isinstance(landed.admission, Refresh | Absent):
            raise fault  # readers wait for a body, and there is none to be had
        try:
            await self._land(landed)
        except BrokenPromise as broken:
            self._trouble.broken(broken)
            raise

    def _transfer(self) -> Following:
        self._latest = Following(
            self._tools.upstream,
            self.mount,
            self.route,
            self._turn,
            held=self.plan.held,
            known=self.promise,
            promise=self._lesson.learnt,
            on_open=self._open,
            on_trouble=self._trouble.count,
            clock=self._tools.clock,
            decoded_ratio=self._tools.limits.decoded_ratio,
            store=self._tools.store,
            left_overs=self._tools.left_overs,
            landed=lambda: self._turn.landed(self.plan),
        )
        return self._latest

    def _promised(self, promise: Promise) -> None:
        if self._latest is not None:
            self._latest.learnt(promise)
        self._store_early(promise)

    def _store_early(self, promise: Promise | None) -> None:
        """What we store goes to the store while it arrives; a follower's body is not ours to store."""
        if self.spool is not None and not self._bypass and not self.peer:
            self._storing.begin(self.spool, promise)

    async def _land(self, landed: Landed) -> None:
        if isinstance(landed.admission, Refresh | Absent):
            self.head = landed.head
            if self.peer and await self._landed():
                return  # the holder has written that row
        match landed.admission:
            case Refresh(ttl):
                await self._refresh(landed.head, ttl)
            case Absent(status, ttl):
                await self._absent(landed.head, status, ttl)
            case Keep() | Bypass():
                await self._verify_and_store()

    # --- the body ---

    def _open(self, head: UpstreamHead, admission: Keep | Bypass) -> Spool:
        """The head is admitted: readers learn what is coming."""
        length = None if decodes(self.route, head) else head.length
        self.head, self.ended_before = head, head.told is not None and head.told.ended
        if head.told is not None:  # the number that was taken before upstream was asked
            self.generation = head.told.generation
            self.outcome.extra["peer"] = self.peer
        self._entry = self._row(head, admission.ttl if isinstance(admission, Keep) else 0.0)
        if self.spool is not None:  # starting over re-uses the spool that requests wait for
            self.spool.restart(length)
            self._store_early(self.promise)
            return self.spool
        self._bypass = admission.reason if isinstance(admission, Bypass) else self.plan.withhold
        self._tools.ready_for(length or 0)
        spool = self.spool = self._tools.new_spool(length, self.promise)
        headers: tuple[Header, ...] = ()
        if self._bypass and head.headers.get("content-encoding") and not decodes(self.route, head):
            headers = (("Content-Encoding", safe_header(head.headers["content-encoding"])),)
        self.opened.set_result(Opened(spool, self._bypass, headers))
        self._store_early(self.promise)
        return spool

    def _row(self, head: UpstreamHead, ttl: float | None) -> CacheEntry:
        held = self.plan.held
        row = begin_row(
            self.route,
            head,
            self.promise,
            ttl=ttl,
            now=self._tools.clock(),
            first_seen=held.first_seen if held else None,
            generation=self.generation,
        )
        return row if self.plan.lost is None else as_before(row, self.plan.lost)

    async def _verify_and_store(self) -> None:
        spool, entry = self.spool, self._entry
        if spool is None or entry is None:
            raise RuntimeError("a body landed without being opened")
        self.body_ended = True
        promise = await self._lesson.learnt()
        verified = await self._ingest.verify(spool, promise)
        if verified.by == "framing":
            judge_unvouched(self.route, size=verified.ref.size, start=spool.peek(0, SNIFFED))
        self.outcome.bytes, self.outcome.sha256 = verified.ref.size, verified.ref.sha256
        self._check_same(verified.ref)
        promises: Collection[Promise] = ()
        read_elsewhere = bool(self.peer)  # by the holder, before it released the tail
        if not read_elsewhere:
            promises = await self._taught(verified.ref, entry, spool)
        entry = verified_row(entry, verified.ref, verified.by, promise)
        failpoints.hit("verified")
        spool.seal()
        self.done.set_result(entry)
        failpoints.hit("tail.released")
        if self._bypass:
            self.outcome.result = "unstored"
            return
        if self._turn.followed:
            if await self._turn.recorded(self.plan):
                self.outcome.result = "followed"
                self.ended.set_result(True)
                return
            if read_elsewhere:
                promises = await self._taught(verified.ref, entry, spool)
        kept = await self._storing.finish(spool, entry)
        self.outcome.error = kept.error
        self.outcome.result = "stored" if kept.stored else "unstored"
        self.ended.set_result(kept.stored)
        held = self.plan.held
        if self.route.teaches and held is not None and not self._unchanged(verified.ref):
            await point_out(self._tools, self.mount, self.route, held, entry, len(promises))

    async def _taught(self, ref: BlobRef, entry: CacheEntry, spool: Spool) -> Collection[Promise]:
        """What an index body promises, remembered."""
        if not self.route.teaches or (self._bypass and not self.plan.withhold) or self._unchanged(ref):
            return ()
        try:
            promises = await self._tools.learn(self.mount, self.route, Source(ref, entry.source, spool))
        except UpstreamBroken as fault:
            self._trouble.count(fault)
            raise
        await self._keeper.remember(promises)
        return promises

    def _check_same(self, ref: BlobRef) -> None:
        """What its index says by now does not count for an artifact whose bytes were known."""
        lost = self.plan.lost
        if lost is not None and lost.kind is Kind.ARTIFACT and lost.ref != ref:
            raise BrokenPromise("upstream sent other bytes than those that were held under this name")

    def _unchanged(self, ref: BlobRef) -> bool:
        """An index that reads as before teaches nothing new."""
        held = self.plan.held
        return held is not None and held.ref == ref

    # --- no body ---

    async def _refresh(self, head: UpstreamHead, ttl: float | None) -> None:
        held = self.plan.held
        if held is None:
            raise RuntimeError("a 304 was admitted without a held entry")
        entry = refreshed_row(held, head, ttl=ttl, now=self._tools.clock(), generation=self.generation)
        self.outcome.result = "refreshed"
        self.body_ended = True
        await self._record(entry)
        self.opened.set_result(Settled(entry, "refreshed"))

    async def _absent(self, head: UpstreamHead, status: int, ttl: float) -> None:
        if self.route.derived_from and await self._derived():
            return
        now = self._tools.clock()
        entry = absent_row(self.route, head, status=status, ttl=ttl, now=now, generation=self.generation)
        self.outcome.result = "absent"
        self.body_ended = True
        await self._record(entry)
        self.opened.set_result(Settled(entry, "absent"))

    async def _record(self, entry: CacheEntry) -> None:
        """Not over a row that could not be read, nor over one whose bytes are out of reach just now."""
        if not self.plan.withhold:
            await self._keeper.record(entry)

    async def _derived(self) -> bool:
        """Make the document from the artifact it belongs to; False if that cannot be done."""
        body = await self._tools.derive(self.mount, self.route)
        if body is None:
            return False
        source = self.route.sources[0] if self.route.sources else ""
        self._open(UpstreamHead(200, {}, len(body), True, source), Keep(None))
        if self.spool is None:
            return False
        await self.spool.write(body)
        await self._verify_and_store()
        return True

    # --- the end ---

    def _fail(self, fault: Fault) -> None:
        self.outcome.result, self.outcome.error = "failed", fault.code
        self.outcome.cause = cause_of(fault)
        if self.spool is not None:
            self.outcome.bytes = self.outcome.bytes or self.spool.received
        self._break(fault)

    def _report(self, seconds: float) -> None:
        outcome = self.outcome
        outcome.path, outcome.fill_id, outcome.seconds = self.route.key.path, self.id, seconds
        outcome.reason, outcome.request_id = self.plan.reason, self.plan.request_id
        outcome.caller = self.plan.caller
        outcome.purl = self.route.purl
        if self._latest is not None:
            outcome.upstream_url, outcome.upstream_status = self._latest.source, self._latest.upstream_status
            outcome.resumes = self._latest.resumes
        self._tools.observer.outcome(outcome)
