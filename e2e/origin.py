"""An upstream with files of known content: counted, slowed down, and held at a chosen byte."""

from __future__ import annotations

import hashlib
import http.server
import random
import re
import threading
import time
from collections import Counter
from functools import lru_cache

PIECE = 64 * 1024


@lru_cache(maxsize=16)
def content(path: str) -> bytes:
    """`NAME-SIZE.bin` has SIZE bytes that only this name has."""
    found = re.fullmatch(r"/?(?:.*/)?[\w.]+-(\d+)\.bin", path)
    assert found, path
    return random.Random(path.strip("/")).randbytes(int(found[1]))


class Origin(http.server.ThreadingHTTPServer):
    """`rate` in bytes a second for each answer, 0 for no bound. `hold(fraction)` stops every answer
    there until `release`; `held` tells that one has come as far."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.rate = 0
        self.asked: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.held = threading.Event()
        self._fraction = 1.0
        self._go = threading.Event()
        self._go.set()
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def hold(self, fraction: float) -> None:
        self.held.clear()
        self._fraction = fraction
        self._go.clear()

    def release(self) -> None:
        self._fraction = 1.0
        self._go.set()

    def count(self, path: str, *, whole: bool) -> None:
        with self._lock:
            self.asked[path] += 1
            self.whole[path] += whole

    def stop_at(self, size: int) -> int:
        return int(size * self._fraction) if self._fraction < 1 else size

    def wait(self) -> None:
        self.held.set()
        self._go.wait(60)

    def stop(self) -> None:
        self.release()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A proxy that was killed leaves in the middle of its answers."""


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        body = content(self.path)
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        start, stop = 0, len(body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = wanted is not None and self.headers.get("If-Range", tag) == tag
        if wanted and part:
            start, stop = int(wanted[1]), min(int(wanted[2] or stop) + 1, stop)
        self.server.count(self.path, whole=(start, stop) == (0, len(body)))
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self._send(body, start, stop)

    def _send(self, body: bytes, at: int, end: int) -> None:
        stop = min(self.server.stop_at(len(body)), end)
        began, sent = time.monotonic(), 0
        while at < end:
            if at >= stop:
                self.server.wait()
                stop = end
            piece = body[at : min(at + PIECE, stop)]
            self.wfile.write(piece)
            at += len(piece)
            sent += len(piece)
            if self.server.rate:
                time.sleep(max(0.0, began + sent / self.server.rate - time.monotonic()))

    def log_message(self, *_: object) -> None:
        pass
