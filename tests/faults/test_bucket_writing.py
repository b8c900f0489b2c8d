"""S3 rows, storing: a bucket that refuses, fails in the middle, or does not say what became of it."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from artifactproxy.engine.janitor import Janitor
from tests.bucket import (
    Action,
    Bucket,
    error_in_200,
    executed_then,
    executed_then_hang,
    executed_then_reset,
    ignore,
    refuse,
    reset,
    stall,
    wrong_etag,
)
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow, status
from tests.faults.bucketed import (
    BIG,
    MIB,
    MIDDLE,
    NO_TIER,
    SMALL,
    TIER,
    Ending,
    Rig,
    all_right,
    broken,
    bucketed,
)
from tests.faults.machine import metric, readiness, until

WRITES = "[PUC]*"  # of objects and parts; Complete
TIERS = pytest.mark.parametrize("tier", [NO_TIER, TIER], ids=["no tier", "tier"])
PROMISED = pytest.mark.parametrize("promised", [True, False], ids=["promised", "unpromised"])
SIZES = pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG], ids=["in memory", "one piece", "parts"])
BUSY = {
    "slow down": (refuse(503, "SlowDown"), "SlowDown"),
    "too many": (refuse(429, "TooManyRequests"), "TooManyRequests"),
    "internal": (refuse(500, "InternalError"), "InternalError"),
}


@asynccontextmanager
async def watching_rows(rig: Rig, repo: str):
    """From look to look, no row is there before its object."""
    seen: set[str] = set()
    looks = 0

    async def look() -> None:
        nonlocal looks
        while True:
            rows = set(await rig.rows(repo))
            looks += 1
            lost = rows - seen - set(rig.objects())
            assert not lost, f"rows without objects: {lost}"
            seen.update(rows)
            await asyncio.sleep(0)

    task = asyncio.create_task(look())
    try:
        yield seen
        assert not task.done() or task.result() is None
        assert looks > 10
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


BRITTLE = "idle: 700ms\nretries: 0\nresumes: 0"


async def broken_file(rig: Rig, how: Ending) -> str:
    """Goes wrong near its end, when parts of it are in the bucket."""
    sent = lambda: any(call.status == 200 for call in rig.bucket.calls("UploadPart"))  # noqa: E731  short
    path, _ = await rig.given(promised=True, size=BIG, behaviours=[broken(how, sent)])
    return path


# --- S01 -------------------------------------------------------------------------------------


@TIERS
@PROMISED
@SIZES
async def test_s01_a_put_that_is_refused_a_few_times_is_sent_again(
    tmp_path: Path, chaos: Chaos, tier: int, promised: bool, size: int
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.given(promised=promised, size=size)
        op = "PutObject" if size < BIG else "UploadPart"
        rules = [rig.bucket.rule(op, action, nth=0) for action, _ in list(BUSY.values())[:2]]
        await rig.right(path, body, source="remote")
        assert [rule.hits for rule in rules] == [1, 1]
        assert rig.holds(body)
        for _, kind in list(BUSY.values())[:2]:
            assert await metric(rig.proxy, "store_retries_total", kind=kind) == 1
        await rig.filled(path)
        await rig.is_hit(path, body)
        await rig.normal()


@pytest.mark.parametrize("how", BUSY)
@SIZES
async def test_s01_clients_have_all_of_it_while_the_store_waits(
    tmp_path: Path, chaos: Chaos, how: str, size: int
) -> None:
    action, kind = BUSY[how]
    async with bucketed(tmp_path, chaos, leftovers=size == BIG) as rig:
        path, body = await rig.given(promised=False, size=size)
        rule = rig.bucket.rule(WRITES, action)
        assert (await rig.proxy.get(path)).body == body.bytes()
        await rig.warned("store_waits")
        assert {got.source for got in await all_right(rig, path, body, 10)} == {"cache"}
        assert await metric(rig.proxy, "stores_waiting") == 1
        await until(lambda: rule.hits > 3)
        assert not rig.holds(body)
        assert size == SMALL or rig.proxy.engine.states()["temp_bytes"] >= size
        assert await metric(rig.proxy, "store_errors_total", kind="store_away") >= 1
        assert await metric(rig.proxy, "store_retries_total", kind=kind) >= 2
        assert await rig.rows() == [], "never a row without its object"
        rig.bucket.heal()
        await rig.proxy.settled()
        await rig.filled(path)
        assert rig.holds(body)
        await rig.is_hit(path, body)
        assert rig.hits(path) == 1
        await rig.normal()


@PROMISED
async def test_s01_after_its_time_the_file_goes_and_no_upload_stays(
    tmp_path: Path, chaos: Chaos, promised: bool
) -> None:
    async with bucketed(tmp_path, chaos, limits={"store_retry": "300ms"}) as rig:
        path, body = await rig.given(promised=promised, size=BIG)
        rig.bucket.rule("UploadPart", refuse(503, "SlowDown"))
        await rig.right(path, body)
        await rig.filled(path, "unstored")
        assert body.sha256 not in rig.objects()
        assert body.sha256 not in await rig.rows("pypi" if promised else "files")
        await rig.quiet()
        assert len(rig.bucket.contents.uploads) == (0 if promised else 1), "parts may be of use once more"
        rig.bucket.heal()
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


@TIERS
async def test_s01_three_in_ten_requests_fail_and_nobody_notices(
    tmp_path: Path, chaos: Chaos, tier: int
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier, bucket=Bucket(seed=7), store={"tries": 5}) as rig:
        rig.bucket.rule("*", refuse(503, "SlowDown"), share=0.3)
        made = [
            await rig.given(promised=n % 2 == 0, size=(SMALL, MIDDLE)[n % 3 == 0] + n, name=f"f{n}")
            for n in range(24)
        ]
        for _ in range(2):
            for at in range(0, len(made), 8):
                await asyncio.gather(*(all_right(rig, *each, 2) for each in made[at : at + 8]))
        await rig.proxy.settled()
        assert all(rig.holds(body) for _, body in made)
        assert await metric(rig.proxy, "store_retries_total", kind="SlowDown") > 10
        rig.bucket.heal()
        for path, body in made:
            await rig.is_hit(path, body)
        await rig.normal()


# --- S03 -------------------------------------------------------------------------------------


@PROMISED
@pytest.mark.parametrize("part", [1, 2, 3])
@pytest.mark.parametrize("action", [refuse(500), reset(MIB), stall(MIB)], ids=["refused", "reset", "stalled"])
async def test_s03_a_part_that_fails_is_sent_again_by_itself(
    tmp_path: Path, chaos: Chaos, promised: bool, part: int, action: Action
) -> None:
    async with bucketed(tmp_path, chaos, store={"parts": 1}) as rig:
        path, body = await rig.given(promised=promised, size=BIG)
        rig.bucket.history.clear()
        rule = rig.bucket.rule("UploadPart", action, nth=part - 1)
        await rig.right(path, body, source="remote")
        sent = [call.part for call in rig.bucket.calls("UploadPart")]
        assert (sorted(sent), rule.hits) == (sorted([1, 2, 3, part]), 1)
        assert rig.bucket.count("CreateMultipartUpload") == rig.bucket.count("CompleteMultipartUpload") == 1
        assert await metric(rig.proxy, "store_retries_total", op="upload_part") == 1
        assert rig.holds(body)
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s03_a_part_that_never_arrives_ends_in_an_abort(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, limits={"store_retry": "0s"}) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        rig.bucket.rule("UploadPart", refuse(500), nth=range(1, 99))
        await rig.right(path, body)
        await rig.filled(path, "unstored")
        assert not rig.holds(body)
        await until(lambda: rig.bucket.count("AbortMultipartUpload") == 1)
        await until(lambda: not rig.bucket.contents.uploads)
        rig.bucket.heal()
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


# --- S04 -------------------------------------------------------------------------------------

COMPLETES = {
    "refused": refuse(500),
    "200 with an error": error_in_200(),
    "done, then 500": executed_then(500),
    "done, then 200 with an error": error_in_200(executed=True),
    "done, then silence": executed_then_hang(),
    "done, then reset": executed_then_reset(),
    "silence": stall(),
}


@PROMISED
@pytest.mark.parametrize("how", COMPLETES)
async def test_s04_a_complete_of_unknown_outcome_is_looked_into(
    tmp_path: Path, chaos: Chaos, promised: bool, how: str
) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=promised, size=BIG)
        rig.bucket.history.clear()
        rule = rig.bucket.rule("CompleteMultipartUpload", COMPLETES[how], nth=0)
        async with watching_rows(rig, "pypi" if promised else "files") as rows:
            await rig.right(path, body, source="remote")
            await until(lambda: body.sha256 in rows)
        assert rule.hits == 1
        assert rig.holds(body)
        assert rig.bucket.count("CreateMultipartUpload") == 1
        assert len(rig.bucket.calls("UploadPart")) == 3
        await rig.filled(path)
        await rig.is_hit(path, body)
        assert rig.hits(path) == 1
        await rig.normal()


async def test_s04_a_complete_that_never_works_never_makes_a_row(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, limits={"store_retry": "300ms"}) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        rule = rig.bucket.rule("CompleteMultipartUpload", error_in_200())
        async with watching_rows(rig, "pypi") as rows:
            await rig.right(path, body)
            await rig.filled(path, "unstored")
        assert rule.hits >= 3
        assert body.sha256 not in rows
        assert not rig.holds(body)
        rig.bucket.heal()
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        # What may have been completed is nobody's to abort until it has certainly come to rest.
        assert len(await rig.intents()) == len(rig.bucket.contents.uploads) == 1
        await rig.tidied()
        await rig.is_hit(path, body)
        await rig.normal()


@TIERS
async def test_never_a_row_without_its_object(tmp_path: Path, chaos: Chaos, tier: int) -> None:
    """The commit order, while one write in five is done and yet said to have failed, or is late."""
    async with bucketed(tmp_path, chaos, tier=tier, bucket=Bucket(seed=3), store={"tries": 5}) as rig:
        sizes = (SMALL, MIDDLE, 6 * MIB)
        made = [await rig.given(promised=False, size=sizes[n % 3] + n, name=f"f{n}") for n in range(18)]
        rig.bucket.rule("P*", executed_then(500), share=0.1)
        rig.bucket.rule("C*", executed_then(500), share=0.2)
        rig.bucket.rule("U*", refuse(503, "SlowDown"), share=0.1)
        async with watching_rows(rig, "files") as rows:
            for at in range(0, len(made), 6):
                await asyncio.gather(*(all_right(rig, *each, 3) for each in made[at : at + 6]))
            await rig.proxy.settled()
            await until(lambda: len(rows) == len(made))
        rig.bucket.heal()
        for path, body in made:
            await rig.is_hit(path, body)
        await rig.normal()
        # A Create whose answer was lost may have left an upload whose id nobody knows.
        await rig.tidied()


# --- S05 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists", [True, False], ids=["lists uploads", "lists none"])
async def test_s05_an_abort_that_is_refused_is_tried_until_it_works(
    tmp_path: Path, chaos: Chaos, lists: bool
) -> None:
    async with bucketed(tmp_path, chaos, bucket=Bucket(lists_uploads=lists), extra=BRITTLE) as rig:
        path = await broken_file(rig, "other bytes")
        rule = rig.bucket.rule("AbortMultipartUpload", refuse(403, "AccessDenied"))
        assert (await rig.proxy.get(path)).body is None, "wrong bytes are never whole"
        await rig.proxy.settled()
        await rig.warned("upload_not_aborted")
        assert (rule.hits, len(await rig.intents())) == (1, 1)
        assert len(rig.bucket.contents.uploads) == 1
        janitor: Janitor = rig.proxy.engine._janitor
        rig.later(700.0)
        for turn in range(2):
            await janitor.sweep()
            assert (rule.hits, len(await rig.intents())) == (turn + 2, 1)
        rig.bucket.heal()
        await janitor.sweep()
        rig.later(0.0)
        assert rig.bucket.contents.uploads == {}
        assert await rig.intents() == []
        assert await metric(rig.proxy, "tidied_total") == 1
        body = rig.chaos.script("/f-1.0.tar.gz", ok(), size=BIG)
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


# --- S11, S12 --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG])
async def test_s11_a_name_that_is_taken_by_the_same_bytes_is_a_success(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    """A bucket that lets nobody overwrite, and somebody was here before."""
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=False, size=size)
        key = f"cache/blobs/sha256/{body.sha256[:2]}/{body.sha256}"
        planted = rig.bucket.plant(key, body.bytes(), age=100.0)
        rig.bucket.rule("P*", refuse(412, "PreconditionFailed"), key=key)
        rig.bucket.rule("CompleteMultipartUpload", refuse(412, "PreconditionFailed"), key=key)
        await rig.right(path, body, source="remote")
        await rig.filled(path)
        assert rig.bucket.objects[key] is planted, "one object"
        rig.bucket.heal()
        await rig.is_hit(path, body)
        await rig.normal()
        await until(lambda: not rig.bucket.contents.uploads)


async def test_s11_a_conflict_is_tried_again_and_other_bytes_are_told(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, limits={"store_retry": "200ms"}) as rig:
        path, body = await rig.given(promised=False, size=MIDDLE)
        rig.bucket.rule("PutObject", refuse(409, "ConditionalRequestConflict"), nth=0)
        await rig.right(path, body, source="remote")
        await rig.filled(path)
        await rig.is_hit(path, body)
        rig.bucket.heal()
        path, body = await rig.given(promised=False, size=SMALL, name="g")
        key = f"cache/blobs/sha256/{body.sha256[:2]}/{body.sha256}"
        planted = rig.bucket.plant(key, b"somebody's")
        rig.bucket.rule("PutObject", refuse(412, "PreconditionFailed"), key=key)
        await rig.right(path, body, source="remote")
        await rig.filled(path, "unstored")
        await rig.warned("store_conflict", sha256=body.sha256)
        assert rig.bucket.objects[key] is planted, "the old one is kept"
        assert body.sha256 not in await rig.rows()
        rig.bucket.heal()
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


@pytest.mark.parametrize("size", [MIDDLE, BIG])
async def test_s11_s12_two_programs_that_store_the_same_need_no_conditions(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    bucket = Bucket()
    bucket.rule("*", ignore("If-None-Match"))
    await bucket.start()
    async with bucketed(tmp_path / "a", chaos, bucket=bucket) as one:
        port = bucket.port
        path, body = await one.given(promised=True, size=size)
        async with bucketed(tmp_path / "b", chaos, bucket=bucket) as two:
            await two.proxy.get("/pypi/simple/f/")
            await two.proxy.settled()
            answers = await asyncio.gather(*(rig.right(path, body) for rig in (one, two)))
            assert {got.source for got in answers} == {"remote"}
            assert one.holds(body)
            assert all("if-none-match" not in call.headers for call in bucket.history)
            await two.is_hit(path, body)
            assert sum(body.sha256 in key for key in bucket.objects) == 1
        bucket.port = 0
        await bucket.start(port)
        await one.is_hit(path, body)
        await one.normal()


# --- what upstream does wrong while parts leave ----------------------------------------------


@pytest.mark.parametrize("how", ["other bytes", "short", "reset", "stalled"])
async def test_a5_a6_nothing_of_a_broken_body_becomes_an_object(
    tmp_path: Path, chaos: Chaos, how: Ending
) -> None:
    async with bucketed(tmp_path, chaos, extra=BRITTLE) as rig:
        path = await broken_file(rig, how)
        before = set(rig.objects())
        assert (await rig.proxy.get(path)).body is None
        await rig.filled(path, "failed")
        await until(lambda: not rig.bucket.contents.uploads)
        assert rig.bucket.count("AbortMultipartUpload") == 1
        assert rig.bucket.count("CompleteMultipartUpload") == 0
        assert set(rig.objects()) == before
        body = chaos.script("/f-1.0.tar.gz", ok(), size=BIG)
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


async def test_a4_a_crowd_costs_one_download_and_one_upload(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=True, size=BIG, behaviours=[slow(rate=20_000_000)])
        rig.bucket.history.clear()
        leader = asyncio.create_task(rig.proxy.get(path))
        await until(lambda: rig.hits(path) == 1)
        crowd = asyncio.create_task(all_right(rig, path, body, 12))
        await until(lambda: rig.proxy.engine.states()["fills"] == 1 and rig.bucket.count("UploadPart") > 0)
        leader.cancel()
        await crowd
        await rig.proxy.settled()
        assert rig.hits(path) == 1
        counts = [rig.bucket.count(op) for op in ("CreateMultipartUpload", "UploadPart", "GetObject")]
        assert counts == [1, 3, 0]
        await rig.is_hit(path, body)
        await rig.normal()


async def test_a11_what_is_stored_again_while_it_is_collected_stays(tmp_path: Path, chaos: Chaos) -> None:
    """The same bytes under another name, while the blob of the first is on its way out."""
    async with bucketed(tmp_path, chaos, limits={"blob_grace": "0s"}) as rig:
        body = chaos.script("/a.bin", ok(), size=MIDDLE)
        await rig.right("/files/a.bin", body)
        janitor: Janitor = rig.proxy.engine._janitor
        for turn in range(8):
            name = f"b{turn}.bin"
            data = body.bytes()
            chaos.script(f"/{name}", status(200, data))
            await rig.proxy.engine.purge("files")
            late = 0.004 * turn

            async def collect(late: float = late) -> None:
                await asyncio.sleep(late)
                await janitor.collect(0.0)

            got, _ = await asyncio.gather(rig.proxy.get(f"/files/{name}"), collect())
            assert got.body == data
            await rig.proxy.settled()
            assert await rig.rows() == [hashlib.sha256(data).hexdigest()]
            assert rig.holds(body), turn
        await rig.normal()


async def test_a14_nothing_is_late_that_moves(tmp_path: Path, chaos: Chaos) -> None:
    """Longer than any patience with the bucket, and the upload goes at its pace."""
    async with bucketed(tmp_path, chaos, store={"read": "500ms"}) as rig:
        path, body = await rig.given(promised=True, size=BIG, behaviours=[slow(rate=4_000_000)])
        await rig.right(path, body, source="remote")
        await rig.filled(path)
        assert len(rig.bucket.calls("UploadPart")) == 3
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s13_a_wrong_etag_of_a_part_costs_another_upload(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        rig.bucket.rule("UploadPart", wrong_etag(), nth=1)
        await rig.right(path, body, source="remote")
        await rig.filled(path)
        assert rig.holds(body)
        await until(lambda: not rig.bucket.contents.uploads)
        assert (await readiness(rig.proxy))[0] == 200
        await rig.is_hit(path, body)
        await rig.normal()
