"""A counting HTTP forward proxy: CONNECT and absolute-form. In a test: `async with Forward()`;
for real clients: `python -m tests.chaos.forward --port 0` prints its port. `GET /__counts` on it
answers its counters as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
from dataclasses import asdict, dataclass, field
from typing import Self
from urllib.parse import urlsplit


@dataclass(slots=True)
class Counts:
    requests: int = 0
    connects: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    targets: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Forward:
    """`authorization`: the Proxy-Authorization that is demanded, "" for none."""

    host: str = "127.0.0.1"
    authorization: str = ""
    counts: Counts = field(default_factory=Counts)
    port: int = 0
    resolve: dict[str, str] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _addresses: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
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
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        if target == "/__counts":
            body = json.dumps(asdict(self.counts)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
            )
            await writer.drain()
            return
        if self.authorization and headers.get("proxy-authorization") != self.authorization:
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        self.counts.targets.append(target)
        if method == "CONNECT":
            self.counts.connects += 1
            host, _, port = target.rpartition(":")
            upstream = await self._connect(writer, host, int(port))
            opening, answer = b"", b"HTTP/1.1 200 Connected\r\n\r\n"
        else:
            self.counts.requests += 1
            parts = urlsplit(target)
            upstream = await self._connect(writer, parts.hostname or "", parts.port or 80)
            kept = [
                f
                for f in fields
                if f[0].lower() not in ("proxy-authorization", "connection", "proxy-connection")
            ]
            path = target[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
            head = [
                f"{method} {path} {version}",
                *(f"{n}: {v}" for n, v in kept),
                "Connection: close",
                "",
                "",
            ]
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            opening, answer = "\r\n".join(head).encode("latin-1") + body, b""
            self.counts.bytes_up += len(opening)
        await self._join(reader, writer, *upstream, opening, answer)

    async def _connect(
        self, writer: asyncio.StreamWriter, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            address = self.resolve.get(host) or await self._address(host.strip("[]"))
            return await asyncio.open_connection(address, port)
        except OSError:
            self._addresses.pop(host.strip("[]"), None)
            writer.write(b"HTTP/1.1 502 Unreachable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            raise

    async def _address(self, host: str) -> str:
        """Looked up once, and again where a resolver had no time: the network is not what is tested."""
        for left in (2, 1, 0):
            if host in self._addresses:
                break
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
                self._addresses[host] = str(found[0][4][0])
            except socket.gaierror as error:
                if error.errno != socket.EAI_AGAIN or not left:
                    raise
        return self._addresses[host]

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        opening: bytes,
        answer: bytes,
    ) -> None:
        up_writer.write(opening)
        writer.write(answer)
        tunnel = self._pipe(reader, up_writer, "bytes_up") if answer else asyncio.sleep(0)
        up = asyncio.ensure_future(tunnel)
        down = asyncio.ensure_future(self._pipe(up_reader, writer, "bytes_down"))
        try:
            await down
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            up_writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        while data := await reader.read(256 * 1024):
            setattr(self.counts, counter, getattr(self.counts, counter) + len(data))
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--host", default="127.0.0.1")
    options = arguments.parse_args()
    forward = Forward(host=options.host)
    await forward.start(options.port)
    print(forward.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
