"""A TCP proxy in front of any server that makes its network bad, while it runs.

    async with Tcp(("127.0.0.1", server.port)) as proxy:
        proxy.toxics = latency(3.0)               # every connection, open or new
        proxy.links[-1].toxics = reset_peer()     # this one only
        proxy.toxics = cut_after(b"COMMIT")       # the reply to it is never seen
        proxy.switch(("127.0.0.1", standby.port)) # new connections; open ones end

Toxics are values: `proxy.toxics = calm()` heals. `|` joins two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Literal, Self

from tests.servers.process import free_port

Address = tuple[str, int]
Way = Literal["up", "down", "both"]
BLOCK = 64 * 1024
_TICK = 0.02


@dataclass(frozen=True, slots=True)
class Toxics:
    """What is wrong with a connection; `up` is from client to server, `down` back. Times in seconds,
    rates in bytes a second."""

    way: Way = "both"
    latency: float = 0.0
    bandwidth: float = 0.0
    slow_close: float = 0.0
    black_hole: bool = False
    reset_peer: bool = False
    refuse: bool = False
    slices: int = 0
    slice_delay: float = 0.0
    limit: int | None = None
    cut_after: bytes = b""
    cut_delay: float = 0.0
    """How long the server has for what it was told before the connection ends."""

    def meets(self, way: Way) -> bool:
        return self.way in ("both", way)

    def __or__(self, other: Toxics) -> Toxics:
        """Both; where both set the same, the later."""
        plain = Toxics()
        changed = {
            f.name: getattr(other, f.name)
            for f in dataclasses.fields(other)
            if getattr(other, f.name) != getattr(plain, f.name)
        }
        return dataclasses.replace(self, **changed)


def calm() -> Toxics:
    return Toxics()


def latency(seconds: float, way: Way = "down") -> Toxics:
    """Every block arrives so much later."""
    return Toxics(way, latency=seconds)


def bandwidth(rate: float, way: Way = "both") -> Toxics:
    return Toxics(way, bandwidth=rate)


def slow_close(seconds: float) -> Toxics:
    """The end of one side reaches the other so much later."""
    return Toxics(slow_close=seconds)


def timeout(way: Way = "both") -> Toxics:
    """A black hole: connections are accepted and stay, and nothing passes."""
    return Toxics(way, black_hole=True)


def reset_peer() -> Toxics:
    """RST to whoever is connected, and to whoever connects."""
    return Toxics(reset_peer=True)


def slicer(size: int, seconds: float = 0.0, way: Way = "both") -> Toxics:
    """Blocks of at most `size` bytes, so much time between them."""
    return Toxics(way, slices=size, slice_delay=seconds)


def limit_data(size: int, way: Way = "down") -> Toxics:
    """The connection ends after so many bytes of it, counted from its start."""
    return Toxics(way, limit=size)


def down() -> Toxics:
    """Nobody listens; open connections end. The port stays ours."""
    return Toxics(refuse=True)


def cut_after(pattern: bytes, seconds: float = 0.1) -> Toxics:
    """The block of the client with which `pattern` is complete reaches the server, which has `seconds` for
    it; the answer reaches nobody, and the connection is reset. Others than those who say it are unhurt."""
    return Toxics("up", cut_after=pattern, cut_delay=seconds)


class Link:
    """One client's connection. Its own `toxics` count before those of the proxy; None: the proxy's."""

    def __init__(self, proxy: Tcp, number: int, target: Address) -> None:
        self.number = number
        self.target = target
        self.passed = {"up": 0, "down": 0}
        self.open = True
        self.muted = False
        self.task = asyncio.current_task()
        self._proxy = proxy
        self._toxics: Toxics | None = None

    @property
    def toxics(self) -> Toxics | None:
        return self._toxics

    @toxics.setter
    def toxics(self, toxics: Toxics | None) -> None:
        self._toxics = toxics
        self.obey()

    @property
    def now(self) -> Toxics:
        return self._proxy.toxics if self._toxics is None else self._toxics

    def obey(self) -> None:
        if self.now.reset_peer or self.now.refuse:
            self.end()

    def end(self) -> None:
        """RST to both sides."""
        if self.open and self.task is not None:
            self.task.cancel()

    async def pause(self, seconds: float) -> None:
        """That long, or until the toxics are others."""
        loop, began = asyncio.get_running_loop(), self.now
        end = loop.time() + seconds
        while self.now is began and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, _TICK))

    async def while_black(self, way: Way) -> None:
        while self.now.black_hole and self.now.meets(way):
            await asyncio.sleep(_TICK)


class Tcp:
    """`links` has every connection that was ever accepted, in order; `target` is where new ones go."""

    def __init__(self, target: Address, toxics: Toxics | None = None, *, host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self.port = 0
        self.links: list[Link] = []
        self._toxics = toxics or Toxics()
        self._server: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None

    @property
    def toxics(self) -> Toxics:
        return self._toxics

    @toxics.setter
    def toxics(self, toxics: Toxics) -> None:
        self._toxics = toxics
        for link in self.open_links():
            link.obey()
        if self.port and toxics.refuse:
            self._shut()
        elif self.port:
            self._open()

    def switch(self, target: Address, *, cut: bool = True) -> None:
        """New connections go there; with `cut` the open ones end, as at a failover."""
        self.target = target
        if cut:
            self.cut()

    def cut(self) -> None:
        """RST to all that are connected now; those who connect later are served."""
        for link in self.open_links():
            link.end()

    def open_links(self) -> list[Link]:
        return [link for link in self.links if link.open]

    # --- life

    async def start(self) -> Self:
        self.port = self.port or free_port()
        if not self._toxics.refuse:
            self._open()
        return self

    async def stop(self) -> None:
        port, self.port = self.port, 0
        self._shut()
        tasks = [link.task for link in self.open_links() if link.task is not None]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.port = port

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _open(self) -> None:
        """Who connects waits in the queue until the loop is there."""
        if self._server is not None or self._opening is not None:
            return
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        sock.listen(256)
        sock.setblocking(False)
        self._opening = asyncio.ensure_future(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        try:
            self._server = await asyncio.start_server(self._accept, sock=sock)
        finally:
            self._opening = None
        if self._toxics.refuse or not self.port:
            self._shut()

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # --- one connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, len(self.links), self.target)
        self.links.append(link)
        sides = [writer]
        try:
            if link.now.reset_peer or link.now.refuse:
                raise ConnectionResetError
            await link.while_black("both")
            back, forth = await asyncio.open_connection(*link.target)
            sides.append(forth)
            await _join(_pipe(link, "up", reader, forth), _pipe(link, "down", back, writer))
        except EOFError:
            pass
        except (OSError, asyncio.CancelledError):
            for side in sides:
                _reset(side)
        finally:
            link.open = False
            for side in sides:
                side.close()


async def _join(*pipes: Coroutine[None, None, None]) -> None:
    """Until all have ended, or one has broken."""
    tasks = [asyncio.ensure_future(pipe) for pipe in pipes]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(link: Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises EOFError where the connection has to end, ConnectionResetError where it has to break."""
    recent = b""
    while data := await reader.read(BLOCK):
        if link.muted:
            continue
        now = link.now
        if now.latency and now.meets(way):
            await link.pause(now.latency)
        await link.while_black(way)
        recent = recent[-1024:] + data
        if link.now.cut_after and link.now.meets(way) and link.now.cut_after in recent:
            await _cut(link, writer, data)
        await _write(link, way, writer, data)
    await link.pause(link.now.slow_close)
    await link.while_black(way)
    with contextlib.suppress(OSError):
        writer.write_eof()


async def _cut(link: Link, writer: asyncio.StreamWriter, data: bytes) -> None:
    seconds, link.muted = link.now.cut_delay, True
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(seconds)
    raise ConnectionResetError


async def _write(link: Link, way: Way, writer: asyncio.StreamWriter, data: bytes) -> None:
    """In slices, at a rate, up to a limit: as the toxics are at each slice."""
    while data:
        await link.while_black(way)
        now = link.now if link.now.meets(way) else Toxics()
        size = min(now.slices or BLOCK, int(now.bandwidth * 0.05) or BLOCK if now.bandwidth else BLOCK)
        if now.limit is not None:
            size = min(size, now.limit - link.passed[way])
            if size <= 0:
                raise EOFError
        part, data = data[:size], data[size:]
        writer.write(part)
        await writer.drain()
        link.passed[way] += len(part)
        pause = now.slice_delay + (len(part) / now.bandwidth if now.bandwidth else 0.0)
        if pause:
            await link.pause(pause)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST; what is unsent is thrown away."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
