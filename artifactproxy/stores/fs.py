"""BlobStore on a directory of one machine, shared by all workers on it.

    root/blobs/sha256/<2 hex>/<64 hex>    complete, verified blobs: files 0600 in directories 0700
    root/tmp/<owner>-<seq>-<random>.part  what is not complete yet, on the same filesystem
    root/quarantine/                      damaged blobs; nothing ever reads them

A blob appears by rename after its bytes are on the medium, and put returns after its directory is
too. Opening is done on the event loop, for it takes microseconds and every hit pays for it; all
that may wait for the medium runs in a bounded pool (`medium.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from artifactproxy.errors import BlobMissing, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Clock, Growing, LocalFile
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.medium import Commit, Medium, store_fault

_T = TypeVar("_T")
_CHUNK = 256 * 1024
# Without waiting: a FIFO in the place of a blob must not hold the event loop.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO})  # a link, a socket


class FsStore:
    """`fsync=False` trades power-loss safety for speed and keeps all other promises."""

    def __init__(
        self, root: Path, *, fsync: bool = True, threads: int = 16, clock: Clock = time.time
    ) -> None:
        root = root.absolute()
        self._root = os.fspath(root)
        self._medium = Medium(root, fsync=fsync, clock=clock)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._closed = False
        self.swept = 0
        """Temporary files of dead processes that the start removed."""

    async def start(self) -> None:
        """Make the layout, prove that it works and drop what dead processes left.

        Raises `StoreUnavailable` with a sentence for whoever starts the program.
        """
        try:
            await self.run("prepare its directory", self._medium.prepare)
        except StoreUnavailable as fault:
            raise type(fault)(f"{self._root} cannot hold blobs: {fault.detail}") from fault
        self.swept = await self.sweep()

    async def check(self) -> None:
        """Writable now? After a failed fsync only a write that reaches the medium heals."""
        sync = bool(self._medium.sick)
        await self.run("write a probe", partial(self._medium.probe, sync=sync))

    async def close(self) -> None:
        """Running commits end first."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)

    def temp_path(self) -> Path:
        """A fresh name in the temporary directory; the caller creates it, 0600 and exclusively."""
        return self._medium.temp_path()

    async def sweep(self) -> int:
        """Remove temporary files of dead processes; returns how many. Other names stay."""
        return await self.run("sweep", self._medium.sweep)

    def free(self) -> tuple[int, int]:
        """Total and free bytes of the disk, free meaning free for this user."""
        try:
            disk = os.statvfs(self._root)
        except OSError as error:
            raise store_fault(error, "ask for free space") from error
        return disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bavail

    def pinned(self) -> bool:
        """Whether a backup is copying blobs, which must all stay until it ends."""
        try:
            return self._medium.pinned()
        except OSError as error:
            raise store_fault(error, "look for a backup under way") from error

    # --- writing ----------------------------------------------------------------------------

    async def put(self, ref: BlobRef, path: Path) -> None:
        """`path` is a name from `temp_path`; the file is gone afterwards, whatever happens."""
        if self._closed:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        await self._settle(partial(self._medium.take, ref, path))

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        await self._settle(partial(self._medium.take_bytes, ref, body))

    async def begin(self, sha256: str, body: Growing) -> None:
        """A file that is renamed at the end needs nothing before."""

    async def receive(self, sha256: str, length: int | None) -> None:
        """A file that is renamed is no second copy."""

    async def delete(self, sha256: str, *, older_than: float = 0.0) -> None:
        """Remove a blob that was last put at least `older_than` seconds ago, else leave it.

        The age is judged under the lock that put takes, so a collector that passes its grace can
        never remove what somebody has just put again.
        """
        await self.run("delete a blob", partial(self._medium.delete, sha256, older_than))

    async def set_aside(self, ref: BlobRef, opened: LocalFile | None = None) -> bool:
        """Move a blob to quarantine; with `opened` only while that file still is the blob."""
        fd = None if opened is None else opened.fd
        return await self.run("set a blob aside", partial(self._medium.set_aside, ref.sha256, fd))

    async def _settle(self, work: Callable[[Commit], None]) -> None:
        """Run a commit. A cancelled caller waits for its end, so that nothing outlives it."""
        commit = Commit()
        running = asyncio.wrap_future(self.submit(partial(work, commit)))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            commit.abandoned = True
            await asyncio.wait([running])
            raise
        except OSError as error:
            raise store_fault(error, "store a blob") from error

    # --- reading ----------------------------------------------------------------------------

    async def locate(self, ref: BlobRef) -> LocalFile:
        return LocalFile(await self._open(ref), ref.size)

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]:
        return await self.reading(LocalFile(await self._open(ref), ref.size), span)

    async def reading(self, located: LocalFile, span: Span) -> AsyncIterator[bytes]:
        """The chunks of an opened blob; takes its descriptor over."""
        chunks = self._chunks(located.fd, span)
        # Enter the generator, so that its file is closed even if nobody reads a byte of it.
        await anext(chunks)
        return chunks

    async def address(self, ref: BlobRef, *, seconds: float, media_type: str, filename: str) -> None:
        """Files of this machine have no address of their own."""

    async def size(self, sha256: str) -> int | None:
        try:
            found = os.lstat(f"{self._root}/{blob_path(sha256)}")
        except ValueError:
            return None
        except FileNotFoundError as error:
            self._ensure_there(error)
            return None
        except OSError as error:
            raise store_fault(error, "look up a blob") from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    async def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        for shard in await self.run("list blobs", self._medium.shards):
            for found in await self.run("list blobs", partial(self._medium.scan_shard, shard)):
                yield found

    async def uses(self) -> AsyncIterator[list[tuple[str, int, int]]]:
        """Every blob in portions: its name, its size and when it was last used (atime, ns)."""
        for shard in await self.run("list blobs", self._medium.shards):
            yield await self.run("list blobs", partial(self._medium.uses, shard))

    async def evict(self, sha256: str, used: int) -> int:
        """Remove a blob that was not used since it was listed; returns the bytes that this freed."""
        return await self.run("evict a blob", partial(self._medium.evict, sha256, used))

    async def tidy(self) -> int:
        """Nothing to finish: `sweep` removes what dead processes left, and the living clean up."""
        return 0

    async def _open(self, ref: BlobRef) -> int:
        try:
            fd = os.open(f"{self._root}/{blob_path(ref.sha256)}", _READ)
        except ValueError as error:
            raise BlobMissing(ref.sha256) from error
        except FileNotFoundError as error:
            self._ensure_there(error)
            raise BlobMissing(ref.sha256) from error
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise store_fault(error, "open a blob") from error
        else:
            found = os.fstat(fd)
            if found.st_size == ref.size and stat.S_ISREG(found.st_mode):
                return fd
            os.close(fd)
        expelled = await self.run("set a blob aside", partial(self._medium.expel, ref))
        raise BlobMissing(ref.sha256, damaged=expelled)

    async def _chunks(self, fd: int, span: Span) -> AsyncGenerator[bytes, None]:
        reading: Future[bytes] | None = None
        try:
            yield b""  # taken by `open`
            at = span.start
            while at < span.stop:
                reading = self.submit(partial(os.pread, fd, min(_CHUNK, span.stop - at), at))
                try:
                    chunk = await asyncio.wrap_future(reading)
                except OSError as error:
                    raise store_fault(error, "read a blob") from error
                if not chunk:
                    raise StoreUnavailable("a blob became shorter while it was read")
                at += len(chunk)
                yield chunk
        finally:
            # A cancelled read may still run: its descriptor must not be given to another file.
            if reading is None:
                os.close(fd)
            else:
                reading.add_done_callback(lambda _: os.close(fd))

    def _ensure_there(self, error: OSError) -> None:
        """A missing blob is absence only while the store itself is there (an unmounted disk)."""
        if not self._medium.blobs.is_dir():
            raise StoreUnavailable("the directory of the blobs is gone") from error

    # --- the pool ---------------------------------------------------------------------------

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """For this room: whatever waits for the medium shares this store's threads."""
        if self._closed:
            raise StoreUnavailable("the blob store is closed")
        return self._pool.submit(work)

    async def run(self, doing: str, work: Callable[[], _T]) -> _T:
        """The same, with failures of the medium as faults: the store could not `doing`."""
        try:
            return await asyncio.wrap_future(self.submit(work))
        except OSError as error:
            raise store_fault(error, doing) from error
