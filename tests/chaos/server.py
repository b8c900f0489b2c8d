"""The scripted upstream: raw sockets, one list of behaviours per path, every request recorded.

    chaos.script("/file.bin", status(503), status(503), ok())   # fails twice, then works
    chaos.script("/big.bin", cut(at=0.5), ok(), size=10_000_000)

The k-th request for a path meets the k-th behaviour; the last one repeats. Bodies are oracle
content of (seed, path, size). An unscripted path answers 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from .oracle import Oracle

HEAD_LIMIT = 64 * 1024


@dataclass(slots=True)
class Seen:
    """One request as it arrived; header names lower-case, `at` on the monotonic clock."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes
    connection: int
    at: float
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class HangUp(Exception):
    """A behaviour is done with the connection."""


@dataclass(slots=True)
class Exchange:
    """One request and the means to answer it, or not."""

    seen: Seen
    body: Oracle
    number: int  # of this request for this path, from 0
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stopping: asyncio.Event

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: dict[str, str] | None = None, reason: str = "X") -> None:
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past the end of the server or of the connection."""
        await _first(self.stopping.wait(), self.reader.read(1), seconds=seconds)

    async def for_ever(self) -> None:
        await self.pause(3600)
        raise HangUp

    def hang_up(self) -> None:
        """FIN after what was written."""
        raise HangUp

    def reset(self) -> None:
        """RST: whatever is unsent is thrown away."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise HangUp


Behaviour = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class _Script:
    behaviours: tuple[Behaviour, ...]
    body: Oracle
    count: int = 0


@dataclass(slots=True)
class Chaos:
    """`async with Chaos() as chaos`. With `tls`, https."""

    seed: int = 0
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _scripts: dict[str, _Script] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def url(self, path: str) -> str:
        return self.origin + path

    def script(self, path: str, *behaviours: Behaviour, size: int = 100_000, version: int = 0) -> Oracle:
        """Set what happens at `path`, from its next request on; returns its true content."""
        body = Oracle(path, size, seed=self.seed, version=version)
        self._scripts[path] = _Script(behaviours, body)
        return body

    def hits(self, path: str, method: str = "") -> int:
        return sum(1 for seen in self.requests if seen.path == path and method in ("", seen.method))

    def wholes(self, path: str) -> int:
        """Requests for the whole; one for all from the first byte on looks whether there are ranges."""
        asked = (seen.headers.get("range", "") for seen in self.requests if seen.path == path)
        return sum(1 for each in asked if each in ("", "bytes=0-"))

    def last(self, path: str) -> Seen:
        return [seen for seen in self.requests if seen.path == path][-1]

    async def start(self, port: int = 0) -> None:
        """Listen; on `port` again after a stop, if given."""
        self._stopping.clear()
        self._server = await asyncio.start_server(
            self._accept, self.host, port, ssl=self.tls, limit=HEAD_LIMIT, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and end the open ones."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer, self.connections)
        except (HangUp, OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError, ssl.SSLError):
                writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        while True:
            raw = await reader.readuntil(b"\r\n\r\n")
            seen = _parse(raw, connection)
            length = int(seen.headers.get("content-length", "0"))
            seen.body = await reader.readexactly(length) if length else b""
            self.requests.append(seen)
            script = self._scripts.get(seen.path) or _Script((_not_found,), Oracle(seen.path, 0))
            behaviour = script.behaviours[min(script.count, len(script.behaviours) - 1)]
            number, script.count = script.count, script.count + 1
            await behaviour(Exchange(seen, script.body, number, reader, writer, self._stopping))
            if seen.headers.get("connection", "").lower() == "close":
                return


async def _not_found(exchange: Exchange) -> None:
    await exchange.head(404, {"Content-Length": "0"}, "Not Found")


def _parse(raw: bytes, connection: int) -> Seen:
    first, *lines = raw.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers: dict[str, str] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Seen(method, target, headers, raw, connection, time.monotonic())


async def _first(*awaitables: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(a) for a in awaitables]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
