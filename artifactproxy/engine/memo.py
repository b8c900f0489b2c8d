"""Rendered bodies that are kept for the next request, in memory or in unlinked files."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from artifactproxy.engine.answer import Bytes, File
from artifactproxy.model import Span
from artifactproxy.ports import Clock, LocalFile

FILES_MAX = 256  # each has a descriptor, and a process may have as few as 1024


@dataclass(slots=True, weakref_slot=True, eq=False)
class Made:
    """A rendered body: in memory, or in an unlinked file that `fd` keeps alive.

    The descriptor is closed with the last holder and not when the memo lets go: somebody may just
    be about to duplicate it, and its number may by then be another file's.
    """

    size: int
    sha256: str
    body: bytes | None
    fd: int
    next_flip: float | None

    def __post_init__(self) -> None:
        if self.fd >= 0:
            weakref.finalize(self, os.close, self.fd)

    def part(self, span: Span) -> Bytes | File:
        """A span of it, to be sent; a file is handed out as a descriptor of its own."""
        if self.body is None:
            return File(LocalFile(os.dup(self.fd), self.size), span)
        whole = span.size == self.size
        return Bytes(self.body if whole else self.body[span.start : span.stop])


class Memo:
    """Least recently used goes first; bytes bound what lies in memory and in files."""

    def __init__(self, memory_bytes: int, file_bytes: int, clock: Clock, files: int = FILES_MAX) -> None:
        self._limits = (memory_bytes, file_bytes, files)
        self._clock = clock
        self._kept: OrderedDict[str, Made] = OrderedDict()
        self._memory_bytes = 0
        self._file_bytes = 0
        self._files = 0

    @property
    def files(self) -> int:
        return self._files

    def get(self, tag: str) -> Made | None:
        """What was kept under this tag, unless it would read differently by now."""
        made = self._kept.get(tag)
        if made is None:
            return None
        if made.next_flip is not None and made.next_flip <= self._clock():
            self._drop(tag)
            return None
        self._kept.move_to_end(tag)
        return made

    def put(self, tag: str, made: Made) -> None:
        if tag in self._kept:
            self._drop(tag)
        self._kept[tag] = made
        self._count(made, 1)
        memory_bytes, file_bytes, files = self._limits
        while len(self._kept) > 1 and (
            self._memory_bytes > memory_bytes or self._file_bytes > file_bytes or self._files > files
        ):
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        for tag in list(self._kept):
            self._drop(tag)

    def _drop(self, tag: str) -> None:
        self._count(self._kept.pop(tag), -1)

    def _count(self, made: Made, sign: int) -> None:
        if made.body is None:
            self._file_bytes += sign * made.size
            self._files += sign
        else:
            self._memory_bytes += sign * made.size
