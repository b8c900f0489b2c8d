"""S3 rows, serving: a bucket that is slow, breaks off, lost an object, or gives another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bucket import Action, Bucket, cut, delay, flip, ignore, refuse, reset, stall
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.faults.bucketed import (
    BIG,
    BLOBS,
    MIDDLE,
    NO_TIER,
    SMALL,
    TIER,
    all_right,
    broken,
    bucketed,
)
from tests.faults.machine import metric, readiness, until

TIERS = pytest.mark.parametrize("tier", [NO_TIER, TIER], ids=["no tier", "tier"])
PROMISED = pytest.mark.parametrize("promised", [True, False], ids=["promised", "unpromised"])
SIZES = pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG], ids=["in memory", "one piece", "parts"])
TRIES = 3
AWAY = refuse(503, "SlowDown")


def key_of(sha256: str) -> str:
    return f"{BLOBS}{sha256[:2]}/{sha256}"


# --- S01, S02 --------------------------------------------------------------------------------


@SIZES
async def test_s01_a_hit_that_the_bucket_refuses_comes_from_upstream_once(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=False, size=size)
        rig.bucket.rule("*", AWAY)
        all_refused = lambda: rig.bucket.count("GetObject") >= 8 * TRIES  # noqa: E731  it is short
        chaos.script("/f.bin", broken("right", all_refused), size=size)
        crowd = await all_right(rig, path, body, 8)
        assert {got.headers["Cache-Status"] for got in crowd if got.source == "remote"} == {
            "artifactproxy; fwd=bypass"
        }
        assert rig.hits(path) == 2
        head = await rig.proxy.get(path, method="HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, str(size))
        assert await metric(rig.proxy, "store_retries_total", kind="SlowDown") >= 2
        await rig.warned("store_away")
        rig.bucket.heal()
        await rig.proxy.settled()
        await rig.is_hit(path, body)
        await rig.normal()


@PROMISED
async def test_s01_a_hit_nobody_can_give_is_our_own_trouble(
    tmp_path: Path, chaos: Chaos, promised: bool
) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=promised, size=MIDDLE)
        chaos.script("/" + path.rpartition("/")[2], status(404))
        rig.bucket.rule("*", AWAY)
        for headers in ({}, {"Range": "bytes=5-9"}):
            got = await rig.proxy.get(path, **headers)
            assert (got.status, got.error) == (503, "store_away"), "never a 404"
            assert int(got.headers["Retry-After"]) >= 1
        assert await metric(rig.proxy, "store_errors_total", kind="store_away") >= 1
        rig.bucket.heal()
        chaos.script("/" + path.rpartition("/")[2], ok(), size=MIDDLE)
        await rig.is_hit(path, body)
        await rig.normal()


@PROMISED
async def test_s01_copies_are_served_while_the_bucket_is_away(
    tmp_path: Path, chaos: Chaos, promised: bool
) -> None:
    async with bucketed(tmp_path, chaos, tier=TIER) as rig:
        path, body = await rig.given(promised=promised, size=BIG)
        await rig.right(path, body, source="remote")
        rig.bucket.rule("*", AWAY)
        rig.bucket.history.clear()
        for _ in range(3):
            await rig.is_hit(path, body)
        part = await rig.proxy.get(path, Range="bytes=100-199")
        assert (part.status, part.body) == (206, body.slice(100, 200))
        assert rig.bucket.count("GetObject") == 0
        assert (await readiness(rig.proxy))[1]["mode"] == "without store"
        rig.bucket.heal()
        assert (await readiness(rig.proxy))[0] == 200
        await rig.normal()


BREAKS = {
    "silence": stall(),
    "silence in the middle": stall(300_000),
    "reset": reset(),
    "reset in the middle": reset(300_000),
    "cut": cut(300_000),
}


@TIERS
@pytest.mark.parametrize("how", BREAKS)
async def test_s02_a_read_that_breaks_goes_on_where_it_broke(
    tmp_path: Path, chaos: Chaos, tier: int, how: str
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        etag = rig.bucket.objects[key_of(body.sha256)].etag
        rule = rig.bucket.rule("GetObject", BREAKS[how], nth=0)
        await rig.is_hit(path, body)
        asked = rig.bucket.calls("GetObject")
        assert (rule.hits, len(asked)) == (1, 2)
        if BREAKS[how].after:
            assert asked[1].headers["if-match"] == etag
            start = int(asked[1].headers["range"].removeprefix("bytes=").partition("-")[0])
            assert 0 < start <= 300_000
        else:
            assert await metric(rig.proxy, "store_retries_total", op="get_object") == 1
        await rig.is_hit(path, body)
        await rig.normal()


@TIERS
@pytest.mark.parametrize("action", [stall(100_000), reset(100_000)], ids=["silent", "reset"])
async def test_s02_a_read_that_never_ends_well_is_a_reset_and_never_short(
    tmp_path: Path, chaos: Chaos, tier: int, action: Action
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier, store={"read": "300ms"}) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        rule = rig.bucket.rule("GetObject", action)
        got = await rig.proxy.get(path)
        assert got.status == 200
        assert got.body is None, "short and yet complete"
        assert rule.hits >= 4
        rig.bucket.heal()
        await rig.proxy.settled()
        await rig.is_hit(path, body)
        await rig.normal()


# --- S06 -------------------------------------------------------------------------------------


@TIERS
@PROMISED
@pytest.mark.parametrize("size", [SMALL, BIG], ids=["small", "parts"])
@pytest.mark.parametrize("how", ["GET", "HEAD", "Range"])
async def test_s06_a_lost_object_is_fetched_again(
    tmp_path: Path, chaos: Chaos, tier: int, promised: bool, size: int, how: str
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=promised, size=size)
        del rig.bucket.objects[key_of(body.sha256)]
        match how:
            case "GET":
                await rig.right(path, body, source="remote")
            case "HEAD":
                head = await rig.proxy.get(path, method="HEAD")
                assert (head.status, head.headers["Content-Length"]) == (200, str(size))
                await rig.right(path, body, source="remote")
            case "Range":
                part = await rig.proxy.get(path, Range="bytes=100-199")
                assert (part.status, part.body) == (206, body.slice(100, 200))
                await rig.proxy.settled()
        assert await metric(rig.proxy, "hollow_hits_total") == 1
        await rig.warned("hollow_hit", sha256=body.sha256)
        await rig.right(path, body)
        assert rig.holds(body), "healed"
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s06_only_the_same_bytes_take_its_place(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=False, size=BIG)
        del rig.bucket.objects[key_of(body.sha256)]
        other = chaos.script("/f.bin", ok(), size=BIG, version=1)
        got = await rig.proxy.get(path)
        assert got.body is None, "other bytes than were held are never whole"
        await rig.filled(path, "failed")
        assert {body.sha256, other.sha256}.isdisjoint(rig.objects())
        assert await metric(rig.proxy, "integrity_failures_total", where="upstream") >= 1
        chaos.script("/f.bin", ok(), size=BIG)
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s06_a_copy_outlives_its_object(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, tier=TIER) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        await rig.right(path, body)
        lost = rig.bucket.objects.pop(key_of(body.sha256))
        await rig.is_hit(path, body)
        rig.bucket.objects[key_of(body.sha256)] = lost
        await rig.normal()


# --- S07 -------------------------------------------------------------------------------------


def harmed(body: bytes, how: str) -> bytes:
    match how:
        case "empty":
            return b""
        case "truncated":
            return body[:-1000]
        case "longer":
            return body + b"!"
        case "one bit":
            return body[:-5] + bytes([body[-5] ^ 1]) + body[-4:]
    return bytes(len(body))


@TIERS
@PROMISED
@pytest.mark.parametrize("size", [SMALL, BIG], ids=["small", "parts"])
@pytest.mark.parametrize("how", ["empty", "truncated", "longer", "one bit", "zeros"])
async def test_s07_nobody_gets_all_of_a_damaged_object(
    tmp_path: Path, chaos: Chaos, tier: int, promised: bool, size: int, how: str
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=promised, size=size)
        rig.bucket.damage(key_of(body.sha256), harmed(body.bytes(), how))
        got = await rig.proxy.get(path)
        if how in ("one bit", "zeros") and size == BIG:
            assert got.body is None, "held at its tail, then reset"
        else:  # told before anything left: fetched anew behind the same request
            assert (got.status, got.source, got.body == body.bytes()) == (200, "remote", True)
        await rig.proxy.settled()
        await until(lambda: bool(rig.quarantined()))
        assert all(body.sha256 in key for key in rig.quarantined())
        await rig.right(path, body)
        await rig.is_hit(path, body)
        assert rig.holds(body), "healed"
        assert rig.hits(path) == 2
        assert await metric(rig.proxy, "hollow_hits_total") == 1
        await rig.normal()


@TIERS
async def test_s07_a_range_of_an_object_of_another_size_is_refused_and_healed(
    tmp_path: Path, chaos: Chaos, tier: int
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=True, size=BIG)
        rig.bucket.damage(key_of(body.sha256), body.bytes()[:5000])
        part = await rig.proxy.get(path, Range="bytes=100-199")
        assert (part.status, part.body) == (206, body.slice(100, 200))
        await rig.proxy.settled()
        await rig.right(path, body)
        assert rig.holds(body)
        assert rig.quarantined()
        await rig.is_hit(path, body)
        await rig.normal()


async def test_s07_an_answer_with_a_wrong_bit_is_no_whole_body(tmp_path: Path, chaos: Chaos) -> None:
    """What lies there is right, and only one answer is not: nothing may be lost by it."""
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=True, size=BIG)
        rig.bucket.rule("GetObject", flip(-1), nth=0)
        assert (await rig.proxy.get(path)).body is None
        await rig.proxy.settled()
        await rig.right(path, body)
        await rig.is_hit(path, body)
        assert rig.holds(body)
        await rig.normal()


# --- S14 -------------------------------------------------------------------------------------


@TIERS
@pytest.mark.parametrize("asked", ["bytes=0-0", "bytes=70000-70999", "bytes=999000-", "bytes=-10"])
async def test_s14_a_bucket_that_ignores_ranges_never_shifts_bytes(
    tmp_path: Path, chaos: Chaos, tier: int, asked: str
) -> None:
    async with bucketed(tmp_path, chaos, tier=tier) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        rule = rig.bucket.rule("GetObject", ignore("Range"))
        part = await rig.proxy.get(path, Range=asked)
        start, _, rest = part.headers["Content-Range"].removeprefix("bytes ").partition("-")
        stop = int(rest.partition("/")[0]) + 1
        assert (part.status, part.body) == (206, body.slice(int(start), stop))
        assert rule.hits == 1
        rig.bucket.rules.insert(0, rig.bucket.rule("GetObject", cut(300_000), nth=0))
        await rig.is_hit(path, body)
        rig.bucket.heal()
        await rig.is_hit(path, body)
        await rig.normal()


# --- what a hit costs ------------------------------------------------------------------------


@PROMISED
@pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG])
async def test_a12_a_hit_is_one_request_to_the_bucket(
    tmp_path: Path, chaos: Chaos, promised: bool, size: int
) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=promised, size=size)
        for number in range(1, 4):
            await rig.is_hit(path, body)
            assert [call.op for call in rig.bucket.history] == ["GetObject"] * number
        rig.bucket.history.clear()
        part = await rig.proxy.get(path, Range="bytes=100-199")
        assert (part.status, part.body) == (206, body.slice(100, 200))
        assert [(call.op, call.headers["range"]) for call in rig.bucket.history] == [
            ("GetObject", "bytes=100-199")
        ]
        rig.bucket.history.clear()
        tag = part.headers["ETag"]
        assert (await rig.proxy.get(path, method="HEAD")).headers["Content-Length"] == str(size)
        assert (await rig.proxy.get(path, If_None_Match=tag)).status == 304
        assert (await rig.proxy.get(path, Range=f"bytes={size}-")).status == 416
        assert rig.bucket.history == [], "what the row tells costs nothing"
        await rig.normal()


@pytest.mark.parametrize("size", [SMALL, MIDDLE, BIG])
async def test_a12_with_a_tier_many_hits_are_one_get_and_then_none(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    async with bucketed(tmp_path, chaos, tier=TIER) as rig:
        path, body = await rig.stored(promised=True, size=size)
        rig.bucket.rule("GetObject", delay(0.1))
        await all_right(rig, path, body, 12)
        await rig.proxy.settled()
        assert [call.op for call in rig.bucket.history] == ["GetObject"]
        await rig.is_hit(path, body)
        assert rig.bucket.count("GetObject") == 1
        assert await metric(rig.proxy, "tier_hits_total") >= 1
        await rig.normal()


async def test_a12_the_same_bytes_of_two_remotes_are_one_object(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        await rig.right(path, body)
        again = "/files/f-1.0.tar.gz"
        await rig.right(again, body, source="remote")
        assert sum(body.sha256 in key for key in rig.bucket.objects) == 1
        await rig.proxy.engine.purge("files")
        await rig.proxy.engine._janitor.collect(0.0)
        await rig.is_hit(path, body)
        await rig.normal()


async def test_slow_readers_leave_the_bucket_to_others(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, bucket=Bucket(), store={"connections": 4}) as rig:
        path, body = await rig.stored(promised=True, size=BIG)
        rig.bucket.rule("GetObject", delay(0.2))
        crowd = asyncio.create_task(all_right(rig, path, body, 3))
        await until(lambda: rig.bucket.count("GetObject") > 0)
        rig.bucket.heal()
        await rig.normal()
        await crowd
        await rig.proxy.settled()
        await rig.is_hit(path, body)
