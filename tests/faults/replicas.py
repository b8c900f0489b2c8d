"""Replicas of the whole program over one PostgreSQL database, one Redis and one bucket.

    async with replicas(folder, chaos, 3) as cl:
        cl[0].net.redis.toxics = down()      # the network between this replica and that server
        await cl[1].get("/files/f.bin")

Each replica has data and copies of its own, and a network of its own to each server. They run in
this process; `tests/faults/processes.py` is for those that are killed. At the end everything has
ended and `fsck --full` over database and bucket finds nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from artifactproxy import inspection, wiring
from artifactproxy.config import Config
from artifactproxy.serving import _internal
from artifactproxy.web import sockets
from artifactproxy.web.access import AccessRules
from artifactproxy.web.app import WebServer
from tests.bucket import Bucket
from tests.chaos import Chaos, Exchange, Oracle
from tests.chaos.behaviours import ok
from tests.chaos.server import Behaviour
from tests.chaos.tcp import Tcp, calm
from tests.faults.machine import until
from tests.house_proxy import Got, Proxy, configuration
from tests.servers import postgres, redis
from tests.servers.redis import Redis

SECRET = "what only the replicas know"
SIZES = (1_000, 70_000, 300_000)
COORDINATION = {"budget": "2s", "connect": "2s", "rest": "100ms", "lease": "2s", "renew": "500ms"}
DATABASE = {"acquire": "5s", "command": "10s", "lock": "5s", "connect": "5s", "recheck": "200ms"}
BUCKET = {"tries": "2", "connect": "500ms", "read": "20s", "local_tier": "100MB"}
PATIENT = {"connect": "10s", "first_byte": "20s", "idle": "20s"}  # with upstream: this machine may be busy
LIMITS = {
    "error_memory": "10ms",
    "store_retry": "10s",
    "lease_wait": "2s",
    "takeover_wait": "10s",
    "flush_every": "200ms",
    "sweep_every": "1h",
    "log_every": "5ms",
}


@dataclass(slots=True)
class Servers:
    """What all replicas share; where a test hurts Redis it brings its own."""

    bucket: Bucket
    database: str
    redis: Redis
    prefix: str

    @property
    def database_address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.database.rpartition(":")[2].partition("/")[0])


@dataclass(slots=True)
class Net:
    """The networks of one replica."""

    redis: Tcp
    database: Tcp
    bucket: Tcp

    def each(self) -> tuple[Tcp, Tcp, Tcp]:
        return self.redis, self.database, self.bucket

    def heal(self) -> None:
        for proxy in self.each():
            proxy.toxics = calm()


class Replica(Proxy):
    """`get` answers with status 0 where there was no answer."""

    net: Net
    config: Config

    async def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        try:
            return await super().get(path, method, **headers)
        except aiohttp.ClientError:
            return Got(0, {}, None)

    async def heard(self) -> None:
        """Until what the others have written by now can no longer come as news."""
        watch, now = self.engine._parts.index._watch, time.monotonic()
        await until(lambda: watch._looked >= now)

    def temp_files(self) -> list[str]:
        return sorted(os.listdir(self.data / "tier" / "tmp"))


@dataclass(slots=True)
class Replicas:
    all: list[Replica]
    servers: Servers
    chaos: Chaos

    def __getitem__(self, number: int) -> Replica:
        return self.all[number]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self.all)

    async def settled(self) -> None:
        for replica in self.all:
            await replica.settled()

    def keys(self, kind: str = "") -> list[bytes]:
        """What lies in Redis of ours."""
        return list(self.servers.redis.ask("KEYS", f"{self.servers.prefix}{kind}*"))

    async def next_is_right(self, path: str = "/next.bin", size: int = 300_000, *, most: int = 1) -> None:
        """All is well again: a file nobody has seen is fetched once (or `most` times) and is everywhere."""
        body = self.chaos.script(path, late(0.1), size=size)
        crowd = [replica.get(f"/files{path}") for replica in self.all for _ in range(3)]
        for got in await asyncio.gather(*crowd):
            assert (got.status, got.body == body.bytes()) == (200, True), got
        asked = self.chaos.hits(path)
        assert asked <= most
        await self.settled()
        for replica in self.all:
            got = await replica.get(f"/files{path}")
            assert (got.status, got.source, got.body == body.bytes()) == (200, "cache", True)
        assert self.chaos.hits(path) == asked


def late(seconds: float) -> Behaviour:
    """An honest answer after a while, so that others come meanwhile."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await ok()(exchange)

    return behave


