"""Request bodies that are relayed: taken in whole and unchanged, bounded in size, time and number."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from artifactproxy.engine.answer import Answer, Bytes
from artifactproxy.web import bodies

from .test_framing import REFUSED

P = b"POST /post/audit HTTP/1.1\r\nHost: x\r\n"
NEXT = b"GET /post/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def rig(rigs):
    rig = await rigs(request_body=100_000, keepalive=0.4)
    rig.engine.give("post/audit", lambda: Bytes(b"{}"))
    rig.engine.give("post/next", lambda: Bytes(b"next"))
    yield rig
    for _ in range(500):
        if not rig.server._front.bodies.held:
            break
        await asyncio.sleep(0.02)
    assert rig.server._front.bodies.held == 0


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _chunked(*pieces: bytes) -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n" + sent + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("framed", "body"),
    [
        (_length(b"hello"), b"hello"),
        (_length(b""), b""),
        (b"\r\n", b""),
        (_chunked(b"he", b"llo" * 1000), b"he" + b"llo" * 1000),
        (_length(b"x" * 100_000), b"x" * 100_000),
        (_chunked(*[b"x" * 10_000] * 10), b"x" * 100_000),
    ],
)
async def test_a_body_arrives_whole_and_the_connection_goes_on(rig, framed, body) -> None:
    got = await rig.raw(P + framed + NEXT)
    assert [ask.body for ask in rig.engine.asked] == [body, b""]
    assert (rig.engine.asked[0].method, rig.engine.asked[0].path) == ("POST", "audit")
    assert got.count(b"HTTP/1.1 200 ") == 2
    assert got.endswith(b"next")


async def test_a_coded_body_is_not_touched(rig) -> None:
    packed = gzip.compress(b'{"a": 1}' * 1000)
    client = await rig.connect()
    await client.send(P + b"Content-Encoding: gzip\r\n" + _length(packed))
    assert (await client.reply()).status == 200
    assert rig.engine.asked[0].body == packed
    assert rig.engine.asked[0].headers["content-encoding"] == "gzip"
    client.close()


async def test_a_body_looks_like_a_request_and_is_none(rig) -> None:
    await rig.raw(P + _length(b"GET /post/smuggled HTTP/1.1\r\nHost: x\r\n\r\n") + NEXT)
    assert [ask.path for ask in rig.engine.asked] == ["audit", "next"]


@pytest.mark.parametrize(
    "framed", [b"Content-Length: 100001\r\n\r\n", _chunked(*[b"x" * 10_000] * 11), _chunked(b"x" * 100_001)]
)
async def test_a_large_body_is_refused_in_the_clients_language(rig, framed) -> None:
    client = await rig.connect()
    await client.send(P + framed)
    reply = await client.reply()
    assert (reply.status, reply.headers["x-proxy-error"]) == (413, "body_too_large")
    assert reply.headers["content-type"] == "text/x-paper"
    assert b"100000" in reply.body
    if b"100001" in framed:
        assert reply.headers["connection"] == "close"
    assert rig.engine.asked == []
    client.close()


async def test_a_refused_length_is_never_waited_for(rig) -> None:
    client = await rig.connect()
    await client.send(P + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n")
    assert (await client.head()).status == 413
    client.close()


async def test_a_client_that_waits_is_told_to_go_on(rig) -> None:
    client = await rig.connect()
    await client.send(P + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert await client.line() == b"HTTP/1.1 100 Continue"
    assert await client.line() == b""
    await client.send(b"hello")
    assert (await client.reply()).status == 200
    assert rig.engine.asked[0].body == b"hello"
    client.close()


async def test_http_1_0_is_not_told_to_go_on(rig) -> None:
    got = await rig.raw(
        P.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert got.startswith(b"HTTP/1.1 200 ")
    assert rig.engine.asked[0].body == b"hello"


@pytest.mark.parametrize(
    "sent", [b"Content-Length: 5\r\n\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"]
)
async def test_a_body_that_stops_is_not_waited_for_long(rig, sent) -> None:
    client = await rig.connect()
    await client.send(P + sent)
    reply = await client.reply()
    assert (reply.status, reply.headers["x-proxy-error"]) == (408, "body_timeout")
    assert reply.headers["connection"] == "close"
    assert rig.engine.asked == []
    client.close()


async def test_a_trickle_ends_though_it_never_stops(rig) -> None:
    client = await rig.connect()
    await client.send(P + b"Content-Length: 1000\r\n\r\n")

    async def trickle() -> None:
        for _ in range(40):
            await client.send(b"x")
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(trickle())
    assert (await client.reply()).status == 408
    assert not sending.done()
    sending.cancel()
    client.close()


MALFORMED = {name: sent for name, sent in REFUSED.items() if b"chunked" in sent or b"Length" in sent}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_framing_is_refused_where_bodies_are_taken(rig, sent) -> None:
    _, _, rest = sent.partition(b"\r\n")
    got = await rig.raw(b"POST /post/audit HTTP/1.1\r\n" + rest + NEXT)
    assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in got
    assert rig.engine.asked == []


async def test_a_chunk_that_breaks_later_ends_the_connection(rig) -> None:
    client = await rig.connect()
    await client.send(P + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello")
    await asyncio.sleep(0.05)
    await client.send(b"X0\r\n\r\n" + NEXT)
    got = await client.rest()
    assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
    assert got.count(b"HTTP/1.1 ") == 1
    assert rig.engine.asked == []


async def test_a_client_that_leaves_midway_leaves_nothing_behind(rig) -> None:
    client = await rig.connect()
    await client.send(P + b"Content-Length: 50000\r\n\r\n" + b"x" * 20_000)
    for _ in range(1_000):
        if rig.server._front.bodies.held:
            break
        await asyncio.sleep(0.01)
    assert rig.server._front.bodies.held == 20_000
    client.reset()
    outcome = await rig.watch.last()
    assert outcome.error == "client_left"
    assert rig.engine.asked == []


async def test_bodies_are_counted_until_their_answers_have_left(rig, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "AT_ONCE", 1)
    proceed = asyncio.Event()

    async def slow(ask) -> Answer:
        await proceed.wait()
        return Answer(200, [], Bytes(b"done"))

    rig.engine.answers["post/audit"] = slow
    first, second = await rig.connect(), await rig.connect()
    await first.send(P + _length(b"x" * 60_000))
    while not rig.engine.asked:
        await asyncio.sleep(0.01)
    await second.send(P + _length(b"x" * 60_000))
    reply = await second.reply()
    assert (reply.status, reply.headers["x-proxy-error"]) == (503, "request_bodies")
    assert "retry-after" in reply.headers
    proceed.set()
    assert (await first.reply()).body == b"done"
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("target", "method", "allow", "media_type"),
    [
        ("/paper/a", "POST", "GET, HEAD", "text/x-paper"),
        ("/post/a", "PUT", "GET, HEAD, POST", "text/x-paper"),
        ("/post/a", "DELETE", "GET, HEAD, POST", "text/x-paper"),
        ("/repository/post/a", "PATCH", "GET, HEAD, POST", "text/x-paper"),
        ("/setup", "POST", "GET, HEAD", "text/x-paper"),
        ("/", "POST", "GET, HEAD", "text/plain; charset=utf-8"),
        ("/livez", "OPTIONS", "GET, HEAD", "text/x-paper"),
    ],
)
async def test_what_is_not_answered_says_what_is(rig, target, method, allow, media_type) -> None:
    client = await rig.connect()
    await client.ask(target, "Content-Length: 5\r\n", method)
    reply = await client.reply()
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert reply.headers["content-type"] == media_type
    assert reply.headers["connection"] == "close"
    assert rig.engine.asked == []
    client.close()
