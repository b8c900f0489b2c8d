"""Request framing over raw sockets: what is malformed is refused, and what follows it never runs."""

from __future__ import annotations

import asyncio

import pytest

from artifactproxy.engine.answer import Bytes
from artifactproxy.errors import BadRequest
from artifactproxy.web.framing import judge_framing

NEXT = b"GET /paper/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
G = b"GET /paper/a HTTP/1.1\r\n"
P = b"POST /paper/a HTTP/1.1\r\n"
H = b"Host: x\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "D01 length and chunked": P + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "D02 chunked and length": P + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "D03 two lengths": P + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "D04 two equal lengths": P + H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "D05 length list": P + H + b"Content-Length: 5, 5\r\n\r\nhello",
    "D06 length plus": P + H + b"Content-Length: +5\r\n\r\nhello",
    "D06 length hex": P + H + b"Content-Length: 0x5\r\n\r\nhello",
    "D06 length underscore": P + H + b"Content-Length: 5_0\r\n\r\nhello",
    "D06 length negative": P + H + b"Content-Length: -1\r\n\r\nhello",
    "D06 length overflow": P + H + b"Content-Length: 18446744073709551616\r\n\r\nhello",
    "D07 unknown coding": P + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "D08 chunked not last": P + H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "D08 chunked last": P + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "D08 chunked behind a comma": P + H + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "D09 two codings": P + CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "D10 space before colon": P + H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "D11 vertical tab": P + H + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "D13 folded line": G + H + b"X: a\r\n b\r\n\r\n",
    "D14 bare LF": b"GET /paper/a HTTP/1.1\nHost: x\n\n",
    "D15 bare CR": G + H + b"X: a\rb\r\n\r\n",
    "D16 NUL": G + H + b"X: a\0b\r\n\r\n",
    "D17 space in a name": G + H + b"X Y: a\r\n\r\n",
    "D18 no Host": G + b"\r\n",
    "D19 two Hosts": G + H + b"Host: y\r\n\r\n",
    "D19 two equal Hosts": G + H + H + b"\r\n",
    "D22 HTTP/0.9": b"GET /paper/a HTTP/0.9\r\n" + H + b"\r\n",
    "D22 HTTP/2.0": b"GET /paper/a HTTP/2.0\r\n" + H + b"\r\n",
    "D22 HTTP/1.2": b"GET /paper/a HTTP/1.2\r\n" + H + b"\r\n",
    "D22 lower-case version": b"GET /paper/a http/1.1\r\n" + H + b"\r\n",
    "D22 no version": b"GET /paper/a\r\n" + H + b"\r\n",
    "D23 h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "D24 TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"A" * 40 + b"\r\n\r\n",
    "D25 chunk size plus": G + CHUNKED + b"\r\n+5\r\nhello\r\n0\r\n\r\n",
    "D25 chunk size hex": G + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "D25 chunk size long": G + CHUNKED + b"\r\n" + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "D25 chunk LF": G + CHUNKED + b"\r\n5\nhello\n0\n\n",
    "D25 chunk without CRLF": G + CHUNKED + b"\r\n5\r\nhelloX0\r\n\r\n",
    "D25 LF in an extension": G + CHUNKED + b"\r\n5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "D30 long method": b"G" * 8192 + b" / HTTP/1.1\r\n" + H + b"\r\n",
    "D30 lower-case method": b"get /paper/a HTTP/1.1\r\n" + H + b"\r\n",
    "C10 long header": G + H + b"X: " + b"a" * 9000 + b"\r\n\r\n",
    "C10 long target": b"GET /paper/" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n",
    "C10 many headers": G + H + b"".join(b"X-%d: a\r\n" % n for n in range(130)) + b"\r\n",
    "C10 large head": G + H + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 6000) for n in range(6)) + b"\r\n",
}
HOSTS = [b'a"b', b"<a>", b"a/b", b"a,b", b"me@host", b"a b", b"", b"[::1", b"x:99999", b"x:", b"\xe9.example"]


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
async def test_malformed_requests_are_refused_and_closed(rig, request_bytes) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    got = await rig.raw(request_bytes + NEXT)
    status = int(got.split(b" ", 2)[1])
    assert status in (400, 405, 505)
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in got
    assert b"X-Proxy-Error: " in got
    assert rig.engine.asked == []
    assert (await rig.get("/paper/a")).body == b"content"


