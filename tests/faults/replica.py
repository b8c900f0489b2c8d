"""The whole program as a replica: rows in a real Postgres behind a network that can be made bad, blobs in
the data folder or in the stand-in bucket.

    async with database() as pg, replica(tmp_path, chaos, pg) as proxy:
        pg.wire.toxics = down()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from artifactproxy import wiring
from artifactproxy.config import Config
from artifactproxy.model import ArtifactKey, CacheEntry
from artifactproxy.ports import Clock
from tests.bucket import Bucket
from tests.chaos import Chaos, Oracle
from tests.chaos.tcp import Tcp
from tests.house_proxy import Got, Proxy, configuration, served
from tests.servers import postgres
from tests.servers.postgres import Postgres

LIMITS = "limits: {flush_every: 100ms, sweep_every: 1h, watch_every: 200ms, min_free_share: 0}"
BYPASS = "artifactproxy; fwd=bypass"
QUICK = {"pause": 0.05, "recheck": 0.1, "start_wait": 5.0, "pool": 4}


@dataclass(slots=True)
class Wired:
    """One fresh database of `server`; `url` goes through `wire`."""

    server: Postgres
    wire: Tcp
    direct: str
    url: str

    @property
    def name(self) -> str:
        return self.direct.rpartition("/")[2]

    async def sql(self, statement: str, server: Postgres | None = None) -> str:
        """By the administrator, past the wire."""
        return await asyncio.to_thread((server or self.server).sql, statement, self.name)

    async def cut_off(self) -> None:
        """The administrator ends every connection (57P01)."""
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{self.name}' AND pid <> pg_backend_pid()"
        )

    async def recorded(self, path: str, server: Postgres | None = None) -> int:
        """How many rows name a blob for this path."""
        found = await self.sql(
            f"SELECT count(*) FROM entries WHERE path = '{path}' AND sha256 IS NOT NULL", server
        )
        return int(found)

    def through(self, port: int) -> str:
        """The address of the database at this port of the loopback."""
        parts = urlsplit(self.direct)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()


@asynccontextmanager
async def database(server: Postgres | None = None) -> AsyncIterator[Wired]:
    """Without `server`: of the one that all tests of a process share."""
    server = server or await asyncio.to_thread(postgres.shared)
    direct = await asyncio.to_thread(server.fresh_database)
    async with Tcp(("127.0.0.1", server.port)) as wire:
        wired = Wired(server, wire, direct, "")
        wired.url = wired.through(wire.port)
        yield wired
    if server.running:
        await asyncio.to_thread(server.sql, f'DROP DATABASE IF EXISTS "{wired.name}" WITH (FORCE)')


@asynccontextmanager
async def own_server(**settings: str) -> AsyncIterator[Postgres]:
    """A server that a test may hurt."""
    server = Postgres(settings=settings)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def configured(
    folder: Path,
    chaos: Chaos,
    pg: Wired,
    *,
    bucket: Bucket | None = None,
    url: str = "",
    top: str = LIMITS,
    extra: str = "queue_wait: 30s\nfirst_byte: 10s",
    remote: str = "",
    index: Mapping[str, Any] | None = None,
) -> Config:
    """`index` are further options of it. What a file has no word for is made quick."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dsn").write_text(url or pg.url)
    lines = [top, f"index: {{kind: postgres, url: {{file: {folder / 'dsn'}}}}}"]
    if bucket is not None:
        options = bucket.options()
        (folder / "key").write_text(options.secret_key)
        (folder / "access").write_text(options.access_key)
        lines.append(
            f"store: {{kind: s3, bucket: {options.bucket}, endpoint: '{options.endpoint}', region: us-east-1,"
            f" addressing: path, access_key: {{file: {folder / 'access'}}},"
            f" secret_key: {{file: {folder / 'key'}}}, tries: 3, connect: 10s, read: 3s}}"
        )
    config = configuration(folder, chaos.origin, extra, remote, "\n".join(lines))
    assert config.index is not None
    return replace(config, index=replace(config.index, **{**QUICK, **(index or {})}))


