"""Taking a backup. It only reads: from the index a snapshot, then every blob that this names.

A running instance is not involved. SQLite lets other processes read beside it, and a shared flock
on `blobs/` keeps its collector from deleting until the backup ends, or dies. Blobs appear before
the rows that name them, so whatever the snapshot names is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from artifactproxy import __version__, failpoints
from artifactproxy.backup.archive import CHUNK, DAMAGED, END, MANIFEST, ArchiveWriter, End, Manifest
from artifactproxy.backup.progress import Progress
from artifactproxy.datadir import BLOBS, INDEX, layout
from artifactproxy.errors import StoreUnavailable
from artifactproxy.indexes.copies import IndexCopy, snapshot
from artifactproxy.model import BlobRef
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.medium import pin

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_EXAMPLES = 20
_UNREADABLE = frozenset({errno.EIO, errno.ELOOP, errno.EUCLEAN, errno.EISDIR})
"""What says that this blob is bad; every other failure is one of the whole backup."""


@dataclass(slots=True)
class Taken:
    """What is in the backup; `examples` are the first blobs that had to be left out, and why."""

    manifest: Manifest
    archive_bytes: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    missing: int = 0
    damaged: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def leave_out(self, sha256: str, why: str) -> None:
        if why == "missing":
            self.missing += 1
        else:
            self.damaged += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((sha256, why))


def take(data: Path, out: int, scratch: Path, progress: Progress) -> Taken:
    """Write a backup of `data` to the descriptor `out`; `scratch` is a name for the copy of the
    index, which goes at once. Raises `StoreUnavailable`, `IndexUnavailable`, OSError."""
    found = layout(data)
    if found is None or not (data / INDEX).exists():
        raise StoreUnavailable(f"{data} is no data folder: there is nothing to back up")
    with ExitStack() as stack:
        if (data / BLOBS).exists():  # not before anything was served from here; then nothing is named either
            stack.enter_context(pin(data))
        stack.callback(scratch.unlink, missing_ok=True)
        progress.step("copying the index", (data / INDEX).stat().st_size)
        snapshot(data / INDEX, scratch)
        failpoints.hit("backup.snapshot")
        index = stack.enter_context(closing(IndexCopy(scratch)))
        copy = os.open(scratch, _READ)
        stack.callback(os.close, copy)
        manifest = _manifest(index, copy, found)
        scratch.unlink()  # both stay open, so that even SIGKILL leaves nothing behind
        return _write(ArchiveWriter(out), _Blobs(data), index, copy, Taken(manifest), progress)


def _manifest(index: IndexCopy, copy: int, found: int) -> Manifest:
    totals = index.totals()
    blobs, blob_bytes = index.named()
    digest = hashlib.sha256()
    for chunk in _chunks(copy, size := os.fstat(copy).st_size):
        digest.update(chunk)
    return Manifest(
        program=__version__,
        made_at=time.time(),
        layout=found,
        index_bytes=size,
        index_sha256=digest.hexdigest(),
        blobs=blobs,
        blob_bytes=blob_bytes,
        entries=totals.entries,
        promises=totals.promises,
    )


def _write(
    archive: ArchiveWriter, blobs: _Blobs, index: IndexCopy, copy: int, taken: Taken, progress: Progress
) -> Taken:
    manifest = taken.manifest
    archive.put_document(MANIFEST, manifest)
    progress.step("writing the index", manifest.index_bytes)
    archive.put(INDEX, manifest.index_bytes, _counted(_chunks(copy, manifest.index_bytes), progress))
    progress.step(f"copying {manifest.blobs} blobs", manifest.blob_bytes)
    for ref in index.blobs():
        failpoints.hit("backup.blob")
        why = blobs.copy(ref, archive, progress)
        if why:
            taken.leave_out(ref.sha256, why)
        else:
            taken.blobs += 1
            taken.blob_bytes += ref.size
    end = End(
        manifest_sha256=hashlib.sha256(manifest.text()).hexdigest(),
        blobs=taken.blobs,
        blob_bytes=taken.blob_bytes,
        missing=taken.missing,
        damaged=taken.damaged,
    )
    archive.put_document(END, end)
    archive.finish()
    taken.archive_bytes = archive.written
    return taken


class _Blobs:
    """The files of the store, read and hashed on their way."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def copy(self, ref: BlobRef, archive: ArchiveWriter, progress: Progress) -> str:
        """Put one blob into the archive; "" or why it is not there."""
        fd, why = self._open(ref)
        if fd is None:
            return why
        digest = hashlib.sha256()
        try:
            archive.put(
                blob_path(ref.sha256), ref.size, _counted(_hashed(_chunks(fd, ref.size), digest), progress)
            )
        finally:
            os.close(fd)
        if digest.hexdigest() == ref.sha256:
            return ""
        archive.put(DAMAGED + ref.sha256, 0, ())
        return "damaged"

    def _open(self, ref: BlobRef) -> tuple[int | None, str]:
        try:
            fd = os.open(f"{self._data}/{blob_path(ref.sha256)}", _READ)
        except FileNotFoundError:
            if not (self._data / BLOBS / "sha256").is_dir():
                raise StoreUnavailable("the directory of the blobs is gone") from None
            return None, "missing"
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return None, "damaged"
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_size == ref.size:
            return fd, ""
        os.close(fd)
        return None, "damaged"


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes from the start of a file. What cannot be read is zeros: the digest tells."""
    for start in range(0, size, CHUNK):
        wanted = min(CHUNK, size - start)
        try:
            failpoints.hit("backup.read")
            chunk = os.pread(fd, wanted, start)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            chunk = b""
        yield chunk.ljust(wanted, b"\0")


def _hashed(chunks: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _counted(chunks: Iterator[bytes], progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress.advance(len(chunk))
