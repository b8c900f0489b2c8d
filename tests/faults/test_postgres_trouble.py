"""P03 to P05, P07, P09 to P11: the database of a replica answers late, refuses, is full, or is met through
a pooler; and requests go on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import wiring
from artifactproxy.errors import IndexUnavailable
from tests.bucket import Bucket
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.chaos.tcp import calm, cut_after, latency
from tests.faults.machine import fill_up, metric, mount, told, umount
from tests.faults.replica import (
    BYPASS,
    LIMITS,
    Crowd,
    configured,
    database,
    exact,
    held,
    own_server,
    replica,
    scripted,
)
from tests.house_proxy import served
from tests.program import START
from tests.servers import postgres
from tests.servers.pgbouncer import PgBouncer

BIG = 1_000_000
KNOWN = {f"known{n}.bin": 20_000 + n for n in range(60)}
COMMIT = b"COMMIT\0"
__all__ = ["mount"]


async def test_p03_slow_is_as_good_as_away(tmp_path: Path, chaos: Chaos) -> None:
    """What is remembered is served; what is new passes unstored after one budget, and once."""
    known = scripted(chaos, KNOWN)
    async with (
        database() as pg,
        replica(tmp_path, chaos, pg, index={"command": 1.0, "acquire": 1.0}) as proxy,
    ):
        await held(proxy, known)
        async with Crowd(proxy, known) as crowd:
            pg.wire.toxics = latency(30.0)
            new = scripted(chaos, {f"new{n}.bin": 30_000 + n for n in range(10)})
            passed = await exact(proxy, new)
            assert {got.headers["Cache-Status"] for got in passed} == {BYPASS}
            await crowd.more(300)
            pg.wire.toxics = calm()
            await proxy.recovered()
            await crowd.more(50)
        assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
        assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
        assert await metric(proxy, "index_slow_total") > 0
        await proxy.settled()
        await held(proxy, new | known)
        await proxy.check()


async def test_p03_a_lock_that_somebody_holds_stops_no_client(tmp_path: Path, chaos: Chaos) -> None:
    """An administrator's own transaction on the table, say: rows wait in memory until it has ended."""
    known = scripted(chaos, {"held.bin": BIG})
    new = scripted(chaos, {"new.bin": BIG})
    async with (
        database() as pg,
        replica(tmp_path, chaos, pg, index={"lock": 0.2, "command": 1.0}) as proxy,
    ):
        await held(proxy, known)
        locking = "BEGIN; LOCK TABLE entries IN SHARE MODE; SELECT pg_sleep(2); COMMIT"
        holding = asyncio.create_task(pg.sql(locking))
        async with asyncio.timeout(30):
            while await pg.sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND granted") == "0":
                await asyncio.sleep(0.02)
        await exact(proxy, new)
        assert {got.source for got in await exact(proxy, known)} == {"cache"}
        await holding
        await proxy.settled()
        assert {got.source for got in await exact(proxy, new)} == {"cache"}
        await proxy.flushed()
        assert await pg.recorded("new.bin") == 1
        await proxy.check()


async def test_p04_fifty_writers_of_one_mutable_key(tmp_path: Path, chaos: Chaos) -> None:
    """Ten replicas look upstream at once, five times, and upstream changes all the while; the database
    would run everything SERIALIZABLE. The newest look counts, each body it replaced is kept once."""
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(Bucket())
        pg = await stack.enter_async_context(database())
        await pg.sql(f'ALTER DATABASE "{pg.name}" SET default_transaction_isolation = serializable')
        replicas = [
            await stack.enter_async_context(
                replica(
                    tmp_path / f"r{n}",
                    chaos,
                    pg,
                    bucket=bucket,
                    index={"pool": 2},
                    remote="min_revalidate: 0s",
                )
            )
            for n in range(10)
        ]
        bodies = []
        for version in range(5):
            bodies.append(chaos.script("/page.json", ok(), size=5_000, version=version))
            asked = [proxy.get("/files/page.json", Cache_Control="no-cache") for proxy in replicas]
            for got in await asyncio.gather(*asked):
                assert got.status == 200, got
                assert got.body in [body.bytes() for body in bodies]
            for proxy in replicas:
                await proxy.settled()
        for proxy in replicas:
            await proxy.flushed()
        assert await pg.recorded("page.json") == 1
        row = await pg.sql("SELECT sha256 FROM entries WHERE path = 'page.json'")
        assert row == bodies[-1].sha256
        old = await pg.sql("SELECT sha256 FROM superseded ORDER BY sha256")
        assert old.split() == sorted(body.sha256 for body in bodies[:-1])
        async with asyncio.timeout(30):
            for proxy in replicas:
                while (got := await proxy.get("/files/page.json")).body != bodies[-1].bytes():
                    await asyncio.sleep(0.02)
                assert got.source == "cache"
        await replicas[0].check()


