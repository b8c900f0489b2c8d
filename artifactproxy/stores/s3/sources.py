"""Where the bytes of an upload come from: any span of them, as often as a retry wants it.

Nothing is read ahead and nothing is copied to be kept: a slice lives from its read to its write to the
socket. A body that is shorter than it was is an error, never an end.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from base64 import b64encode
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifactproxy.errors import StoreUnavailable
from artifactproxy.ports import Growing

SLICE = 256 * 1024
SMALL = 64 * 1024
"""Pieces below this cost more to keep apart than to copy."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class SourceFailed(Exception):
    """The body cannot be read, or is not as long as it was."""


class Source(Protocol):
    @property
    def descriptor(self) -> int:
        """Of the file that holds all of it, or -1."""

    def read(self, start: int, stop: int) -> bytes:
        """All of that span. Raises `SourceFailed`."""

    def expect(self, start: int, stop: int) -> None:
        """That span is read next."""


class FileSource:
    """A complete file; `close` it. Raises `SourceFailed` if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, _OPEN)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise SourceFailed from error

    def read(self, start: int, stop: int) -> bytes:
        try:
            found = os.pread(self.descriptor, stop - start, start)
        except OSError as error:
            raise SourceFailed from error
        if len(found) == stop - start:
            return found
        if not found:
            raise SourceFailed
        return found + self.read(start + len(found), stop)

    def expect(self, start: int, stop: int) -> None:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self.descriptor)


class GrowingSource:
    """What is written so far of a body that still arrives."""

    descriptor = -1

    def __init__(self, body: Growing) -> None:
        self._body = body

    def read(self, start: int, stop: int) -> bytes:
        try:
            found = self._body.peek(start, stop)
        except OSError as error:
            raise SourceFailed from error
        if len(found) != stop - start:
            raise SourceFailed
        return found

    def expect(self, start: int, stop: int) -> None:
        """It was written a moment ago."""


class BytesSource:
    descriptor = -1

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)
        self.size = len(body)

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self._body[start:stop])

    def expect(self, start: int, stop: int) -> None:
        """It is here."""


class MemorySource:
    """A span of a body that lies in memory, in the pieces in which it came; `start` is where it begins in
    the whole. Small pieces are laid together, so that there are never many."""

    descriptor = -1

    def __init__(self, start: int) -> None:
        self._start = start
        self.size = 0
        self._pieces: list[bytearray | memoryview] = []
        self._begins: list[int] = []

    def add(self, piece: memoryview) -> None:
        """A large one is kept as it is and must not change."""
        last = self._pieces[-1] if self._pieces else None
        if len(piece) < SMALL and isinstance(last, bytearray) and len(last) < SLICE:
            last += piece
        else:
            self._begins.append(self.size)
            self._pieces.append(bytearray(piece) if len(piece) < SMALL else piece)
        self.size += len(piece)

    def views(self, start: int, stop: int) -> list[memoryview]:
        """That span without a copy. While one of them lives nothing may be added."""
        found, at = [], start - self._start
        number = bisect_right(self._begins, at) - 1
        while at < stop - self._start and number < len(self._pieces):
            begin = self._begins[number]
            view = memoryview(self._pieces[number])[at - begin : stop - self._start - begin]
            found.append(view)
            at += len(view)
            number += 1
        return found

    def read(self, start: int, stop: int) -> bytes:
        found = b"".join(self.views(start, stop))
        if len(found) != stop - start:
            raise SourceFailed
        return found

    def expect(self, start: int, stop: int) -> None:
        """It is here."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Checksums of a span, for stores that demand them; "" where nobody asked."""

    sha256: str = ""
    crc32: str = ""


def measure(source: Source, start: int, stop: int, *, sha256: bool, crc32: bool) -> Marks:
    """Read the span once before it is sent. Raises `SourceFailed`."""
    digest, sum_ = hashlib.sha256(), 0
    for at in range(start, stop, SLICE):
        piece = source.read(at, min(at + SLICE, stop))
        if sha256:
            digest.update(piece)
        if crc32:
            sum_ = zlib.crc32(piece, sum_)
    return Marks(
        sha256=digest.hexdigest() if sha256 else "",
        crc32=b64encode(sum_.to_bytes(4, "big")).decode() if crc32 else "",
    )


def unreadable(error: SourceFailed) -> StoreUnavailable:
    """The fault of a body that cannot be read any more."""
    fault = StoreUnavailable("a body could not be read while it was stored")
    fault.__cause__ = error
    return fault


def remove(path: Path) -> None:
    """A disk that fails here has already been reported."""
    with suppress(OSError):
        path.unlink()
