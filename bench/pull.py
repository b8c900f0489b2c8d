"""The client of the large measures: `python -m bench.pull JSON` pulls paths, some at once.

Bodies are discarded in the kernel (MSG_TRUNC) where only time counts, so that the client is not
what is measured, or compared byte for byte with a file. Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.model import CannotMeasure
from bench.servers import run_pinned

CHUNK = 1 << 20
_HEAD_LIMIT = 64 << 10
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(slots=True)
class Pulled:
    """One transfer; seconds since before the connection was made."""

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    first_byte: float = 0.0
    total: float = 0.0
    ended: float = 0.0  # by the clock that all processes of the machine share
    size: int = 0
    whole: bool = False
    same: bool | None = None  # None: not compared


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float  # from the first connection to the last byte
    transfers: list[Pulled]

    @property
    def size(self) -> int:
        return sum(each.size for each in self.transfers)


def pull(
    port: int | Sequence[int],
    paths: Sequence[str],
    cores: frozenset[int],
    *,
    at_once: int = 1,
    like: Path | None = None,
    timeout: float = 120.0,
) -> Run:
    """Pull in a process of its own on `cores`; with `like`, compare each body with that file. Several
    ports take turns.

    Raises `CannotMeasure` unless every transfer is whole, answered with 200 and, if compared, the same.
    """
    ports = [port] if isinstance(port, int) else list(port)
    order: dict[str, object] = {"ports": ports, "paths": list(paths), "at_once": at_once}
    order |= {"like": str(like) if like else "", "timeout": timeout}
    printed = run_pinned([sys.executable, "-m", "bench.pull", json.dumps(order)], cores, timeout + 10)
    run = json.loads(printed)
    transfers = [Pulled(**each) for each in run["transfers"]]
    for each in transfers:
        if each.status != 200 or not each.whole or each.same is False:
            raise CannotMeasure(
                f"a wrong answer: {each.path}, status {each.status}, {each.size} bytes, same: {each.same}"
            )
    return Run(run["seconds"], transfers)


class _Transfer:
    def __init__(self, port: int, path: str, expected: _Expected | None) -> None:
        self.result = Pulled(path)
        self._expected = expected
        self._same = True
        self._length = -1
        self._head = b""
        self._started = time.perf_counter()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        self.socket.setblocking(False)

    def read(self, buffer: bytearray) -> bool:
        """Take what is there; True at the end."""
        if self._length < 0:
            return self._read_head()
        # Stop at the promised length, so that a server that keeps the connection does not hold us.
        room = min(len(buffer), self._length - self.result.size)
        flags = 0 if self._expected else socket.MSG_TRUNC
        got = self.socket.recv_into(buffer, room, flags)
        if got:
            self._count(got, buffer)
        return self._ended(closed=not got)

    def _read_head(self) -> bool:
        data = self.socket.recv(_HEAD_LIMIT)
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return self._ended(closed=not data or len(self._head) > _HEAD_LIMIT)
        first, *lines = self._head[:end].decode("latin-1").split("\r\n")
        self.result.status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in lines)
        self.result.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._length = int(self.result.headers["content-length"])
        body = bytearray(self._head[end + 4 :])
        if body:
            self._count(len(body), body)
        return self._ended(closed=False)

    def _count(self, got: int, buffer: bytearray) -> None:
        if not self.result.size:
            self.result.first_byte = time.perf_counter() - self._started
        if self._expected is not None:
            self._same = self._same and self._expected.equals(buffer, self.result.size, got)
        self.result.size += got

    def _ended(self, *, closed: bool) -> bool:
        whole = self.result.size == self._length
        if not (closed or whole):
            return False
        self.result.ended = time.perf_counter()
        self.result.total = self.result.ended - self._started
        self.result.whole = whole
        self.result.same = (self._same and whole) if self._expected is not None else None
        return True


class _Expected:
    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:  # a private mapping, because ctypes wants a writable one
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._content))

    def equals(self, buffer: bytearray, offset: int, length: int) -> bool:
        if offset + length > len(self._content):
            return False
        return not _memcmp(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), self._start + offset, length)


def main(ports: list[int], paths: list[str], at_once: int, like: str, timeout: float) -> None:
    expected = _Expected(like) if like else None
    begun = time.perf_counter()
    buffer, waiting, ended = bytearray(CHUNK), paths[::-1], []
    with selectors.DefaultSelector() as ready:
        while waiting or ready.get_map():
            while waiting and len(ready.get_map()) < at_once:
                transfer = _Transfer(ports[len(waiting) % len(ports)], waiting.pop(), expected)
                ready.register(transfer.socket, selectors.EVENT_READ, transfer)
            for key, _ in ready.select(1.0):
                if key.data.read(buffer):
                    ready.unregister(key.fileobj)
                    key.data.socket.close()
                    ended.append(key.data.result)
            if time.perf_counter() - begun > timeout:
                sys.exit(f"not finished in {timeout:.0f} s")
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "transfers": [asdict(each) for each in ended]}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
