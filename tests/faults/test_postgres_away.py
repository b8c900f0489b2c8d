"""P01, P02: the database of a replica is down, or comes and goes, under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from artifactproxy.errors import IndexUnavailable
from tests.bucket import Bucket
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.chaos.tcp import calm, down, timeout
from tests.faults.machine import metric, readiness, told
from tests.faults.replica import (
    BYPASS,
    LIMITS,
    Crowd,
    Replica,
    Wired,
    configured,
    database,
    exact,
    held,
    own_server,
    replica,
    scripted,
)
from tests.followers.cluster import Gate
from tests.house_proxy import promise
from tests.program import START
from tests.servers.postgres import Postgres
from tests.servers.process import free_port

BIG = 1_000_000
KNOWN = {f"known{n}.bin": 20_000 + n for n in range(100)}
STORES = pytest.mark.parametrize("far", [False, True], ids=["folder", "bucket"])


@asynccontextmanager
async def world(
    folder: Path, chaos: Chaos, server: Postgres, *, far: bool = False, **how: object
) -> AsyncIterator[tuple[Replica, Wired]]:
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(Bucket()) if far else None
        pg = await stack.enter_async_context(database(server))
        proxy = await stack.enter_async_context(replica(folder, chaos, pg, bucket=bucket, **how))
        yield proxy, pg


@STORES
async def test_p01_stopped_under_load_and_back(tmp_path: Path, chaos: Chaos, *, far: bool) -> None:
    """What was served before is served on; what is new passes; what had begun is recorded afterwards."""
    known = scripted(chaos, KNOWN)
    gate = Gate(0.5)
    begun = scripted(chaos, {"begun.bin": BIG}, gate, ok())
    new = scripted(chaos, {f"new{n}.bin": 30_000 + n for n in range(20)})
    async with own_server() as server, world(tmp_path, chaos, server, far=far) as (proxy, pg):
        await held(proxy, known)
        await proxy.settled()
        asked = {name: chaos.hits(f"/{name}") for name in KNOWN}
        async with Crowd(proxy, known) as crowd:
            arriving = asyncio.create_task(exact(proxy, begun))
            await crowd.more(50)
            await asyncio.to_thread(server.end)
            gate.go.set()
            await arriving
            await proxy.without_index()
            await crowd.more(400)
            for _ in range(2):
                passed = await exact(proxy, new)
                assert {got.headers["Cache-Status"] for got in passed if got.source == "remote"} <= {BYPASS}
            await proxy.settled()
            [hit] = await exact(proxy, begun)
            assert hit.source == "cache", "its row waits in memory"
            assert proxy.engine.states()["unrecorded"] == 1
            ready, found = await readiness(proxy)
            assert (ready, found["mode"]) == (200, "without index")
            assert (await proxy.get("/livez")).status == 200
            assert await metric(proxy, "degraded", dependency="index") == 1
            await asyncio.to_thread(server.start)
            await proxy.recovered()
            await crowd.more(100)
        assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
        assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
        await proxy.flushed()
        assert await pg.recorded("begun.bin") == 1
        assert [await pg.recorded(path.removeprefix("/files/")) for path in new] == [0] * len(new)
        await exact(proxy, new)
        await proxy.settled()
        assert {got.source for got in await exact(proxy, new | known | begun)} == {"cache"}
        assert {name: chaos.hits(f"/{name}") for name in KNOWN} == asked
        assert chaos.hits("/begun.bin") == 1
        await told(proxy, lambda line: line["event"] == "recovered")
        await proxy.check()


@pytest.mark.parametrize("way", ["refused", "black hole"])
async def test_p01_the_network_to_it_is_gone(tmp_path: Path, chaos: Chaos, way: str) -> None:
    """Also where nobody says that nothing will come: one budget, then nothing is waited for."""
    known = scripted(chaos, KNOWN)
    page = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    promised = promise(chaos, "pkg-1.0.tar.gz", page)
    budget = {"command": 0.4, "acquire": 0.4, "connect": 0.4}
    async with database() as pg, replica(tmp_path, chaos, pg, index=budget) as proxy:
        await held(proxy, known | {promised: page})
        await proxy.settled()
        async with Crowd(proxy, known | {promised: page}) as crowd:
            await crowd.more(50)
            pg.wire.toxics = down() if way == "refused" else timeout()
            if way == "black hole":
                pg.wire.cut()
            await proxy.without_index()
            await crowd.more(600)
            [passed] = await exact(proxy, scripted(chaos, {"new.bin": BIG}))
            assert passed.headers["Cache-Status"] == BYPASS
            pg.wire.toxics = calm()
            await proxy.recovered()
            await crowd.more(50)
        assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
        assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
        await proxy.check()


async def test_p01_what_others_changed_meanwhile_counts_once_it_is_back(tmp_path: Path, chaos: Chaos) -> None:
    """What is remembered is told while nothing better is known, and no longer."""
    async with (
        Bucket() as bucket,
        database() as pg,
        replica(tmp_path / "one", chaos, pg, bucket=bucket) as one,
        replica(tmp_path / "two", chaos, pg, bucket=bucket, url=pg.direct) as two,
    ):
        known = scripted(chaos, {"tool.bin": BIG})
        await held(one, known)
        pg.wire.toxics = down()
        await one.without_index()
        assert (await two.engine.purge("files"))["entries"] == 1
        other = scripted(chaos, {"tool.bin": BIG})
        chaos.script("/tool.bin", ok(), size=BIG, version=2)
        del other
        [kept] = await exact(one, known)
        assert kept.source == "cache"
        pg.wire.toxics = calm()
        await one.recovered()
        async with asyncio.timeout(30):
            while (got := await one.get("/files/tool.bin")).source == "cache":
                await asyncio.sleep(0.02)
        assert got.body != known["/files/tool.bin"].bytes()
        await one.settled()
        assert (await two.get("/files/tool.bin")).body == got.body
        await two.check()


async def test_p01_at_the_start_it_is_waited_for(tmp_path: Path, chaos: Chaos) -> None:
    known = scripted(chaos, {"tool.bin": BIG})
    async with own_server() as server, database(server) as pg:
        await asyncio.to_thread(server.end)

        async def later() -> None:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)

        coming = asyncio.create_task(later())
        async with replica(tmp_path, chaos, pg, index={"start_wait": 60.0}) as proxy:
            await coming
            await held(proxy, known)
            assert {got.source for got in await exact(proxy, known)} == {"cache"}
            await proxy.check()


async def test_p01_and_then_the_start_ends_with_what_to_do(tmp_path: Path, chaos: Chaos) -> None:
    """As a user sees it: a sentence without the password, and a status."""
    async with database() as pg:
        url = pg.through(free_port())
        with pytest.raises(IndexUnavailable, match="start PostgreSQL at"):
            async with replica(tmp_path, chaos, pg, url=url, index={"start_wait": 0.3}):
                pass
        text = LIMITS + f"\nindex: {{kind: postgres, url: {{file: {tmp_path / 'dsn'}}}, start_wait: 300ms}}"
        configured(tmp_path, chaos, pg, url=url)
        (tmp_path / "config.yaml").write_text(f"listen: 127.0.0.1:0\ndata: {tmp_path / 'data'}\n{text}\n")
        process = await asyncio.create_subprocess_exec(
            *(*START, "serve", "--config", str(tmp_path / "config.yaml")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, said = await process.communicate()
        assert process.returncode == 1, said
        assert b"start PostgreSQL at 127.0.0.1:" in said
        assert b"Traceback" not in said
        assert b"word" not in said, "its password"


@STORES
async def test_p02_ten_restarts_under_load(tmp_path: Path, chaos: Chaos, *, far: bool) -> None:
    """As after a crash, each: every answer is right, and what was stored is found."""
    known = scripted(chaos, KNOWN)
    async with own_server() as server, world(tmp_path, chaos, server, far=far) as (proxy, pg):
        await held(proxy, known)
        await proxy.settled()
        fresh = {}
        async with Crowd(proxy, known) as crowd:
            for turn in range(10):
                these = scripted(chaos, {f"new{turn}-{n}.bin": 50_000 + n for n in range(5)})
                fresh |= these
                asked = asyncio.create_task(exact(proxy, these))
                await asyncio.to_thread(server.restart, "immediate")
                await asked
                await crowd.more(10)
        await proxy.recovered()
        assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
        assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
        assert await metric(proxy, "index_reconnects_total") > 0
        await proxy.settled()
        await proxy.flushed()
        await exact(proxy, fresh)
        await proxy.settled()
        assert {got.source for got in await exact(proxy, fresh | known)} == {"cache"}
        rows = [await pg.recorded(path.removeprefix("/files/")) for path in fresh]
        assert rows == [1] * len(fresh)
        await proxy.check()
