"""One download per key, owned by nobody's request.

A `Fill` is a task. Requests join it, wait for it to open, and read its spool at their own pace.
Order of events (design: the heart): head admitted -> bytes spooled and hashed -> framing, size and
digest checked -> index read and its promises learnt -> tail released -> bytes durable -> row
written -> out of the table. Until it is out of the table a fill may be joined, so nobody asks
upstream twice.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Collection

from artifactproxy import failpoints
from artifactproxy.engine.decline import point_out
from artifactproxy.engine.ingest import Ingest
from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.lesson import Lesson
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.rows import absent_row, as_before, begin_row, refreshed_row, verified_row
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import no_memory
from artifactproxy.engine.terms import (
    Opened,
    Plan,
    Settled,
    Source,
    Tools,
    cause_of,
    lease_name,
    stale_helps,
    unpromised,
    vouched,
)
from artifactproxy.engine.transfer import Landed, Transfer
from artifactproxy.engine.trouble import Trouble
from artifactproxy.errors import (
    BrokenPromise,
    Busy,
    Fault,
    UpstreamBroken,
)
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
from artifactproxy.ports import (
    Holder,
    Lease,
    Outcome,
)
from artifactproxy.rules.http import safe_header
from artifactproxy.rules.parts import SNIFFED, judge_unvouched


class Fill:
    """One download. `opened` resolves to `Opened` or `Settled`, or raises the fault; `done` to the
    verified row (its bytes still in the spool); `ended` once storing was tried as well."""

    def __init__(self, tools: Tools, mount: Mount, route: Route, plan: Plan, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.mount = mount
        self.route = route
        self.plan = plan
        self.id = f"f{number:x}"
        self.opened: asyncio.Future[Opened | Settled] = loop.create_future()
        self.done: asyncio.Future[CacheEntry] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        for future in (self.opened, self.done):
            # A fill may fail with nobody left to hear it.
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
        self.readers = 0
        self.spool: Spool | None = None
        self.body_ended = False
        self.on_idle: Callable[[Fill], None] = lambda _fill: None
        self.outcome = Outcome("fill", repo=mount.name, provider=mount.provider.name, kind=route.kind.value)
        self._tools = tools
        self._lesson = Lesson(tools, mount, route, plan.promise)
        self._ingest = Ingest(tools.store)
        self._trouble = Trouble(tools, mount, route)
        self._keeper = Keeper(tools, mount, self._ingest)
        self._latest: Transfer | None = None
        self._over = False
        self._entry: CacheEntry | None = None
        self._bypass = ""
        self._generation = 0

    @property
    def entry(self) -> CacheEntry:
        """The row as far as it is known: with its ref once verified. Only after `opened`."""
        if self.verified:
            return self.done.result()
        if self._entry is None:
            raise RuntimeError("the fill has not opened")
        return self._entry

    @property
    def promise(self) -> Promise | None:
        """What is known to be promised so far."""
        return self._lesson.promise

    @property
    def verified(self) -> bool:
        """Whether the body is complete and right; it may still be on its way to the store."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None

    @property
    def unstored(self) -> bool:
        """Whether no row will come of it."""
        return bool(self._bypass)

    @property
    def asked(self) -> bool:
        """Whether upstream has been asked; until then this fill waits for its turn or a teacher."""
        return self._latest is not None and self._latest.asked

    # --- readers ---

    def join(self) -> None:
        self.readers += 1

    def leave(self) -> None:
        """A reader is gone; the last one decides whether the fill still has a purpose."""
        self.readers -= 1
        if self.readers == 0:
            self.on_idle(self)
            self._close_if_over()

    def _close_if_over(self) -> None:
        """The spool goes with its last reader: one may still be rendering from it."""
        if self._over and self.readers == 0 and self.spool is not None:
            self.spool.finish()

    # --- the life of a fill ---

    async def run(self) -> None:
        started = time.monotonic()
        lease: Lease | Holder | None = None
        try:
            lease = await self._tools.coordinator.acquire(
                lease_name(self.route.key), wait=self._tools.limits.lease_wait
            )
            await self._fill()
        except Fault as fault:
            self._fail(fault)
        except asyncio.CancelledError:
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
            self._over = True
            self._close_if_over()
            if not self.ended.done():
                self.ended.set_result(False)
            if lease is not None and not isinstance(lease, Holder):
                await lease.release()
            self._report(time.monotonic() - started)

    async def _fill(self) -> None:
        tools, route = self._tools, self.route
        self._generation = await self._keeper.fence()
        self._lesson.begin(self._promised)
        if route.foreign and not vouched(self.promise):
            await self._lesson.learnt()
            if not vouched(self.promise):
                if route.derived_from and await self._derived():
                    return
                raise unpromised(route)
        tools.ready_for((self.promise.size if self.promise else None) or 0)
        transfer = self._transfer()
        try:
            landed = await transfer.run()
            await self._land(landed)
        except BrokenPromise as fault:
            await self._second_chance(transfer, fault)

    async def _second_chance(self, transfer: Transfer, fault: BrokenPromise) -> None:
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
        landed = await self._transfer().run(avoid=transfer.source)
        if isinstance(landed.admission, Refresh | Absent):
            raise fault  # readers wait for a body, and there is none to be had
        try:
            await self._land(landed)
        except BrokenPromise as broken:
            self._trouble.broken(broken)
            raise

    def _transfer(self) -> Transfer:
        self._latest = Transfer(
            self._tools.upstream,
            self.mount,
            self.route,
            held=self.plan.held,
            known=self.promise,
            promise=self._lesson.learnt,
            on_open=self._open,
            on_trouble=self._trouble.count,
            clock=self._tools.clock,
            decoded_ratio=self._tools.limits.decoded_ratio,
        )
        return self._latest

    def _promised(self, promise: Promise) -> None:
        if self._latest is not None:
            self._latest.learnt(promise)

    async def _land(self, landed: Landed) -> None:
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
        coded = bool(head.headers.get("content-encoding")) and self.route.kind is Kind.INDEX
        length = None if coded else head.length
        self._entry = self._row(head, admission.ttl if isinstance(admission, Keep) else 0.0)
        if self.spool is not None:  # starting over re-uses the spool that requests wait for
            self.spool.restart(length)
            return self.spool
        self._bypass = admission.reason if isinstance(admission, Bypass) else ""
        self._tools.ready_for(length or 0)
        spool = self.spool = self._tools.new_spool(length, self.promise)
        headers: tuple[Header, ...] = ()
        if self._bypass and head.headers.get("content-encoding"):
            headers = (("Content-Encoding", safe_header(head.headers["content-encoding"])),)
        self.opened.set_result(Opened(spool, self._bypass, headers))
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
            generation=self._generation,
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
        if self.route.teaches and not self._bypass and not self._unchanged(verified.ref):
            promises = await self._read(Source(verified.ref, entry.source, spool))
            await self._keeper.remember(promises)
        entry = verified_row(entry, verified.ref, verified.by, promise)
        failpoints.hit("verified")
        spool.seal()
        self.done.set_result(entry)
        failpoints.hit("tail.released")
        if self._bypass:
            self.outcome.result = "unstored"
            return
        self.outcome.error = await self._keeper.store(spool, entry)
        self.outcome.result = "unstored" if self.outcome.error else "stored"
        self.ended.set_result(not self.outcome.error)
        held = self.plan.held
        if self.route.teaches and held is not None and not self._unchanged(verified.ref):
            await point_out(self._tools, self.mount, self.route, held, entry, len(promises))

    def _check_same(self, ref: BlobRef) -> None:
        """What its index says by now does not count for an artifact whose bytes were known."""
        lost = self.plan.lost
        if lost is not None and lost.kind is Kind.ARTIFACT and lost.ref != ref:
            raise BrokenPromise("upstream sent other bytes than those that were held under this name")

    async def _read(self, source: Source) -> Collection[Promise]:
        try:
            return await self._tools.learn(self.mount, self.route, source)
        except UpstreamBroken as fault:
            self._trouble.count(fault)
            raise

    def _unchanged(self, ref: BlobRef) -> bool:
        """An index that reads as before teaches nothing new."""
        held = self.plan.held
        return held is not None and held.ref == ref

    # --- no body ---

    async def _refresh(self, head: UpstreamHead, ttl: float | None) -> None:
        held = self.plan.held
        if held is None:
            raise RuntimeError("a 304 was admitted without a held entry")
        entry = refreshed_row(held, head, ttl=ttl, now=self._tools.clock(), generation=self._generation)
        self.outcome.result = "refreshed"
        self.body_ended = True
        await self._keeper.record(entry)
        self.opened.set_result(Settled(entry, "refreshed"))

    async def _absent(self, head: UpstreamHead, status: int, ttl: float) -> None:
        if self.route.derived_from and await self._derived():
            return
        now = self._tools.clock()
        entry = absent_row(self.route, head, status=status, ttl=ttl, now=now, generation=self._generation)
        self.outcome.result = "absent"
        self.body_ended = True
        await self._keeper.record(entry)
        self.opened.set_result(Settled(entry, "absent"))

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
        self.body_ended = True
        if self.spool is not None:
            self.outcome.bytes = self.outcome.bytes or self.spool.received
            self.spool.fail(fault)
        if not self.done.done():
            self.done.set_exception(fault)
        if self.opened.done():
            return
        stale = self._stale(fault)
        if stale is not None:
            self.opened.set_result(stale)
        else:
            self.opened.set_exception(fault)

    def _stale(self, fault: Fault) -> Settled | None:
        held = self.plan.held
        if held is None or not self.plan.may_serve_stale or not stale_helps(fault):
            return None
        return Settled(held, "stale", fault)

    def stale_instead(self) -> Settled | None:
        """For a document that opened but then failed: the old entry, where that is allowed."""
        fault = self.done.exception() if self.done.done() and not self.done.cancelled() else None
        return self._stale(fault) if isinstance(fault, Fault) else None

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
