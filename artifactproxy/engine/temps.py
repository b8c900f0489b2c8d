"""Room for bodies on their way: temp file names, a quota, and what a failing disk means."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from artifactproxy import failpoints
from artifactproxy.errors import Busy, Fault, StoreFull, StoreUnavailable
from artifactproxy.rules.segments import SavedMap

LARGE_CHUNK = 64 * 1024  # not worth a copy


def no_memory() -> Busy:
    return Busy("not enough memory for this at the moment", code="memory", retry_after=5.0)


class LeftOvers(Protocol):
    """Files that a crash has left of large promised downloads. Both raise `StoreUnavailable`."""

    async def find_left_over(self, sha256: str) -> tuple[Path, SavedMap] | None: ...
    async def take_left_over(self, part: Path) -> Path | None: ...


class TempSpace:
    """Where temp files come from, and how many bytes they may hold together.

    `free` tells the bytes that may still be used on the disk. `make_room` is asked to give so many
    bytes back at once, and may. Both raise `StoreFull`.
    """

    def __init__(
        self,
        new_path: Callable[[], Path],
        free: Callable[[], int],
        quota_bytes: int,
        make_room: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self.new_path = new_path
        self._free = free
        self._quota = quota_bytes
        self._make_room = make_room
        self.used = 0

    def expect(self, size: int) -> None:
        """Refuse a body that cannot fit before its first byte is asked for."""
        short = max(self.used + size - self._quota, size - self._free())
        if short > 0:
            self._make_room(short)
        self._refuse_above(size)
        if size > self._free():
            raise StoreFull("the disk is too full to store this body")

    def take(self, size: int) -> None:
        if self.used + size > self._quota:
            self._make_room(self.used + size - self._quota)
        self._refuse_above(size)
        self.used += size

    def _refuse_above(self, size: int) -> None:
        if self.used + size > self._quota:
            raise StoreFull("temporary space is used up by running downloads; raise limits.temp_bytes")

    def give_back(self, size: int) -> None:
        self.used -= size


class TempFile:
    """The file of one body, with its claim on the space; there is none before `create`."""

    def __init__(self, space: TempSpace) -> None:
        self.path: Path | None = None
        self.fd = -1
        self.kept = False  # whether it stays for the next life, if there is a map of it
        self._space = space
        self._claimed = 0  # bytes

    def create(self, body: bytes, left_over: Path | None = None) -> None:
        """With so much in it, or the file that an earlier life has left. Raises OSError."""
        self.path = left_over or self._space.new_path()
        new = 0 if left_over else os.O_CREAT | os.O_EXCL
        self.fd = os.open(self.path, os.O_RDWR | new | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        failpoints.hit("tmp.opened")
        write_all(self.fd, body)

    def claim(self, total: int) -> None:
        """Have room for so many bytes. Raises `StoreFull`."""
        if total > self._claimed:
            self._space.take(total - self._claimed)
            self._claimed = total

    def moved(self) -> None:
        """The store has taken over the file at `path`; the descriptor keeps serving readers."""
        self._give_back()
        self.forget_map()
        self.path = None

    def forget_map(self) -> None:
        """Nothing of it counts, also in the next life."""
        if self.path is not None:
            remove_map(self.path)

    def drop(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._give_back()
        if self.path is not None and not (self.kept and has_map(self.path)):
            with suppress(OSError):  # a disk that fails here has already been reported
                self.path.unlink()
            remove_map(self.path)
        self.path = None

    def _give_back(self) -> None:
        self._space.give_back(self._claimed)
        self._claimed = 0


def disk_fault(error: BaseException) -> Fault:
    """What a failed disk operation means to a client; the cause goes to the log only."""
    if isinstance(error, MemoryError):
        return no_memory()
    if not isinstance(error, OSError):
        return Fault("internal error while writing a temporary file")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("no space left for temporary files")
    return StoreUnavailable("temporary files cannot be written", code="store_temp")


def allocate(fd: int, size: int) -> None:
    """Give the file its size and its blocks, where the file system can."""
    try:
        os.posix_fallocate(fd, 0, size)
    except AttributeError:  # macOS
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, size)


def gathered(chunks: list[bytes]) -> list[bytes]:
    """The same bytes, in one piece where they came in small ones: every single write or update of a hash
    gives up the interpreter and fights to get it back. Large ones are not worth a copy."""
    if len(chunks) > 1 and sum(map(len, chunks)) < len(chunks) * LARGE_CHUNK:
        return [b"".join(chunks)]
    return chunks


def write_at(fd: int, offset: int, chunks: list[bytes]) -> None:
    """Write all of them there, whatever else is written meanwhile."""
    for chunk in gathered(chunks):
        view = memoryview(chunk)
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    failpoints.hit("segment.landed")


def write_all(fd: int, body: bytes) -> None:
    """Write until all of it is written; a short write is not an error."""
    view = memoryview(body)
    while view:
        view = view[os.write(fd, view) :]


def begin_flush(fd: int, start: int, stop: int) -> None:
    """Let the disk begin with what was written there, so that less is left for whoever syncs the file."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        # The kernel begins to write what it is told that nobody needs; it forgets only what is written.
        os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)


def save_map(path: Path, text: str) -> None:
    """What has landed of the file at `path`, beside it; the one before stays until this one is whole."""
    new = path.with_name(path.name + ".map")
    draft = path.with_name(path.name + ".map.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, text.encode())
    finally:
        os.close(fd)
    draft.rename(new)
    failpoints.hit("map.saved")


def has_map(path: Path) -> bool:
    return path.with_name(path.name + ".map").exists()


def remove_map(path: Path) -> None:
    with suppress(OSError):
        path.with_name(path.name + ".map").unlink()
