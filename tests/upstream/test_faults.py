"""The fault matrix of one exchange (reliability.md 1.1), each fault from a real socket."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time

import pytest

from artifactproxy.errors import (
    TooLarge,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from artifactproxy.ports import UpstreamRequest
from tests.chaos import behaviours as does
from tests.chaos.tables import BAD_FRAMINGS, BAD_HEADS, HOSTILE_HEADERS
from tests.upstream.tools import client, fetch, refusal


async def test_u01_refused_then_back(chaos):
    chaos.script("/a", does.ok())
    port = chaos.port
    async with client(chaos.origin) as up:
        await chaos.stop()
        fault = await refusal(up, chaos.url("/a?sig=secret"), UpstreamUnreachable, "upstream_refused")
        assert f"127.0.0.1:{port}" in fault.detail
        assert "secret" not in fault.detail
        await chaos.start(port)
        assert (await fetch(up, chaos.url("/a")))[0].status == 200


async def test_u03_connect_timeout():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = []
        for _ in range(4):  # fill the backlog so that further SYNs are dropped
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        await asyncio.sleep(0.05)
        started = time.monotonic()
        async with client(f"http://127.0.0.1:{port}", changed={"connect": 0.3}) as up:
            await refusal(up, f"http://127.0.0.1:{port}/", UpstreamSlow, "connect_timeout")
        assert 0.25 < time.monotonic() - started < 2
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "behaviour",
    [does.slow_head(0.02), does.silence(), does.interim_flood(0.001), does.interim_flood()],
    ids=["slow head", "silence", "interim", "interim flood"],
)
async def test_u04_u36_the_first_byte_deadline_is_absolute(chaos, behaviour):
    chaos.script("/a", behaviour)
    started = time.monotonic()
    async with client(chaos.origin, changed={"first_byte": 0.3}) as up:
        with pytest.raises((UpstreamSlow, UpstreamBroken)) as caught:
            await fetch(up, chaos.url("/a"))
    assert caught.value.code in ("first_byte", "bad_head")
    assert time.monotonic() - started < 2


async def test_the_first_byte_deadline_covers_a_request_nobody_reads():
    with socket.create_server(("127.0.0.1", 0)) as server:
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with client(origin, changed={"first_byte": 0.2}) as up:
            await refusal(
                up, origin + "/a", UpstreamSlow, "first_byte", method="POST", body=bytes(20_000_000)
            )


async def test_a_few_interim_answers_are_skipped(chaos):
    body = chaos.script("/a", does.interim_flood(count=3))
    async with client(chaos.origin) as up:
        assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()


async def test_u05_too_slow(chaos):
    chaos.script("/a", does.slow(rate=2000, step=0.02))
    started = time.monotonic()
    limits = {"idle": 5.0, "min_rate": 100_000, "min_rate_window": 0.2}
    async with client(chaos.origin, changed=limits) as up:
        await refusal(up, chaos.url("/a"), UpstreamSlow, "too_slow")
    assert time.monotonic() - started < 1


async def test_u05_a_trickle_does_not_escape(chaos):
    chaos.script("/a", does.slow(rate=50, step=0.02))
    async with client(chaos.origin, changed={"idle": 5.0, "min_rate": 1000, "min_rate_window": 0.2}) as up:
        await refusal(up, chaos.url("/a"), UpstreamSlow, "too_slow")


async def test_a_fast_start_does_not_pay_for_a_trickle(chaos):
    async def behave(exchange):
        await exchange.head(200, {"Content-Length": str(exchange.body.size)})
        await exchange.send(exchange.body.slice(0, 90_000))
        for at in range(90_000, 100_000):
            await exchange.send(exchange.body.slice(at, at + 1))
            await exchange.pause(0.02)

    chaos.script("/a", behave)
    async with client(chaos.origin, changed={"idle": 5.0, "min_rate": 1000, "min_rate_window": 0.2}) as up:
        await asyncio.wait_for(refusal(up, chaos.url("/a"), UpstreamSlow, "too_slow"), 20)


async def test_fast_enough_is_not_too_slow(chaos):
    body = chaos.script("/a", does.slow(rate=40_000, step=0.02), size=20_000)
    async with client(chaos.origin, changed={"idle": 0.3, "min_rate": 4000, "min_rate_window": 0.1}) as up:
        assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()


async def test_u06_stall(chaos):
    body = chaos.script("/a", does.stall(at=0.5))
    received = b""
    started = time.monotonic()
    async with client(chaos.origin, changed={"idle": 0.2}) as up:
        with pytest.raises(UpstreamSlow) as caught:
            async with up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
                async for block in reply.chunks():
                    received += block
    assert caught.value.code == "stall"
    assert received == body.bytes()[: body.size // 2], "what came before the stall is handed on"
    assert 0.15 < time.monotonic() - started < 1.5


async def test_a_pause_shorter_than_idle_is_nothing(chaos):
    body = chaos.script("/a", does.stall(at=0.5, seconds=0.15))
    async with client(chaos.origin, changed={"idle": 0.6}) as up:
        assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()


async def test_a_slow_reader_is_not_taken_for_a_slow_upstream(chaos):
    body = chaos.script("/a", does.ok(), size=3_000_000)
    received = b""
    limits = {"idle": 0.1, "min_rate": 50_000_000, "min_rate_window": 0.1}
    async with client(chaos.origin, changed=limits) as up:
        async with up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
            async for block in reply.chunks():
                received += block
                if len(received) < 500_000:
                    await asyncio.sleep(0.15)
    assert received == body.bytes()


async def test_u07_a_range_resumes(chaos):
    body = chaos.script("/a", does.cut(at=0.3), does.ok())
    got = bytearray()
    async with client(chaos.origin) as up:
        with pytest.raises(UpstreamBroken):
            async with up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
                async for block in reply.chunks():
                    got += block
        rest = (("Range", f"bytes={len(got)}-"), ("If-Range", body.etag))
        head, more = await fetch(up, chaos.url("/a"), headers=rest)
    assert head.status == 206
    assert bytes(got) + more == body.bytes()


@pytest.mark.parametrize(
    ("behaviour", "share"),
    [(does.unframed(), 1), (does.unframed(0.5), 0.5), (does.unframed(0.5, rst=True), 0.5)],
)
async def test_u08_a_body_without_framing_says_so(chaos, behaviour, share):
    """Nobody can tell these three apart; so the head must say that the end means nothing."""
    body = chaos.script("/a", behaviour)
    async with client(chaos.origin) as up:
        try:
            head, got = await fetch(up, chaos.url("/a"))
        except UpstreamBroken as fault:
            assert fault.code == "short_body"
            return
    assert (head.framed, head.length) == (False, None)
    assert got == body.bytes()[: int(body.size * share)]


async def test_u09_length_too_large(chaos):
    chaos.script("/a", does.lies(+1))
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBroken, "short_body")


@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_u10_length_too_small(chaos, size):
    body = chaos.script("/a", does.lies(-5), size=size)
    good = chaos.script("/b", does.ok())
    async with client(chaos.origin) as up:
        try:
            _, got = await fetch(up, chaos.url("/a"))
        except UpstreamBroken as fault:
            assert fault.code in ("bad_framing", "bad_head", "short_body")
        else:
            assert got == body.bytes()[:-5]
        await asyncio.sleep(0.02)
        assert (await fetch(up, chaos.url("/b")))[1] == good.bytes()
    assert chaos.connections == 2, "the connection with the garbage is not used again"


@pytest.mark.parametrize("name", BAD_FRAMINGS)
async def test_u11_u12_bad_framings(chaos, name):
    chaos.script("/a", does.raw(BAD_FRAMINGS[name]))
    chaos.script("/b", does.ok())
    async with client(chaos.origin) as up:
        try:
            head, got = await fetch(up, chaos.url("/a"))
        except UpstreamBroken as fault:
            assert fault.code in ("bad_framing", "bad_head", "short_body")
        else:
            assert not head.framed, f"passed as complete: {got!r}"
        assert (await fetch(up, chaos.url("/b")))[0].status == 200
    assert chaos.connections == 2


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_u36_bad_heads(chaos, name):
    chaos.script("/a", does.raw(BAD_HEADS[name], close=False))
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBroken, "bad_head")


@pytest.mark.parametrize("rst", [True, False])
async def test_closed_instead_of_an_answer(chaos, rst):
    chaos.script("/a", does.slam(rst=rst), does.ok())
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBroken, "no_answer")
    assert chaos.hits("/a") == 1, "a fresh connection that fails is the engine's to retry"


async def test_a_pooled_connection_that_was_closed_costs_nothing(chaos):
    chaos.script("/a", does.ok())
    chaos.script("/b", does.slam(), does.ok())
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        assert (await fetch(up, chaos.url("/b")))[0].status == 200
        await fetch(up, chaos.url("/a"))
        chaos.script("/p", does.slam())
        await refusal(up, chaos.url("/p"), UpstreamBroken, "no_answer", method="POST", body=b"x")
    assert chaos.hits("/b") == 2
    assert chaos.hits("/p") == 1, "a POST is never sent twice"


async def test_u25_strange_206_is_passed_through(chaos):
    chaos.script("/a", does.bad_range("bytes 5-9/7", 206))
    async with client(chaos.origin) as up:
        head, _ = await fetch(up, chaos.url("/a"))
    assert (head.status, head.headers["content-range"]) == (206, "bytes 5-9/7")


async def test_u28_endless(chaos):
    chaos.script("/a", does.endless(chunk=10, delay=0.0))
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), TooLarge, "too_large", max_bytes=5000)


async def test_u30_bodies_stay_as_framed(chaos):
    body = chaos.script("/a", does.gzipped())
    async with client(chaos.origin) as up:
        head, got = await fetch(up, chaos.url("/a"))
    assert head.headers["content-encoding"] == "gzip"
    assert len(got) == head.length
    assert gzip.decompress(got) == body.bytes()


async def test_u38_hostile_headers_are_data(chaos):
    chaos.script("/a", does.status(200, b"x", **{k.replace("-", "_"): v for k, v in HOSTILE_HEADERS.items()}))
    chaos.script("/b", does.ok())
    async with client(chaos.origin) as up:
        head, _ = await fetch(up, chaos.url("/a"))
        await fetch(up, chaos.url("/b"))
    assert "set-cookie" not in head.headers
    assert all(name == name.lower() for name in head.headers)
    assert "cookie" not in chaos.last("/b").headers


@pytest.mark.parametrize("delay", [0.0, 0.03])
async def test_u39_an_answer_nobody_asked_for(chaos, delay):
    """A response queue shift: the extra answer must not be taken for that of the next request."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    chaos.script("/a", does.then_extra(poison, delay=delay))
    good = chaos.script("/b", does.ok())
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        await asyncio.sleep(delay + 0.05)
        for _ in range(3):
            assert (await fetch(up, chaos.url("/b")))[1] == good.bytes()
    assert chaos.connections == 2


async def test_u39_extra_bytes_still_in_the_kernel(chaos):
    """The loop has not seen the bytes when the connection is wanted again: the socket is asked."""
    kept = []

    async def keep(exchange):
        kept.append(exchange)
        await does.ok()(exchange)

    chaos.script("/a", keep)
    good = chaos.script("/b", does.ok())
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        kept[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert (await fetch(up, chaos.url("/b")))[1] == good.bytes()
    assert chaos.connections == 2


async def test_a_header_that_cannot_be_written_is_refused(chaos):
    async with client(chaos.origin) as up:
        headers = (("If-None-Match", '"a\r\nX: y"'),)
        await refusal(up, chaos.url("/a"), UpstreamBlocked, "bad_request", headers=headers)
    assert chaos.requests == []


async def test_an_unknown_remote_is_a_bug_of_the_caller(chaos):
    async with client(chaos.origin) as up:
        with pytest.raises(KeyError):
            async with up.open(UpstreamRequest("other", chaos.url("/a"))):
                pass
