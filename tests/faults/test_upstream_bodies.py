"""U05 to U10, U12: bodies that come late, short, without an end, or with something behind it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos import Chaos
from tests.chaos.behaviours import (
    cut,
    cut_from_zero,
    lies,
    ok,
    raw,
    slow,
    stall,
    unframed,
)
from tests.faults.watch import BIG, PKG, SMALL, Watch, promised, watched, whole

CRAWL = "idle: 5s\nmin_rate: 1KiB\nmin_rate_window: 200ms"


# --- U05, U06: slow and silent ---


async def test_u05_a_crawling_body_is_resumed_elsewhere(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, extra=CRAWL) as watch:
        body = chaos.script("/f.bin", slow(300), ok(), size=BIG)
        await whole(watch, "/files/f.bin", body)
        assert await watch.errors("too_slow") == 1
        assert await watch.grown("resumes_total") == 1
        assert chaos.hits("/f.bin") == 2


@pytest.mark.parametrize("size", [SMALL, BIG])
async def test_u05_crawling_for_ever_ends_in_bounded_time(tmp_path: Path, chaos: Chaos, size: int) -> None:
    async with watched(tmp_path, chaos, extra=CRAWL) as watch:
        chaos.script("/f.bin", _begins_then_crawls(), slow(300), size=size)
        started = time.monotonic()
        if size == SMALL:
            await watch.refused("/files/f.bin", 504, "too_slow")
        else:
            await watch.reset("/files/f.bin", "too_slow")
        assert time.monotonic() - started < 4, "four windows of 200 ms and some work"
        assert chaos.hits("/f.bin") == 4
        assert await watch.grown("resumes_total") == 3
        await watch.is_kept()
        await watch.next_is_right()


def _begins_then_crawls() -> object:
    """The first third at full speed, so that a client has bytes."""

    async def behave(exchange: object) -> None:
        body = exchange.body
        await exchange.head(200, {"Content-Length": str(body.size), "ETag": body.etag})
        await exchange.send(body.slice(0, body.size // 3))
        for at in itertools.count(body.size // 3):
            await exchange.send(body.slice(at, at + 1))
            await exchange.pause(0.02)

    return behave


@pytest.mark.parametrize("times", [1, 3])
async def test_u06_a_stalled_body_is_resumed_and_clients_notice_a_pause(brisk: Watch, times: int) -> None:
    body = brisk.chaos.script("/f.bin", *[stall(0.5)] * times, ok(), size=BIG)
    await whole(brisk, "/files/f.bin", body)
    assert await brisk.errors("stall") == times
    assert await brisk.grown("resumes_total") == times
    last = brisk.chaos.last("/f.bin").headers
    assert int(last["range"].removeprefix("bytes=").rstrip("-")) >= BIG // 2
    assert last["if-range"] == body.etag


async def test_u06_a_fourth_stall_is_a_reset(brisk: Watch) -> None:
    brisk.chaos.script("/f.bin", stall(0.5), size=BIG)
    await brisk.reset("/files/f.bin", "stall")
    assert brisk.chaos.hits("/f.bin") == 4
    assert await brisk.grown("resumes_total") == 3
    await brisk.is_kept()
    await brisk.next_is_right()


async def test_u06_without_a_validator_there_is_nothing_to_resume(watch: Watch) -> None:
    watch.chaos.script("/f.bin", cut(0.5, validators=False), ok(validators=False), size=BIG)
    await watch.reset("/files/f.bin", "short_body")
    assert {seen.headers.get("range", "bytes=0-") for seen in watch.chaos.requests} == {"bytes=0-"}
    await watch.next_is_right()


async def test_u06_a_promised_digest_allows_to_resume_without_a_validator(watch: Watch) -> None:
    path, body = promised(watch, cut(0.5, validators=False), ok(validators=False))
    await whole(watch, path, body)
    assert "if-range" not in watch.chaos.last(PKG).headers
    assert watch.chaos.last(PKG).headers["range"].startswith("bytes=")


# --- U07, U09, U12: short ---


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("at", [0, 1, 0.5, -1], ids=["nothing", "1 byte", "half", "all but one"])
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u07_a_cut_body_is_resumed(watch: Watch, at: float, rst: bool, size: int) -> None:
    body = watch.chaos.script("/f.bin", cut(at, rst=rst), ok(), size=size)
    await whole(watch, "/files/f.bin", body)
    assert watch.chaos.hits("/f.bin") == 2
    assert await watch.errors("short_body") == 1
    assert await watch.grown("resumes_total") == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 150_000), max_size=5),
    size=st.integers(1, 150_000),
    ranges=st.booleans(),
    chunked=st.booleans(),
)
async def test_u07_u12_wherever_it_is_cut_nobody_gets_a_short_200(
    watch: Watch, cuts: list[int], size: int, ranges: bool, chunked: bool
) -> None:
    name = f"/cut/{len(watch.chaos.requests)}.bin"
    shares = [cut(min(at, size - 1), ranges=ranges, chunked=chunked and ranges) for at in cuts]
    body = watch.chaos.script(name, *shares, ok(ranges=ranges), size=size)
    got = await watch.proxy.get(f"/files{name}")
    if got.body is not None and got.status == 200:
        assert got.body == body.bytes()
    elif got.body is not None:
        assert (got.status, got.error) == (502, "short_body")
        # All bytes without their end: there is no further part to ask for.
        assert len(cuts) > 3 or (chunked and ranges)
    await watch.proxy.settled()
    assert watch.chaos.hits(name) <= 4
    again = await watch.proxy.get(f"/files{name}")
    assert again.body in (body.bytes(), None) or again.status == 502
    await watch.proxy.settled()


async def test_u07_cut_for_ever_is_a_reset_or_a_proper_status(watch: Watch) -> None:
    watch.chaos.script("/f.bin", cut(0.5), cut(0.5, ranges=False), size=BIG)
    await watch.reset("/files/f.bin", "short_body")
    watch.chaos.script("/g.bin", cut(0.5, ranges=False), size=SMALL)
    await watch.refused("/files/g.bin", 502, "short_body")
    await watch.is_kept()
    await watch.next_is_right()


async def test_u09_announced_longer_than_sent(watch: Watch) -> None:
    watch.chaos.script("/f.bin", lies(1000), size=BIG)
    await watch.reset("/files/f.bin", "short_body")
    refused = await watch.errors("no_resume") + await watch.errors("bad_206")
    assert refused == 3, "there is nothing behind the end to continue with"
    watch.chaos.script("/g.bin", lies(1000), size=SMALL)
    await watch.refused("/files/g.bin", 502, "short_body")
    await watch.next_is_right()


async def test_u12_a_chunked_body_that_is_cut_is_resumed_to_its_total(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", cut(0.5, chunked=True), ok(), size=BIG)
    await whole(watch, "/files/f.bin", body)
    assert await watch.errors("short_body") == 1


async def test_u12_a_part_that_stops_before_the_total_is_no_end(watch: Watch) -> None:
    """The length was never announced: only the total of the part tells where the end is."""
    body = watch.chaos.script("/f.bin", cut(0.5, chunked=True), _part_of(0.5, 0.75), ok(), size=BIG)
    got = await watch.proxy.get("/files/f.bin")
    assert got.body in (None, body.bytes())
    await watch.proxy.settled()
    assert all(
        blob.stat().st_size in (BIG, 50_000) or blob.stat().st_size < 100 for blob in watch.proxy.blobs()
    )
    await watch.next_is_right()


def _part_of(start: float, stop: float) -> object:
    async def behave(exchange: object) -> None:
        body = exchange.body
        first, last = int(body.size * start), int(body.size * stop)
        headers = {
            "Content-Range": f"bytes {first}-{last - 1}/{body.size}",
            "Content-Length": str(last - first),
            "ETag": body.etag,
        }
        await exchange.head(206, headers)
        await exchange.send(body.slice(first, last))

    return behave


async def test_u12_a_second_body_without_an_end_does_not_complete_the_first(watch: Watch) -> None:
    """Chunked and cut, then whole but close-delimited and cut: no framing says that it is all."""
    watch.chaos.script("/f.bin", cut(0.3, chunked=True), cut_from_zero(0.7), size=BIG)
    await watch.reset("/files/f.bin", "unframed_body")
    await watch.next_is_right()


# --- U08: no framing ---


@pytest.mark.parametrize("at", [None, 0.5], ids=["whole", "cut"])
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u08_without_framing_and_promise_nothing_is_kept(
    watch: Watch, at: float | None, rst: bool
) -> None:
    watch.chaos.script("/f.bin", unframed(at, rst=rst), size=BIG)
    await watch.refused("/files/f.bin", 502, "unframed_body")
    await watch.is_kept()
    await watch.next_is_right()


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u08_with_a_promise_the_digest_judges(watch: Watch, rst: bool) -> None:
    path, body = promised(watch, unframed(rst=rst))
    await whole(watch, path, body)


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u08_with_a_promise_a_cut_is_refused(watch: Watch, rst: bool, size: int) -> None:
    path, body = promised(watch, unframed(0.5, rst=rst), size=size)
    got = await watch.proxy.get(path)
    assert got.body is None or (got.status == 502 and size == SMALL)
    await watch.told(path, got.error or "size")
    assert body.sha256 not in [blob.name for blob in watch.proxy.blobs()]
    assert await watch.grown("integrity_failures_total", where="upstream") >= 1
    await watch.next_is_right(path, size)


async def test_u08_accept_unframed_relays_and_never_stores(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, remote="accept_unframed: true") as watch:
        body = chaos.script("/f.bin", unframed(), size=BIG)
        held = watch.proxy.blobs()
        for _ in range(2):
            got = await watch.proxy.get("/files/f.bin")
            assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
            assert "bypass" in got.headers["Cache-Status"]
            assert got.headers["Cache-Control"] == "no-store"
            await watch.proxy.settled()
        assert watch.proxy.blobs() == held
        assert await watch.grown("fills_total", result="unstored") == 2
        await watch.next_is_right()


# --- U10: more than announced ---


async def test_u10_the_declared_bytes_are_judged_and_the_connection_is_dropped(watch: Watch) -> None:
    path, body = promised(watch, lies(-1000))
    got = await watch.proxy.get(path)
    assert got.body is None or got.status == 502
    await watch.told(path, got.error or "size")
    assert body.sha256 not in [blob.name for blob in watch.proxy.blobs()]
    await watch.next_is_right(path)


async def test_u10_garbage_behind_good_bytes_never_reaches_the_next_request(watch: Watch) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
    watch.chaos.script("/f.bin", raw(head + poison, close=False))
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) in ((200, b"good"), (502, got.body))
    dirty = watch.chaos.last("/f.bin").connection
    for number in range(5):
        clean = watch.chaos.script(f"/n{number}.bin", ok(), size=SMALL)
        assert (await watch.proxy.get(f"/files/n{number}.bin")).body == clean.bytes()
        assert watch.chaos.last(f"/n{number}.bin").connection != dirty
    await watch.next_is_right("/files/g.bin")