async def test_p05_two_connections_and_five_hundred_clients(tmp_path: Path, chaos: Chaos) -> None:
    """Who gets none in time passes unstored; nobody is refused, and nothing stays behind."""
    known = scripted(chaos, KNOWN)
    new = scripted(chaos, {f"new{n}.bin": 5_000 + n for n in range(250)})
    async with (
        database() as pg,
        replica(tmp_path, chaos, pg, index={"pool": 2, "acquire": 0.2}) as proxy,
    ):
        await held(proxy, known)
        pg.wire.toxics = latency(0.02)
        twice = [asyncio.create_task(exact(proxy, new)) for _ in range(2)]
        hits = await exact(proxy, known)
        assert {got.source for got in hits} == {"cache"}
        answers = [got for asked in twice for got in await asked]
        assert any(got.headers["Cache-Status"] == BYPASS for got in answers)
        assert await metric(proxy, "index_pool_exhausted_total") > 0
        pg.wire.toxics = calm()
        await proxy.settled()
        await proxy.recovered()
        await proxy.flushed()
        assert all(chaos.hits(path.removeprefix("/files")) <= 2 for path in new)
        for part in (list(new)[:125], list(new)[125:]):
            await exact(proxy, {path: new[path] for path in part})
            await proxy.settled()
        assert {got.source for got in await exact(proxy, known)} == {"cache"}
        await proxy.check()


async def test_p07_every_commit_loses_its_answer(tmp_path: Path, chaos: Chaos) -> None:
    """The client has its bytes, each row is there once, and a use is counted once."""
    known = scripted(chaos, {f"known{n}.bin": 20_000 + n for n in range(5)})
    async with database() as pg, replica(tmp_path, chaos, pg) as proxy:
        pg.wire.toxics = cut_after(COMMIT)
        for path in known:
            await exact(proxy, {path: known[path]})
            await proxy.settled()
        assert await metric(proxy, "index_unknown_commits_total") > 0
        for path in known:
            assert {got.source for got in await exact(proxy, {path: known[path]})} == {"cache"}
        pg.wire.toxics = calm()
        await proxy.recovered()
        await proxy.settled()
        await proxy.flushed()
        assert [await pg.recorded(path.removeprefix("/files/")) for path in known] == [1] * len(known)
        await proxy.engine._usage.flush()
        assert await pg.sql("SELECT sum(requests), count(DISTINCT sha256) FROM uses") == "10|5"
        assert all(chaos.hits(path.removeprefix("/files")) == 1 for path in known)
        await proxy.check()


async def test_p09_its_disk_is_full(tmp_path: Path, chaos: Chaos, mount: Any) -> None:
    """What is held is served, what is new is fetched once and served from memory of its row; it is all
    recorded when there is room."""
    async with own_server() as server:
        small = server.folder / "small"
        mount(small, "-t", "tmpfs", "-o", "size=24m,mode=0777", "small")
        place = small / "space"
        place.mkdir()
        server._give(place)
        try:
            await _in_a_small_space(tmp_path, chaos, server, small)
        finally:
            await asyncio.to_thread(server.end)
            umount(small)


async def _in_a_small_space(folder: Path, chaos: Chaos, server: postgres.Postgres, small: Path) -> None:
    known = scripted(chaos, KNOWN)
    new = scripted(chaos, {f"new{n}.bin": 5_000 + n for n in range(150)})
    await asyncio.to_thread(server.sql, f"CREATE TABLESPACE small LOCATION '{small / 'space'}'")
    async with database(server) as pg:
        await asyncio.to_thread(server.sql, f'ALTER DATABASE "{pg.name}" SET TABLESPACE small')
        async with replica(folder, chaos, pg) as proxy:
            await held(proxy, known)
            await pg.sql("CHECKPOINT")
            ballast = await asyncio.to_thread(fill_up, small)
            await exact(proxy, new)
            await proxy.settled()
            assert {got.source for got in await exact(proxy, new | known)} == {"cache"}
            assert proxy.engine.states()["unrecorded"] > 0
            line = await told(proxy, lambda line: line.get("warning") == "record_waits")
            assert line["error"] == "index_full"
            for path in ballast:
                path.unlink()
            await proxy.flushed()
            rows = await pg.sql("SELECT count(*) FROM entries WHERE sha256 IS NOT NULL")
            assert int(rows) == len(new) + len(known)
            assert all(chaos.hits(path.removeprefix("/files")) == 1 for path in new | known)
            await proxy.check()


async def test_p09_no_place_is_left_for_a_connection(tmp_path: Path, chaos: Chaos) -> None:
    """53300, while the administrator ends those there are (57P01)."""
    known = scripted(chaos, KNOWN)
    async with database() as pg, replica(tmp_path, chaos, pg) as proxy:
        await held(proxy, known)
        async with Crowd(proxy, known) as crowd:
            for turn in range(5):
                await pg.cut_off()
                await exact(proxy, scripted(chaos, {f"cut{turn}.bin": 30_000}))
            await pg.sql(f'ALTER DATABASE "{pg.name}" CONNECTION LIMIT 0')
            await pg.cut_off()
            await proxy.without_index()
            await crowd.more(200)
            [passed] = await exact(proxy, scripted(chaos, {"late.bin": BIG}))
            assert passed.headers["Cache-Status"] == BYPASS
            await pg.sql(f'ALTER DATABASE "{pg.name}" CONNECTION LIMIT -1')
            await proxy.recovered()
            await crowd.more(50)
        assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
        assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
        await proxy.settled()
        await proxy.check()


