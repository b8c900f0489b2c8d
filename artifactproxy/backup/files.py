"""The file that a backup goes into: there only when it is complete."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifactproxy import failpoints


class Refused(Exception):
    """Where the backup should go is no place for it; the text says why."""


def check_place(file: Path, data: Path, *, force: bool) -> None:
    """Raises `Refused`."""
    folder = file.absolute().parent.resolve()
    inside = data.absolute().resolve()
    if folder == inside or inside in folder.parents:
        raise Refused(f"{file} lies in the data folder; a backup belongs somewhere else")
    try:
        found = file.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        raise Refused(f"{file} is no file; for a pipe or a device use - and redirect it")
    if not force:
        raise Refused(f"{file} exists; choose another name or give --force")


@contextmanager
def complete(file: Path, *, force: bool) -> Iterator[tuple[int, Path]]:
    """A descriptor to write to, and a name beside it for a moment's use.

    The file (0600) appears under its name when the block has ended well and its bytes are on the
    medium; otherwise nothing is left. What a killed backup to the same name left is used up.
    Raises `Refused`, OSError.
    """
    part, beside = file.with_name(f"{file.name}.part"), file.with_name(f"{file.name}.index.part")
    fd, done = -1, False
    try:
        with _undisturbed():
            fd = _claimed(part, file)
        beside.unlink(missing_ok=True)
        yield fd, beside
        os.fsync(fd)
        failpoints.hit("backup.synced")
        if not force and os.path.lexists(file):
            raise Refused(f"{file} has appeared meanwhile; choose another name or give --force")
        part.rename(file)
        done = True
        folder = os.open(file.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        if fd >= 0:
            if not done:
                part.unlink(missing_ok=True)
            os.close(fd)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait, so that no file is made that nobody knows of yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _claimed(part: Path, file: Path) -> int:
    """The unfinished file, empty and locked, since what a dead process left looks the same."""
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(fd), part.lstat())
        os.fchmod(fd, 0o600)
    except (BlockingIOError, FileNotFoundError):
        ours = False
    except OSError:
        os.close(fd)
        raise
    if not ours:
        os.close(fd)
        raise Refused(f"another backup is writing {file}")
    os.ftruncate(fd, 0)
    return fd
