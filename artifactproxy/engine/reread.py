"""Checksums of a body: what takes its bytes while they come, and reading it once more for the others."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from artifactproxy import failpoints
from artifactproxy.model import Digest
from artifactproxy.rules.digests import H1
from artifactproxy.rules.gosum import hash_of_zip

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_BYTES = 256 * 1024


class Hashing(Protocol):
    def update(self, data: bytes) -> None: ...
    def digests(self) -> tuple[Digest, ...]: ...


class WholeBody(io.RawIOBase):
    """The whole body as a file of its own: whoever reads it may outlive the spool."""

    def __init__(self, memory: bytes, fd: int, size: int) -> None:
        self.size = size
        self._memory = memory
        self._fd = os.dup(fd) if fd >= 0 else -1
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self.size, self._at + len(view))
        if self._at >= stop:
            return 0
        if self._fd < 0:
            count = stop - self._at
            view[:count] = self._memory[self._at : stop]
        else:
            failpoints.hit("tmp.reread")
            count = os.preadv(self._fd, [view[: stop - self._at]], self._at)
        self._at += count
        return count

    def close(self) -> None:
        if self._fd >= 0 and not self.closed:
            os.close(self._fd)
        super().close()


def digests_of(body: WholeBody, algorithms: Sequence[str]) -> tuple[Digest, ...]:
    """Blocking, for the hashing thread. Closes `body`. Raises OSError, `BrokenPromise`."""
    with io.BufferedReader(body, READ_BYTES) as file:
        found = [Digest(H1, hash_of_zip(file, body.size))] if H1 in algorithms else []
        hashers = [hashlib.new(name, usedforsecurity=False) for name in algorithms if name != H1]
        file.seek(0)
        while hashers and (piece := file.read(READ_BYTES)):
            for hasher in hashers:
                hasher.update(piece)
        return (*found, *(Digest(hasher.name, hasher.hexdigest()) for hasher in hashers))
