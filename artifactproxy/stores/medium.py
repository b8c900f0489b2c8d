"""The blocking half of `FsStore`: everything here may wait for the medium and runs in its pool.

Raises OSError, which the caller turns into faults. An flock on the directory of two digits orders
put and delete of the blobs in it, between threads and between processes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifactproxy import failpoints
from artifactproxy.errors import StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import Clock
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.temps import TempNames, alive, owner_of

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SHARD = re.compile(r"[0-9a-f]{2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_flush = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync


def store_fault(error: OSError, doing: str) -> StoreUnavailable:
    """The public form of a failure of the medium; only a full disk has a class of its own."""
    if error.errno in _FULL:
        return StoreFull("no space is left for blobs")
    return StoreUnavailable(f"the blob store could not {doing}: {os.strerror(error.errno or 0)}")


class Commit:
    """What a cancelled caller tells the thread that still works for it."""

    abandoned = False


@contextmanager
def pin(root: Path) -> Iterator[None]:
    """While this is open no collector deletes blobs of `root`: a shared flock on its `blobs/`.

    It ends with the process that holds it, whatever happens to that. Raises OSError.
    """
    folder = os.open(root / "blobs", _FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


class Medium:
    def __init__(self, root: Path, *, fsync: bool, clock: Clock) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.temps = root / "tmp"
        self.quarantine = root / "quarantine"
        self.sick = ""
        """Why the medium is not trusted: set by a failed fsync, cleared by a probe."""
        self._fsync = fsync
        self._clock = clock
        self._names = TempNames()
        self._durable: set[str] = set()  # directories whose own entry is known to be on the medium

    def temp_path(self) -> Path:
        return self.temps / self._names.next()

    # --- start and health -------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the layout and prove by a rename that blobs can appear at once."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.blobs.parent, self.blobs, self.temps, self.quarantine):
            folder.mkdir(mode=0o700, exist_ok=True)
        if self._fsync:
            for folder in (self.root.parent, self.root, self.blobs.parent):
                _sync_folder(folder)
        path = self.temp_path()
        trial = self.blobs / path.name
        try:
            os.close(os.open(path, _CREATE, 0o600))
            path.rename(trial)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise StoreUnavailable(
                f"{self.temps} and {self.blobs} must be on one filesystem, so that a blob can appear at once"
            ) from error
        finally:
            _remove(path)
            _remove(trial)
        self.probe(sync=True)

    def probe(self, *, sync: bool) -> None:
        path = self.temp_path()
        try:
            fd = os.open(path, _CREATE, 0o600)
            try:
                os.write(fd, b"probe")
                if sync:
                    self._sync(fd, "tmp.fsynced")
            finally:
                os.close(fd)
        finally:
            _remove(path)
        if sync:
            self.sick = ""

    def sweep(self) -> int:
        swept = 0
        for path in self.temps.iterdir():
            owner = owner_of(path.name)
            if owner and not alive(owner):
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    # --- putting ----------------------------------------------------------------------------

    def take_bytes(self, ref: BlobRef, body: bytes, commit: Commit) -> None:
        path = self.temp_path()
        try:
            self._write(path, body)
            self.take(ref, path, commit)
        finally:
            _remove(path)

    def take(self, ref: BlobRef, path: Path, commit: Commit) -> None:
        """Make `path` the blob `ref`; the file is gone afterwards, whatever happens."""
        try:
            target = self.root / blob_path(ref.sha256)
            if self.sick:
                self.probe(sync=True)
            self._seal(ref, path)
            if not commit.abandoned:
                self._link(ref, path, target)
        finally:
            _remove(path)

    def _write(self, path: Path, body: bytes) -> None:
        fd = os.open(path, _CREATE, 0o600)
        try:
            failpoints.hit("tmp.opened")
            left = memoryview(body)
            while left:
                left = left[os.write(fd, left) :]
            failpoints.hit("tmp.full")
        finally:
            os.close(fd)

    def _seal(self, ref: BlobRef, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size != ref.size:
                raise StoreUnavailable(f"a temporary file holds {size} bytes where {ref.size} were verified")
            os.fchmod(fd, 0o600)
            self._make_young(fd)
            self._sync(fd, "tmp.fsynced")
        finally:
            os.close(fd)

    def _link(self, ref: BlobRef, path: Path, target: Path) -> None:
        with self._shard(target.parent) as folder:
            held = self._renew(target, ref.size)
            if not held:
                path.rename(target)
            try:
                failpoints.hit("blob.linked")
                # Also for a blob that was there: its writer may not have come this far.
                self._sync(folder, "dir.fsynced")
            except OSError:
                if not held:
                    _remove(target)
                raise

    def _renew(self, target: Path, size: int) -> bool:
        """Make a blob that is there young again; one of another size is set aside."""
        try:
            found = target.lstat()
        except FileNotFoundError:
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            self._make_young(target)
            return True
        self._set_aside(target)
        return False

    def _make_young(self, file: Path | int) -> None:
        now = self._clock()
        os.utime(file, (now, now))

    # --- taking away ------------------------------------------------------------------------

    def expel(self, ref: BlobRef) -> None:
        """Set a damaged blob aside, unless somebody has just put a good one."""
        target = self.root / blob_path(ref.sha256)
        with suppress(OSError), self._shard(target.parent):
            found = target.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != ref.size:
                self._set_aside(target)

    def delete(self, sha256: str, older_than: float) -> None:
        target = self.root / blob_path(sha256)
        if not os.path.lexists(target):
            return
        with self._shard(target.parent), suppress(FileNotFoundError):
            if older_than <= 0 or self._clock() - target.lstat().st_mtime >= older_than:
                target.unlink()

    def _set_aside(self, target: Path) -> None:
        target.rename(self.quarantine / f"{target.name}.{time.time_ns()}")

    # --- listing ----------------------------------------------------------------------------

    def shards(self) -> list[str]:
        return sorted(path.name for path in self.blobs.iterdir() if _SHARD.fullmatch(path.name))

    def scan_shard(self, shard: str) -> list[tuple[BlobRef, float]]:
        found = []
        now = self._clock()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.blobs / shard) as entries:
            for entry in entries:
                if not _SHA256.fullmatch(entry.name) or not entry.name.startswith(shard):
                    continue
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        age = max(0.0, now - about.st_mtime)
                        found.append((BlobRef(entry.name, about.st_size), age))
        return found

    def pinned(self) -> bool:
        """Whether somebody holds `pin` on these blobs."""
        folder = os.open(self.root / "blobs", _FOLDER)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(folder)
        return False

    # --- syncing ----------------------------------------------------------------------------

    @contextmanager
    def _shard(self, path: Path) -> Iterator[int]:
        """The directory of two digits, locked, and durable itself from its first use here."""
        try:
            folder = os.open(path, _FOLDER)
        except FileNotFoundError:
            path.mkdir(mode=0o700, exist_ok=True)
            folder = os.open(path, _FOLDER)
        try:
            if self._fsync and path.name not in self._durable:
                # Not only when we made it: whoever did may have died before its fsync.
                _sync_folder(path.parent)
                self._durable.add(path.name)
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _sync(self, fd: int, point: str) -> None:
        """The one place that may find the medium broken. Such an error is reported once only, so
        what was written before is not to be trusted and the fsync is never tried again."""
        try:
            if self._fsync:
                _flush(fd)
            failpoints.hit(point)
        except OSError as error:
            if error.errno not in _FULL:
                self.sick = os.strerror(error.errno or 0)
            raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path, _FOLDER)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    """The file may be gone (taken over), and a disk that fails here has already been reported."""
    with suppress(OSError):
        path.unlink()
