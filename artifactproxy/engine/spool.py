"""A body that is written once and read by many while it grows.

Small bodies stay in memory, larger ones go to a temp file through the hashing thread in batches.
Readers see `released` bytes: all but the held tail until the owner has verified the whole
(design: the tail). The spool neither verifies nor stores; that is `ingest` and `fills`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from artifactproxy import failpoints
from artifactproxy.engine.reread import Hashing, WholeBody, digests_of
from artifactproxy.engine.tailing import SpoolReader
from artifactproxy.engine.temps import (
    TempFile,
    TempSpace,
    begin_flush,
    disk_fault,
    gathered,
    write_all,
    write_at,
)
from artifactproxy.errors import Fault
from artifactproxy.model import Digest, Span

FIRST_BYTES = 32 * 1024  # written and shown before the rest of a first chunk
FIRST_BYTE_TURNS = 4  # of the loop, from the head of upstream's answer to that of ours
BATCH_BYTES = 512 * 1024  # what may wait for the hashing thread before the source is paused
FLUSH_BYTES = 32 * 1024 * 1024  # handed to the disk at a time, where somebody waits for it


class Spool:
    """One growing body; `length` None: not announced. Written by one task in order, or through a
    `Scattered` by several anywhere below `length`: then `written` is what has landed without a gap."""

    def __init__(
        self,
        *,
        length: int | None,
        hold_back: int,
        memory_bytes: int,
        space: TempSpace,
        executor: Executor | None,
        new_hasher: Callable[[], Hashing],
    ) -> None:
        self.length = length
        self.file = TempFile(space)
        self.received = 0  # taken from the source
        self.written = 0  # hashed and readable by us
        self.sealed = False
        self.fault: Fault | None = None
        self.readers = 0
        self.round = 0  # how often it has started over
        self.hashing = False  # whether the hash is being moved by what `on_disk` runs
        self.awaited = False  # whether somebody waits until it is durable
        self._flushed = 0
        self._hold_back = hold_back
        self._memory_bytes = memory_bytes
        self._executor = executor
        self._new_hasher = new_hasher
        self._hasher = new_hasher()
        self._memory = bytearray()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._batch: asyncio.Future[None] | None = None
        self._jobs: set[asyncio.Future[None]] = set()
        self._waiters: set[asyncio.Future[None]] = set()
        self._done = False
        self._begun = False
        self._half_passed = False
        self._claim_announced()

    # --- writing ---

    async def write(self, chunk: bytes) -> None:
        """Append. Pauses the source while the hashing thread is behind. Raises `StoreFull` or
        `StoreUnavailable` when the temp file fails."""
        self._raise_fault()
        first = self.received == 0
        if first and len(chunk) > FIRST_BYTES:
            await self.write(chunk[:FIRST_BYTES])
            first, chunk = False, chunk[FIRST_BYTES:]
        self.received += len(chunk)
        if self.file.fd < 0:
            if max(self.received, self.length or 0) <= self._memory_bytes:
                self._hasher.update(chunk)
                self._memory += chunk
                self._grow(len(chunk))
                return
            self._spill()
        self.file.claim(self.received)
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._batch is None:
            self._start_batch()
        while self._pending_bytes > BATCH_BYTES and self._batch is not None:
            await self._settle()
        if first:
            # What follows is often here already; those who wait for the first byte go first.
            for _ in range(FIRST_BYTE_TURNS):
                await asyncio.sleep(0)
        self._raise_fault()

    async def drain(self) -> None:
        """Wait until everything received is hashed and readable."""
        while self._batch is not None:
            await self._settle()
        while self._jobs:
            await asyncio.wait(self._jobs)
            await asyncio.sleep(0)
        self._raise_fault()

    async def _settle(self) -> None:
        batch = self._batch
        if batch is not None:
            await asyncio.wait((batch,))
            # The done callback that publishes the batch runs in the loop's next round.
            if self._batch is batch:
                await asyncio.sleep(0)

    def _spill(self, left_over: Path | None = None) -> None:
        try:
            self.file.create(bytes(self._memory), left_over)
        except OSError as error:
            self._fail_disk(error)
        self._memory = bytearray()

    def _claim_announced(self) -> None:
        """All of it at once: a body that begins must not run out of room for the sake of another."""
        if self.length is not None and self.length > self._memory_bytes:
            self.file.claim(self.length)

    def _start_batch(self) -> None:
        chunks, self._pending = self._pending, []
        size, self._pending_bytes = self._pending_bytes, 0
        # The first bytes are not worth the way to a thread: a client waits for them.
        if self._executor is None or self.written == 0:
            try:
                self._hash_and_write(chunks)
            except OSError as error:
                self._fail_disk(error)
            self._grow(size)
            return
        loop = asyncio.get_running_loop()
        batch = loop.run_in_executor(self._executor, self._hash_and_write, chunks)
        self._batch = batch
        batch.add_done_callback(lambda done: self._batch_done(done, size))

    def _hash_and_write(self, chunks: list[bytes]) -> None:
        size = sum(map(len, chunks))
        for chunk in gathered(chunks):
            self._hasher.update(chunk)
            write_all(self.file.fd, chunk)
        stop = self.written + size
        if self.awaited and stop - self._flushed >= FLUSH_BYTES:
            begin_flush(self.file.fd, self._flushed, stop)
            self._flushed = stop

    def _batch_done(self, batch: asyncio.Future[None], size: int) -> None:
        self._batch = None
        error = None if batch.cancelled() else batch.exception()
        if error is not None:
            fault = disk_fault(error)
            fault.__cause__ = error
            self.fail(fault)
            return
        self._grow(size)
        if self._done:
            self._release_file()
        elif self._pending and self.fault is None:
            self._start_batch()

    def _grow(self, size: int) -> None:
        self.written += size
        if not self._half_passed and self.length and self.written * 2 >= self.length:
            self._half_passed = True
            try:
                failpoints.hit("tmp.half")
            except OSError as error:
                self.fail(disk_fault(error))
        self._wake()

    def _fail_disk(self, error: OSError) -> None:
        fault = disk_fault(error)
        fault.__cause__ = error
        self.fail(fault)
        raise fault

    def _raise_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    # --- for `Scattered` ---

    def into_file(self, left_over: Path | None = None) -> None:
        """Have a temp file from here on; one that an earlier life has left, if given. Raises as `write`."""
        if self.file.fd < 0:
            self._spill(left_over)

    def follow(self, stop: int) -> None:
        """Blocking: hash what has landed up to `stop`. Raises OSError."""
        body = os.pread(self.file.fd, stop - self.written, self.written)
        if len(body) != stop - self.written:
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        self._hasher.update(body)

    def land_next(self, chunks: list[bytes]) -> None:
        """Blocking: what comes after the last byte that is written, to its place and hashed. Raises OSError."""
        chunks = gathered(chunks)
        write_at(self.file.fd, self.written, chunks)
        for chunk in chunks:
            self._hasher.update(chunk)

    def go_on(self) -> None:
        """In order again: what landed behind a gap is forgotten. After `drain`."""
        self.received = self.written
        os.lseek(self.file.fd, self.written, os.SEEK_SET)

    async def on_disk(self, work: Callable[..., None], *arguments: object, hashes_to: int = 0) -> None:
        """In the hashing thread. Whoever is cancelled leaves it running: it has our descriptor. `hashes_to`:
        where the hash stands afterwards, if the work moves it; only while not `hashing`. Raises as `write`."""
        self._raise_fault()
        if self._executor is None:
            try:
                work(*arguments)
            except OSError as error:
                self._fail_disk(error)
            self._hashed(hashes_to)
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self.hashing = self.hashing or hashes_to > 0
        job = loop.run_in_executor(self._executor, work, *arguments)
        self._jobs.add(job)
        job.add_done_callback(partial(self._job_done, hashes_to=hashes_to))
        await asyncio.wait((job,))
        failed = job.exception()
        if failed is not None:
            fault = disk_fault(failed)
            fault.__cause__ = failed
            self.fail(fault)
        self._raise_fault()

    def _job_done(self, job: asyncio.Future[None], *, hashes_to: int) -> None:
        self._jobs.discard(job)
        self.hashing = self.hashing and not hashes_to
        if not job.cancelled() and job.exception() is None:
            self._hashed(hashes_to)  # here, because nobody may be waiting any more
        if self._done:
            self._release_file()

    def _hashed(self, stop: int) -> None:
        if stop:
            self.received = max(self.received, stop)
            self._grow(stop - self.written)

    # --- the owner's verdict ---

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Of everything written so far; call after `drain`."""
        return self._hasher.digests()

    async def rehash(self, algorithms: Iterable[str]) -> tuple[Digest, ...]:
        """Further digests of the whole body, read again in the hashing thread. Raises
        `StoreUnavailable` if it cannot be read, `BrokenPromise` for a zip that is none."""
        memory = self.peek(0, self.written) if self.file.fd < 0 else b""
        loop = asyncio.get_running_loop()
        try:
            body = WholeBody(memory, self.file.fd, self.written)
            return await loop.run_in_executor(self._executor, digests_of, body, tuple(algorithms))
        except OSError as error:
            raise disk_fault(error) from error

    @property
    def untouched(self) -> bool:
        """True while no answer was begun from it: the body may still be replaced."""
        return not self._begun

    def restart(self, length: int | None) -> None:
        """Throw away what came so far; only while `untouched` and after `drain`."""
        if not self.untouched:
            raise RuntimeError("an answer was already begun from this body")
        self.file.forget_map()
        self.file.drop()
        self._memory = bytearray()
        self._hasher = self._new_hasher()
        self.received = self.written = self._flushed = 0
        self.length = length
        self._half_passed = False
        self.round += 1
        self._wake()
        self._claim_announced()

    def seal(self) -> None:
        """Verified: the tail may leave."""
        self.sealed = True
        self._wake()

    def fail(self, fault: Fault) -> None:
        """Once for all: every reader gets this fault, none a clean end."""
        if self.fault is None and not self.sealed:
            self.fault = fault
            self._pending.clear()
            self._pending_bytes = 0
        self._wake()

    def finish(self) -> None:
        """The owner is done: the file goes as soon as nobody reads it."""
        self._done = True
        self._release_file()

    def moved(self) -> None:
        """The store took over the file at `path`; our descriptor keeps serving readers."""
        self.file.moved()

    def _release_file(self) -> None:
        if self._done and self.readers == 0 and self._batch is None and not self._jobs:
            self.file.drop()

    # --- reading ---

    @property
    def released(self) -> int:
        """How many bytes may leave now."""
        if self.sealed:
            return self.written
        total = self.length if self.length is not None else self.written
        return max(0, min(self.written, total - self._hold_back))

    def peek(self, start: int, stop: int) -> bytes:
        """Bytes that are written, released or not; at most what is there."""
        if self.file.fd < 0:
            return bytes(self._memory[start:stop])
        return os.pread(self.file.fd, min(stop, self.written) - start, start)

    @property
    def path(self) -> Path | None:
        """Of the temp file, while there is one and it is ours."""
        return self.file.path

    @property
    def in_memory(self) -> bool:
        return self.file.fd < 0

    @property
    def fileno(self) -> int:
        """The temp file's descriptor; only if not `in_memory`, and only while somebody reads."""
        return self.file.fd

    def reader(self, span: Span | None = None) -> SpoolReader:
        self._begun = True
        self.readers += 1
        return SpoolReader(self, span)

    async def presentable(self) -> None:
        """Wait until a byte may leave or the outcome is known; raises the fault."""
        while self.released == 0 and not self.sealed:
            self._raise_fault()
            await self.changed()
        self._raise_fault()

    async def changed(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def leave(self) -> None:
        self.readers -= 1
        self._release_file()
