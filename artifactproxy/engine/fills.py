"""The running fills by key, and the rule for those that nobody waits for any more."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from artifactproxy.engine.fill import Fill
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Plan, Tools
from artifactproxy.errors import Fault
from artifactproxy.model import ArtifactKey, Promise, Route
from artifactproxy.rules.peers import fill_name


class FillTable:
    """The running fills by key, and the rule for those that nobody waits for."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._fills: dict[tuple[ArtifactKey, str], Fill] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
        self._slots: dict[Fill, tuple[ArtifactKey, str]] = {}
        self._named: dict[str, list[Fill]] = {}
        self._process = secrets.token_hex(4)  # workers, and what was here before a restart, may share a log
        self._numbers = 0
        self.on_failed: Callable[[Fill, Fault], None] = lambda _fill, _fault: None
        self._orphans: set[Fill] = set()
        self._watches: set[asyncio.Task[None]] = set()

    def running(self, key: ArtifactKey) -> Fill | None:
        return self._fills.get((key, ""))

    def leading(self, name: str) -> Fill | None:
        """The fill of the key with this name (`fill_name`) that asks upstream itself."""
        return next((fill for fill in self._named.get(name, ()) if fill.leads), None)

    def landing(self, key: ArtifactKey) -> Fill | None:
        """The fill whose verified body is on its way into the row of this key."""
        fill = self.running(key)
        return fill if fill is not None and fill.verified and not fill.unstored else None

    def join(self, mount: Mount, route: Route, plan: Plan) -> tuple[Fill, bool]:
        """The fill of this key, joined; True if this call started it. The caller must `leave`."""
        slot = self._slot(route.key, plan.promise)
        fill = self._fills.get(slot)
        if fill is not None:
            self.attend(fill)
            return fill, False
        self._numbers += 1
        fill = Fill(self._tools, mount, route, plan, f"{self._process}-{self._numbers:x}")
        fill.on_idle = self._idle
        fill.on_vacate = self._unlist
        fill.join()
        self._fills[slot] = fill
        self._slots[fill] = slot
        self._named.setdefault(fill_name(route.key), []).append(fill)
        task = asyncio.create_task(fill.run(), name=f"fill {route.key.repo}/{route.key.path}")
        self._tasks[fill] = task
        task.add_done_callback(lambda _done: self._ended(fill))
        return fill, True

    def attend(self, fill: Fill) -> None:
        """One more reader of a running fill, who must `leave` it."""
        fill.join()
        self._orphans.discard(fill)

    def _slot(self, key: ArtifactKey, promise: Promise | None) -> tuple[ArtifactKey, str]:
        """Different promises never share a fill; an unpromised one is joined by everybody."""
        running = self._fills.get((key, ""))
        wanted = promise.digest("sha256") if promise else None
        if running is None or wanted is None:
            return key, ""
        has = running.promise.digest("sha256") if running.promise else None
        return (key, "") if has is None or has == wanted else (key, wanted.hex)

    def _idle(self, fill: Fill) -> None:
        if fill not in self._tasks or fill.body_ended:
            return
        if fill.peer:  # it only copies what another process stores
            self._give_up(fill)
            return
        limits, spool = self._tools.limits, fill.spool
        length = spool.length if spool else None
        size = spool.received if spool else 0
        small = length is not None or size < limits.orphan_bytes
        if not (fill.asked and small and len(self._orphans) < limits.orphans):
            self._give_up(fill)
            return
        self._orphans.add(fill)
        if length is None:
            watch = asyncio.create_task(self._watch(fill))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)

    async def _watch(self, fill: Fill) -> None:
        """A body of unknown length may still grow past what nobody waits for."""
        await asyncio.wait((fill.opened,))
        spool = fill.spool
        while spool is not None and fill in self._orphans and not fill.body_ended:
            if spool.length is None and spool.received >= self._tools.limits.orphan_bytes:
                self._give_up(fill)
                return
            await spool.changed()

    def _give_up(self, fill: Fill) -> None:
        # Out of the table at once: who comes now must not join what is about to end.
        self._unlist(fill)
        self._orphans.discard(fill)
        self._tasks[fill].cancel()

    def _unlist(self, fill: Fill) -> None:
        slot = self._slots.pop(fill, None)
        if slot is None:
            return
        if self._fills.get(slot) is fill:
            del self._fills[slot]
        name = fill_name(fill.route.key)
        self._named[name].remove(fill)
        if not self._named[name]:
            del self._named[name]

    def _ended(self, fill: Fill) -> None:
        if fill.fault is not None:
            self.on_failed(fill, fill.fault)
        self._unlist(fill)
        self._tasks.pop(fill, None)
        self._orphans.discard(fill)

    def states(self) -> dict[str, int]:
        return {
            "fills": len(self._tasks),
            "orphans": len(self._orphans),
            "readers": sum(fill.readers for fill in self._tasks),
        }

    async def drain(self, seconds: float) -> None:
        """Give running fills this long to end, then cancel what is left and wait for it."""
        tasks = list(self._tasks.values())
        if not tasks:
            return
        for fill, task in self._tasks.items():
            if fill.peer and fill.verified:
                task.cancel()  # it only waits for the row of another process
        await asyncio.wait(tasks, timeout=seconds)
        for fill, task in list(self._tasks.items()):
            if fill.spool is not None:
                fill.spool.file.kept = True  # a large promised one goes on in the next life
            task.cancel()
        await asyncio.wait([*tasks, *self._watches])


@dataclass(slots=True)
class StaleMemory:
    """Keys whose refresh failed a moment ago: stale answers for a while without asking again."""

    seconds: float
    _until: dict[ArtifactKey, float] = field(default_factory=dict)

    def failed(self, key: ArtifactKey) -> None:
        now = time.monotonic()
        if len(self._until) > 10_000:
            self._until = {k: t for k, t in self._until.items() if t > now}
        self._until[key] = now + self.seconds

    def recently_failed(self, key: ArtifactKey) -> bool:
        until = self._until.get(key)
        return until is not None and time.monotonic() < until
