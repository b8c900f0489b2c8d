"""Replicas as wiring would build them, over one data folder, with lease files between them.

Each has its own engine, listener, upstream client, index connection and coordinator; what they share
is on disk. `Gate` is an upstream that waits for the test.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from artifactproxy import wiring
from artifactproxy.config import Config
from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.datadir import INDEX, DataFolder
from artifactproxy.engine.engine import Engine, Parts
from artifactproxy.engine.janitor import Bounds
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.ports import Coordinator, Outcome
from artifactproxy.stores.fs import FsStore
from artifactproxy.upstream.client import UpstreamClient
from artifactproxy.upstream.peers import PeerClient
from artifactproxy.web import sockets
from artifactproxy.web.access import AccessRules
from artifactproxy.web.app import WebServer
from artifactproxy.web.internal import Internal
from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import _plan
from tests.house_proxy import Got, check_folder, configuration

SECRET = "known to the cluster only"
FASTER = {"takeover_wait": 2.0, "lease_wait": 2.0, "store_retry": 5.0, "error_memory": 0.05}


@dataclass(slots=True)
class Recorded:
    """An observer that keeps what it hears."""

    outcomes: list[Outcome] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def notice(self, event: str, **facts: Any) -> None:
        self.counts[f"notice {event}"] += 1

    def warning(self, event: str, **facts: Any) -> None:
        self.warnings.append((event, facts))

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[" ".join((name, *labels.values()))] += int(amount)

    def lag(self, seconds: float) -> None: ...

    def exposition(self, others: Any = ()) -> bytes:
        return b""

    def numbers(self) -> dict[str, Any]:
        return {}


@dataclass(slots=True)
class Replica:
    """One process. `kill` ends it as SIGKILL would: connections reset, leases free, nothing finished."""

    base: str
    engine: Engine
    server: WebServer
    observer: Recorded
    coordinator: Coordinator
    client: aiohttp.ClientSession
    alive: bool = True

    async def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with self.client.request(
                method, self.base + path, headers=named, allow_redirects=False
            ) as answer:
                try:
                    body: bytes | None = await answer.read()
                except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                    body = None
                return Got(answer.status, answer.headers.copy(), body, answer.reason or "")
        except aiohttp.ClientConnectionError:
            return Got(0, {}, None)

    async def kill(self) -> None:
        self.alive = False
        await self.server.close()
        await self.engine.close(0)

    async def stop(self) -> None:
        if self.alive:
            await self.server.close()
            await self.engine.close(5)

    def fills(self) -> list[Outcome]:
        return [outcome for outcome in self.observer.outcomes if outcome.what == "fill"]

    async def settled(self) -> None:
        for _ in range(1000):
            states = self.engine.states()
            if not states["fills"] and not states["temp_bytes"]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"still running: {self.engine.states()}")

    async def filling(self) -> None:
        """Until a fill runs here that has asked somebody."""
        for _ in range(5_000):
            if any(fill.asked for fill in self.engine._fills._tasks):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("nothing was asked")


@dataclass(slots=True)
class Cluster:
    replicas: list[Replica]
    data: Path

    def __getitem__(self, number: int) -> Replica:
        return self.replicas[number]

    async def joined(self, clients: int) -> None:
        """Until so many clients wait for one and the same document, and every other process that has
        some of them reads along with the one that leads."""
        for _ in range(1000):
            fills = [fill for replica in self.replicas for fill in replica.engine._fills._tasks]
            waited = [fill for fill in fills if fill.readers]
            followers = [fill for fill in waited if fill.peer]
            leads = sum(fill.leads for fill in waited)
            if leads == 1 and sum(fill.readers for fill in waited) == clients + len(followers):
                if len(followers) == min(clients, len(self.replicas)) - 1:
                    return
            await asyncio.sleep(0.01)
        raise AssertionError(f"not all have joined: {[(f.readers, f.leads, f.peer) for f in fills]}")

    async def check(self) -> None:
        """All have ended what they did, and the store is consistent."""
        for replica in self.replicas:
            if replica.alive:
                await replica.settled()
        await check_folder(self.data)


@dataclass(slots=True)
class Gate:
    """An honest upstream whose bodies come as far as `at`, and on when the test says so."""

    at: float
    chunked: bool = False
    validators: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        plan = _plan(exchange, validators=self.validators)
        middle = plan.start + int(self.at * plan.size)
        headers = plan.headers | self.extra
        if self.chunked and plan.status == 200:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        await exchange.head(plan.status, headers)
        if exchange.seen.method == "HEAD" or plan.status == 304:
            return
        chunked = "Transfer-Encoding" in headers
        await self._pour(exchange, plan.start, middle, chunked)
        self.reached.set()
        tasks = [asyncio.ensure_future(end) for end in (self.go.wait(), exchange.stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        await self._pour(exchange, middle, plan.stop, chunked)
        if chunked:
            await exchange.send(b"0\r\n\r\n")

    async def _pour(self, exchange: Exchange, start: int, stop: int, chunked: bool) -> None:
        for at in range(start, stop, 65536):
            piece = exchange.body.slice(at, min(at + 65536, stop))
            await exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)


@asynccontextmanager
async def cluster(
    folder: Path,
    chaos: Chaos,
    count: int = 2,
    *,
    unix: bool = False,
    extra: str = "",
    top: str = "",
    remote: str = "",
    limits: dict[str, Any] | None = None,
    coordinators: Callable[[str], Coordinator] | None = None,
    secrets: Callable[[int], str] = lambda _: SECRET,
) -> AsyncIterator[Cluster]:
    """`unix`: siblings on one machine, who reach each other at Unix sockets. `coordinators` makes one for
    an address, where lease files will not do."""
    config = configuration(folder, chaos.origin, extra, remote, top)
    config = replace(config, limits=replace(config.limits, **{**FASTER, **(limits or {})}))
    async with AsyncExitStack() as stack:
        stack.enter_context(closing(DataFolder(config.data)))
        for name in ("leases", "workers"):
            (config.data / name).mkdir(mode=0o700, exist_ok=True)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                auto_decompress=False,
                skip_auto_headers=["Accept-Encoding"],
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=30),
            )
        )
        replicas = []
        for number in range(1, count + 1):
            made = _replica(config, number, client, unix, coordinators, secrets(number))
            replicas.append(await stack.enter_async_context(made))
        yield Cluster(replicas, config.data)


@asynccontextmanager
async def _replica(
    config: Config,
    number: int,
    client: aiohttp.ClientSession,
    unix: bool,
    coordinators: Callable[[str], Coordinator] | None,
    secret: str,
) -> AsyncIterator[Replica]:
    data, observer = config.data, Recorded()
    listener = sockets.tcp("127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener[0].getsockname()[1]}"
    own = data / "workers" / f"{number}.sock"
    address = f"unix:{own.absolute()}" if unix else base
    async with AsyncExitStack() as stack:
        store = FsStore(data)
        await store.start()
        stack.push_async_callback(store.close)
        index = SqliteIndex(data / INDEX, shared=True, owner=number == 1)
        await index.start()
        stack.push_async_callback(index.close)
        peers = PeerClient(secret, clock=time.time, observer=observer, connect=1.0, hold=1.0)
        accesses = {name: wiring.way(remote) for name, remote in config.remotes.items()}
        upstream = UpstreamClient(accesses, observer=observer, clock=time.time, peers=peers)
        stack.push_async_callback(upstream.close)
        coordinator: Coordinator = (
            coordinators(address)
            if coordinators
            else LocalCoordinator(data / "leases", address=address, poll=0.001)
        )
        start = getattr(coordinator, "start", None)
        if start is not None:
            await start()
        stack.push_async_callback(coordinator.close)
        engine = Engine(
            Parts(
                mounts={name: wiring.mount(remote) for name, remote in config.remotes.items()},
                store=store,
                index=index,
                ledger=index,
                coordinator=coordinator,
                upstream=upstream,
                observer=observer,
                clock=time.time,
                limits=config.limits,
                bounds=Bounds(config.data_limit, store.free, store.pinned),
                new_path=store.temp_path,
                executor=None,
            )
        )
        internal = Internal(
            engine.offer, secret, observer, time.time, peers=peers, worker=number, sockets=own.parent
        )
        via = f"replica-{number}"
        server = WebServer(engine, observer, config.limits, AccessRules(), via=via, internal=internal)
        await server.start("", 0, inherited=listener)
        await server.start_family(own)
        replica = Replica(base, engine, server, observer, coordinator, client)
        try:
            yield replica
        finally:
            await replica.stop()