async def test_p10_a_schema_of_another_version(tmp_path: Path, chaos: Chaos) -> None:
    """One step ahead is served, so that replicas can be exchanged one by one; more is refused, by a
    sentence and a status, and nothing is touched."""
    known = scripted(chaos, {"tool.bin": BIG})
    async with database() as pg:
        async with replica(tmp_path, chaos, pg) as proxy:
            await held(proxy, known)
        ours = int(await pg.sql("SELECT max(number) FROM steps"))
        await pg.sql(f"INSERT INTO steps VALUES ({ours + 1}, '{ours + 1:04}_of_a_newer_version.sql')")
        await pg.sql("ALTER TABLE entries ADD COLUMN more TEXT NOT NULL DEFAULT 'unknown to us'")
        async with replica(tmp_path, chaos, pg) as proxy:
            assert {got.source for got in await exact(proxy, known)} == {"cache"}
            await exact(proxy, scripted(chaos, {"other.bin": BIG}))
            await proxy.check()
        await pg.sql(f"INSERT INTO steps VALUES ({ours + 2}, '{ours + 2:04}_of_a_much_newer_version.sql')")
        before = await pg.sql("SELECT * FROM entries ORDER BY key")
        with pytest.raises(IndexUnavailable, match="was made by a newer version"):
            async with replica(tmp_path, chaos, pg):
                pass
        text = f"listen: 127.0.0.1:0\ndata: {tmp_path / 'data'}\n{LIMITS}\n"
        text += f"index: {{kind: postgres, url: {{file: {tmp_path / 'dsn'}}}}}\n"
        (tmp_path / "config.yaml").write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(*START, "serve", "--config", str(tmp_path / "config.yaml")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, said = await process.communicate()
        assert process.returncode == 1, said
        assert f"made by a newer version (schema {ours + 2}, this one knows {ours})".encode() in said
        assert b"Traceback" not in said
        assert await pg.sql("SELECT * FROM entries ORDER BY key") == before
        await pg.sql(f"DELETE FROM steps WHERE number > {ours}")
        async with replica(tmp_path, chaos, pg) as proxy:
            assert {got.source for got in await exact(proxy, known)} == {"cache"}
            await proxy.check()


async def test_p11_behind_a_pooler_of_transactions(tmp_path: Path, chaos: Chaos) -> None:
    """Two replicas, three connections for both of them, and a pooler that is killed under load."""
    known = scripted(chaos, KNOWN)
    pooled: dict[str, Any] = {"pgbouncer": True, "pool": 6}
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(Bucket())
        pg = await stack.enter_async_context(database())
        pooler = PgBouncer(pg.server, pool=3)
        await asyncio.to_thread(pooler.start)
        stack.push_async_callback(asyncio.to_thread, pooler.stop)
        address = pooler.url(pg.direct)
        one, two = [
            await stack.enter_async_context(
                replica(tmp_path / name, chaos, pg, bucket=bucket, url=address, index=pooled)
            )
            for name in ("one", "two")
        ]
        await held(one, known)
        await one.flushed()
        for _ in range(2):
            assert {got.source for got in await exact(two, known)} == {"cache"}
            await asyncio.sleep(0.3)  # it has heard of all that one wrote
        async with Crowd(one, known) as crowd, Crowd(two, known) as other:
            await asyncio.to_thread(pooler.restart)
            await one.recovered()
            await two.recovered()
            new = scripted(chaos, {"new.bin": BIG})
            await held(one, new)
            await asyncio.gather(crowd.more(50), other.more(50))
        for seen in (crowd, other):
            assert seen.seen.get("cache", 0) >= 0.99 * seen.total, seen.seen
            assert set(seen.seen) <= {"cache", "remote"}, seen.seen
        await one.flushed()
        await two.recovered()
        assert {got.source for got in await exact(two, new)} == {"cache"}
        assert (await one.engine.purge("files"))["entries"] == len(KNOWN) + 1
        async with asyncio.timeout(30):
            while (await two.get("/files/new.bin")).source == "cache":
                await asyncio.sleep(0.02)
        await two.settled()
        await two.check()


async def test_p11_a_pooler_that_is_not_told_of_is_named(tmp_path: Path, chaos: Chaos) -> None:
    async with database() as pg:
        pooler = PgBouncer(pg.server)
        await asyncio.to_thread(pooler.start)
        try:
            config = configured(tmp_path, chaos, pg, url=pooler.url(pg.direct))
            with pytest.raises(IndexUnavailable, match=r"set index\.pgbouncer: true"):
                async with served(config, tmp_path):
                    pass
            assert config.index is not None
            pooled = replace(config, index=replace(config.index, pgbouncer=True))
            async with wiring.running(pooled) as (engine, _, _):
                assert (await engine.readiness()).ready
        finally:
            await asyncio.to_thread(pooler.stop)
