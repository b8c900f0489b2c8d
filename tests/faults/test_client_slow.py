"""Clients that take their time: reading a body, sending a head, sending a body."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, configuration, proxied
from tests.program import started
from tests.web.scripted import Client

from .clients import (
    counted,
    dial,
    held,
    logged,
    number,
    peak_memory,
    said,
    target,
    until,
    untouched,
    well,
)

READERS = 200
MIB = 1 << 20


# --- reading slowly ---


async def _sip(client: Client, got: list[int]) -> None:
    """4 KiB a second, without end."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while piece := await loop.sock_recv(client.sock, 4096):
            got.append(len(piece))
            await asyncio.sleep(1.0)


@asynccontextmanager
async def _crowd(base: str, path: str, count: int) -> AsyncIterator[list[list[int]]]:
    """Slow readers of one body; yields what each has got so far."""
    clients = [await dial(base, receive_buffer=4096) for _ in range(count)]
    got: list[list[int]] = [[] for _ in clients]
    for client in clients:
        await client.send(target(path))
    tasks = [asyncio.create_task(_sip(c, g)) for c, g in zip(clients, got, strict=True)]
    try:
        yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for client in clients:
            client.reset()


@pytest.mark.parametrize("chunked", [False, True], ids=["known length", "unknown length"])
async def test_c02_slow_readers_cost_no_memory_and_slow_nobody(
    tmp_path: Path, chaos: Chaos, chunked: bool
) -> None:
    body = chaos.script("/big.bin", ok(chunked=chunked), size=48 * MIB)
    configuration(tmp_path, chaos.origin)
    async with started(tmp_path) as (process, base), aiohttp.ClientSession() as session:

        async def get(path: str) -> bytes:
            async with session.get(base + path) as answer:
                assert answer.status == 200
                return await answer.read()

        chaos.script("/small.bin", ok(), size=1000)
        await get("/files/small.bin")
        before = peak_memory(process.pid)
        async with _crowd(base, "/files/big.bin", READERS) as got:
            await until(lambda: all(got), "not every slow reader has begun")
            async with asyncio.timeout(30):
                assert await get("/files/big.bin") == body.bytes()
                # The fill went at upstream's speed too: it is stored while they still read.
                again = await session.get(base + "/files/big.bin")
                assert again.headers["X-Artifact-Source"] == "cache"
                assert await again.read() == body.bytes()
            assert max(map(sum, got)) < body.size // 4, "they were not slow"
            # 256 KiB for each of them, and the fill itself.
            assert peak_memory(process.pid) - before < READERS * MIB // 4
        assert chaos.wholes("/big.bin") == 1

        def seen() -> bool:
            log = (tmp_path / "log").read_text()
            return sum('"error":"client_left"' in line for line in log.splitlines()) == READERS

        await until(seen, "the end of a slow reader is not in the log")
        metrics = (await get("/metrics")).decode()
        assert number(metrics, "client_aborts", reason="client_left") == READERS
        assert await get("/files/small.bin") == chaos.script("/small.bin", ok(), size=1000).bytes()


@pytest.mark.parametrize("chunked", [False, True], ids=["known length", "unknown length"])
async def test_c02_a_reader_that_makes_no_progress_is_reset(
    tmp_path: Path, chaos: Chaos, chunked: bool
) -> None:
    body = chaos.script("/f.bin", ok(chunked=chunked), size=24 * MIB)
    async with proxied(tmp_path, chaos.origin, top="limits: {send_stall: 300ms}") as proxy:
        for warm in (False, True):
            client = await dial(proxy.base, receive_buffer=4096)
            await client.send(target("/files/f.bin"))
            line = await _nth(proxy, 1 + int(warm), error="client_slow")
            assert line["bytes"] < body.size
            with pytest.raises(ConnectionResetError):
                await client.rest()
            client.close()
            await proxy.settled()
            assert held(proxy) == {"f.bin"}
        assert await counted(proxy, "client_aborts", reason="client_slow") == 2
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await well(proxy, chaos)


async def _nth(proxy: Proxy, count: int, **fields: object) -> dict[str, object]:
    def lines() -> list[dict[str, object]]:
        return [line for line in proxy.log_lines() if fields.items() <= line.items()]

    await until(lambda: len(lines()) >= count, f"fewer than {count} lines with {fields}")
    return lines()[count - 1]


# --- a head that does not come ---


async def _drip(client: Client, data: bytes, pause: float = 0.02) -> None:
    with contextlib.suppress(OSError):
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(pause)


