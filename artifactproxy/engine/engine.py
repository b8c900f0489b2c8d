"""The engine as the floors above see it: one object, built from ports by wiring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from artifactproxy.engine.again import Again
from artifactproxy.engine.answer import Answer
from artifactproxy.engine.bodies import Bodies
from artifactproxy.engine.degrade import Readiness, Watch
from artifactproxy.engine.desk import Desk, Failures
from artifactproxy.engine.documents import Documents
from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.janitor import Bounds, Janitor
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.offer import Offer
from artifactproxy.engine.overlay import Overlay
from artifactproxy.engine.pipeline import Pipeline
from artifactproxy.engine.receiving import Receiving
from artifactproxy.engine.recheck import Recheck
from artifactproxy.engine.shelf import Shelf
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.teachers import Teachers
from artifactproxy.engine.temps import LeftOvers, TempSpace
from artifactproxy.engine.terms import Redirect, Tools
from artifactproxy.engine.unrecorded import Unrecorded
from artifactproxy.engine.usage import Usage
from artifactproxy.engine.waiting import Waiting
from artifactproxy.errors import Fault
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Promise
from artifactproxy.ports import (
    Adapter,
    BlobStore,
    Bulletin,
    Clock,
    Coordinator,
    Ledger,
    MetadataIndex,
    Observer,
    Outcome,
    Upstream,
)
from artifactproxy.ports.hosting import Hosting
from artifactproxy.ports.tokens import TokenStore
from artifactproxy.providers._base import Page
from artifactproxy.rules.digests import Hasher, algorithms


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the engine is made of; `new_path` names a temp file in the store's file system,
    `executor` hashes and writes (None: in the loop, for a machine with one core). `temp_free` gives the
    free bytes of the disk of temp files (None: it is the disk of the blobs). Without those dependencies
    that are `bearable` the instance is still ready."""

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
    temp_free: Callable[[], int] | None = None
    bearable: frozenset[str] = frozenset({"coordination"})
    bulletin: Bulletin | None = None
    redirect: Redirect | None = None
    left_overs: LeftOvers | None = None
    keep_parts: bool = False
    """Whether a large promised body that could not be had whole stays for the next life; in a process that
    goes on there is no next life, and it would only take room."""
    truth: BlobStore | None = None
    """The store past all copies of it; None: it keeps none."""
    tokens: TokenStore | None = None
    hosting: Hosting | None = None
    """Not for the engine: what decides who may ask it lies in the same index."""

    def adapters(self) -> dict[str, Adapter]:
        """What this process can lose while it runs."""
        return {"store": self.store, "index": self.index, "coordination": self.coordinator}

    def room(self) -> int:
        """Free bytes for temp files."""
        if self.temp_free is not None:
            return self.temp_free()
        return self.bounds.disk()[1] if self.bounds.disk is not None else sys.maxsize


class _Listening:
    """Passes outcomes on and keeps the reasons of failed fills for `explain`."""

    def __init__(
        self,
        observer: Observer,
        failures: Failures,
        clock: Clock,
        watch: Watch,
        on_full: Callable[[Outcome], None],
    ) -> None:
        self._observer = observer
        self._failures = failures
        self._clock = clock
        self._watch = watch
        self._on_full = on_full
        self.notice = observer.notice
        self.gauge = observer.gauge
        self.increment = observer.increment

    def outcome(self, outcome: Outcome) -> None:
        if outcome.what == "fill":
            self._failures.note(outcome, self._clock())
            if outcome.error == "store_full":
                self._on_full(outcome)
            self._judge(outcome)
        self._observer.outcome(outcome)

    def warning(self, event: str, **facts: str | float) -> None:
        if str(facts.get("error", "")).startswith(("index_", "store_")):
            self._watch.doubt()
        self._observer.warning(event, **facts)

    def _judge(self, outcome: Outcome) -> None:
        """What the next look may find is known already."""
        for name in ("store", "index"):
            if outcome.error.startswith(f"{name}_"):
                self._watch.failed(name)
            elif outcome.result == "stored":
                self._watch.worked(name)


