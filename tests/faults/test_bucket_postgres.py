"""Bucket and PostgreSQL together: the rows where both have a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bucket import Bucket, error_in_200, executed_then_hang, refuse
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.contracts.harness_postgres import fresh_database
from tests.faults.bucketed import BIG, BLOBS, MIDDLE, NO_TIER, SMALL, TIER, Rig, all_right, broken, bucketed
from tests.faults.machine import metric, readiness, until
from tests.faults.test_bucket_writing import watching_rows
from tests.servers import postgres

TIERS = pytest.mark.parametrize("tier", [NO_TIER, TIER], ids=["no tier", "tier"])
OPTIONS = {"kind": "postgres", "pool": 5, "recheck": "200ms"}


@asynccontextmanager
async def both(folder: Path, chaos: Chaos, **more) -> AsyncIterator[Rig]:
    url = await asyncio.to_thread(fresh_database)
    dsn = folder / "dsn"
    dsn.write_text(url)
    async with bucketed(folder, chaos, index=OPTIONS | {"url": {"file": str(dsn)}}, **more) as rig:
        rig.database = url.rpartition("/")[2]
        yield rig


async def database_away(rig: Rig, *, away: bool) -> None:
    """Nobody is let into the database, or everybody again."""
    server, word = postgres.shared(), "false" if away else "true"

    def act() -> None:
        server.sql(f'ALTER DATABASE "{rig.database}" ALLOW_CONNECTIONS {word}')
        if away:
            server.sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{rig.database}'"
            )

    await asyncio.to_thread(act)


@TIERS
@pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG])
async def test_s01_what_the_bucket_refused_is_stored_later(
    tmp_path: Path, chaos: Chaos, tier: int, size: int
) -> None:
    async with both(tmp_path, chaos, tier=tier, leftovers=True) as rig:
        path, body = await rig.given(promised=True, size=size)
        rig.bucket.rule("[PUC]*", refuse(503, "SlowDown"))
        await all_right(rig, path, body, 4)
        await rig.warned("store_waits")
        assert body.sha256 not in await rig.rows("pypi")
        assert (await readiness(rig.proxy))[1]["mode"] == "ok", "it lists and reads"
        rig.bucket.heal()
        await rig.proxy.settled()
        await rig.filled(path)
        await rig.is_hit(path, body)
        await rig.normal()


@pytest.mark.parametrize("action", [error_in_200(executed=True), executed_then_hang(), refuse(500)])
async def test_s04_a_complete_of_unknown_outcome_never_makes_a_row_alone(
    tmp_path: Path, chaos: Chaos, action
) -> None:
    async with both(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=False, size=BIG)
        rig.bucket.rule("CompleteMultipartUpload", action, nth=0)
        async with watching_rows(rig, "files") as rows:
            await rig.right(path, body, source="remote")
            await until(lambda: body.sha256 in rows)
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s05_intents_live_in_the_database(tmp_path: Path, chaos: Chaos) -> None:
    bucket, extra = Bucket(lists_uploads=False), "idle: 5s\nretries: 0\nresumes: 0"
    async with both(tmp_path, chaos, bucket=bucket, extra=extra) as rig:
        sent = lambda: any(call.status == 200 for call in bucket.calls("UploadPart"))  # noqa: E731  short
        path, _ = await rig.given(promised=True, size=BIG, behaviours=[broken("other bytes", sent)])
        bucket.rule("AbortMultipartUpload", refuse(500))
        assert (await rig.proxy.get(path)).body is None
        await rig.proxy.settled()
        await rig.warned("upload_not_aborted")
        assert [intent.upload for intent in await rig.intents()] == list(bucket.contents.uploads)
        bucket.heal()
        await rig.tidied()
        body = chaos.script("/f-1.0.tar.gz", ok(), size=BIG)
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


@TIERS
async def test_s06_s07_lost_and_damaged_objects_are_healed(tmp_path: Path, chaos: Chaos, tier: int) -> None:
    async with both(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        key = f"{BLOBS}{body.sha256[:2]}/{body.sha256}"
        del rig.bucket.objects[key]
        await rig.right(path, body, source="remote")
        rig.forget_copies()
        rig.bucket.damage(key, body.bytes()[:-1])
        await rig.right(path, body, source="remote")
        assert rig.holds(body)
        assert rig.quarantined()
        assert await metric(rig.proxy, "hollow_hits_total") == 2
        await rig.is_hit(path, body)
        await rig.normal()


@pytest.mark.parametrize("also", [False, True], ids=["database", "database and bucket"])
async def test_a15_without_database_and_bucket_files_pass_and_nothing_is_poisoned(
    tmp_path: Path, chaos: Chaos, also: bool
) -> None:
    async with both(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        await rig.is_hit(path, body)
        await database_away(rig, away=True)
        try:
            if also:
                rig.bucket.rule("*", refuse(503, "SlowDown"))
            await all_right(rig, path, body, 3)
            cold, other = await rig.given(promised=False, size=SMALL, name="cold")
            assert (await rig.proxy.get(cold)).body == other.bytes()
            ready, found = await readiness(rig.proxy)
            assert found["mode"] == ("without index, without store" if also else "without index")
            assert ready == (503 if also else 200)
            assert (await rig.proxy.get("/files/none.bin")).status == 404
        finally:
            rig.bucket.heal()
            await database_away(rig, away=False)
        await rig.proxy.settled()
        async with asyncio.timeout(60):
            while (await readiness(rig.proxy))[1]["mode"] != "ok":
                await asyncio.sleep(0.05)
        await rig.is_hit(path, body)
        await rig.right(cold, other)
        await rig.is_hit(cold, other)
        await rig.normal()
