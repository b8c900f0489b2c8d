"""Speaking to the running instance over its Unix socket, `data/control.sock`.

Plain blocking HTTP/1.1 with JSON bodies; only the command line uses it. The socket's file mode is
the access control: who may open it may administer the instance.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOCKET = "control.sock"
TIMEOUT = 600.0  # seconds without a byte; a collection of a large store takes minutes
_NAME_MAX = 107  # bytes of sun_path on Linux, without the closing NUL


class NotRunning(Exception):
    """No instance listens on the socket."""


class Refused(Exception):
    """The instance answered with an error, or not in JSON; the text is its sentence, `code` that of its
    fault, "" where it named none."""

    def __init__(self, text: str, *, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class CutOff(Refused):
    """The instance broke off in the middle of a body: it has turned out to be no good."""


def call(
    data: Path, method: str, target: str, body: object = None, *, timeout: float = TIMEOUT
) -> dict[str, Any]:
    """One request to the instance that works in `data`. Raises `NotRunning` or `Refused`."""
    connection = _Connection(data, timeout)
    payload = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json"}
    if payload is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, target, body=payload, headers=headers)
        answer = connection.getresponse()
        return _decoded(answer.status, answer.read())
    except (http.client.HTTPException, OSError) as error:
        raise Refused(f"the running instance broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()


def stream(data: Path, target: str, body: object, *, timeout: float = TIMEOUT) -> Iterator[dict[str, Any]]:
    """A command that tells as it goes, one mapping after another. Raises `NotRunning` before the
    first, `Refused` at any time, also when the instance ends before it has told all."""
    connection = _Connection(data, timeout)
    try:
        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}
        connection.request("POST", target, body=json.dumps(body).encode(), headers=headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            _decoded(answer.status, answer.read())
        for line in answer:
            said = json.loads(line)
            if "failed" in said:
                raise Refused(f"the running instance could not go on: {said['failed']}")
            yield said
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise Refused(f"the running instance broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()


@contextmanager
def opened(data: Path, target: str, *, timeout: float = TIMEOUT) -> Iterator[Incoming]:
    """A body as it comes. Raises `NotRunning` or `Refused` before its first byte, `CutOff` after it."""
    connection = _Connection(data, timeout)
    try:
        try:
            connection.request("GET", target, headers={"Accept": "*/*"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                _decoded(answer.status, answer.read())
                raise Refused(f"the running instance answered {answer.status}")
        except (http.client.HTTPException, OSError) as error:
            raise Refused(f"the running instance broke off: {error or type(error).__name__}") from error
        yield Incoming(answer)
    finally:
        connection.close()


class Incoming:
    """`length` in bytes, None where it is not known; `headers` in lower case."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        length = self.headers.get("content-length", "")
        self.length = int(length) if length.isdecimal() else None
        self._come = 0

    def read(self, size: int) -> bytes:
        """At most so many bytes, b"" at the end. Raises `CutOff`."""
        try:
            piece = self._answer.read1(size)
        except (http.client.HTTPException, OSError) as error:
            raise CutOff("the running instance broke off in the middle of the body") from error
        self._come += len(piece)
        if not piece and self.length is not None and self._come < self.length:
            raise CutOff("the running instance broke off in the middle of the body")
        return piece


def _decoded(status: int, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if status != http.client.OK:
        said = value if isinstance(value, dict) else {}
        text = said.get("detail") or said.get("error") or body.decode("utf-8", "replace").strip()
        raise Refused(f"the running instance answered {status}: {text}", code=str(said.get("code", "")))
    if not isinstance(value, dict):
        raise Refused("the running instance did not answer in JSON; is it another version?")
    return value


class _Connection(http.client.HTTPConnection):
    def __init__(self, data: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._data = data

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            _connect(sock, self._data)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            sock.close()
            raise NotRunning(f"no instance is running in {self._data}") from error
        except OSError as error:
            sock.close()
            raise Refused(f"cannot open {self._data / SOCKET}: {error.strerror or error}") from error
        self.sock = sock


def _connect(sock: socket.socket, data: Path) -> None:
    path = data / SOCKET
    if len(os.fsencode(path)) <= _NAME_MAX:
        sock.connect(str(path))
        return
    # The name of a Unix socket is short; a deep folder is reached through its descriptor.
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    finally:
        os.close(folder)
