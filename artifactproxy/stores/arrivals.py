"""Blobs on their way from a remote store to this disk: one GET, however many read it meanwhile.

The transfer is a task that belongs to no reader. It writes to a temp file at the speed of the remote
store; readers follow in that file, each at its own pace. The last 64 KiB leave once the whole hashes to
its name, and then the file becomes a copy. When nobody reads any more, the transfer ends.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack, aclosing, suppress
from functools import partial

from artifactproxy import failpoints
from artifactproxy.errors import BlobMissing, Fault, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores.copies import Copies
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.medium import store_fault

HELD = 64 * 1024  # bytes that leave only when all are verified
_CHUNK = 256 * 1024
_BATCH = 512 * 1024  # what may wait for the disk before the remote store is paused
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


Fetch = Callable[[BlobRef, Span], Awaitable[AsyncIterator[bytes]]]
"""Like `BlobStore.open`; what it gives need not have been verified."""


class Spoilt(Exception):
    """The disk failed; what was written before is good, and the rest is the reader's to fetch."""


class Arrival:
    """One transfer. `wrong` is called before anybody hears that the content is not what its name says."""

    def __init__(
        self, ref: BlobRef, fetch: Fetch, disk: FsStore, wrong: Callable[[BlobRef], Awaitable[None]]
    ) -> None:
        self.ref = ref
        self.written = 0
        self.whole = False
        """All of it is written and verified."""
        self.damaged = False
        self.wanted = True
        """Whether a copy is to be made of it."""
        self.readers = 0
        self.path = disk.temp_path()
        self.spoilt: StoreUnavailable | None = None
        self.on_idle: Callable[[Arrival], None] = lambda _arrival: None
        self._failure: Exception | None = None
        self._fetch = fetch
        self._disk = disk
        self._wrong = wrong
        self._fd = -1
        self._hasher = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._batch: asyncio.Future[int] | None = None
        self._over = False
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- writing ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is whole, broken or cancelled; the temp file is the caller's, if it is whole."""
        try:
            await self._receive()
        except (Fault, BlobMissing) as error:
            self._failure = error
        except Spoilt:
            pass
        finally:
            if not (self.whole or self._failure or self.spoilt):
                self._failure = StoreUnavailable("reading from the store was given up")
            self._pending.clear()
            if self._batch is not None:
                await asyncio.wait((self._batch,))
            self._wake()

    def end(self) -> None:
        """Nothing more happens to the file; it goes with its last reader."""
        self._over = True
        with suppress(OSError):
            self.path.unlink()
        self._close_if_over()

    async def _receive(self) -> None:
        received = 0
        chunks = await self._fetch(self.ref, Span(0, self.ref.size))
        try:
            async for chunk in chunks:
                received += len(chunk)
                if received > self.ref.size:
                    break
                if self.spoilt is not None:
                    raise Spoilt
                self._pending.append(chunk)
                self._pending_bytes += len(chunk)
                self._write()
                while self._pending_bytes > _BATCH:
                    await self._settled()
        finally:
            await _close(chunks)
        while self._pending_bytes:
            await self._settled()
        if received != self.ref.size:
            raise StoreUnavailable("the store sent a body of another length")
        if self._hasher.hexdigest() != self.ref.sha256:
            self.damaged = True
            await self._wrong(self.ref)
            raise StoreUnavailable("the store holds other bytes under this name")
        self.whole = True

    def _write(self) -> None:
        """Hand what waits to the disk, one batch at a time."""
        if self._batch is None and self._pending and self.spoilt is None:
            chunks, self._pending = self._pending, []
            self._batch = asyncio.wrap_future(self._disk.submit(partial(self._append, chunks)))
            self._batch.add_done_callback(self._appended)

    def _append(self, chunks: list[bytes]) -> int:
        batch = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._fd < 0:
            self._fd = os.open(self.path, _CREATE, 0o600)
        failpoints.hit("tier.write")
        left = memoryview(batch)
        while left:
            left = left[os.write(self._fd, left) :]
        self._hasher.update(batch)  # last: it is of what is written, for whoever has to go on alone
        return len(batch)

    def _appended(self, batch: asyncio.Future[int]) -> None:
        self._batch = None
        error = batch.exception()
        if error is not None:
            self._spoil(error)
        else:
            self.written += batch.result()
            self._pending_bytes -= batch.result()
            self._write()
        self._wake()
        self._close_if_over()

    async def _settled(self) -> None:
        if self.spoilt is not None:
            raise Spoilt
        await self._changed()

    def _spoil(self, error: BaseException) -> None:
        if not isinstance(error, OSError):
            error = OSError(errno.ENOMEM, str(error))
        self.spoilt = store_fault(error, "keep a copy of a blob")
        self.spoilt.__cause__ = error

    # --- reading ----------------------------------------------------------------------------

    @property
    def released(self) -> int:
        return self.written if self.whole else max(0, min(self.written, self.ref.size - HELD))

    async def reach(self, at: int) -> int:
        """Wait until more than `at` bytes may leave, or all of them; returns how many may.

        Raises `Spoilt`, and what became of the transfer.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self.whole or self.released > at:
                return self.released
            if self.spoilt is not None:
                raise Spoilt
            await self._changed()

    async def read(self, span: Span) -> AsyncIterator[bytes]:
        """The chunks of a span, when its first byte is there. Takes over one `join`."""
        with ExitStack() as stack:
            stack.callback(self.leave)
            await self.reach(span.start)
            try:
                fd = os.dup(self._fd)
            except OSError as error:
                raise store_fault(error, "read a blob") from error
            chunks = self._chunks(span, fd)
            await anext(chunks)
            stack.pop_all()
        return chunks

    async def _chunks(self, span: Span, fd: int) -> AsyncGenerator[bytes, None]:
        reading: Future[bytes] | None = None
        try:
            yield b""  # taken by `read`
            at = span.start
            while at < span.stop:
                try:
                    limit = min(await self.reach(at), span.stop)
                except Spoilt:
                    break
                reading = self._disk.submit(partial(_pread, fd, at, min(_CHUNK, limit - at)))
                try:
                    chunk = await asyncio.wrap_future(reading)
                except OSError as error:
                    raise store_fault(error, "read a blob") from error
                at += len(chunk)
                yield chunk
            if at < span.stop:
                async with aclosing(self._alone(Span(at, span.stop), fd, part=span.start > 0)) as rest:
                    async for chunk in rest:
                        yield chunk
        finally:
            # A cancelled read may still run: its descriptor must not be given to another file.
            if reading is None:
                os.close(fd)
            else:
                reading.add_done_callback(lambda _: os.close(fd))
            self.leave()

    async def _alone(self, left: Span, fd: int, *, part: bool) -> AsyncGenerator[bytes, None]:
        """What the disk could not take, straight from the remote store; verified like the rest, unless
        only a part is read."""
        size = self.ref.size
        if part or left.stop < size:
            chunks = await self._fetch(self.ref, left)
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await _close(chunks)
            return
        hasher = self._hasher.copy()
        kept = bytearray(await self._disk.run("read a blob", partial(self._written_after, fd, left.start)))
        chunks = await self._fetch(self.ref, Span(self.written, size))
        try:
            async for chunk in chunks:
                hasher.update(chunk)
                kept += chunk
                if len(kept) > HELD:
                    yield bytes(kept[:-HELD])
                    del kept[:-HELD]
        finally:
            await _close(chunks)
        if hasher.hexdigest() != self.ref.sha256:
            await self._wrong(self.ref)
            raise StoreUnavailable("the store holds other bytes under this name")
        yield bytes(kept)

    def _written_after(self, fd: int, at: int) -> bytes:
        return _pread(fd, at, self.written - at) if at < self.written else b""

    def leave(self) -> None:
        self.readers -= 1
        if self.readers == 0:
            self.on_idle(self)
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._over and self.readers == 0 and self._batch is None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _changed(self) -> None:
        await asyncio.shield(self._news)

    def _wake(self) -> None:
        self._news.set_result(None)
        self._news = asyncio.get_running_loop().create_future()


class Arrivals:
    """The transfers that run, at most one for a blob."""

    def __init__(
        self,
        fetch: Fetch,
        disk: FsStore,
        copies: Copies,
        wrong: Callable[[BlobRef], Awaitable[None]],
        *,
        at_once: int,
    ) -> None:
        self._fetch = fetch
        self._disk = disk
        self._copies = copies
        self._wrong = wrong
        self._at_once = at_once
        self._running: dict[str, Arrival] = {}
        self._tasks: dict[Arrival, asyncio.Task[None]] = {}

    def join(self, ref: BlobRef, span: Span, *, begin: bool) -> Arrival | None:
        """The transfer from which this span can be read without waiting for much that comes before it;
        the caller must `read` it. With `begin` one is begun where there is none. None: go alone."""
        arrival = self._running.get(ref.sha256)
        if arrival is None:
            arriving = sum(each.ref.size for each in self._tasks)
            full = len(self._tasks) >= self._at_once or not self._copies.welcome(ref, arriving)
            arrival = None if full or not begin else self._begin(ref)
        elif arrival.ref != ref or span.start > arrival.written or arrival.spoilt is not None:
            arrival = None
        if arrival is not None:
            arrival.readers += 1
        return arrival

    def forget(self, sha256: str) -> None:
        """Nobody joins this transfer any more, and no copy is made of it, unless that has begun."""
        self._running.pop(sha256, None)
        for arrival in self._of(sha256):
            arrival.wanted = False

    async def forgotten(self, sha256: str) -> None:
        """`forget`, and wait for a copy that is just being made: who removes it then removes the last."""
        self.forget(sha256)
        keeping = [self._tasks[arrival] for arrival in self._of(sha256) if arrival.whole]
        if keeping:
            await asyncio.wait(keeping)

    def _of(self, sha256: str) -> list[Arrival]:
        return [arrival for arrival in self._tasks if arrival.ref.sha256 == sha256]

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, ref: BlobRef) -> Arrival:
        arrival = self._running[ref.sha256] = Arrival(ref, self._fetch, self._disk, self._wrong)
        arrival.on_idle = self._idle
        task = self._tasks[arrival] = asyncio.create_task(self._run(arrival), name="copy of a blob")
        task.add_done_callback(lambda _: self._ended(arrival))
        return arrival

    async def _run(self, arrival: Arrival) -> None:
        await arrival.run()
        if arrival.whole and arrival.wanted:
            await self._copies.keep(arrival.ref, arrival.path)

    def _ended(self, arrival: Arrival) -> None:
        """Also of a task that was cancelled before it began."""
        if arrival.spoilt is not None:
            self._copies.suffer(arrival.spoilt)
        self._let_go(arrival)
        del self._tasks[arrival]
        arrival.end()

    def _idle(self, arrival: Arrival) -> None:
        if not arrival.whole and arrival in self._tasks:
            self._let_go(arrival)
            self._tasks[arrival].cancel()

    def _let_go(self, arrival: Arrival) -> None:
        if self._running.get(arrival.ref.sha256) is arrival:
            del self._running[arrival.ref.sha256]


async def _close(chunks: AsyncIterator[bytes]) -> None:
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()


def _pread(fd: int, at: int, size: int) -> bytes:
    read = os.pread(fd, size, at)
    if not read:
        raise OSError(0, "a temporary file became shorter while it was read")
    return read
