"""Requests that are refused before anything is looked up: what is told, and that nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, proxied

from .clients import counted, dial, logged, said, target, until, untouched, well

LINGERING = 0.25
HUGE = 100_000_000
AUDIT = "/npm/-/npm/v1/security/audits/quick"
SMUGGLED = target("/files/smuggled.bin")


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    top = f"limits: {{lingering: {int(LINGERING * 1000)}ms}}\nallowed_hosts: [x, 127.0.0.1]"
    remotes = f"npm:\n  provider: npm\n  upstream: {chaos.origin}/\n"
    async with proxied(tmp_path, chaos.origin, remotes=remotes, top=top) as running:
        yield running


# --- an answer before the body is there ---

EARLY = {
    "a method that is not served": ("PUT", "/files/a.bin", "x", 405, "method_not_allowed"),
    "a path that only reads": ("POST", "/files/a.bin", "x", 405, "method_not_allowed"),
    "a body too large": ("POST", AUDIT, "x", 413, "body_too_large"),
    "a bad path": ("POST", "/files/../a.bin", "x", 400, "bad_path"),
    "a foreign host": ("POST", AUDIT, "evil.example", 421, "unknown_host"),
    "no such repository": ("PUT", "/nothing/a.bin", "x", 405, "method_not_allowed"),
}


@pytest.mark.parametrize("pours", [True, False], ids=["pours", "waits"])
@pytest.mark.parametrize(("method", "path", "host", "code", "error"), EARLY.values(), ids=EARLY)
async def test_c06_refused_while_100_mb_are_on_their_way(
    proxy: Proxy, chaos: Chaos, method: str, path: str, host: str, code: int, error: str, pours: bool
) -> None:
    client = await dial(proxy.base)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {HUGE}\r\n\r\n".encode()

    async def pour() -> None:
        """As a client that looks at no answer before it has sent all."""
        await client.send(head)
        with contextlib.suppress(OSError):
            for _ in range(HUGE // 1_000_000 if pours else 1):
                await client.send(b"b" * 1_000_000)
                await asyncio.sleep(0.01)

    pouring = asyncio.create_task(pour())
    reply = await client.reply()
    assert (reply.status, reply.headers["x-proxy-error"]) == (code, error)
    assert reply.headers["connection"] == "close"
    # The socket goes soon after, whatever the client still sends.
    async with asyncio.timeout(LINGERING + 3):
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""
    pouring.cancel()
    client.close()
    await until(lambda: not proxy.server._repositories.connections)
    assert (await logged(proxy, event="request", error=error))["status"] == code
    assert await counted(proxy, "rejected", reason=error) == 1
    await untouched(proxy, chaos)


# --- heads that are too large ---

LARGE = {
    "a header of 9 KB": target("/files/a.bin", "X-Large: " + "a" * 9000),
    "129 headers": target("/files/a.bin", *(f"X-{n}: a" for n in range(129))),
    "a target of 9 KB": target("/files/" + "a" * 9000),
    "40 KB in all": target("/files/a.bin", *(f"X-{n}: {'a' * 8000}" for n in range(5))),
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
async def test_c10_a_head_that_is_too_large(proxy: Proxy, chaos: Chaos, sent: bytes) -> None:
    got = await said(proxy.base, sent + SMUGGLED)
    assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 431 "))
    assert b"\r\nConnection: close\r\n" in got
    assert b"\r\nCache-Control: no-store\r\n" in got
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"aaaa" not in got
    line = await logged(proxy, event="request", status=400)
    assert await counted(proxy, "rejected", reason=str(line["error"])) == 1
    assert chaos.requests == []
    # Nobody else gets that error for the same file.
    body = chaos.script("/a.bin", ok(), size=5000)
    assert (await proxy.get("/files/a.bin")).body == body.bytes()
    chaos.requests.clear()
    await well(proxy, chaos)


@pytest.mark.parametrize("what", ["header", "headers", "target"])
async def test_c10_a_head_without_end_still_gets_its_answer(proxy: Proxy, chaos: Chaos, what: str) -> None:
    """Who looks at the answer only after sending all must not find a reset instead."""
    begin = b"GET /files/" if what == "target" else target("/files/a.bin")[:-2] + b"X-Large: "
    piece = b"a" * 997 + (b"\r\nX:" if what == "headers" else b"aaa")
    client = await dial(proxy.base)
    await client.send(begin)
    for _ in range(500):
        await client.send(piece)
    assert (await client.reply()).status == 400
    assert await client.rest() == b""
    client.close()
    await until(lambda: not proxy.server._repositories.connections)
    await untouched(proxy, chaos)


# --- bad targets ---

TARGETS = [
    "/files/%",
    "/files/%zz",
    "/files/%2",
    "/files/../etc/passwd",
    "/files/%2e%2e/etc/passwd",
    "/files/a/./b",
    "/files/a%00b",
    "/files/a\\b",
    "/files/a%5cb",
    "/files/%ff",
    "/files/%c0%ae%c0%ae/",
    "/files/a%e2%80%aeb",
    "/files/a%e2%80%8bb",
    "/files//a",
    "files/a",
]


@pytest.mark.parametrize("bad", TARGETS)
async def test_c11_a_bad_target_is_refused_before_anything(proxy: Proxy, chaos: Chaos, bad: str) -> None:
    # Judged before the host, the method and the body are.
    first = await said(proxy.base, target(bad) + SMUGGLED)
    assert first.startswith(b"HTTP/1.1 400 ")
    assert first.count(b"HTTP/1.1 ") == 1
    assert b"\r\nX-Proxy-Error: bad_" in first
    assert b"\r\nConnection: close\r\n" in first
    foreign = f"PUT {bad} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 5\r\n\r\nhello".encode()
    assert (await said(proxy.base, foreign)).startswith(b"HTTP/1.1 400 ")
    lines = [await logged(proxy, event="request", status=400)]
    assert await counted(proxy, "rejected", reason=str(lines[0]["error"])) == 2
    await untouched(proxy, chaos)


# --- smuggling ---

_P = "POST /files/a.bin HTTP/1.1\r\nHost: x\r\n"
SMUGGLING = {
    "length and chunked": _P + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": _P + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "a signed length": _P + "Content-Length: +5\r\n\r\nhello",
    "an unknown coding": _P + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked and more": _P + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "space before a colon": _P + "Content-Length : 5\r\n\r\nhello",
    "a folded field": _P + "X: a\r\n Content-Length: 5\r\n\r\nhello",
    "a bare CR": _P + "X: a\rContent-Length: 5\r\n\r\nhello",
    "a chunk size with a sign": _P.replace("POST", "GET")
    + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n",
    "a chunk without its end": _P.replace("POST", "GET")
    + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
    "two hosts": "GET /files/a.bin HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "HTTP/0.9": "GET /files/a.bin HTTP/0.9\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", SMUGGLING.values(), ids=SMUGGLING)
async def test_c12_nothing_is_smuggled_behind_bad_framing(proxy: Proxy, chaos: Chaos, sent: str) -> None:
    chaos.script("/a.bin", ok())
    chaos.script("/smuggled.bin", ok())
    got = await said(proxy.base, sent.encode() + SMUGGLED)
    assert int(got.split(b" ", 2)[1]) in (400, 405, 505)
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in got
    line = await logged(proxy, event="request", result="error")
    assert await counted(proxy, "rejected", reason=str(line["error"])) == 1
    await untouched(proxy, chaos)


# --- a GET with a body ---


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_c14_a_small_body_of_a_get_is_dropped(proxy: Proxy, chaos: Chaos, framing: str) -> None:
    body = chaos.script("/a.bin", ok(), size=70_000)
    client = await dial(proxy.base)
    for _ in range(3):  # also where the answer is cached
        if framing == "length":
            sent = target("/files/a.bin", f"Content-Length: {len(SMUGGLED)}") + SMUGGLED
        else:
            sent = target("/files/a.bin", "Transfer-Encoding: chunked")
            sent += b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
        await client.send(sent)
        reply = await client.reply()
        assert (reply.status, reply.body) == (200, body.bytes())
        assert "connection" not in reply.headers
        await proxy.settled()
    client.close()
    (seen,) = chaos.requests
    assert (seen.target, seen.body) == ("/a.bin", b"")
    assert {"content-length", "transfer-encoding", "expect"}.isdisjoint(seen.headers)
    assert all(line["path"] == "a.bin" for line in proxy.log_lines() if line["event"] == "request")
    await well(proxy, chaos)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_c14_a_large_body_of_a_get_ends_the_connection(
    proxy: Proxy, chaos: Chaos, framing: str
) -> None:
    body = chaos.script("/a.bin", ok(), size=70_000)
    large = b"b" * 300_000
    client = await dial(proxy.base)
    if framing == "length":
        await client.send(target("/files/a.bin", f"Content-Length: {len(large)}") + large + SMUGGLED)
    else:
        await client.send(target("/files/a.bin", "Transfer-Encoding: chunked"))
        await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large) + SMUGGLED)
    reply = await client.reply()
    assert (reply.status, reply.body, reply.headers["connection"]) == (200, body.bytes(), "close")
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    client.close()
    assert [(seen.target, seen.body) for seen in chaos.requests] == [("/a.bin", b"")]
    await until(lambda: not proxy.server._repositories.connections)
    await well(proxy, chaos)


# --- Expect ---

REFUSED = {
    "a method": ("PUT", "/files/a.bin", "x", 10, 405),
    "a size": ("POST", AUDIT, "x", HUGE, 413),
    "a path": ("POST", "/npm/../a", "x", 10, 400),
    "a host": ("POST", AUDIT, "evil.example", 10, 421),
}


@pytest.mark.parametrize(("method", "path", "host", "size", "code"), REFUSED.values(), ids=REFUSED)
async def test_c24_what_is_refused_is_not_asked_to_go_on(
    proxy: Proxy, chaos: Chaos, method: str, path: str, host: str, size: int, code: int
) -> None:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    )
    got = await said(proxy.base, head.encode())
    assert got.startswith(b"HTTP/1.1 %d " % code)
    assert b" 100 " not in got
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in got
    line = await logged(proxy, event="request", status=code)
    assert await counted(proxy, "rejected", reason=str(line["error"])) == 1
    await untouched(proxy, chaos)


async def test_c24_what_is_welcome_is_asked_to_go_on(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/-/npm/v1/security/audits/quick", status(200, b"{}", Content_Type="application/json"))
    client = await dial(proxy.base)
    await client.send(target(AUDIT, "Content-Length: 2", "Expect: 100-continue", method="POST"))
    assert await client.line() == b"HTTP/1.1 100 Continue"
    assert await client.line() == b""
    assert chaos.requests == []
    await client.send(b"{}")
    assert (await client.reply()).body == b"{}"
    client.close()
    (seen,) = chaos.requests
    assert (seen.body, "expect" in seen.headers) == (b"{}", False)
    await well(proxy, chaos)
