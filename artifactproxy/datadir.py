"""The data folder as a whole: who works in it, which version of the layout it has, how it is restored.

`lock` is held (flock) by the one process that may change the folder; `format` holds the layout's
version: a newer one is refused, an older one would be migrated under the lock.

A restore unpacks into `restoring/`. Renaming that to `restored/` is the one step that makes it
count: before it nothing has changed, after it whoever opens the folder next moves the content in.
Both lie inside the folder, so that it may be a mount point and its lock keeps everybody else out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifactproxy import failpoints
from artifactproxy.errors import StoreUnavailable
from artifactproxy.indexes.salvage import finish, refuse_unfinished

FORMAT = 1
INDEX = "index.sqlite3"
BLOBS = "blobs"
MARKER = "format"

_LOCK = "lock"
_USED = "in-use"
_RESTORING, _RESTORED = "restoring", "restored"
_CONTENT = (BLOBS, INDEX, MARKER)  # what a restore brings, in the order of moving in
# Of an index; beside another one they would damage it, or take its place.
_SIDE_FILES = ("-wal", "-shm", "-journal", ".salvaged")
_NOT_CONTENT = frozenset({_LOCK, _RESTORING, "lost+found"})


class DataFolder:
    """Locked from construction until `close`. Raises `StoreUnavailable` with what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = _locked(self.path)
        try:
            _move_in(self.path)
            _check_whole(self.path)
            finish(self.path / INDEX)
            self._check_format()
        except OSError as error:
            os.close(self._lock)
            raise _unusable(path, error) from error
        except StoreUnavailable:
            os.close(self._lock)
            raise

    def _check_format(self) -> None:
        if layout(self.path) is None:
            _write_format(self.path)

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    def close(self) -> None:
        os.close(self._lock)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody else is in such a block on this folder, in any process. It ends with its process."""
    fd = os.open(path / MARKER, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _taken(fd)
    finally:
        os.close(fd)


def took(path: Path) -> bool:
    """Mark the folder as in use; whether whoever used it before had ended well. For instances whose
    index, which would tell, lies elsewhere. Raises `StoreUnavailable`."""
    mark = path / _USED
    try:
        clean = not mark.exists()
        mark.touch(mode=0o600)
        _sync(path)
    except OSError as error:
        raise _unusable(path, error) from error
    return clean


def leave(path: Path) -> None:
    """The other end of `took`, when everything is on the medium."""
    with suppress(OSError):
        os.sync()
        (path / _USED).unlink(missing_ok=True)


def _write_format(path: Path) -> None:
    """All of it or nothing, also when power fails: an empty file would be taken for another layout."""
    draft = path / f"{MARKER}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{FORMAT}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path / MARKER)
    _sync(path)


def _check_whole(path: Path) -> None:
    if (path / _RESTORING).exists():
        raise StoreUnavailable(
            f"a restore into {path} did not finish: run it again,"
            f" or remove {path / _RESTORING} to go on without it"
        )


@contextmanager
def looking(path: Path, *, first: bool = False) -> Iterator[bool]:
    """The folder for a reader that changes nothing, not even by making a lock; yields whether
    somebody works in it. If nobody does, nobody begins to while the block is open. `first` is for
    a look before `DataFolder`, which finishes what was left unfinished.

    Raises `StoreUnavailable` and `IndexUnavailable` where there is nothing to read, or nothing yet.
    """
    path = path.absolute()
    try:
        if not path.is_dir():
            raise StoreUnavailable(f"{path} is no directory: name the data folder of an instance")
        next(path.iterdir(), None)
        if layout(path) is None:
            raise StoreUnavailable(f"{path} is no data folder: name that of an instance")
        lock = _existing_lock(path)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        busy = lock is not None and not _taken(lock)
        if not busy and not first:
            _check_whole(path)
            if (path / _RESTORED).is_dir():
                raise StoreUnavailable(
                    f"a restore into {path} waits to be finished: start artifactproxy once"
                )
            refuse_unfinished(path / INDEX)
        yield busy
    finally:
        if lock is not None:
            os.close(lock)


def _existing_lock(path: Path) -> int | None:
    try:
        return os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # nobody has worked here: it was copied


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def layout(path: Path) -> int | None:
    """The version of the layout; None: nothing tells one. Raises `StoreUnavailable` for a newer one."""
    marker = path / MARKER
    try:
        found = marker.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not found.isdigit() or int(found) > FORMAT:
        raise StoreUnavailable(
            f"{marker} says layout {found!r}, this version knows {FORMAT}; use the newer artifactproxy"
        )
    return int(found)


@contextmanager
def restoring(path: Path, *, replace: bool) -> Iterator[Path]:
    """An empty folder whose content becomes that of the data folder if the block ends well.

    Otherwise nothing has changed. The data folder must be empty or absent, or with `replace` a
    data folder, whose content then goes. Raises `StoreUnavailable` and OSError.
    """
    path = path.absolute()
    made = not path.exists()
    place = path / _RESTORING
    lock, committed = -1, False
    try:
        lock = _locked(path)
        if _move_in(path):
            raise StoreUnavailable(f"the restore into {path} that was stopped near its end is finished now")
        _check_vacant(path, replace=replace)
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(mode=0o700)
        yield place
        _sync(path)
        failpoints.hit("restore.verified")
        place.rename(path / _RESTORED)
        committed = True
        _sync(path)
        failpoints.hit("restore.committed")
        _move_in(path)
    finally:
        if lock >= 0:
            if not committed:
                _take_back(path, made=made)
            os.close(lock)


def _take_back(path: Path, *, made: bool) -> None:
    shutil.rmtree(path / _RESTORING, ignore_errors=True)
    if made:
        with suppress(OSError):
            (path / _LOCK).unlink()
            path.rmdir()


def _check_vacant(path: Path, *, replace: bool) -> None:
    held = {entry.name for entry in path.iterdir()} - _NOT_CONTENT
    if not held:
        return
    if MARKER not in held:
        raise StoreUnavailable(
            f"{path} is not empty and is no data folder; choose another folder with --data"
        )
    if not replace:
        raise StoreUnavailable(
            f"{path} is not empty; restore into another folder with --data, move this one away,"
            " or give --force to replace what is in it"
        )


def _move_in(path: Path) -> bool:
    """Finish a restore that counts, and tell if there was one. A stop at any point leaves the rest
    to the next call."""
    restored = path / _RESTORED
    if not restored.is_dir():
        return False
    for name in _CONTENT:
        if not os.path.lexists(restored / name):
            continue
        for old in (name, *(f"{name}{side}" for side in _SIDE_FILES)):
            _remove(path / old)
        failpoints.hit("restore.removed")
        (restored / name).rename(path / name)
        _sync(path)
        failpoints.hit("restore.moved")
    shutil.rmtree(restored)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of the folder, which is made where it is missing."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A restore that failed in a folder of its own making has taken the lock's file away.
        gone = not os.path.samestat(os.fstat(lock), (path / _LOCK).stat())
    except FileNotFoundError:
        gone = True
    except BlockingIOError as error:
        os.close(lock)
        raise StoreUnavailable(
            f"another artifactproxy works in {path}; stop it or choose another folder with --data"
        ) from error
    except OSError as error:
        os.close(lock)
        raise _unusable(path, error) from error
    if gone:
        os.close(lock)
        return _locked(path)
    return lock


def _unusable(path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"the data folder {path} cannot be used: {error.strerror}; choose another with --data"
    )


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
