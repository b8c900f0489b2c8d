"""Ports that do what a test writes down, for the rooms of the engine that store."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from artifactproxy.engine.ingest import Ingest
from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.overlay import Overlay
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.storing import Storing
from artifactproxy.engine.temps import TempSpace
from artifactproxy.engine.unrecorded import Unrecorded
from artifactproxy.engine.waiting import Waiting
from artifactproxy.limits import Limits
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Found, Kind, Promise
from artifactproxy.ports import Growing
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import Site
from artifactproxy.rules.digests import Hasher

BIG = 300_000


class Script:
    """What happened, in order, and what is to happen: `plan["put"]` are faults to raise (None: none), or
    events to wait for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.plan: defaultdict[str, Iterator[Any]] = defaultdict(lambda: iter(()))

    def will(self, name: str, outcomes: Iterable[Any]) -> None:
        self.plan[name] = iter(outcomes)

    async def step(self, name: str) -> None:
        self.log.append(name)
        outcome = next(self.plan[name], None)
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
        elif outcome is not None:
            raise outcome


class Store(Script):
    """Blobs by their name; `takes_in` says whether `begin` gives an intake."""

    def __init__(self, *, takes_in: bool = False) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.intakes: list[Taking] = []
        self.takes_in = takes_in

    async def put(self, ref: BlobRef, path: Path) -> None:
        await self.step("put")
        self.blobs[ref.sha256] = path.read_bytes()
        path.unlink()

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        await self.step("put_bytes")
        self.blobs[ref.sha256] = body

    async def begin(self, sha256: str, body: Growing) -> Taking | None:
        await self.step("begin")
        if not self.takes_in:
            return None
        self.intakes.append(Taking(self, sha256, body))
        return self.intakes[-1]

    async def size(self, sha256: str) -> int | None:
        await self.step("size")
        return len(self.blobs[sha256]) if sha256 in self.blobs else None

    async def tidy(self) -> int:
        await self.step("tidy")
        return 0


class Taking:
    """An intake that reads whatever is written."""

    def __init__(self, store: Store, sha256: str, body: Growing) -> None:
        self.store, self.sha256, self.body = store, sha256, body
        self.got = b""
        self.abandoned = 0
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while self.body.fault is None:
            self.got += self.body.peek(len(self.got), self.body.written)
            await self.body.changed()

    async def finish(self, ref: BlobRef, path: Path) -> None:
        await self.store.step("finish")
        self._task.cancel()
        whole = path.read_bytes()
        assert whole.startswith(self.got)
        self.store.blobs[ref.sha256] = whole
        path.unlink()

    async def abandon(self) -> None:
        self.abandoned += 1
        self._task.cancel()
        await self.store.step("abandon")


class Index(Script):
    """Rows, promises and what was buried."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[ArtifactKey, CacheEntry] = {}
        self.promises: dict[ArtifactKey, Promise] = {}
        self.turns = iter(())

    async def find(self, key: ArtifactKey) -> Found:
        await self.step("find")
        return Found(self.rows.get(key), self.promises.get(key))

    async def record(self, entry: CacheEntry) -> bool:
        await self.step("record")
        held = self.rows.get(entry.key)
        if held is not None and held.generation > entry.generation:
            return False
        self.rows[entry.key] = entry
        return True

    async def learn(self, promises: Iterable[Promise]) -> list[Promise]:
        await self.step("learn")
        self.promises |= {promise.key: promise for promise in promises}
        return []

    async def generation(self) -> int:
        await self.step("generation")
        return 1

    async def bury(self, sha256s: list[str]) -> None:
        del sha256s
        await self.step("bury")


class Notes:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.counts: defaultdict[str, float] = defaultdict(float)
        self.gauges: dict[tuple[str, str], float] = {}

    def outcome(self, outcome: object) -> None:
        self.told.append(("outcome", {"outcome": outcome}))

    def notice(self, event: str, **facts: Any) -> None:
        self.told.append((event, facts))

    warning = notice

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name, labels.get("dependency", "")] = value

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        del labels
        self.counts[name] += amount

    def events(self, name: str) -> list[dict[str, Any]]:
        return [facts for event, facts in self.told if event == name]


class Room:
    """What one fill works with; spools of more than 1,000 bytes have a file."""

    def __init__(self, folder: Path, *, takes_in: bool = False, quota: int = 10**9, **limits: Any) -> None:
        self.folder = folder
        self.store = Store(takes_in=takes_in)
        self.index = Index()
        self.notes = Notes()
        self.limits = replace(Limits(), **({"store_retry": 0.0} | limits))
        store: Any = self.store
        index: Any = self.index
        self.unrecorded = Unrecorded(index, index, store, self.notes, self.limits.unrecorded)
        self.waiting = Waiting(self.notes)
        names = (folder / f"{n}.part" for n in itertools.count())
        self.space = TempSpace(lambda: next(names), lambda: 10**9, quota, self.waiting.make_room)
        tools: Any = SimpleNamespace(
            store=store,
            index=Overlay(index, self.unrecorded),
            ledger=index,
            observer=self.notes,
            limits=self.limits,
            unrecorded=self.unrecorded,
            waiting=self.waiting,
        )
        mount = Mount("files", PROVIDERS["generic"](Site("files", ("https://files.example/",))))
        self.storing = Storing(tools, mount, Ingest(store), Keeper(tools, mount), self.vacate)
        self.tools, self.mount = tools, mount
        self.readers = 0
        self.spools: list[Spool] = []

    def vacate(self) -> bool:
        if self.readers:
            return False
        self.spools[0].finish()
        return True

    def spool(self, length: int | None = None, memory: int = 1000) -> Spool:
        spool = Spool(
            length=length,
            hold_back=100,
            memory_bytes=memory,
            space=self.space,
            executor=None,
            new_hasher=lambda: Hasher(()),
        )
        self.spools.append(spool)
        return spool

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    async def clean(self) -> None:
        """Nothing is left of anything."""
        for spool in self.spools:
            spool.finish()
        await self.waiting.close(5)
        await asyncio.sleep(0.001)  # for tasks that were just cancelled
        assert (self.files(), self.space.used, len(self.waiting)) == ([], 0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def promised(body: bytes) -> Promise:
    return Promise(row(body).key, (Digest("sha256", hashlib.sha256(body).hexdigest()),))


def row(body: bytes, *, path: str = "a.bin", by: str = "digest", generation: int = 1) -> CacheEntry:
    ref = BlobRef(hashlib.sha256(body).hexdigest(), len(body))
    key = ArtifactKey("files", path)
    return CacheEntry(key, Kind.ARTIFACT, ref, verified_by=by, generation=generation)
