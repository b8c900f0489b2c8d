"""A small engine whose answers are written down by the test, and raw-socket clients."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from artifactproxy.engine.answer import Answer, Body, Bytes, Chunks, File, Nothing, Tail
from artifactproxy.engine.degrade import Readiness, mode_of
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import Fault, NotServed
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Route, Span
from artifactproxy.ports import LocalFile, Outcome
from artifactproxy.providers._base import ClientSetup, Page, Provider, Site
from artifactproxy.web.access import AccessRules
from artifactproxy.web.app import WebServer

Script = Callable[[Ask], Awaitable[Answer]]


class Paper(Provider):
    name = "paper"
    clients = (
        ClientSetup(
            "scissors",
            'registry = "{base}/"\nhome = {"o": "{origin}", "h": "{host}"}',
            insecure="insecure = {host}",
        ),
        ClientSetup("glue", "glue {base}"),
    )

    def classify(self, ask: Ask) -> Route:
        raise NotImplementedError


class Scissors(Paper):
    """A provider that relays posts."""

    name = "scissors"
    methods = frozenset({"GET", "HEAD", "POST"})
    clients = ()


class Engine:
    """`answers` maps `repo/path` to a script; what is asked is kept in `asked`."""

    def __init__(self) -> None:
        self.answers: dict[str, Script] = {}
        self.asked: list[Ask] = []
        self.more: dict[str, Mount] = {}
        self.ready: dict[str, str] = {"store": "ok", "index": "ok"}
        self.calls: list[tuple[str, Any]] = []
        self.cancelled = 0
        self.gauges: dict[str, Any] = {"fills": 2, "temp_bytes": 10.0}
        self.page: Callable[[Fault, Ask], Page] = lambda fault, ask: Page(
            fault.detail.encode(), "text/x-paper", f"{fault.detail}"
        )

    def mounts(self) -> dict[str, Mount]:
        return self.more | {
            "paper": Mount("paper", Paper(Site("paper", ()))),
            "other": Mount("other", Paper(Site("other", ()))),
            "post": Mount("post", Scissors(Site("post", ()))),
        }

    async def handle(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        script = self.answers.get(f"{ask.repo}/{ask.path}")
        if script is None:
            raise NotServed("no such thing")
        try:
            return await script(ask)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def problem(self, fault: Fault, ask: Ask) -> Page:
        return self.page(fault, ask)

    async def explain(self, ask: Ask) -> dict[str, Any]:
        return {"repo": ask.repo, "path": ask.path, "query": ask.query, "base": ask.base}

    async def purge(self, repo: str, *, path: str = "", package: str = "") -> dict[str, Any]:
        self.calls.append(("purge", (repo, path, package)))
        return {"purged": 1}

    async def gc(self, *, run: bool) -> dict[str, Any]:
        self.calls.append(("gc", run))
        return {"doomed": 0}

    async def stats(self) -> dict[str, Any]:
        return {"entries": 3}

    async def readiness(self) -> Readiness:
        wrong = {name for name, verdict in self.ready.items() if verdict != "ok"}
        return Readiness(self.ready, mode_of(wrong), ready=wrong <= {"coordination"})

    def states(self) -> dict[str, Any]:
        return self.gauges

    def give(self, path: str, make: Callable[[], Body], *, status: int = 200, headers: tuple = ()) -> None:
        """Answer `path` with a fresh body; HEAD gets the same headers and no body, as an engine does."""

        async def script(ask: Ask) -> Answer:
            body = make()
            named = list(headers)
            length = {Bytes: lambda b: len(b.body), File: lambda b: b.span.size}.get(type(body))
            if length is not None:
                named.append(("Content-Length", str(length(body))))
            outcome = Outcome("request", repo=ask.repo, path=ask.path, result="hit", source="cache")
            return Answer(status, named, body, outcome)

        self.answers[path] = script

    def fail(self, path: str, make: Callable[[], BaseException]) -> None:
        async def script(ask: Ask) -> Answer:
            raise make()

        self.answers[path] = script


@dataclass
class Watch:
    """An observer that remembers."""

    outcomes: list[Outcome] = field(default_factory=list)
    warnings: list[tuple[str, dict]] = field(default_factory=list)
    notices: list[tuple[str, dict]] = field(default_factory=list)
    gauges: dict[str, float] = field(default_factory=dict)

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def notice(self, event: str, **facts: str | float) -> None:
        self.notices.append((event, facts))

    def warning(self, event: str, **facts: str | float) -> None:
        self.warnings.append((event, facts))

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name] = value

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        pass

    def exposition(self) -> bytes:
        return b"metrics\n"

    async def last(self, count: int = 1) -> Outcome:
        """The outcome of the `count`-th request; it is reported just after its last byte."""
        for _ in range(3_000):
            if len(self.outcomes) >= count:
                return self.outcomes[count - 1]
            await asyncio.sleep(0.01)
        raise AssertionError(f"only {len(self.outcomes)} outcomes")


class Pieces:
    """A reader of given pieces; an exception among them is raised, a number is a pause."""

    def __init__(self, *pieces: bytes | Exception | float | asyncio.Event) -> None:
        self._pieces = list(pieces)
        self.closed = 0
        self.reads = 0

    async def window(self) -> None:
        """Nothing here lies in a file."""

    def advance(self, size: int) -> None: ...

    async def whole(self) -> int:
        """All at once: the pieces that are left become one."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        self._pieces = [b"".join(pieces)]
        return len(self._pieces[0])

    async def read(self) -> bytes:
        self.reads += 1
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, bytes):
                return piece
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                raise piece
        return b""

    def close(self) -> None:
        self.closed += 1