HEADS: dict[str, Callable[[Client], asyncio.Future[None] | asyncio.Task[None]]] = {
    "silent in the line": lambda c: asyncio.ensure_future(c.send(b"GET /files/a.bi")),
    "silent in a field": lambda c: asyncio.ensure_future(c.send(b"GET /files/a.bin HTTP/1.1\r\nHost: x")),
    "a byte at a time": lambda c: asyncio.ensure_future(_drip(c, target("/files/" + "a" * 400))),
    "a field at a time": lambda c: asyncio.ensure_future(_drip(c, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 90)),
}


@pytest.mark.parametrize("sends", HEADS.values(), ids=HEADS)
async def test_c04_a_head_that_takes_too_long(
    tmp_path: Path, chaos: Chaos, sends: Callable[[Client], asyncio.Future[None]]
) -> None:
    async with proxied(tmp_path, chaos.origin, top="limits: {keepalive: 400ms}") as proxy:
        client, idle = await dial(proxy.base), await dial(proxy.base)
        sending = sends(client)
        got = await asyncio.wait_for(client.rest(), 20)
        assert got.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nX-Proxy-Error: head_timeout\r\n" in got
        assert b"\r\nConnection: close\r\n" in got
        assert got.count(b"HTTP/1.1 ") == 1
        sending.cancel()
        client.close()
        # Who never began is not told anything: the connection just ends.
        assert await asyncio.wait_for(idle.rest(), 20) == b""
        idle.close()
        line = await logged(proxy, event="request", error="head_timeout")
        assert line["status"] == 408
        assert await counted(proxy, "rejected", reason="head_timeout") == 1
        await untouched(proxy, chaos)


async def test_c04_an_answer_does_not_buy_time_for_the_next_head(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=1000)
    async with proxied(tmp_path, chaos.origin, top="limits: {keepalive: 400ms}") as proxy:
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin"))
        assert (await client.reply()).body == body.bytes()
        sending = asyncio.create_task(_drip(client, target("/files/" + "a" * 400)))
        assert (await asyncio.wait_for(client.rest(), 20)).startswith(b"HTTP/1.1 408 ")
        sending.cancel()
        client.close()
        await well(proxy, chaos)


# --- a body that does not come ---

AUDIT = "/npm/-/npm/v1/security/advisories/bulk"
ASKED = json.dumps({f"left-pad-{n}": ["1.0.0"] for n in range(400)}).encode()
SAID = b'{"left-pad-1": []}'


def _npm(chaos: Chaos) -> str:
    return f"npm:\n  provider: npm\n  upstream: {chaos.origin}/\n"


UPLOADS = {
    "nothing": (0, 0.0),
    "half": (len(ASKED) // 2, 0.0),
    "all but a byte": (len(ASKED) - 1, 0.0),
    "a trickle": (0, 0.02),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("sent", "pause"), UPLOADS.values(), ids=UPLOADS)
async def test_c05_a_posted_body_that_does_not_arrive(
    tmp_path: Path, chaos: Chaos, sent: int, pause: float, chunked: bool
) -> None:
    chaos.script("/-/npm/v1/security/advisories/bulk", status(200, SAID, Content_Type="application/json"))
    top = "limits: {keepalive: 400ms, lingering: 100ms}"
    async with proxied(tmp_path, chaos.origin, remotes=_npm(chaos), top=top) as proxy:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(ASKED)}"
        client = await dial(proxy.base)
        await client.send(target(AUDIT, framing, "Content-Type: application/json", method="POST"))
        begun = ASKED[:sent]
        await client.send(b"%x\r\n%b" % (len(ASKED), begun) if chunked else begun)
        sending = asyncio.create_task(_drip(client, ASKED, pause)) if pause else None
        got = await asyncio.wait_for(client.reply(), 20)
        assert (got.status, got.headers["x-proxy-error"]) == (408, "body_timeout")
        assert got.headers["connection"] == "close"
        assert json.loads(got.body)["error"]
        if sending is not None:
            assert not sending.done(), "it was not the trickle that was refused"
            sending.cancel()
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""
        client.close()
        line = await logged(proxy, event="request", error="body_timeout")
        assert (line["method"], line["status"]) == ("POST", 408)
        assert await counted(proxy, "rejected", reason="body_timeout") == 1
        assert chaos.requests == []
        assert proxy.blobs() == []
        head = target(AUDIT, f"Content-Length: {len(ASKED)}", "Connection: close", method="POST")
        assert (await said(proxy.base, head, ASKED)).endswith(SAID)
        assert chaos.last("/-/npm/v1/security/advisories/bulk").body == ASKED
        await well(proxy, chaos)
