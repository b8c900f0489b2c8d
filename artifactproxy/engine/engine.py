"""The engine as the floors above see it: one object, built from ports by wiring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifactproxy.engine.again import Again
from artifactproxy.engine.answer import Answer
from artifactproxy.engine.desk import Desk, Failures
from artifactproxy.engine.documents import Documents
from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.janitor import Bounds, Janitor
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.pipeline import Pipeline
from artifactproxy.engine.recheck import Recheck
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.teachers import Teachers
from artifactproxy.engine.temps import TempSpace
from artifactproxy.engine.terms import Tools
from artifactproxy.engine.usage import Usage
from artifactproxy.errors import Fault
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Promise
from artifactproxy.ports import (
    Adapter,
    BlobStore,
    Clock,
    Coordinator,
    Ledger,
    MetadataIndex,
    Observer,
    Outcome,
    Upstream,
)
from artifactproxy.providers._base import Page
from artifactproxy.rules.digests import Hasher, algorithms


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the engine is made of; `new_path` names a temp file in the store's file system,
    `executor` hashes and writes (None: in the loop, for a machine with one core)."""

    mounts: Mapping[str, Mount]
    store: BlobStore
    index: MetadataIndex
    ledger: Ledger
    coordinator: Coordinator
    upstream: Upstream
    observer: Observer
    clock: Clock
    limits: Limits
    bounds: Bounds
    new_path: Callable[[], Path]
    executor: Executor | None
    recheck: bool = False


class _Listening:
    """Passes outcomes on and keeps the reasons of failed fills for `explain`."""

    def __init__(
        self, observer: Observer, failures: Failures, clock: Clock, on_full: Callable[[Outcome], None]
    ) -> None:
        self._observer = observer
        self._failures = failures
        self._clock = clock
        self._on_full = on_full
        self._failing: set[str] = set()
        self.notice = observer.notice
        self.warning = observer.warning
        self.gauge = observer.gauge
        self.increment = observer.increment

    def outcome(self, outcome: Outcome) -> None:
        if outcome.what == "fill":
            self._failures.note(outcome, self._clock())
            if outcome.error == "store_full":
                self._on_full(outcome)
            self._gauge(outcome)
        self._observer.outcome(outcome)

    def _gauge(self, outcome: Outcome) -> None:
        """What readiness finds when it is asked, also without its being asked. A success takes back
        what a failure said, not what readiness found: an index that was removed still takes rows."""
        for name in ("store", "index"):
            if outcome.error.startswith(f"{name}_"):
                self._failing.add(name)
                self.gauge("degraded", 1, dependency=name)
            elif outcome.result == "stored" and name in self._failing:
                self._failing.discard(name)
                self.gauge("degraded", 0, dependency=name)


class Engine:
    """`handle` answers requests; the rest is for administrators and the process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        limits, failures = parts.limits, Failures()
        observer = _Listening(parts.observer, failures, parts.clock, self._full)
        space = TempSpace(parts.new_path, lambda: parts.bounds.disk()[1], limits.temp_bytes)
        self._space = space
        locate = Recheck(parts.store, active=parts.recheck).locate
        self._documents = Documents(locate, parts.new_path, limits, parts.clock)

        def new_spool(length: int | None, promise: Promise | None) -> Spool:
            return Spool(
                length=length,
                hold_back=limits.hold_back,
                memory_bytes=limits.memory_body,
                space=space,
                executor=parts.executor,
                new_hasher=lambda: Hasher(algorithms(promise)),
            )

        def ready_for(size: int) -> None:
            if size > limits.memory_body:
                space.expect(size)

        tools = Tools(
            store=parts.store,
            index=parts.index,
            ledger=parts.ledger,
            upstream=parts.upstream,
            coordinator=parts.coordinator,
            observer=observer,
            clock=parts.clock,
            limits=limits,
            new_spool=new_spool,
            ready_for=ready_for,
            learn=self._documents.learn,
            teach=lambda mount, route: self._teachers.teach(mount, route),
            derive=lambda mount, route: self._teachers.derive(mount, route),
            locate=locate,
        )
        self._fills = FillTable(tools)
        self._teachers = Teachers(tools, self._fills)
        usage = Usage(parts.index, observer, parts.clock, parts.limits.touch_every)
        self._janitor = Janitor(parts.store, parts.ledger, usage, observer, parts.bounds, limits, parts.clock)
        self._pipeline = Pipeline(parts.mounts, tools, self._fills, self._documents, self._teachers, usage)
        self._desk = Desk(parts.mounts, tools, self._fills, self._janitor, failures)
        self.explain = self._desk.explain
        self.purge = self._desk.purge
        self.gc = self._desk.gc
        self.stats = self._desk.stats
        self.refetch = Again(parts.mounts, tools, self._fills).refetch

    @property
    def parts(self) -> Parts:
        """For what is built beside the engine from the same ports."""
        return self._parts

    def mounts(self) -> Mapping[str, Mount]:
        return self._parts.mounts

    async def handle(self, ask: Ask) -> Answer:
        """Raises `Fault`; whoever takes the answer closes its body."""
        return await self._pipeline.handle(ask)

    def problem(self, fault: Fault, ask: Ask) -> Page:
        return self._pipeline.problem(fault, ask)

    def _full(self, outcome: Outcome) -> None:
        self._janitor.hurry()
        if outcome.result == "failed":
            self._pipeline.no_room(outcome.repo, outcome.path, outcome.bytes)

    def start(self) -> None:
        """Begin housekeeping; needs the running loop."""
        self._janitor.start()

    async def readiness(self) -> dict[str, str]:
        """One entry per dependency: `ok`, or what is wrong with it."""
        adapters: dict[str, Adapter] = {
            "store": self._parts.store,
            "index": self._parts.index,
            "coordination": self._parts.coordinator,
        }
        found = {name: await _verdict(adapter.check) for name, adapter in adapters.items()}
        for name, verdict in found.items():
            self._parts.observer.gauge("degraded", float(verdict != "ok"), dependency=name)
        return found

    def states(self) -> dict[str, Any]:
        """Numbers for gauges."""
        return {
            **self._fills.states(),
            "temp_bytes": self._space.used,
            "rendered_files": self._documents.kept_files,
        }

    async def close(self, drain_seconds: float) -> None:
        """Let running fills end, then write down what is only in memory."""
        await self._pipeline.close()
        await self._fills.drain(drain_seconds)
        await self._documents.close()
        await self._janitor.close()


async def _verdict(check: Callable[[], Awaitable[None]]) -> str:
    try:
        await check()
    except Fault as fault:
        return fault.detail
    return "ok"
