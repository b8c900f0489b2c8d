"""The clients of `crowded`: `python -m bench.load KIND PORT JSON` loads a server until its input ends.

Prints `ready` once the load is on, and at the end one JSON object of counts.

idle     `idle` connections that asked once and keep quiet, and `active` ones that ask `path` without a pause
slow     `readers` of `path` that take `rate` bytes a second each
missing  `count` names that do not exist, each asked once, by 20 connections
hostile  `count` requests whose method, repository, path and headers are invented anew each time
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import secrets
import socket
import sys
from typing import Any

_AT_ONCE = 20
_HEAD = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"

Counts = dict[str, int]


class Load:
    def __init__(self, port: int, options: dict[str, Any]) -> None:
        self._port = port
        self._options = options
        self._ready = asyncio.Event()
        self.counts: Counts = {"answers": 0, "errors": 0}

    async def run(self, kind: str) -> Counts:
        tasks = await getattr(self, kind)()
        ready = asyncio.create_task(self._say_ready())
        await asyncio.to_thread(sys.stdin.read)
        for task in (ready, *tasks):
            task.cancel()
        await asyncio.gather(ready, *tasks, return_exceptions=True)
        return self.counts

    async def _say_ready(self) -> None:
        await self._ready.wait()
        print("ready", flush=True)

    async def idle(self) -> list[asyncio.Task[None]]:
        wait = [self._ask_once() for _ in range(self._options["idle"])]
        held = await asyncio.gather(*wait)
        tasks = [asyncio.create_task(self._ask_for_ever()) for _ in range(self._options["active"])]
        tasks.append(asyncio.create_task(self._hold(held)))
        self._ready.set()
        return tasks

    async def slow(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._read_slowly()) for _ in range(self._options["readers"])]

    async def missing(self) -> list[asyncio.Task[None]]:
        names = iter(f"/files/none/{secrets.token_hex(8)}.bin" for _ in range(self._options["count"]))
        return [asyncio.create_task(self._ask_each(names, self._get)) for _ in range(_AT_ONCE)]

    async def hostile(self) -> list[asyncio.Task[None]]:
        names = iter(secrets.token_hex(8) for _ in range(self._options["count"]))
        return [asyncio.create_task(self._ask_each(names, self._invented)) for _ in range(_AT_ONCE)]

    # --- connections ---

    async def _hold(self, held: list[asyncio.StreamWriter]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for writer in held:
                writer.transport.abort()

    async def _ask_once(self) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        await self._answered(reader, writer, self._get(self._options["path"]))
        return writer

    async def _ask_for_ever(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.closing(writer):
            while True:
                await self._answered(reader, writer, self._get(self._options["path"]))

    async def _ask_each(self, names: Any, request: Any) -> None:
        """One after another over a connection that is made anew where the server closed it."""
        reader = writer = None
        for number, name in enumerate(names):
            if writer is None or writer.is_closing() or reader.at_eof():
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await self._answered(reader, writer, request(name))
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.counts["errors"] += 1
                writer.transport.abort()
                writer = None
            if number == 0:
                self._ready.set()
        self.counts["done"] = self.counts.get("done", 0) + 1

    async def _read_slowly(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self._port))
        await loop.sock_sendall(sock, self._get(self._options["path"]))
        step = self._options["rate"] // 4
        with sock:
            while piece := await loop.sock_recv(sock, step):
                self.counts["answers"] += 1
                self.counts["bytes"] = self.counts.get("bytes", 0) + len(piece)
                if self.counts["answers"] == self._options["readers"]:
                    self._ready.set()
                await asyncio.sleep(0.25)

    async def _answered(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> None:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        self.counts["answers"] += 1
        if b"\r\nconnection: close" in head:
            writer.close()

    # --- requests ---

    def _get(self, path: str) -> bytes:
        return _HEAD.format(path=path, port=self._port).encode()

    def _invented(self, name: str) -> bytes:
        target = f"/{name[:8]}/{name}" if name < "8" else f"/files/{name}/latest/{name}"
        return (
            f"{'GET' if name[0] in '01234567' else name.upper()} {target}?{name} HTTP/1.1\r\n"
            f"Host: {name}.example\r\nUser-Agent: {name}\r\nX-Request-Id: {name}\r\nAccept: {name}/*\r\n\r\n"
        ).encode()


def _main(kind: str, port: int, options: dict[str, Any]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(Load(port, options).run(kind))))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
