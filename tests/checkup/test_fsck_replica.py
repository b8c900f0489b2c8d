"""The check of a replica, stopped and running: damage planted in a real Postgres and in the stand-in bucket
is found under its name, repaired, and then gone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import inspection
from artifactproxy.config import Config
from artifactproxy.errors import IndexUnavailable, StoreUnavailable
from artifactproxy.rules.paths import blob_path
from tests.bucket import Bucket
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, status
from tests.chaos.tcp import calm, down
from tests.checkup.world import Line, gathered
from tests.faults.replica import Replica, Wired, configured, database, replica
from tests.house_proxy import promise

HOURS = 3 * 3600.0
FAR = time.time() + 10 * 86400
OTHER = hashlib.sha256(b"other bytes").hexdigest()


@dataclass
class Cluster:
    """What one replica has, or had while it ran; others may come to the same."""

    folder: Path
    chaos: Chaos
    pg: Wired
    bucket: Bucket
    bodies: dict[str, Oracle] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return configured(self.folder, self.chaos, self.pg, bucket=self.bucket)

    async def stopped(self, *, repair: bool = False, full: bool = True) -> tuple[list[Line], Line]:
        return await gathered(inspection.fsck(self.config, full=full, repair=repair))

    @asynccontextmanager
    async def serving(self, name: str = "") -> AsyncIterator[Replica]:
        folder = self.folder.with_name(name) if name else self.folder
        async with replica(folder, self.chaos, self.pg, bucket=self.bucket) as proxy:
            yield proxy

    async def fill(self, proxy: Replica) -> None:
        """Artifacts, an index, a superseded index and an absence."""
        for name, size in (("tool.bin", 300_000), ("small.bin", 10)):
            self.bodies[f"/files/{name}"] = self.chaos.script(f"/{name}", ok(), size=size)
        wheel = self.chaos.script("/pkg-1.0.tar.gz", ok(), size=5_000)
        self.bodies[promise(self.chaos, "pkg-1.0.tar.gz", wheel)] = wheel
        self.chaos.script("/gone.bin", status(404))
        for path, body in self.bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes()), path
        for version in (1, 2):
            self.chaos.script("/page.json", ok(), size=500, version=version)
            await proxy.get("/files/page.json", Cache_Control="no-cache")
            await proxy.settled()
            await self.pg.sql("UPDATE entries SET checked_at = 1 WHERE path = 'page.json'")
            proxy.engine.parts.index.suspect([])
        assert await self.pg.sql("SELECT count(*) FROM superseded") == "1"
        assert (await proxy.get("/files/gone.bin")).status == 404
        await proxy.settled()

    async def exact(self, proxy: Replica) -> None:
        """Every file is served byte for byte, and is held afterwards."""
        for path, body in self.bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes()), path
        await proxy.settled()
        for path in self.bodies:
            assert (await proxy.get(path)).source == "cache", path

    async def clean(self) -> None:
        found, summary = await self.stopped()
        assert (found, summary["found"]) == ([], 0)
        assert summary["checked"]["rows"] >= len(self.bodies)
        assert summary["checked"]["hashed"] == summary["checked"]["blobs"] >= len(self.bodies)

    def key(self, path: str) -> str:
        return blob_path(self.bodies[path].sha256)


@asynccontextmanager
async def cluster(folder: Path, chaos: Chaos) -> AsyncIterator[Cluster]:
    async with Bucket() as bucket, database() as pg:
        yield Cluster(folder / "replica", chaos, pg, bucket)


@dataclass(frozen=True)
class Planted:
    invariant: str
    kind: str
    plant: Callable[[Cluster], Awaitable[object]]
    fast: bool = True


def row(statement: str) -> Callable[[Cluster], Awaitable[object]]:
    async def plant(cluster: Cluster) -> None:
        count = await cluster.pg.sql(f"WITH done AS ({statement} RETURNING 1) SELECT count(*) FROM done")
        assert int(count) >= 1

    return plant


def thing(act: Callable[[Cluster], Any]) -> Callable[[Cluster], Awaitable[object]]:
    async def plant(cluster: Cluster) -> None:
        act(cluster)

    return plant


def _remove(cluster: Cluster) -> None:
    del cluster.bucket.objects[cluster.key("/files/tool.bin")]


def _change(cluster: Cluster, change: Callable[[bytes], bytes]) -> None:
    body = cluster.bodies["/files/tool.bin"].bytes()
    cluster.bucket.damage(cluster.key("/files/tool.bin"), change(body))


def _orphan(cluster: Cluster) -> None:
    body = b"nobody wants me"
    cluster.bucket.plant(blob_path(hashlib.sha256(body).hexdigest()), body, age=HOURS)


def _misplace(cluster: Cluster) -> None:
    key = cluster.key("/files/tool.bin")
    stored = cluster.bucket.objects.pop(key)
    wrong = "00" if "/00/" not in key else "01"
    cluster.bucket.objects[f"blobs/sha256/{wrong}/{key.rpartition('/')[2]}"] = stored


async def _contradiction(cluster: Cluster) -> None:
    cluster.bucket.plant(blob_path(OTHER), b"other bytes")
    await row(f"INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES ('{OTHER}', 11, 1, NULL)")(
        cluster
    )
    await row(f"UPDATE entries SET sha256 = '{OTHER}', size = 11 WHERE path = 'tool.bin'")(cluster)


PROMISED = "UPDATE promises SET {} WHERE repo = 'pypi' AND path LIKE '%pkg%'"
PLANTED = {
    "missing": Planted("I01", "missing", thing(_remove)),
    "short": Planted("I01", "size", thing(lambda c: _change(c, lambda body: body[:1000]))),
    "row-size": Planted("I01", "size", row("UPDATE entries SET size = 7 WHERE path = 'tool.bin'")),
    "damaged": Planted(
        "I02", "damaged", thing(lambda c: _change(c, lambda body: b"?" + body[1:])), fast=False
    ),
    "orphan": Planted("I10", "orphan", thing(_orphan)),
    "phantom": Planted(
        "I14",
        "phantom",
        row(f"INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES ('{'d' * 64}', 12345, 1, NULL)"),
    ),
    "uncounted": Planted("I14", "uncounted", row("DELETE FROM blobs WHERE size = 300000")),
    "miscounted": Planted("I14", "miscounted", row("UPDATE blobs SET size = 1 WHERE size = 300000")),
    "doomed": Planted("I15", "doomed", row("UPDATE blobs SET doomed_at = 1 WHERE size = 300000")),
    "generation": Planted(
        "I16", "generation", row("UPDATE entries SET generation = 10000000 WHERE path = 'page.json'")
    ),
    "ahead": Planted("I17", "time", row(f"UPDATE entries SET fetched_at = {FAR} WHERE path = 'page.json'")),
    "userinfo": Planted(
        "I20",
        "credential",
        row("UPDATE entries SET source = 'http://u:secret@127.0.0.1/x' WHERE path = 'tool.bin'"),
    ),
    "misplaced": Planted("I22", "misplaced", thing(_misplace)),
    "stray": Planted("I22", "stray", thing(lambda c: c.bucket.plant("blobs/notes.txt", b"whose is this?"))),
    "row-kind": Planted("I23", "row", row("UPDATE entries SET kind = 'odd' WHERE path = 'small.bin'")),
    "promise": Planted("I23", "promise", row(PROMISED.format("digests = 'nonsense'"))),
    "contradiction": Planted("I24", "contradiction", _contradiction),
}


def judged(found: list[Line], planted: Planted) -> list[Line]:
    return [f for f in found if (f["invariant"], f["kind"]) == (planted.invariant, planted.kind)]


@pytest.mark.parametrize("name", sorted(PLANTED))
async def test_planted_in_a_stopped_replica(tmp_path: Path, chaos: Chaos, name: str) -> None:
    planted = PLANTED[name]
    async with cluster(tmp_path, chaos) as world:
        async with world.serving() as proxy:
            await world.fill(proxy)
        await world.clean()
        await planted.plant(world)
        before = dict(world.bucket.objects), await dump(world)

        found, summary = await world.stopped(full=not planted.fast)
        assert judged(found, planted), found
        assert summary["found"] >= 1
        assert all(f["repaired"] is None for f in found)
        assert (dict(world.bucket.objects), await dump(world)) == before, "a check changes nothing"

        found, summary = await world.stopped(full=not planted.fast, repair=True)
        assert judged(found, planted), found
        assert [f for f in found if not f["repaired"]] == []
        assert summary["found"] == summary["repaired"] >= 1
        await world.clean()
        async with world.serving() as proxy:
            await world.exact(proxy)
        await world.clean()


@pytest.mark.parametrize("name", sorted(PLANTED))
async def test_planted_beside_running_replicas(tmp_path: Path, chaos: Chaos, name: str) -> None:
    """Asked of one of two; the other, which remembers rows and has copies, serves on."""
    planted = PLANTED[name]
    async with cluster(tmp_path, chaos) as world, world.serving() as one, world.serving("other") as two:
        await world.fill(one)
        await world.exact(two)
        assert await one.fsck() == ([], (await one.fsck())[1])
        await planted.plant(world)

        found, _ = await one.fsck(full=not planted.fast)
        assert judged(found, planted), found
        found, summary = await one.fsck(full=not planted.fast, repair=True)
        assert judged(found, planted), found
        assert [f for f in found if not f["repaired"]] == []
        assert summary["found"] == summary["repaired"] >= 1
        for proxy in (one, two):
            found, summary = await proxy.fsck()
            assert (found, summary["found"]) == ([], 0)
            await world.exact(proxy)


async def dump(world: Cluster) -> list[str]:
    tables = ("entries", "promises", "blobs", "superseded", "intents")
    return [await world.pg.sql(f"SELECT * FROM {table} t ORDER BY t::text") for table in tables]


@pytest.mark.parametrize("repair", [False, True], ids=["look", "repair"])
async def test_what_cannot_be_reached_is_no_finding(tmp_path: Path, chaos: Chaos, *, repair: bool) -> None:
    """Nothing is called missing, and nothing forgotten, because the bucket or the database is away."""
    async with cluster(tmp_path, chaos) as world:
        async with world.serving() as proxy:
            await world.fill(proxy)
        before = await dump(world)
        world.pg.wire.toxics = down()
        if repair:
            with pytest.raises(IndexUnavailable):
                await world.stopped(repair=True)
        else:
            [found], _ = await world.stopped()
            assert (found["invariant"], found["kind"]) == ("I23", "unreadable")
        world.pg.wire.toxics = calm()
        port = world.bucket.port
        await world.bucket.stop()
        with pytest.raises(StoreUnavailable):
            await world.stopped(repair=repair)
        await world.bucket.start(port)
        assert await dump(world) == before
        await world.clean()
