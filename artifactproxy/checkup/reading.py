"""Reading a blob from end to end without pushing what clients use out of the page cache."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable

from artifactproxy import failpoints
from artifactproxy.ports import LocalFile

PIECE = 2**20

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_FADVISE = hasattr(os, "posix_fadvise")


async def sha256_of(local: LocalFile, before: Callable[[int], Awaitable[None]]) -> str:
    """The hash of the file, read in pieces off the event loop; `before` is awaited before each with
    its size. Raises OSError. The file stays open; when this is cancelled nothing reads it any more.
    """
    reading = _Reading(local)
    while reading.left:
        await before(min(PIECE, reading.left))
        piece = asyncio.ensure_future(asyncio.to_thread(reading.piece))
        try:
            await asyncio.shield(piece)
        except asyncio.CancelledError:
            await asyncio.wait((piece,))
            raise
    return reading.hasher.hexdigest()


def drop_cached(local: LocalFile) -> None:
    """Let the next read come from the medium."""
    if _FADVISE:
        os.posix_fadvise(local.fd, 0, 0, os.POSIX_FADV_DONTNEED)


class _Reading:
    """What was in memory before stays there, what was not does not come to stay (Linux)."""

    def __init__(self, local: LocalFile) -> None:
        self.hasher = hashlib.sha256()
        self.left = local.size
        self._fd = local.fd
        self._at = 0
        if _FADVISE:
            # Reading ahead would make the next piece look as if it had been there before.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def piece(self) -> None:
        failpoints.hit("scrub.read")
        size = min(PIECE, self.left)
        held = self._held(size)
        rest = os.pread(self._fd, size - len(held), self._at + len(held))
        self.hasher.update(held)
        self.hasher.update(rest)
        if rest and _FADVISE:
            os.posix_fadvise(self._fd, self._at + len(held), len(rest), os.POSIX_FADV_DONTNEED)
        got = len(held) + len(rest)
        self._at += got
        self.left = self.left - got if got else 0  # shorter than it was: the hash will tell

    def _held(self, size: int) -> bytes:
        """As much of the next `size` bytes as memory holds, from their start."""
        if not _NOWAIT:
            return b""
        buffer = bytearray(size)
        try:
            return bytes(memoryview(buffer)[: os.preadv(self._fd, [buffer], self._at, _NOWAIT)])
        except OSError:  # nothing is held, or this file system cannot tell
            return b""
