"""Where the bytes go: a file that appears when they are complete and right, or a stream.

A stream cannot take anything back, so nothing goes into one either before all of it is verified.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from artifactproxy import failpoints
from artifactproxy.terminal import Failure

STREAM = "-"
COPY_BYTES = 1024 * 1024
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT})


class Draft:
    """What has come so far, in a file that nobody sees yet."""

    def __init__(self, fd: int) -> None:
        self.size = 0
        self._fd = fd
        self._hash = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._hash.update(piece)
        write_all(self._fd, piece)
        self.size += len(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; the one that lies there now stays until the new one is complete."""

    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Appears under its name when the block has ended well; otherwise nothing is left."""
        part = self._beside()
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                yield Draft(fd)
                os.fsync(fd)
            finally:
                os.close(fd)
            self._publish(part)
        finally:
            part.unlink(missing_ok=True)

    def adopt(self, fd: int, size: int) -> None:
        """Take over a whole, verified file that nobody else will write to."""
        part = self._beside()
        os.fsync(fd)
        try:
            # A second name for the same bytes: nothing is copied. The descriptor makes it linkat(2), which
            # follows the name in /proc to the file.
            with self._folder() as folder:
                os.link(f"/proc/self/fd/{fd}", part.name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with self.draft() as draft:
                copied(fd, size, draft)
            return
        try:
            self._publish(part)
        finally:
            part.unlink(missing_ok=True)

    def _beside(self) -> Path:
        return self.path.with_name(f".{self.path.name[:200]}.{secrets.token_hex(4)}.part")

    def _publish(self, part: Path) -> None:
        part.chmod(self._mode())
        failpoints.hit("fetch.complete")
        part.rename(self.path)
        with self._folder() as folder:
            os.fsync(folder)

    @contextmanager
    def _folder(self) -> Iterator[int]:
        fd = os.open(self.path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _mode(self) -> int:
        """Of the file that is replaced, else as for any new file of this user."""
        with suppress(FileNotFoundError):
            return stat.S_IMODE(self.path.stat().st_mode)
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


@dataclass(frozen=True, slots=True)
class Stream:
    """Standard output, a pipe or a device."""

    shown: str
    path: str

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        with tempfile.TemporaryFile(prefix="artifactproxy-") as file:
            draft = Draft(file.fileno())
            yield draft
            self.adopt(file.fileno(), draft.size)

    def adopt(self, fd: int, size: int) -> None:
        out = sys.stdout.fileno() if self.path == STREAM else os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for piece in pieces(fd, size):
                write_all(out, piece)
        finally:
            if self.path != STREAM:
                os.close(out)


Destination = File | Stream


def destination(output: str | None, filename: str) -> Destination:
    """What `-o` names; without it the file is called as in the address. Raises `click.UsageError` and
    `Failure`."""
    if output == STREAM:
        if sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal; redirect it or name a file with -o")
        return Stream("standard output", STREAM)
    path = Path(output) if output is not None else Path()
    if path.is_dir():
        if not filename:
            raise click.UsageError("this address ends without a name for a file; give one with -o")
        path /= filename
    # Through a link to the file it stands for, as other programs write.
    path = path.resolve() if path.is_symlink() else path
    if not path.parent.is_dir():
        raise Failure(f"there is no folder {path.parent}; make it, or name another file with -o")
    if path.is_dir():
        raise Failure(f"{path} is a folder; name a file with -o")
    if path.exists() and not path.is_file():
        return Stream(str(path), str(path))
    return File(path)


def pieces(fd: int, size: int, start: int = 0) -> Iterator[bytes]:
    """That part of a file. Raises OSError where it is shorter."""
    at = start
    while at < start + size:
        piece = os.pread(fd, min(COPY_BYTES, start + size - at), at)
        if not piece:
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        at += len(piece)
        yield piece


def copied(fd: int, size: int, draft: Draft, start: int = 0) -> None:
    for piece in pieces(fd, size, start):
        draft.write(piece)


def write_all(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


def sha256_of(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
