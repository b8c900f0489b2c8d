"""Clients that misbehave on purpose, an upstream that waits for a word, and what is looked at afterwards."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import ok
from tests.chaos.server import Behaviour
from tests.house_proxy import Proxy
from tests.web.scripted import Client

PATIENCE = 5.0  # seconds until something that was promised counts as missing


async def dial(base: str, receive_buffer: int = 0) -> Client:
    """A raw connection to `http://host:port`."""
    host, _, port = base.removeprefix("http://").partition(":")
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return Client(sock)


async def said(base: str, *pieces: bytes) -> bytes:
    """All that comes back for these very bytes, until the server closes."""
    client = await dial(base)
    try:
        for piece in pieces:
            await client.send(piece)
        return await client.rest()
    finally:
        client.close()


def target(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = (f"{method} {path} HTTP/{version}", "Host: x", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


async def leave(client: Client, how: str) -> None:
    """`fin`: an orderly end although the answer is not whole; `rst`: at once."""
    if how == "rst":
        client.reset()
        return
    # With bytes unread, close() alone would be a reset as well.
    client.sock.shutdown(socket.SHUT_WR)
    try:
        await client.rest()
    except OSError:
        pass
    client.close()


def waits(
    word: asyncio.Event, at: int, *, chunked: bool = False, head_too: bool = False, total: int = 0
) -> Behaviour:
    """Sends `at` bytes (with `head_too` not even a head), waits for the word, and ends honestly.
    `total` bytes instead of the whole, for bodies that grow on request."""

    async def behave(exchange: Exchange) -> None:
        body = exchange.body
        size = total or body.size
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        if head_too:
            await word.wait()
        await exchange.head(200, {**framing, "ETag": body.etag})
        for start, stop in ((0, at), (at, size)):
            for place in range(start, stop, 65536):
                piece = body.slice(place, min(place + 65536, stop))
                await exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if not head_too:
                await word.wait()
        if chunked:
            await exchange.send(b"0\r\n\r\n")

    return behave


async def until(condition: Callable[[], Any], what: str = "it did not happen") -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)


async def logged(proxy: Proxy, **fields: object) -> dict[str, object]:
    """The first log line with these fields; it is written within a moment."""
    found: list[dict[str, object]] = []

    def look() -> bool:
        found[:] = [line for line in proxy.log_lines() if fields.items() <= line.items()]
        return bool(found)

    await until(look, f"no log line with {fields}")
    return found[0]


async def counted(proxy: Proxy, name: str, **labels: str) -> float:
    """One number out of `/metrics`; 0 if there is none."""
    answer = await proxy.get("/metrics")
    assert answer.status == 200
    return number((answer.body or b"").decode(), name, **labels)


def number(exposition: str, name: str, **labels: str) -> float:
    for line in exposition.splitlines():
        if re.match(rf"artifactproxy_{name}(_total)?[{{ ]", line) is None:
            continue
        seen = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if labels.items() <= seen.items():
            return float(line.rpartition(" ")[2])
    return 0.0


def held(proxy: Proxy) -> set[str]:
    """The paths that the index says are stored."""
    with sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True) as db:
        return {path for (path,) in db.execute("SELECT path FROM entries WHERE sha256 IS NOT NULL")}


async def well(proxy: Proxy, chaos: Chaos) -> None:
    """What comes after every fault: nothing left over, and an ordinary request is right."""
    await proxy.check()
    body = chaos.script("/well.bin", ok(), size=200_000)
    for _ in range(2):
        got = await proxy.get("/files/well.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.settled()
    assert got.source == "cache"


async def untouched(proxy: Proxy, chaos: Chaos) -> None:
    """A refused request reached nobody; then as `well`."""
    assert chaos.requests == []
    assert proxy.blobs() == []
    assert held(proxy) == set()
    await well(proxy, chaos)


def peak_memory(pid: int) -> int:
    """The most that the process has ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