def _new_spool(parts: Parts, space: TempSpace, length: int | None, promise: Promise | None) -> Spool:
    limits = parts.limits
    spool = Spool(
        length=length,
        hold_back=limits.hold_back,
        memory_bytes=limits.memory_body,
        space=space,
        executor=parts.executor,
        new_hasher=lambda: Hasher(algorithms(promise)),
    )
    spool.file.kept = parts.keep_parts
    return spool


class Engine:
    """`handle` answers requests; the rest is for administrators and the process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        limits, failures = parts.limits, Failures()
        self._watch = Watch(
            parts.adapters(), parts.observer, bearable=parts.bearable, every=limits.watch_every
        )
        observer = _Listening(parts.observer, failures, parts.clock, self._watch, self._full)
        self._unrecorded = Unrecorded(parts.index, parts.ledger, parts.store, observer, limits.unrecorded)
        self._waiting = Waiting(observer)
        space = TempSpace(parts.new_path, parts.room, limits.temp_bytes, self._waiting.make_room)
        self._space = space
        locate = Recheck(parts.store, active=parts.recheck).locate
        new_spool = partial(_new_spool, parts, space)
        bodies = Bodies(parts.store, locate, new_spool)
        self._documents = Documents(bodies, parts.new_path, limits, parts.clock)

        def ready_for(size: int) -> None:
            if size > limits.memory_body:
                space.expect(size)

        tools = Tools(
            store=parts.store,
            index=Overlay(parts.index, self._unrecorded),
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
            unrecorded=self._unrecorded,
            waiting=self._waiting,
            redirect=parts.redirect,
            left_overs=parts.left_overs,
        )
        self._fills = FillTable(tools)
        self.offer = Offer(self._fills)
        self._teachers = Teachers(tools, self._fills, bodies)
        usage = Usage(parts.index, observer, parts.clock, parts.limits.touch_every)
        self._janitor = Janitor(
            parts.store, parts.ledger, usage, self._unrecorded, observer, parts.bounds, limits, parts.clock
        )
        self._tools, self._usage, self._failures = tools, usage, failures
        self._open(parts.mounts)

    def _open(self, mounts: Mapping[str, Mount]) -> None:
        tools, fills = self._tools, self._fills
        self._pipeline = Pipeline(mounts, tools, fills, self._documents, self._teachers, self._usage)
        self._desk = Desk(mounts, tools, fills, self._janitor, self._failures, self._parts.bulletin)
        self.explain = self._desk.explain
        self.gc = self._desk.gc
        self.stats = self._desk.stats
        self.refetch = Again(mounts, tools, fills).refetch

    def swap(self, mounts: Mapping[str, Mount]) -> None:
        """Serve these repositories from now on. What is under way goes on with what it began with."""
        self._parts = replace(self._parts, mounts=mounts)
        self._documents.forget()
        self._open(mounts)

    def kit(self) -> tuple[Tools, Receiving, Shelf]:
        """For capabilities that store and serve what no upstream has: the ports with what stands in front
        of them, the way in, the way out."""
        hosting = self._parts.hosting
        if hosting is None:
            raise RuntimeError("this engine was built without an index that takes pushes")
        receiving = Receiving(self._tools, hosting, self._parts.executor)
        return self._tools, receiving, Shelf(self._tools, self._documents, self._usage)

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

    async def purge(self, repo: str, *, path: str = "", package: str = "") -> dict[str, Any]:
        """As `Desk.purge`; no row that waits to be recorded comes after it."""
        await self._unrecorded.flush()
        return await self._desk.purge(repo, path=path, package=package)

    def start(self) -> None:
        """Begin housekeeping; needs the running loop."""
        self._janitor.start()
        self._watch.start()

    async def readiness(self) -> Readiness:
        """What can be done without, and what cannot."""
        return await self._watch.readiness()

    def states(self) -> dict[str, Any]:
        """Numbers for gauges."""
        return {
            **self._fills.states(),
            "temp_bytes": self._space.used,
            "stores_waiting": len(self._waiting),
            "unrecorded": len(self._unrecorded),
            "rendered_files": self._documents.kept_files,
        }

    async def close(self, drain_seconds: float) -> None:
        """Let running fills end, then write down what is only in memory."""
        await self._watch.close()
        await self._pipeline.close()
        await self._fills.drain(drain_seconds)
        await self._waiting.close(drain_seconds)
        await self._documents.close()
        await self._janitor.close()