# --- load -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Load:
    """Clients that all ask for the same next file at about the same time, of every replica in turn,
    and again for older ones. Whatever is not a whole and right answer is in `wrong`."""

    cluster: Replicas
    wrong: list[tuple[str, int, str]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)
    _bodies: dict[str, Oracle] = field(default_factory=dict)
    _stopping: bool = False

    async def more(self, files: int) -> None:
        """Until so many further files were asked for."""
        wanted = len(self.paths) + files
        async with asyncio.timeout(60):
            while len(self.paths) < wanted:
                await asyncio.sleep(0.01)

    async def client(self, number: int) -> None:
        for turn in itertools.count():
            if self._stopping:
                return
            replica = self.cluster[(number + turn) % len(self.cluster.all)]
            path = self._path(turn if number % 4 else turn // 2)
            got = await replica.get(f"/files{path}")
            self.answers[got.source] += 1
            if got.status != 200 or got.body != self._bodies[path].bytes():
                self.wrong.append((path, got.status, got.error))

    def _path(self, turn: int) -> str:
        path = f"/load-{turn}.bin"
        if path not in self._bodies:
            size = SIZES[turn % len(SIZES)] + turn
            self._bodies[path] = self.cluster.chaos.script(path, late(0.02), size=size)
            self.paths.append(path)
        return path

    def asked(self) -> Counter[int]:
        """How many files cost so many requests upstream."""
        return Counter(
            Counter(seen.path for seen in self.cluster.chaos.requests if seen.path in self._bodies).values()
        )

    def is_right(self) -> None:
        """No error, and at most one fetch a replica and file."""
        assert self.wrong == []
        assert max(self.asked()) <= len(self.cluster.all), self.asked()
        assert self.answers["cache"] and self.answers["remote"]


@asynccontextmanager
async def load(cluster: Replicas, clients: int = 9) -> AsyncIterator[Load]:
    running = Load(cluster)
    tasks = [asyncio.create_task(running.client(number)) for number in range(clients)]
    try:
        yield running
    finally:
        running._stopping = True
        await asyncio.gather(*tasks)


# --- building them --------------------------------------------------------------------------


def _section(name: str, values: dict[str, str]) -> str:
    return f"{name}: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"


def _secrets(folder: Path, servers: Servers, **urls: str) -> dict[str, str]:
    """Written to files; how the configuration names them."""
    folder.mkdir(parents=True, exist_ok=True)
    access, key = next(iter(servers.bucket.keys.items()))
    for name, text in {**urls, "access": access, "key": key.secret, "secret": SECRET}.items():
        (folder / name).write_text(text)
    return {name: f"{{file: {folder / name}}}" for name in (*urls, "access", "key", "secret")}


def write_configuration(
    folder: Path,
    chaos: Chaos,
    servers: Servers,
    address: str,
    *,
    net: Net | None = None,
    limits: dict[str, str] | None = None,
    coordination: dict[str, str] | None = None,
    store: dict[str, str] | None = None,
    database: dict[str, str] | None = None,
    following: bool = True,
    top: str = "",
    remote: str = "",
    extra: dict[str, str] | None = None,
) -> Config:
    """Of a replica at `address`, whose servers are reached through `net`. Returns it loaded."""
    ways = [servers.database, servers.redis.url, servers.bucket.endpoint]
    if net is not None:
        ports = (servers.database_address[1], servers.redis.port, servers.bucket.port)
        proxies = (net.database, net.redis, net.bucket)
        ways = [
            way.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port}")
            for way, port, proxy in zip(ways, ports, proxies, strict=True)
        ]
    kept = _secrets(folder, servers, database=ways[0], redis=ways[1])
    chosen = {
        "kind": "s3",
        "bucket": servers.bucket.name,
        "endpoint": ways[2],
        "region": servers.bucket.region,
    }
    chosen |= {"addressing": "path", "access_key": kept["access"], "secret_key": kept["key"], **BUCKET}
    leases = {"kind": "redis", "url": kept["redis"], "prefix": f'"{servers.prefix}"', **COORDINATION}
    sections = [
        _section("store", chosen | (store or {})),
        _section(
            "index",
            {"kind": "postgres", "url": kept["database"], "pool": "5", **DATABASE, **(database or {})},
        ),
        _section("coordination", leases | (coordination or {})),
        _section("limits", LIMITS | (limits or {})),
    ]
    if following:
        sections.append(_section("cluster", {"advertise": f'"{address}"', "secret": kept["secret"]}))
    patience = "\n".join(f"{name}: {value}" for name, value in (PATIENT | (extra or {})).items())
    return configuration(folder, chaos.origin, patience, top="\n".join([*sections, top]), remote=remote)


