"""The check beside traffic: no false alarm, no stall; and a checker that is itself in trouble."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path

import pytest

from artifactproxy import failpoints, inspection, wiring
from artifactproxy.errors import Busy, StoreUnavailable
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Kind
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.checkup.planted import _damage, make_blob
from tests.checkup.world import TOP, filled, gathered, sql
from tests.house_proxy import configuration, proxied

TIGHT = (
    "data_limit: 300kB\n"
    "limits: {blob_grace: 30ms, sweep_every: 40ms, flush_every: 20ms, superseded_keep: 200ms, min_free_share: 0}"
)
REMOTE = "ttl: 20ms\nmin_revalidate: 0s\n"


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoints.arm("")


async def test_no_false_alarm_while_everything_moves(tmp_path: Path, chaos: Chaos) -> None:
    """Fills, evictions, revalidations, superseded indexes and purges, all the time."""
    dice = random.Random(4)
    names = [f"f{number}.bin" for number in range(24)] + [f"i{number}.json" for number in range(6)]
    bodies = {name: chaos.script(f"/{name}", ok(), size=30_000) for name in names}
    async with proxied(tmp_path, chaos.origin, top=TIGHT, remote=REMOTE) as proxy:
        checkup, _ = wiring.checkup(
            proxy.engine, proxy.data, configuration(tmp_path, chaos.origin, top=TIGHT)
        )
        answers = 0

        async def traffic() -> None:
            nonlocal answers
            while True:
                name = dice.choice(names)
                if name.endswith(".json") and dice.random() < 0.3:
                    bodies[name] = chaos.script(f"/{name}", ok(), size=30_000, version=dice.randrange(5))
                got = await proxy.get(f"/files/{name}")
                assert got.status == 200
                if not name.endswith(".json"):
                    assert got.body == bodies[name].bytes()
                answers += 1
                if dice.random() < 0.05:
                    await proxy.engine.purge("files", path=dice.choice(names))
                await asyncio.sleep(0)

        busy = [asyncio.create_task(traffic()) for _ in range(3)]
        checked = hashed = 0
        try:
            while checked < 60 or hashed < 60 or answers < 200:
                found, summary = await gathered(checkup.fsck(full=True, repair=False))
                assert found == []
                checked += summary["checked"]["rows"]
                hashed += summary["checked"]["hashed"]
                found, _ = await inspection.inspect(proxy.data)
                assert found == []
                assert [task.exception() for task in busy if task.done()] == []
        finally:
            for task in busy:
                task.cancel()
            await asyncio.wait(busy)
            await checkup.close()
        assert "artifactproxy_evicted" in (await proxy.get("/metrics")).body.decode()
    found, summary = await inspection.inspect(tmp_path / "data")
    assert found == []


async def test_twenty_thousand_rows(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world, world.serving() as (proxy, checkup):
        with sql(world.data) as db:
            columns = [name for _, name, *_ in db.execute("PRAGMA table_info(entries)") if name != "id"]
            values = ", ".join("'many/' || i" if name == "path" else name for name in columns)
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
                f" INSERT INTO entries ({', '.join(columns)}) SELECT {values} FROM entries, n"
                " WHERE path = 'page.json'"
            )
        slowest = 0.0
        steps: dict[str, int] = {}

        async def watch() -> None:
            nonlocal slowest
            clock = asyncio.get_running_loop().time
            while True:
                before = clock()
                await asyncio.sleep(0.005)
                slowest = max(slowest, clock() - before)

        watching = asyncio.create_task(watch())
        async with aclosing(checkup.fsck(full=False, repair=False)) as lines:
            async for line in lines:
                if "progress" in line:
                    step = line["progress"]["step"]
                    assert line["progress"]["done"] >= steps.get(step, 0)
                    steps[step] = line["progress"]["done"]
                summary = line.get("summary")
        watching.cancel()
        assert (summary["found"], summary["checked"]["rows"]) == (0, 20_000 + len(world.bodies) + 2)
        assert steps["rows"] >= 20_000
        assert slowest < 1.0, "a bound on stalls, not a measurement"
        await world.exact(proxy)


async def test_one_missing_among_many_names_is_told_once(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world, world.serving() as (proxy, checkup):
        gone = BlobRef("f" * 64, 5)
        for number in range(10):
            row = CacheEntry(ArtifactKey("files", f"lost/{number}"), Kind.ARTIFACT, gone, generation=1)
            await proxy.engine.parts.index.record(row)
        found, _ = await gathered(checkup.fsck(full=True, repair=True))
        assert [(f["kind"], f["repaired"]) for f in found] == [("missing", True)]
        assert (await gathered(checkup.fsck(full=True, repair=False)))[0] == []


async def test_a_blob_that_cannot_be_read(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world:
        failpoints.arm("survey.read=raise:EIO@1")
        found, summary = await world.stopped()
        assert [(f["invariant"], f["kind"]) for f in found] == [("I02", "unreadable-blob")]
        failpoints.arm("survey.read=raise:EIO@1")
        found, summary = await world.stopped(repair=True)
        assert [f["repaired"] for f in found] == [True], "it could be read at the second look"
        failpoints.arm("survey.read=raise:EIO")
        found, summary = await world.stopped()
        assert summary["found"] == summary["checked"]["hashed"] == summary["checked"]["blobs"]


async def test_a_disk_that_gives_nothing_does_not_empty_the_cache(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world:
        for number in range(30):
            world.chaos.script(f"/n{number}.bin", ok(), size=100 + number)
        async with world.serving() as (proxy, _):
            for number in range(30):
                assert (await proxy.get(f"/files/n{number}.bin")).status == 200
        failpoints.arm("survey.read=raise:EIO")
        _, summary = await world.stopped(repair=True)
        failpoints.arm("")
        assert summary["found"] > 30
        assert len(list((world.data / "quarantine").iterdir())) == 16


@pytest.mark.parametrize("code", ["EMFILE", "ENOMEM"])
async def test_trouble_of_the_checker_is_no_finding(tmp_path: Path, chaos: Chaos, code: str) -> None:
    async with filled(tmp_path, chaos) as world:
        failpoints.arm(f"survey.read=raise:{code}")
        with pytest.raises(StoreUnavailable):
            await world.stopped(repair=True)
        failpoints.arm("")
        found, summary = await world.stopped()
        assert (found, summary["found"]) == ([], 0)


async def test_a_repair_that_upstream_refuses_leaves_no_row(tmp_path: Path, chaos: Chaos) -> None:
    """Forgotten is right too: the next request says what upstream says."""
    async with filled(tmp_path, chaos) as world:
        _damage(world.data)
        chaos.script("/tool.bin", status(500))
        found, _ = await world.stopped(repair=True)
        assert [(f["kind"], f["repaired"]) for f in found] == [("damaged", True)]
        found, _ = await world.stopped()
        assert found == []
        with sql(world.data) as db:
            assert db.execute("SELECT count(*) FROM entries WHERE path = 'tool.bin'").fetchone() == (0,)


async def test_no_deletion_while_a_backup_runs(tmp_path: Path, chaos: Chaos) -> None:
    from artifactproxy.stores.medium import pin

    async with filled(tmp_path, chaos) as world:
        sha256 = make_blob(world.data, b"nobody wants me", 10_000)
        with pin(world.data):
            found, _ = await world.stopped(repair=True)
            assert [(f["kind"], f["repaired"]) for f in found] == [("orphan", False)]
            assert (world.data / "blobs/sha256" / sha256[:2] / sha256).exists()
        found, _ = await world.stopped(repair=True)
        assert [(f["kind"], f["repaired"]) for f in found] == [("orphan", True)]


async def test_overdue_deletion_is_a_note_while_nothing_runs(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world:
        sha256 = make_blob(world.data, b"doomed long ago", 10_000)
        with sql(world.data) as db:
            db.execute(
                "INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES (?, 15, 1, 2)", (sha256,)
            )
        found, summary = await world.stopped()
        assert [(f["invariant"], f["kind"], f["note"]) for f in found] == [("I15", "overdue", True)]
        assert (summary["found"], summary["notes"]) == (0, 1)
        config = configuration(tmp_path, chaos.origin, top=TOP)
        late = 1_000.0

        async with proxied(tmp_path, chaos.origin, top=TOP) as proxy:
            checkup, _ = wiring.checkup(proxy.engine, world.data, config)
            scope = checkup._scope
            object.__setattr__(scope, "since", scope.clock() - late)
            found, _ = await gathered(checkup.fsck(full=False, repair=True))
            assert [(f["invariant"], f["kind"], f["repaired"]) for f in found] == [("I15", "overdue", True)]
            found, _ = await gathered(checkup.fsck(full=True, repair=False))
            assert found == []
            await checkup.close()


async def test_one_check_at_a_time(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world, world.serving() as (_, checkup):
        async with aclosing(checkup.fsck(full=True, repair=False)) as first:
            await anext(first)
            with pytest.raises(Busy, match="running here already"):
                await gathered(checkup.fsck(full=False, repair=False))
        found, _ = await gathered(checkup.fsck(full=True, repair=False))
        assert found == []
        checkup.stop()
        with pytest.raises(Busy, match="stopping"):
            await gathered(checkup.fsck(full=True, repair=False))


async def test_rows_of_others_are_notes(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world:
        with sql(world.data) as db:
            db.execute("UPDATE entries SET repo = 'removed' WHERE path = 'tool.bin'")
            db.execute("UPDATE entries SET path = '../../etc/passwd' WHERE path = 'small.bin'")
        found, summary = await world.stopped()
        assert sorted((f["invariant"], f["kind"], f["note"]) for f in found) == [
            ("I18", "unaddressable", True),
            ("I18", "unconfigured", True),
        ]
        assert summary["found"] == 0
