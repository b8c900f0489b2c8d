"""How a fill stands, as those see it who wait for it: one thing to await for each thing to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Opened, Plan, Settled, stale_helps
from artifactproxy.errors import Fault
from artifactproxy.model import CacheEntry, Route, UpstreamHead


class Standing:
    """`opened` resolves to `Opened` or `Settled`, or raises the fault; `done` to the verified row (its
    bytes still in the spool); `ended` once storing was tried as well. `head` is the one that counts,
    None until upstream gave it; `generation` was taken before it was asked. `ended_before` says that upstream's body had ended already when this
    fill began to copy it from the process that brought it in."""

    def __init__(self, mount: Mount, route: Route, plan: Plan, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.mount = mount
        self.route = route
        self.plan = plan
        self.id = name
        self.opened: asyncio.Future[Opened | Settled] = loop.create_future()
        self.done: asyncio.Future[CacheEntry] = loop.create_future()
        self.ended: asyncio.Future[bool] = loop.create_future()
        for future in (self.opened, self.done):
            # A fill may fail with nobody left to hear it.
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
        self.readers = 0
        self.spool: Spool | None = None
        self.head: UpstreamHead | None = None
        self.generation = 0
        self.body_ended = False
        self.ended_before = False
        self.on_idle: Callable[[Any], None] = lambda _fill: None
        self.on_vacate: Callable[[Any], None] = lambda _fill: None
        self._over = False
        self._entry: CacheEntry | None = None
        self._bypass = ""

    @property
    def entry(self) -> CacheEntry:
        """The row as far as it is known: with its ref once verified. Only after `opened`."""
        if self.verified:
            return self.done.result()
        if self._entry is None:
            raise RuntimeError("the fill has not opened")
        return self._entry

    @property
    def verified(self) -> bool:
        """Whether the body is complete and right; it may still be on its way to the store."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None

    @property
    def unstored(self) -> bool:
        """Whether no row will come of it."""
        return bool(self._bypass)

    # --- readers ---

    def join(self) -> None:
        self.readers += 1

    def leave(self) -> None:
        """A reader is gone; the last one decides whether the fill still has a purpose."""
        self.readers -= 1
        if self.readers == 0:
            self.on_idle(self)
            self._close_if_over()

    def _close(self) -> None:
        """The task is over; the spool goes with its last reader: one may still be rendering from it."""
        self._over = True
        self._close_if_over()
        if not self.ended.done():
            self.ended.set_result(False)

    def _close_if_over(self) -> None:
        if self._over and self.readers == 0 and self.spool is not None:
            self.spool.finish()

    def vacate(self) -> bool:
        """Others need the room of its temp file, which goes at once; False where somebody reads it."""
        if self.readers or self.spool is None:
            return False
        self.on_vacate(self)
        self.spool.finish()
        return True

    # --- failing ---

    @property
    def fault(self) -> Fault | None:
        """Why it failed, if it did."""
        failed = self.done.exception() if self.done.done() and not self.done.cancelled() else None
        return failed if isinstance(failed, Fault) else None

    def _break(self, fault: Fault) -> None:
        """Once for all: everybody who waits hears this fault, or gets what is held instead."""
        self.body_ended = True
        if self.spool is not None:
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
        return self._stale(self.fault) if self.fault is not None else None