@pytest.mark.parametrize("host", HOSTS)
async def test_d20_odd_hosts_are_refused(rig, host) -> None:
    got = await rig.raw(G + b"Host: " + host + b"\r\n\r\n" + NEXT)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert host not in got.partition(b"\r\n\r\n")[2] or not host
    assert rig.engine.asked == []


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://x/paper/a", b"x", 200),
        (b"HTTP://X/paper/a", b"x", 200),
        (b"http://y/paper/a", b"x", 421),
        (b"http://x@y/paper/a", b"x", 421),
        (b"http://x:80/paper/a", b"x", 421),
        (b"//x/paper/a", b"x", 400),
        (b"ftp://x/paper/a", b"x", 400),
        (b"*", b"x", 400),
    ],
)
async def test_d21_absolute_targets(rig, target, host, status) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    got = await rig.raw(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_405(rig, method) -> None:
    reply = await rig.get("/paper/a", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert reply.headers["x-proxy-error"] == "method_not_allowed"
    assert rig.engine.asked == []


async def test_connect_is_refused(rig) -> None:
    got = await rig.raw(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + NEXT)
    assert got.split(b" ", 2)[1] in (b"400", b"405")
    assert got.count(b"HTTP/1.1 ") == 1
    assert rig.engine.asked == []


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_d23_upgrades_are_ignored(rig, upgrade) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    client = await rig.connect()
    await client.send(G + H + b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n" + NEXT)
    reply = await client.reply()
    # The parser may forget what came with such a request, so that nothing more is read here.
    assert (reply.body, reply.headers["connection"]) == (b"content", "close")
    assert await client.rest() == b""
    assert [ask.path for ask in rig.engine.asked] == ["a"]


@pytest.mark.parametrize(
    "probe",
    [b"GET /%zz<script> HTTP/1.1\r\nHost: x\r\n\r\n", b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n"],
)
async def test_refusals_repeat_nothing_of_the_request(rig, probe) -> None:
    got = await rig.raw(probe)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"script" not in got
    assert b"aiohttp" not in got.lower()
    assert b"X-Proxy-Error: bad_" in got
    outcome = await rig.watch.last()
    assert (outcome.status, outcome.result) == (400, "error")


@pytest.mark.parametrize(
    "target",
    [
        "/paper/../x",
        "/paper/%2e%2e/x",
        "/paper/a%00",
        "/paper/a%5cb",
        "/paper//x",
        "/paper/%ff",
        "/paper/%",
        "/paper/x#y",
    ],
)
async def test_a_bad_paths_never_reach_the_engine(rig, target) -> None:
    reply = await rig.get(target)
    assert (reply.status, reply.headers["x-proxy-error"]) == (400, "bad_path")
    assert rig.engine.asked == []


async def test_the_path_stays_as_the_client_spelled_it(rig) -> None:
    rig.engine.give("paper/@scope%2fname", lambda: Bytes(b"ok"))
    assert (await rig.get("/paper/@scope%2fname?ns=a%2Fb")).status == 200
    ask = rig.engine.asked[0]
    assert (ask.repo, ask.path, ask.query) == ("paper", "@scope%2fname", "ns=a%2Fb")
    assert ask.headers["connection"] == "close"
    assert ask.caller == "127.0.0.1"
    assert ask.base == f"{rig.url}/paper"


async def test_repeated_fields_are_joined(rig) -> None:
    await rig.get("/paper/a", "Accept: a\r\nACCEPT: b\r\n")
    assert rig.engine.asked[0].headers["accept"] == "a, b"


@pytest.mark.parametrize("line", [b"GET /paper/a HTTP/1.0\r\n", b"POST /paper/a HTTP/1.0\r\n"])
async def test_d12_http_1_0_has_no_chunks(rig, line) -> None:
    got = await rig.raw(line + CHUNKED + b"Connection: keep-alive\r\n\r\n0\r\n\r\n" + NEXT)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert rig.engine.asked == []


@pytest.mark.parametrize(
    ("minor", "headers", "chunks", "status"),
    [
        (1, {}, True, 0),
        (1, {"transfer-encoding": "Chunked"}, True, 0),
        (1, {"transfer-encoding": "chunked"}, False, 411),
        (0, {"transfer-encoding": "chunked"}, True, 400),
        (1, {"transfer-encoding": "chunked", "content-length": "5"}, True, 400),
        (1, {"transfer-encoding": "chun\u212aed"}, True, 400),
        (1, {"transfer-encoding": ""}, True, 400),
        (1, {"transfer-encoding": "gzip, chunked"}, False, 400),
        (1, {"content-length": "0"}, False, 0),
        (1, {"content-length": "9" * 18}, True, 0),
        (1, {"content-length": "9" * 19}, True, 400),
        (1, {"content-length": "\u0665"}, True, 400),
        (1, {"content-length": "5, 5"}, True, 400),
        (1, {"content-length": ""}, True, 400),
    ],
)
def test_framing_that_parsers_let_pass(minor, headers, chunks, status) -> None:
    if not status:
        judge_framing(minor, headers, chunks=chunks)
        return
    with pytest.raises(BadRequest) as refused:
        judge_framing(minor, headers, chunks=chunks)
    assert refused.value.status == status


async def test_c14_a_small_body_of_a_get_is_thrown_away(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    client = await rig.connect()
    for _ in range(2):
        await client.send(G + H + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT)
        assert (await client.reply()).body == b"content"
    client.close()
    assert {ask.path for ask in rig.engine.asked} == {"a"}


async def test_c14_a_large_body_of_a_get_ends_the_connection(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    for framing in (b"Content-Length: 70000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n11170\r\n"):
        client = await rig.connect()
        await client.send(G + H + framing + b"x" * 70_000)
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (b"content", "close")
        client.close()


async def test_a_stalled_body_of_a_get_does_not_hold_the_answer(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    client = await rig.connect()
    await client.send(G + H + b"Content-Length: 10\r\n\r\nabc")
    reply = await client.reply()
    assert (reply.body, reply.headers["connection"]) == (b"content", "close")
    client.close()


async def test_d31_expectations(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    got = await rig.raw(G + H + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b" 100 " not in got
    assert (await rig.get("/paper/a", "Expect: 100-continue\r\n")).body == b"content"
    assert (await rig.get("/paper/a", "Expect: banana\r\n")).status == 417
    got = await rig.raw(P + H + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 405 ")


async def test_our_own_via_is_a_loop(rig) -> None:
    reply = await rig.get("/paper/a", "Via: 1.1 front, 1.1 ArtifactProxy\r\n")
    assert (reply.status, reply.headers["x-proxy-error"]) == (508, "loop")
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    for other in ("1.1 front", "1.1 artifactproxy-b", "1.0", ","):
        assert (await rig.get("/paper/a", f"Via: {other}\r\n")).status == 200


async def test_request_ids_are_ours(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    first = await rig.get("/paper/a", "X-Request-Id: mine\r\n")
    second = await rig.get("/paper/none", "X-Request-Id: mine\r\n")
    ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
    assert len(ids) == 2
    assert "mine" not in ids
    assert [(await rig.watch.last(n)).extra["client_request_id"] for n in (1, 2)] == ["mine", "mine"]


async def test_c22_a_thousand_pipelined_requests_in_order(rig) -> None:
    for n in range(10):
        rig.engine.give(f"paper/{n}", lambda n=n: Bytes(b"%d" % n * 100))
    client = await rig.connect()
    wanted = [n % 10 for n in range(1000)]
    sending = asyncio.create_task(
        client.send(b"".join(b"GET /paper/%d HTTP/1.1\r\n%b\r\n" % (n, H) for n in wanted))
    )
    for n in wanted:
        assert (await client.reply()).body == b"%d" % n * 100
    await sending
    client.close()


async def test_d32_pipelined_requests_stop_at_the_malformed_one(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    got = await rig.raw((G + H + b"\r\n") * 3 + b"BAD\0\r\n\r\n" + NEXT)
    assert b"X-Proxy-Error: bad_request" in got
    assert all(ask.path == "a" for ask in rig.engine.asked)
