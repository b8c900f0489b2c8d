"""An origin that is slow in a chosen way: `python -m bench.throttle JSON` serves one file until it is ended.

`rate` bounds each connection, whatever it asks, `shared` all of them together (bytes a second, 0: no bound);
connection `slow` (counted from 1, 0: none) has a tenth of `rate`. There is no burst: nginx lets the first second of every
request pass, which is more than a segment. Each answer that has left is a line in `log`: when its last byte was
handed to the kernel, by the clock that all processes of the machine share, and which bytes they were.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

_TICK = 0.01  # seconds between two portions of one connection
_LEAST = 16 * 1024


class Bucket:
    """Bytes leave no faster than `rate` a second, and none are saved up."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, size: int) -> None:
        if not self._rate:
            return
        with self._lock:
            now = time.perf_counter()
            self._next = max(self._next, now - _TICK) + size / self._rate
            pause = self._next - now
        if pause > 0:
            time.sleep(pause)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, path: str, log: str, rate: int, shared: int, slow: int) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.path = Path(path)
        self.rate = rate
        self.slow = slow
        self.shared = Bucket(shared)
        self.tag = f'"{self.path.stat().st_mtime_ns:x}"'
        self._log = Path(log).open("w", buffering=1)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def bucket(self) -> Bucket:
        number = next(self._numbers)
        return Bucket(self.rate / 10 if number == self.slow else self.rate)

    def left(self, start: int, stop: int) -> None:
        with self._lock:
            self._log.write(f"{time.perf_counter():.6f} {start} {stop}\n")

    def handle_error(self, *_: object) -> None:
        """Who takes over a slow segment leaves in the middle of an answer."""


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    bucket: Bucket | None = None

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._head(200, {"Content-Length": "6"})
            self.wfile.write(b"ready\n")
            return
        size, headers = self.server.path.stat().st_size, {"ETag": self.server.tag, "Accept-Ranges": "bytes"}
        start, stop, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range", self.server.tag) == self.server.tag:
            start, stop, status = int(asked[1]), min(int(asked[2] or size) + 1, size), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._head(status, headers | {"Content-Length": str(stop - start)})
        self._send(start, stop)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, start: int, stop: int) -> None:
        if self.bucket is None:  # only those count that ask for the file
            self.bucket = self.server.bucket()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        portion = max(_LEAST, int(self.server.rate * _TICK)) if self.server.rate else 256 * 1024
        self.wfile.flush()
        with self.server.path.open("rb") as file:
            at = start
            while at < stop:
                size = min(portion, stop - at)
                self.server.shared.wait(size)
                self.bucket.wait(size)
                until = at + size
                while at < until:
                    sent = os.sendfile(self.connection.fileno(), file.fileno(), at, until - at)
                    if not sent:
                        raise ConnectionError
                    at += sent
        self.server.left(start, stop)

    def log_message(self, *_: object) -> None:
        pass


def main(options: dict[str, Any]) -> None:
    with Server(**options) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
