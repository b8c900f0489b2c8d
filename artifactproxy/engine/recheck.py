"""After an unclean stop, content is hashed once more when it is first used.

Commit order makes this a second lock on the same door: a row is written only after its bytes are
durable. Disks lie, so the first use of each blob checks.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from weakref import WeakValueDictionary

from artifactproxy import failpoints
from artifactproxy.engine.tailing import READ_BYTES
from artifactproxy.errors import BlobMissing, StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import BlobStore, LocalFile

UNREADABLE = frozenset(
    {errno.EIO, errno.EBADMSG, errno.EUCLEAN} if hasattr(errno, "EUCLEAN") else {errno.EIO}
)
"""What a medium answers that has lost these bytes, as against one that lacks descriptors or memory."""


class Recheck:
    """Where the engine opens what is held. `active` is False after a clean stop: then nothing is
    read twice."""

    def __init__(self, store: BlobStore, *, active: bool) -> None:
        self._store = store
        self._active = active
        self._good: set[str] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def locate(self, ref: BlobRef) -> LocalFile | None:
        """As the store does. Raises `BlobMissing` too after setting aside a blob whose bytes are lost or
        not its name, unless the store has it elsewhere too."""
        if not self._active or ref.sha256 in self._good:
            return await self._store.locate(ref)
        # Who comes meanwhile waits: a large file is read once, and its damage told once.
        async with self._turns.setdefault(ref.sha256, asyncio.Lock()):
            located = await self._store.locate(ref)
            if ref.sha256 in self._good or not isinstance(located, LocalFile):
                return located
            if await self._is_good(ref, located):
                self._good.add(ref.sha256)
                return located
            return None  # what was damaged was a copy; the blob itself is read where it lies

    async def _is_good(self, ref: BlobRef, located: LocalFile) -> bool:
        """Closes the file where it is not, or raises."""
        good = False
        try:
            good = await asyncio.to_thread(_is, located, ref.sha256)
            if not good:
                damaged = await self._store.set_aside(ref, located)
                await self._expect_elsewhere(ref, damaged=damaged)
        except OSError as error:
            raise StoreUnavailable("a blob cannot be read") from error
        finally:
            if not good:
                os.close(located.fd)
        return good

    async def _expect_elsewhere(self, ref: BlobRef, *, damaged: bool) -> None:
        """Raises `BlobMissing` for a store that had it in this file only."""
        try:
            again = await self._store.locate(ref)
        except BlobMissing as missing:
            raise BlobMissing(ref.sha256, damaged=damaged) from missing
        if again is not None:  # put meanwhile: to be found, and checked, by who asks anew
            os.close(again.fd)
            raise BlobMissing(ref.sha256, damaged=damaged)


def _is(local: LocalFile, sha256: str) -> bool:
    hasher = hashlib.sha256()
    try:
        for start in range(0, local.size, READ_BYTES):
            failpoints.hit("recheck.read")
            hasher.update(os.pread(local.fd, READ_BYTES, start))
    except OSError as error:
        if error.errno in UNREADABLE:
            return False
        raise
    return hasher.hexdigest() == sha256
