"""What the engine hands to the web floor: a status, headers and a body that is ready to leave.

The web floor matches on the body and touches no store. Whoever takes an `Answer` must `close` its
body, also when not a byte of it was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from artifactproxy.model import Header, Span
from artifactproxy.ports import LocalFile, Outcome


class Reader(Protocol):
    """One client's place in a growing file.

    `read` returns what may leave now (at most 256 KiB), b"" at the verified end, and raises a
    `Fault` when the bytes turned out wrong or cannot be had: then the connection must be reset.
    `window` waits and raises likewise, but names the file and the span of it that may leave (at
    most 1 MiB), for sendfile; the reader stands still until `advance`. None: nothing of the kind,
    go on with `read`. `whole` waits for the verified end and tells how many bytes are still to be
    read until then; it raises likewise. `sha256` is that of the whole, once `whole` has returned.
    """

    @property
    def sha256(self) -> str: ...

    async def read(self) -> bytes: ...

    async def window(self) -> tuple[int, Span] | None: ...

    def advance(self, size: int) -> None: ...

    async def whole(self) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Nothing:
    """HEAD, 304, 412, redirects: a body that cannot be written."""


@dataclass(slots=True)
class Bytes:
    body: bytes


@dataclass(slots=True)
class File:
    """A span of an opened file; sendfile where the connection allows."""

    file: LocalFile
    span: Span


@dataclass(slots=True)
class Tail:
    """A body that may still be arriving. `length` None: chunked on the wire."""

    reader: Reader
    length: int | None


@dataclass(slots=True)
class Chunks:
    """Bytes from elsewhere (a remote store, a relayed answer). `length` None: chunked."""

    chunks: AsyncIterator[bytes]
    length: int | None


Body = Nothing | Bytes | File | Tail | Chunks


@dataclass(slots=True)
class Answer:
    """Headers hold everything that describes the entity, `Content-Length` included when known;
    the web floor adds Date, Via and X-Request-Id. `outcome` is completed and reported by it."""

    status: int
    headers: list[Header]
    body: Body
    outcome: Outcome = field(default_factory=lambda: Outcome("request"))
    reason: str = ""
