"""The blocking half of `FsStore`: everything here may wait for the medium and runs in its pool.

Raises OSError, which the caller turns into faults. An flock on the directory of two digits orders
put and delete of the blobs in it, between threads and between processes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
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
from artifactproxy.rules.segments import SavedMap
from artifactproxy.stores.temps import MAP, TempNames, alive, left_over, owner_of, part_of

_AHEAD = 60.0  # seconds; a blob dated further ahead was put under a clock that was set back since
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
        self.probe(sync=True)

    def probe(self, *, sync: bool) -> None:
        """Write a file and let it appear among the blobs, as a commit does."""
        path = self.temp_path()
        trial = self.blobs / path.name
        try:
            fd = os.open(path, _CREATE, 0o600)
            try:
                os.write(fd, b"probe")
                if sync:
                    self._sync(fd, "tmp.fsynced")
            finally:
                os.close(fd)
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
        if sync:
            self.sick = ""

    def sweep(self) -> int:
        swept = 0
        # Among the blobs there is what `prepare` tried out just before its process died.
        for path in (*self.temps.iterdir(), *self.blobs.iterdir()):
            owner = owner_of(path.name)
            if owner and not alive(owner) and left_over(part_of(path), self._clock()) is None:
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    def find_left_over(self, sha256: str) -> tuple[Path, SavedMap] | None:
        """The file of a download of these bytes that a crash has ended."""
        for path in self.temps.glob(f"*{MAP}"):
            saved = left_over(part_of(path), self._clock())
            if saved is not None and saved.sha256 == sha256:
                return part_of(path), saved
        return None

    def take_left_over(self, part: Path) -> Path | None:
        """Its new name, as a file of this process; None if another one has it by now."""
        ours = self.temp_path()
        try:
            part.rename(ours)  # which one process alone can do
        except FileNotFoundError:
            return None
        _remove(part.with_name(part.name + MAP))
        return ours

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
            held = self._holds(target, ref.size)
            # Also over a blob that is there: these bytes are verified, those may have rotted since.
            path.rename(target)
            try:
                failpoints.hit("blob.linked")
                self._sync(folder, "dir.fsynced")
            except OSError:
                if not held:
                    _remove(target)
                raise

    def _holds(self, target: Path, size: int) -> bool:
        """Whether a blob of this size is there; something else in its place is set aside."""
        try:
            found = target.lstat()
        except FileNotFoundError:
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return True
        self._set_aside(target)
        return False

    def _make_young(self, file: Path | int) -> None:
        now = self._clock()
        os.utime(file, (now, now))

    # --- taking away ------------------------------------------------------------------------

    def expel(self, ref: BlobRef) -> bool:
        """Set a damaged blob aside, unless somebody has just done so or put a good one."""
        target = self.root / blob_path(ref.sha256)
        with suppress(OSError), self._shard(target.parent):
            found = target.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != ref.size:
                self._set_aside(target)
                return True
        return False

    def set_aside(self, sha256: str, opened: int | None) -> bool:
        """`opened` is a descriptor of what was found damaged: a file put there since then stays."""
        target = self.root / blob_path(sha256)
        if not os.path.lexists(target):
            return False
        with self._shard(target.parent), suppress(FileNotFoundError):
            if opened is None or os.path.samestat(os.fstat(opened), target.lstat()):
                self._set_aside(target)
                return True
        return False

    def delete(self, sha256: str, older_than: float) -> None:
        target = self.root / blob_path(sha256)
        if not os.path.lexists(target):
            return
        with self._shard(target.parent), suppress(FileNotFoundError):
            found = target.lstat()
            if stat.S_ISDIR(found.st_mode):
                self._set_aside(target)
            elif older_than <= 0 or not -_AHEAD < self._clock() - found.st_mtime < older_than:
                target.unlink()

    def evict(self, sha256: str, used: int) -> int:
        """Remove a blob whose last use (atime, ns) is still this one; returns the bytes freed."""
        target = self.root / blob_path(sha256)
        with self._shard(target.parent), suppress(FileNotFoundError):
            found = target.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_atime_ns == used:
                target.unlink()
                return found.st_size
        return 0

    def _set_aside(self, target: Path) -> None:
        aside = self.quarantine / f"{target.name}.{time.time_ns()}"
        try:
            target.rename(aside)
        except FileNotFoundError:
            # An operator may have removed the whole directory with what was in it.
            self.quarantine.mkdir(mode=0o700, exist_ok=True)
            target.rename(aside)

    def adopt(self, path: Path, sha256: str) -> bool:
        """Put a copy of `path` in the place of this blob, if that is its content; then `path`
        itself goes. False, and nothing has changed, if it is not."""
        copy, target = self.temp_path(), self.root / blob_path(sha256)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as source, os.fdopen(os.open(copy, _CREATE, 0o600), "wb") as out:
                while piece := source.read(1024 * 1024):
                    digest.update(piece)
                    out.write(piece)
            if digest.hexdigest() != sha256:
                return False
            self._seal(BlobRef(sha256, copy.stat().st_size), copy)
            with self._shard(target.parent) as folder:
                copy.rename(target)
                self._sync(folder, "dir.fsynced")
            if path != target:
                path.unlink()
            return True
        finally:
            _remove(copy)

    # --- listing ----------------------------------------------------------------------------

    def shards(self) -> list[str]:
        return sorted(path.name for path in self.blobs.iterdir() if _SHARD.fullmatch(path.name))

    def scan_shard(self, shard: str) -> list[tuple[BlobRef, float]]:
        now = self._clock()
        return [
            (BlobRef(name, about.st_size), max(0.0, now - about.st_mtime))
            for name, about in self._files_of(shard)
        ]

    def uses(self, shard: str) -> list[tuple[str, int, int]]:
        """Name, size and last use (atime, ns) of the blobs in a directory."""
        return [(name, about.st_size, about.st_atime_ns) for name, about in self._files_of(shard)]

    def _files_of(self, shard: str) -> Iterator[tuple[str, os.stat_result]]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.blobs / shard) as entries:
            for entry in entries:
                if not _SHA256.fullmatch(entry.name) or not entry.name.startswith(shard):
                    continue
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        yield entry.name, about

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
                with self._distrusting():
                    _sync_folder(path.parent)
                self._durable.add(path.name)
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _sync(self, fd: int, point: str) -> None:
        """The one place that may find the medium broken. Such an error is reported once only, so
        what was written before is not to be trusted and the fsync is never tried again."""
        with self._distrusting():
            if self._fsync:
                _flush(fd)
            failpoints.hit(point)

    @contextmanager
    def _distrusting(self) -> Iterator[None]:
        try:
            yield
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
