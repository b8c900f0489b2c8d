"""An S3 that keeps nothing: takes in what is uploaded and answers as one does, at the least cost.

`python -m bench.sink PORT`; GET /counts tells how many connections, body bytes and
requests for blobs came.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from urllib.parse import parse_qs, urlsplit

_BUFFER = 1 << 20
_TAG = '"0123456789abcdef0123456789abcdef"'


class Sink:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self.connections = 0
        self.bytes = 0
        self.blobs = 0

    def serve(self, port: int) -> None:
        with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, held, counted = bytearray(_BUFFER), b"", False
        with connection:
            while True:
                while b"\r\n\r\n" not in held:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    held += piece
                head, _, held = held.partition(b"\r\n\r\n")
                if not counted and not head.startswith(b"GET /counts"):
                    counted = True
                    with self._lock:
                        self.connections += 1
                lines = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
                if headers.get("expect", "").lower() == "100-continue":
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                size = int(headers.get("content-length", "0"))
                left = size - len(held)
                held = held[size:] if left < 0 else b""
                while left > 0:
                    got = connection.recv_into(buffer, min(left, _BUFFER))
                    if not got:
                        return
                    left -= got
                method, target = lines[0].split()[:2]
                connection.sendall(self._answer(method, target, size))

    def _answer(self, method: str, target: str, size: int) -> bytes:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        with self._lock:
            self.bytes += size if method == "PUT" else 0
            self.blobs += "/blobs/sha256/" in parts.path
            if method == "PUT":
                self._sizes[parts.path] = self._sizes.get(parts.path, 0) * ("partNumber" in query) + size
        headers = [f"ETag: {_TAG}", "Date: Thu, 01 Jan 2026 00:00:00 GMT"]
        if parts.path == "/counts":
            body = json.dumps({"connections": self.connections, "bytes": self.bytes, "blobs": self.blobs})
        elif method == "HEAD":
            known = self._sizes.get(parts.path)
            if known is None:
                return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            headers.append("Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")
            return _reply("", [*headers, f"Content-Length: {known}"])
        elif method == "POST" and "uploads" in query:
            with self._lock:
                self._sizes[parts.path] = 0
            body = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        elif method == "POST":
            body = f"<CompleteMultipartUploadResult><ETag>{_TAG}</ETag></CompleteMultipartUploadResult>"
        elif method == "GET":
            body = (
                "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
            )
        else:
            body = ""
        return _reply(body, [*headers, "Content-Type: application/xml", f"Content-Length: {len(body)}"])


def _reply(body: str, headers: list[str]) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", body]).encode()


if __name__ == "__main__":
    assert re.fullmatch(r"\d+", sys.argv[1])
    Sink().serve(int(sys.argv[1]))