@dataclass(slots=True)
class Replica(Proxy):
    """A `Proxy` whose check is that of the running instance, by its own command."""

    config: Config | None = None

    async def check(self, but: str = "") -> None:
        await self.settled()
        await self.flushed()
        found, summary = await self.fsck()
        wrong = [f"{f['invariant']} {f['kind']} {f['subject']}: {f['detail']}" for f in found]
        wrong = [text for text in wrong if text[:3] not in but]
        assert not wrong, "\n".join(wrong)
        assert summary["found"] == 0 or but
        await self.upstream_idle()

    async def fsck(
        self, *, full: bool = True, repair: bool = False
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Findings and summary, as a running server gives them."""
        assert self.config is not None
        checkup, _ = wiring.checkup(self.engine, self.data, self.config)
        found, summary = [], {}
        try:
            async for line in checkup.fsck(full=full, repair=repair):
                if "finding" in line:
                    found.append(line["finding"])
                summary = line.get("summary", summary)
        finally:
            await checkup.close()
        return found, summary

    async def flushed(self) -> None:
        """Until every row that waited is recorded; for at most a minute."""
        async with asyncio.timeout(60):
            while self.engine.states()["unrecorded"]:
                await asyncio.sleep(0.02)

    async def recovered(self) -> None:
        """Until the index is as ever; for at most a minute."""
        async with asyncio.timeout(60):
            while (await self.engine.readiness()).verdicts["index"] != "ok":
                await asyncio.sleep(0.02)

    async def without_index(self) -> None:
        async with asyncio.timeout(60):
            while (await self.engine.readiness()).mode != "without index":
                await asyncio.sleep(0.02)

    async def row(self, path: str, repo: str = "files") -> CacheEntry | None:
        return (await self.engine.parts.index.find(ArtifactKey(repo, path))).entry


@asynccontextmanager
async def replica(
    folder: Path, chaos: Chaos, pg: Wired, *, clock: Clock = time.time, **how: Any
) -> AsyncIterator[Replica]:
    """Served as `configured` says."""
    config = configured(folder, chaos, pg, **how)
    async with served(config, folder, clock) as proxy:
        yield Replica(
            proxy.base,
            proxy.engine,
            proxy.server,
            proxy.data,
            proxy.client,
            proxy.sockets,
            proxy.log,
            config,
        )


def scripted(chaos: Chaos, names: Mapping[str, int], *behaviours: Any) -> dict[str, Oracle]:
    """Files of these sizes at upstream, by their path at the proxy."""
    from tests.chaos.behaviours import ok

    made = {}
    for name, size in names.items():
        made[f"/files/{name}"] = chaos.script(f"/{name}", *(behaviours or (ok(),)), size=size)
    return made


async def exact(proxy: Replica, bodies: Mapping[str, Oracle]) -> list[Got]:
    """All at once, each byte for byte."""
    answers = await asyncio.gather(*(proxy.get(path) for path in bodies))
    for (path, body), got in zip(bodies.items(), answers, strict=True):
        assert (got.status, got.body) == (200, body.bytes()), (path, got.status, got.error)
    return list(answers)


async def held(proxy: Replica, bodies: Mapping[str, Oracle]) -> None:
    """Until all of them are answered from the cache: on a busy machine some pass unstored at first, because
    a database that is asked by all at once is late for them."""
    async with asyncio.timeout(60):
        while {got.source for got in await exact(proxy, bodies)} != {"cache"}:
            await proxy.settled()


class Crowd:
    """Clients that ask for known files again and again, until it is left; what they saw is counted in
    `seen`: `cache`, `remote`, a status that is no 200, or `wrong`."""

    def __init__(self, proxy: Replica, bodies: Mapping[str, Oracle], clients: int = 6) -> None:
        self._proxy = proxy
        self._bodies = dict(bodies)
        self._clients = clients
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.seen: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask(n)) for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await asyncio.gather(*self._tasks)

    @property
    def total(self) -> int:
        return sum(self.seen.values())

    async def more(self, count: int) -> None:
        """Until so many more answers have come; for at most a minute."""
        until = self.total + count
        async with asyncio.timeout(60):
            while self.total < until:
                await asyncio.sleep(0.01)

    async def _ask(self, number: int) -> None:
        paths = list(self._bodies)
        at = number * len(paths) // self._clients
        while not self._ended.is_set():
            path = paths[at % len(paths)]
            at += 1
            got = await self._proxy.get(path)
            if got.status != 200:
                word = f"{got.status} {got.error}"
            elif got.body != self._bodies[path].bytes():
                word = "wrong"
            else:
                word = got.source
            self.seen[word] = self.seen.get(word, 0) + 1
            await asyncio.sleep(0)
