"""After an unclean stop, content is hashed once more when it is first used.

Commit order makes this a second lock on the same door: a row is written only after its bytes are
durable. Disks lie, so the first hit of each blob checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

from artifactproxy.engine.spool import READ_BYTES
from artifactproxy.errors import BlobMissing
from artifactproxy.model import BlobRef
from artifactproxy.ports import BlobStore, LocalFile, Observer


class Recheck:
    """`active` is False after a clean stop: then nothing is read twice."""

    def __init__(self, store: BlobStore, observer: Observer, *, active: bool) -> None:
        self._store = store
        self._observer = observer
        self._active = active
        self._good: set[str] = set()

    async def first_use(self, ref: BlobRef, local: LocalFile) -> None:
        """Raises `BlobMissing` after removing a blob whose bytes are not its name. Closes the
        file then."""
        if not self._active or ref.sha256 in self._good:
            return
        try:
            right = await asyncio.to_thread(_hash, local) == ref.sha256
        except (OSError, asyncio.CancelledError):
            os.close(local.fd)
            raise
        if not right:
            os.close(local.fd)
            self._observer.increment("integrity_failures", where="local")
            self._observer.warning("damaged_blob", sha256=ref.sha256)
            await self._store.delete(ref.sha256)
            raise BlobMissing(ref.sha256)
        self._good.add(ref.sha256)


def _hash(local: LocalFile) -> str:
    hasher = hashlib.sha256()
    for start in range(0, local.size, READ_BYTES):
        hasher.update(os.pread(local.fd, READ_BYTES, start))
    return hasher.hexdigest()
