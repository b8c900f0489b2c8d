"""P06, P08: a replica's database fails over to another server, which may lack the last commits."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bucket import Bucket
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.chaos.tcp import calm, down
from tests.faults.machine import metric
from tests.faults.replica import Crowd, Replica, Wired, database, exact, held, own_server, replica, scripted
from tests.followers.cluster import Gate
from tests.house_proxy import promise
from tests.servers.postgres import ADMIN, ADMIN_PASSWORD, Postgres
from tests.servers.process import HOST

BIG = 1_000_000
HOURS = 3 * 3600.0
KNOWN = {f"known{n}.bin": 20_000 + n for n in range(30)}


class Copy(Postgres):
    """A base backup of `origin` as it is when this starts; as a `standby` it follows it from then on."""

    def __init__(self, origin: Postgres, *, standby: bool) -> None:
        super().__init__()
        self._origin = origin
        self._standby = standby

    def prepare(self) -> None:
        if (self.folder / "data/PG_VERSION").exists():
            return
        source = f"host={HOST} port={self._origin.port} user={ADMIN} password={ADMIN_PASSWORD}"
        wanted = ["-D", str(self.folder / "data"), "-d", source, "--checkpoint=fast", "--no-sync"]
        wanted += ["-X", "stream", *(["-R"] if self._standby else [])]
        self.run(str(self._bin / "pg_basebackup"), *wanted)

    def promote(self) -> None:
        self.sql("SELECT pg_promote()")


@asynccontextmanager
async def copied(origin: Postgres, *, standby: bool = False) -> AsyncIterator[Copy]:
    copy = Copy(origin, standby=standby)
    await asyncio.to_thread(copy.start)
    try:
        yield copy
    finally:
        await asyncio.to_thread(copy.stop)


def switch(pg: Wired, server: Postgres) -> None:
    pg.wire.switch((HOST, server.port))


async def caught_up(origin: Postgres, copy: Copy) -> None:
    """Until the standby has everything that its primary has."""
    lag = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
    async with asyncio.timeout(60):
        while await asyncio.to_thread(origin.sql, lag) != "1":
            await asyncio.sleep(0.05)
    assert copy.running


async def test_p06_the_primary_may_only_be_read_and_another_takes_over(tmp_path: Path, chaos: Chaos) -> None:
    """Hits go on all the while; what is fetched meanwhile is recorded at the new primary."""
    known = scripted(chaos, KNOWN)
    meanwhile = scripted(chaos, {f"meanwhile{n}.bin": 30_000 + n for n in range(10)})
    async with own_server() as first, database(first) as pg, copied(first, standby=True) as second:
        async with replica(tmp_path, chaos, pg) as proxy:
            await held(proxy, known)
            await caught_up(first, second)
            async with Crowd(proxy, known) as crowd:
                await asyncio.to_thread(first.sql, "ALTER SYSTEM SET default_transaction_read_only = on")
                await asyncio.to_thread(first.sql, "SELECT pg_reload_conf()")
                async with asyncio.timeout(30):
                    number = 0
                    while await metric(proxy, "index_readonly_total") == 0:
                        number += 1
                        await exact(proxy, scripted(chaos, {f"probe{number}.bin": 10_000}))
                        await proxy.settled()
                await exact(proxy, meanwhile)
                await proxy.settled()
                assert {got.source for got in await exact(proxy, meanwhile)} == {"cache"}
                assert proxy.engine.states()["unrecorded"] > 0
                assert (await proxy.engine.readiness()).verdicts["index"] == "the index can only be read"
                await asyncio.to_thread(first.end)
                await asyncio.to_thread(second.promote)
                switch(pg, second)
                await proxy.recovered()
                await crowd.more(100)
            assert crowd.seen.get("cache", 0) >= 0.99 * crowd.total, crowd.seen
            assert set(crowd.seen) <= {"cache", "remote"}, crowd.seen
            await proxy.flushed()
            rows = [await pg.recorded(path.removeprefix("/files/"), second) for path in meanwhile | known]
            assert rows == [1] * len(rows)
            assert all(chaos.hits(path.removeprefix("/files")) == 1 for path in meanwhile | known)
            await proxy.check()


@asynccontextmanager
async def older(
    folder: Path, chaos: Chaos, *, far: bool, lost: dict[str, Any], kept: dict[str, Any]
) -> AsyncIterator[tuple[Replica, Wired, Copy, Bucket | None]]:
    """A replica that has stored `kept`, then `lost`, and whose database is now one that knows only the
    first."""
    bucket = Bucket()
    async with (
        bucket,
        own_server() as first,
        database(first) as pg,
        replica(folder, chaos, pg, bucket=bucket if far else None, remote="min_revalidate: 0s") as proxy,
    ):
        await exact(proxy, kept)
        await proxy.settled()
        async with copied(first) as second:
            await exact(proxy, lost)
            await proxy.settled()
            await exact(proxy, lost)
            pg.wire.toxics = down()
            await asyncio.to_thread(first.end)
            await proxy.without_index()
            switch(pg, second)
            pg.wire.toxics = calm()
            await proxy.recovered()
            yield proxy, pg, second, bucket if far else None


def aged(proxy: Replica, bucket: Bucket | None, seconds: float) -> None:
    """All blobs were put so much earlier."""
    if bucket is not None:
        for stored in bucket.objects.values():
            stored.modified -= seconds
        return
    for path in proxy.blobs():
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


def stored(proxy: Replica, bucket: Bucket | None) -> set[str]:
    if bucket is not None:
        return {key.rpartition("/")[2] for key in bucket.objects if "sha256" in key}
    return {path.name for path in proxy.blobs()}


FAR = pytest.mark.parametrize("far", [False, True], ids=["folder", "bucket"])


@FAR
async def test_p08_what_a_restored_database_lost_is_fetched_again(
    tmp_path: Path, chaos: Chaos, *, far: bool
) -> None:
    """Its blobs are taken for orphans until somebody asks for them; then they are adopted."""
    kept = scripted(chaos, KNOWN)
    lost = scripted(chaos, {f"lost{n}.bin": 40_000 + n for n in range(10)})
    wheel = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    lost[promise(chaos, "pkg-1.0.tar.gz", wheel)] = wheel
    async with older(tmp_path, chaos, far=far, lost=lost, kept=kept) as (proxy, _, _, bucket):
        found, summary = await proxy.fsck()
        assert summary["found"] == len(found)
        before = stored(proxy, bucket)
        assert before >= {body.sha256 for body in lost.values()}, "nothing is deleted rashly"
        async with asyncio.timeout(30):
            while {got.source for got in await exact(proxy, kept)} != {"cache"}:
                await asyncio.sleep(0.02)
        assert {got.source for got in await exact(proxy, lost)} == {"remote"}
        await proxy.settled()
        assert {got.source for got in await exact(proxy, lost)} == {"cache"}
        assert stored(proxy, bucket) >= before, "the same names"
        assert all(chaos.hits(path.removeprefix("/files")) == 1 for path in kept)
        await proxy.check()


@FAR
async def test_p08_blobs_nobody_asks_for_again_are_collected(
    tmp_path: Path, chaos: Chaos, *, far: bool
) -> None:
    """The check tells of them, also repairs, and gc alone does as well; what the database knows stays."""
    kept = scripted(chaos, KNOWN)
    lost = scripted(chaos, {f"lost{n}.bin": 40_000 + n for n in range(10)})
    async with older(tmp_path, chaos, far=far, lost=lost, kept=kept) as (proxy, _, _, bucket):
        orphans = {body.sha256 for body in lost.values()}
        assert stored(proxy, bucket) >= orphans
        assert (await proxy.engine.gc(run=True))["orphans"] == 0, "they are young: their rows may wait"
        aged(proxy, bucket, HOURS)
        found, summary = await proxy.fsck()
        assert {(f["invariant"], f["kind"]) for f in found if not f["note"]} == {("I10", "orphan")}
        assert summary["found"] == len(orphans)
        report = await proxy.engine.gc(run=True)
        assert report["orphans"] == len(orphans)
        assert not stored(proxy, bucket) & orphans
        assert {got.source for got in await exact(proxy, kept)} == {"cache"}
        await proxy.check()
        assert {got.source for got in await exact(proxy, lost)} == {"remote"}
        await proxy.settled()
        await proxy.check()


async def test_p08_generations_of_a_restored_database_go_on_from_those_it_lost(
    tmp_path: Path, chaos: Chaos
) -> None:
    """A download asked the old one for its number and is recorded at the new one, which would go on
    counting below it: whatever is fetched later would be taken for older, and never be told."""
    gate = Gate(0.5)
    second_version = chaos.script("/page.json", gate, ok(), size=BIG, version=2)

    async def asked(proxy: Replica) -> bytes | None:
        return (await proxy.get("/files/page.json", Cache_Control="no-cache")).body

    async with own_server() as first, database(first) as pg:
        async with (
            replica(tmp_path, chaos, pg, remote="min_revalidate: 0s") as proxy,
            copied(first) as second,
        ):
            for _ in range(200):  # more than a restart skips
                await proxy.engine.parts.index.generation()
            arriving = asyncio.create_task(asked(proxy))
            await gate.reached.wait()
            await asyncio.to_thread(first.end)
            await proxy.without_index()
            switch(pg, second)
            await proxy.recovered()
            gate.go.set()
            assert await arriving == second_version.bytes()
            await proxy.settled()
            await proxy.flushed()
            third = chaos.script("/page.json", ok(), size=5_000, version=3)
            assert await asked(proxy) == third.bytes()
            await proxy.settled()
            await proxy.flushed()
            assert (await proxy.get("/files/page.json")).body == third.bytes()
            row = await pg.sql("SELECT sha256 FROM entries WHERE path = 'page.json'", second)
            assert row == third.sha256
            await proxy.check()


async def test_p08_a_folder_that_was_lost_as_well_is_filled_again(tmp_path: Path, chaos: Chaos) -> None:
    """The other way round: rows whose blobs are of a younger past."""
    kept = scripted(chaos, KNOWN)
    async with database() as pg, replica(tmp_path, chaos, pg) as proxy:
        await exact(proxy, kept)
        await proxy.settled()
        for shard in (proxy.data / "blobs/sha256").iterdir():
            shutil.rmtree(shard)
        found, summary = await proxy.fsck()
        assert summary["found"] == len(found) == len(KNOWN)
        assert {f["invariant"] for f in found} == {"I01"}
        await exact(proxy, kept)
        await proxy.settled()
        assert {got.source for got in await exact(proxy, kept)} == {"cache"}
        await proxy.check()
