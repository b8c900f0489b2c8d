"""Unpacking a backup. Nothing in it is believed: every blob is hashed, the index is judged.

What it cannot prove is refused as a whole. Afterwards the folder is as after a clean stop: each
blob is what its name says, and no row names a blob that is not there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from artifactproxy import failpoints
from artifactproxy.backup.archive import (
    DAMAGED,
    END,
    MANIFEST,
    ArchiveReader,
    BadBackup,
    End,
    Manifest,
    Member,
    expect,
    parsed,
    text_of,
)
from artifactproxy.backup.progress import Progress
from artifactproxy.datadir import FORMAT, INDEX, MARKER
from artifactproxy.indexes.copies import IndexCopy
from artifactproxy.model import BlobRef
from artifactproxy.rules.paths import blob_path

_SYNCING, _BATCH = 16, 64
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Unpacked:
    """What came out; `left_out` blobs were missing or damaged when the backup was made."""

    manifest: Manifest
    manifest_sha256: str
    blobs: int = 0
    blob_bytes: int = 0
    left_out: int = 0


def unpack(source: BinaryIO, place: Path, progress: Progress) -> Unpacked:
    """Fill the empty folder `place`, durably. Raises `BadBackup`, `IndexUnavailable`, OSError."""
    reader = ArchiveReader(source)
    member = reader.next()
    expect(member, MANIFEST)
    text = text_of(reader, member)
    manifest = parsed(text, MANIFEST, Manifest)
    if manifest.layout > FORMAT:
        raise BadBackup(
            f"its layout is {manifest.layout}, this version knows {FORMAT}; use the newer artifactproxy"
        )
    _check_space(manifest, place)
    progress.step("unpacking the index", manifest.index_bytes)
    _unpack_index(reader, manifest, place, progress)
    unpacked = Unpacked(manifest, hashlib.sha256(text).hexdigest())
    with closing(IndexCopy(place / INDEX)) as index:
        index.judge()
        if index.named() != (manifest.blobs, manifest.blob_bytes):
            raise BadBackup("its index names other blobs than it announces")
        progress.step(f"unpacking {manifest.blobs} blobs", manifest.blob_bytes)
        _unpack_blobs(reader, index.blobs(), place, unpacked, progress)
        reader.finish()
        _sync_files(f"{place}/{blob_path(ref.sha256)}" for ref in index.blobs())
        forgotten = index.keep(lambda ref: os.path.lexists(f"{place}/{blob_path(ref.sha256)}"))
        if forgotten != unpacked.left_out:
            raise BadBackup("its index and its blobs do not belong together")
        index.mark_clean()
    marker = os.open(place / MARKER, _CREATE, 0o600)
    try:
        os.write(marker, f"{manifest.layout}\n".encode())
        os.fsync(marker)
    finally:
        os.close(marker)
    _sync_folders(place)
    return unpacked


def _check_space(manifest: Manifest, place: Path) -> None:
    disk = os.statvfs(place)
    needed, free = manifest.index_bytes + manifest.blob_bytes, disk.f_frsize * disk.f_bavail
    if needed > free:
        raise BadBackup(f"it needs {needed} bytes and the disk of {place.parent} has {free} left")


def _unpack_index(reader: ArchiveReader, manifest: Manifest, place: Path, progress: Progress) -> None:
    member = reader.next()
    expect(member, INDEX)
    if member.size != manifest.index_bytes:
        raise BadBackup("its index has another size than it announces")
    if _written(reader, member, place / INDEX, progress) != manifest.index_sha256:
        raise BadBackup("its index is damaged")


def _unpack_blobs(
    reader: ArchiveReader, named: Iterator[BlobRef], place: Path, unpacked: Unpacked, progress: Progress
) -> None:
    """Blobs come in the order in which the index lists them, so none can come twice."""
    spoilt = shard = ""
    spoilt_count = 0
    store = place / "blobs" / "sha256"
    store.mkdir(mode=0o700, parents=True)
    store.parent.chmod(0o700)
    while True:
        member = reader.next()
        if spoilt:
            if member.name != DAMAGED + spoilt or member.size:
                raise BadBackup(f"its blob {spoilt} is damaged")
            spoilt = ""
            _skip(reader, member)
            continue
        if member.name == END:
            break
        ref = _due(member, named)
        target = f"{place}/{blob_path(ref.sha256)}"
        if ref.sha256[:2] != shard:
            shard = ref.sha256[:2]
            (store / shard).mkdir(mode=0o700)
        failpoints.hit("restore.blob")
        if _written(reader, member, target, progress) == ref.sha256:
            unpacked.blobs += 1
            unpacked.blob_bytes += ref.size
        else:
            Path(target).unlink()
            spoilt = ref.sha256
            spoilt_count += 1
    unpacked.left_out = unpacked.manifest.blobs - unpacked.blobs
    _check_end(parsed(text_of(reader, member), END, End), unpacked, spoilt_count)


def _due(member: Member, named: Iterator[BlobRef]) -> BlobRef:
    """The blob that this member is; those named before it are not in the file."""
    for ref in named:
        try:
            path = blob_path(ref.sha256)
        except ValueError as error:
            raise BadBackup("its index names a blob that cannot be") from error
        if path == member.name:
            if ref.size != member.size:
                raise BadBackup(f"its blob {ref.sha256} has another size than its index says")
            return ref
    raise BadBackup(f"it holds {member.name[:100]!r}, which its index does not name, or not there")


def _check_end(end: End, unpacked: Unpacked, spoilt: int) -> None:
    if end.manifest_sha256 != unpacked.manifest_sha256:
        raise BadBackup("its beginning and its end do not belong together")
    came = unpacked.blobs, unpacked.blob_bytes, unpacked.left_out
    if came != (end.blobs, end.blob_bytes, end.missing + end.damaged) or spoilt > end.damaged:
        raise BadBackup("it does not hold the blobs that its end lists: some were taken out")


def _written(reader: ArchiveReader, member: Member, target: Path | str, progress: Progress) -> str:
    """Unpack one member into a new file; its sha256."""
    digest = hashlib.sha256()
    fd = os.open(target, _CREATE, 0o600)
    try:
        for chunk in reader.chunks(member):
            digest.update(chunk)
            left = memoryview(chunk)
            while left:
                left = left[os.write(fd, left) :]
            progress.advance(len(chunk))
    finally:
        os.close(fd)
    return digest.hexdigest()


def _skip(reader: ArchiveReader, member: Member) -> None:
    for _ in reader.chunks(member):
        pass


def _sync_files(paths: Iterator[str]) -> None:
    """After all have been written, and many at once: the medium then takes them in few efforts."""
    with ThreadPoolExecutor(_SYNCING, thread_name_prefix="sync") as pool:
        while batch := list(islice(paths, _BATCH)):
            for _ in pool.map(_sync_file, batch):
                pass


def _sync_file(path: str) -> None:
    """One that is not in the backup is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        failpoints.hit("restore.synced")
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folders(place: Path) -> None:
    for folder, _, _ in os.walk(place):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
