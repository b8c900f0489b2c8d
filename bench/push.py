"""The client of the pushes: `python -m bench.push JSON` pushes files as blobs, all at once.

As registries have it: POST begins an upload, PUT with the digest sends all of it, once the server said that
it may (`Expect: 100-continue`). Bodies leave by sendfile, so that the client is not what is measured. Prints one
JSON object.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.content import Blob
from bench.model import CannotMeasure
from bench.servers import run_pinned

_STEP = 8 << 20
_PATIENCE = 300.0  # seconds


@dataclass(slots=True)
class Pushed:
    sent: int = 0  # bytes of the body
    status: int = 0
    seconds: float = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Push:
    seconds: float  # from the first connection to the last answer
    blobs: list[Pushed]

    @property
    def sent(self) -> int:
        return sum(each.sent for each in self.blobs)


def push(port: int, name: str, blobs: Sequence[Blob], cores: frozenset[int], headers: str = "") -> Push:
    """Push all `blobs` at once to `name`, in a process of its own on `cores`; `headers` are lines.

    Raises `CannotMeasure` unless each is answered with 201.
    """
    bodies = [[str(blob.path), blob.sha256] for blob in blobs]
    order = {"port": port, "name": name, "bodies": bodies, "headers": headers}
    printed = run_pinned([sys.executable, "-m", "bench.push", json.dumps(order)], cores, _PATIENCE + 10)
    said = json.loads(printed)
    done = Push(said["seconds"], [Pushed(**each) for each in said["blobs"]])
    for each in done.blobs:
        if each.status != 201:
            raise CannotMeasure(f"a push was answered with {each.status}: {each.trouble}")
    return done


class _Conversation:
    def __init__(self, port: int, headers: str) -> None:
        self._rest = f"Host: 127.0.0.1:{port}\r\n{headers}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def ask(self, line: str, more: str) -> None:
        self._socket.sendall(f"{line} HTTP/1.1\r\n{self._rest}{more}\r\n".encode())

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer, also one that is not the last; it must have a length or no body."""
        while b"\r\n\r\n" not in self._held:
            self._more()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._held) < length:
            self._more()
        body, self._held = self._held[:length], self._held[length:]
        return int(first.split(" ")[1]), headers, body

    def _more(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise OSError("the server closed the connection")
        self._held += piece

    def send(self, path: Path, pushed: Pushed) -> None:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                step = min(left, _STEP)
                gone = self._socket.sendfile(file, pushed.sent, step)
                pushed.sent += gone
                left -= gone

    def close(self) -> None:
        self._socket.close()


def _one(port: int, name: str, path: Path, sha256: str, headers: str, pushed: Pushed) -> None:
    talk = _Conversation(port, headers)
    try:
        talk.ask(f"POST /v2/{name}/blobs/uploads/", "Content-Length: 0\r\n")
        pushed.status, told, body = talk.answer()
        if pushed.status != 202:
            raise OSError(body.decode(errors="replace")[:300])
        place = urlsplit(told["location"])
        target = f"{place.path}?{place.query}&digest=sha256:{sha256}".replace("?&", "?")
        size = path.stat().st_size
        talk.ask(
            f"PUT {target}",
            f"Content-Length: {size}\r\nContent-Type: application/octet-stream\r\nExpect: 100-continue\r\n",
        )
        pushed.status, told, body = talk.answer()
        if pushed.status == 100:
            talk.send(path, pushed)
            pushed.status, told, body = talk.answer()
        pushed.trouble = body.decode(errors="replace")[:300]
    finally:
        talk.close()


def main(port: int, name: str, bodies: list[tuple[str, str]], headers: str) -> None:
    results = [Pushed() for _ in bodies]

    def run(path: str, sha256: str, pushed: Pushed) -> None:
        begun = time.perf_counter()
        try:
            _one(port, name, Path(path), sha256, headers, pushed)
        except OSError as error:
            pushed.status, pushed.trouble = 0, str(error)
        pushed.seconds = time.perf_counter() - begun

    begun = time.perf_counter()
    threads = [
        threading.Thread(target=run, args=(*body, result))
        for body, result in zip(bodies, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "blobs": [asdict(each) for each in results]}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
