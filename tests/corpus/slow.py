"""Clients that are slow on purpose."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from tests.chaos.behaviours import ok
from tests.corpus.scene import AUDIT, Scene, connect, raw
from tests.house_proxy import Proxy


async def slow_clients(scene: Scene, *, kind: str, clients: int) -> None:
    """Clients that hold on to what they have: none is kept longer than the limits say, and hits are
    answered meanwhile."""
    big = scene.chaos.script("/big.bin", ok(), size=40_000_000)
    top = "limits: {keepalive: 500ms, send_stall: 500ms, lingering: 200ms}"
    async with scene.proxy(top=top) as proxy:
        if kind == "reader":
            got = await proxy.get("/files/big.bin")
            assert hashlib.sha256(got.body or b"").hexdigest() == big.sha256
            await proxy.settled()
        players = [asyncio.create_task(_SLOW[kind](proxy)) for _ in range(clients)]
        held = scene.chaos.script("/held.bin", ok(), size=5000)
        while not all(player.done() for player in players):
            got = await asyncio.wait_for(proxy.get("/files/held.bin"), 20)
            assert got.body == held.bytes()
            await asyncio.sleep(0.05)
        await asyncio.gather(*players)


async def _trickle(proxy: Proxy, text: bytes) -> bytes:
    """One byte at a time until the connection is ended from the other side."""
    reader, writer = await connect(proxy)
    answer = asyncio.ensure_future(reader.read())
    try:
        async with asyncio.timeout(60):
            for at in range(len(text)):
                if answer.done() or writer.is_closing():
                    break
                writer.write(text[at : at + 1])
                await asyncio.sleep(0.03)
            return await answer
    except ConnectionError:
        return b""
    finally:
        answer.cancel()
        writer.close()


async def _slow_head(proxy: Proxy) -> None:
    got = await _trickle(proxy, b"GET /files/held.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 300)
    assert not got.startswith(b"HTTP/1.1 200"), got[:100]


async def _no_head(proxy: Proxy) -> None:
    assert await raw(proxy, b"") == b""


async def _slow_body(proxy: Proxy) -> None:
    start = f"POST {AUDIT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n".encode()
    got = await raw(proxy, start + b"{")
    assert int(got.split()[1]) == 408, got[:100]


async def _slow_drain(proxy: Proxy) -> None:
    """A body that a GET should not have, and that never comes."""
    start = b"GET /files/held.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
    got = await raw(proxy, start)
    assert got.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), got[:100]


async def _never_reads(proxy: Proxy) -> None:
    """The answer is reset once nothing of it was taken for a while: what can be read is short."""
    reader, writer = await connect(proxy)
    writer.transport.pause_reading()
    writer.write(b"GET /files/big.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for _ in range(2_000):
        await asyncio.sleep(0.05)
        if "client_slow" in proxy.log.read_text():
            break
    writer.transport.resume_reading()
    size = 0
    try:
        async with asyncio.timeout(60):
            while part := await reader.read(1 << 20):
                size += len(part)
    except ConnectionError:
        pass
    writer.close()
    assert size < 40_000_000


_SLOW: dict[str, Callable[[Proxy], Awaitable[None]]] = {
    "head": _slow_head,
    "silence": _no_head,
    "body": _slow_body,
    "unread": _slow_drain,
    "reader": _never_reads,
}
