"""The blobs of a data folder as they lie, read beside whoever serves from it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from artifactproxy.model import BlobRef
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.temps import TempNames

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_PIECE = 1024 * 1024


class Refused(Exception):
    """A blob that cannot be moved; the text is `missing` or `damaged`."""


class Source:
    """Copies are made in the folder's own `tmp/`, under names that tell who owns them: what a killed
    migration leaves is swept by the next start. Everything here blocks."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._names = TempNames()

    def copy(self, ref: BlobRef) -> Path:
        """A temporary copy of a blob, which hashed to its name while it was made. Raises `Refused` and
        OSError."""
        try:
            source = os.open(self._data / blob_path(ref.sha256), _READ)
        except FileNotFoundError as error:
            raise Refused("missing") from error
        target = self._data / "tmp" / self._names.next()
        whole = False
        try:
            found = os.fstat(source)
            if stat.S_ISREG(found.st_mode) and found.st_size == ref.size:
                whole = _copied(source, target) == ref.sha256
        finally:
            os.close(source)
            if not whole:
                target.unlink(missing_ok=True)
        if not whole:
            raise Refused("damaged")
        return target


def _copied(source: int, target: Path) -> str:
    hasher = hashlib.sha256()
    copy = os.open(target, _CREATE, 0o600)
    try:
        while piece := os.read(source, _PIECE):
            hasher.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(copy, view) :]
    finally:
        os.close(copy)
    return hasher.hexdigest()