class Windows(Pieces):
    """A reader whose pieces lie one after the other in a file."""

    def __init__(self, path: Path, *pieces: bytes) -> None:
        super().__init__()
        path.write_bytes(b"".join(pieces))
        self._fd = os.open(path, os.O_RDONLY)
        self._at = 0
        self._sizes = [len(piece) for piece in pieces]

    async def window(self) -> tuple[int, Span] | None:
        if not self._sizes:
            return None
        return self._fd, Span(self._at, self._at + self._sizes[0])

    def advance(self, size: int) -> None:
        assert size == self._sizes.pop(0)
        self._at += size

    def close(self) -> None:
        super().close()
        os.close(self._fd)


async def chunks(*pieces: bytes | Exception) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


class Rig:
    """A running server; `connect` gives a raw client."""

    def __init__(self, limits: Limits, access: AccessRules, ssl: Any = None, keys: Any = None) -> None:
        self.engine = Engine()
        self.watch = Watch()
        self.secure = ssl is not None
        self.server = WebServer(self.engine, self.watch, limits, access, ssl, keys=keys)
        self.address = ("", 0)

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.address[0]}:{self.address[1]}"

    async def start(self) -> Rig:
        self.address = await self.server.start("127.0.0.1", 0)
        return self

    async def connect(self, receive_buffer: int = 0) -> Client:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return Client(sock)

    async def raw(self, request: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        client = await self.connect()
        await client.send(request)
        return await client.rest()

    async def get(self, target: str, headers: str = "", method: str = "GET") -> SimpleNamespace:
        client = await self.connect()
        await client.ask(target, headers + "Connection: close\r\n", method)
        reply = await client.reply(method)
        client.close()
        return reply


class Client:
    """A raw HTTP/1.1 client that believes nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def ask(self, target: str, headers: str = "", method: str = "GET") -> None:
        name, port = self.sock.getpeername()[:2]
        await self.send(
            f"{method} {target} HTTP/1.1\r\nHost: {name}:{port}\r\n{headers}\r\n".encode("latin-1")
        )

    async def more(self) -> bytes:
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 20), 20)
        self.buffer += piece
        return piece

    async def rest(self) -> bytes:
        """Until the end of the connection; raises ConnectionResetError on a reset."""
        while await self.more():
            pass
        whole, self.buffer = self.buffer, b""
        return whole

    async def head(self) -> SimpleNamespace:
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                raise EOFError(self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, reason = line.split(" ", 2)
        names = [field.split(": ", 1)[0].lower() for field in fields]
        headers = dict(zip(names, (field.split(": ", 1)[1] for field in fields), strict=True))
        return SimpleNamespace(
            version=version, status=int(status), reason=reason, headers=headers, names=names, body=b""
        )

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not await self.more():
                raise EOFError(f"{len(self.buffer)} of {count} bytes")
        got, self.buffer = self.buffer[:count], self.buffer[count:]
        return got

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not await self.more():
                raise EOFError("cut in a chunk")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    async def reply(self, method: str = "GET") -> SimpleNamespace:
        reply = await self.head()
        if method == "HEAD" or reply.status in (204, 304):
            return reply
        if reply.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.line(), 16):
                reply.body += await self.exactly(size)
                assert await self.line() == b""
            assert await self.line() == b""
        else:
            reply.body = await self.exactly(int(reply.headers["content-length"]))
        return reply

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def file_body(path: Path, content: bytes, span: Span | None = None) -> Callable[[], File]:
    path.write_bytes(content)

    def make() -> File:
        fd = os.open(path, os.O_RDONLY)
        return File(LocalFile(fd, len(content)), span or Span(0, len(content)))

    return make


__all__ = [
    "Answer",
    "Bytes",
    "Chunks",
    "Client",
    "Engine",
    "File",
    "Nothing",
    "Pieces",
    "Rig",
    "Span",
    "Tail",
    "Watch",
    "Windows",
]