@asynccontextmanager
async def servers_for(own_redis: Redis | None = None) -> AsyncIterator[Servers]:
    database = await asyncio.to_thread(lambda: postgres.shared().fresh_database())
    chosen = own_redis or await asyncio.to_thread(redis.shared)
    async with Bucket() as bucket:
        yield Servers(bucket, database, chosen, chosen.fresh_prefix())


@asynccontextmanager
async def nets(servers: Servers) -> AsyncIterator[Net]:
    addresses = [
        ("127.0.0.1", servers.redis.port),
        servers.database_address,
        ("127.0.0.1", servers.bucket.port),
    ]
    async with AsyncExitStack() as stack:
        yield Net(*[await stack.enter_async_context(Tcp(address)) for address in addresses])


@asynccontextmanager
async def replicas(
    folder: Path, chaos: Chaos, count: int = 3, *, own_redis: Redis | None = None, **options: object
) -> AsyncIterator[Replicas]:
    """`options` as of `write_configuration`."""
    async with servers_for(own_redis) as servers:
        async with _running(folder, chaos, servers, count, **options) as found:
            yield found
            for each in found:
                each.net.heal()
            await found.settled()
            for each in found:
                await until(lambda each=each: each.temp_files() == [])
        await checked(folder / "r0", chaos, servers)


@asynccontextmanager
async def _running(
    folder: Path, chaos: Chaos, servers: Servers, count: int, **options: object
) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        found = Replicas([], servers, chaos)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                auto_decompress=False,
                skip_auto_headers=["Accept-Encoding"],
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=120),
            )
        )
        for number in range(count):
            made = replica(folder / f"r{number}", chaos, servers, client, **options)
            found.all.append(await stack.enter_async_context(made))
        yield found


@asynccontextmanager
async def replica(
    folder: Path, chaos: Chaos, servers: Servers, client: aiohttp.ClientSession, **options: object
) -> AsyncIterator[Replica]:
    listener = sockets.tcp("127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener[0].getsockname()[1]}"
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(nets(servers))
        config = write_configuration(folder, chaos, servers, base, net=net, **options)  # type: ignore[arg-type]
        engine, observations, _ = await stack.enter_async_context(wiring.running(config))
        access = AccessRules(config.public_url, config.trusted_proxies, config.allowed_hosts)
        internal = _internal(config, engine, observations, None)
        server = WebServer(engine, observations, config.limits, access, via=base[7:], internal=internal)
        await server.start("", 0, inherited=listener)
        stack.push_async_callback(server.close)
        engine.start()
        made = Replica(base, engine, server, config.data, client, log=folder / "log")
        made.net, made.config = net, config
        yield made
        net.heal()


async def checked(folder: Path, chaos: Chaos, servers: Servers) -> None:
    """`artifactproxy fsck --full`, over the database and the bucket, of a replica that has stopped."""
    config = write_configuration(folder, chaos, servers, "http://127.0.0.1:1")
    wrong: list[str] = []
    async for line in inspection.fsck(config, full=True, repair=False):
        found = line.get("finding")
        if found and not found.get("note"):
            wrong.append(f"{found['invariant']} {found['kind']} {found['subject']}: {found['detail']}")
    assert not wrong, "\n".join(wrong)
