"""Whole bodies of what is held, for whoever must read one at will: to learn, to render, to derive.

Where the store has files on this machine, those. Else the body is brought here once for all who want it
at the time: in memory while it is small, in a temp file within the bounds of all temp files if not,
and hashed on its way.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from artifactproxy.engine.reread import WholeBody
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Locate
from artifactproxy.errors import BlobMissing, StoreUnavailable
from artifactproxy.model import BlobRef, Promise, Span
from artifactproxy.ports import BlobStore, LocalFile


@dataclass(slots=True)
class _Loan:
    """A body on its way here, or here; it goes when the last of its users does."""

    bringing: asyncio.Task[Spool]
    users: int = 0


class Bodies:
    """Everything here raises `BlobMissing` if the store lost the body, `StoreUnavailable` and `StoreFull`
    if it cannot be had now, and OSError of a disk that fails to give what it took."""

    def __init__(
        self, store: BlobStore, locate: Locate, new_spool: Callable[[int | None, Promise | None], Spool]
    ) -> None:
        self._store = store
        self._locate = locate
        self._new_spool = new_spool
        self._loans: dict[BlobRef, _Loan] = {}

    async def whole(self, ref: BlobRef) -> bytes:
        """All of it in memory: for small ones."""
        located = await self._locate(ref)
        if isinstance(located, LocalFile):
            try:
                return os.pread(located.fd, located.size, 0)
            finally:
                os.close(located.fd)
        async with self._borrowed(ref) as spool:
            return spool.peek(0, ref.size)

    @asynccontextmanager
    async def file(self, ref: BlobRef) -> AsyncIterator[int]:
        """A descriptor of a body that is too large for memory, open while this is."""
        located = await self._locate(ref)
        if isinstance(located, LocalFile):
            try:
                yield located.fd
            finally:
                os.close(located.fd)
            return
        async with self._borrowed(ref) as spool:
            if spool.in_memory:
                raise StoreUnavailable("a small body has no file", code="store_temp")
            yield spool.fileno

    async def reading(self, ref: BlobRef) -> BinaryIO:
        """A file with a position of its own, for the caller to close."""
        located = await self._locate(ref)
        if isinstance(located, LocalFile):
            return os.fdopen(located.fd, "rb")
        async with self._borrowed(ref) as spool:
            return reading(spool)

    @asynccontextmanager
    async def _borrowed(self, ref: BlobRef) -> AsyncIterator[Spool]:
        loan = self._loans.get(ref)
        if loan is None:
            loan = self._loans[ref] = _Loan(asyncio.create_task(self._bring(ref)))
            loan.bringing.add_done_callback(lambda done: self._brought(ref, done))
        loan.users += 1
        try:
            yield await asyncio.shield(loan.bringing)
        finally:
            loan.users -= 1
            if not loan.users:
                self._end(ref, loan)

    def _brought(self, ref: BlobRef, done: asyncio.Task[Spool]) -> None:
        """Who comes after a failure tries anew."""
        loan = self._loans.get(ref)
        if (done.cancelled() or done.exception()) and loan is not None and loan.bringing is done:
            del self._loans[ref]

    def _end(self, ref: BlobRef, loan: _Loan) -> None:
        if self._loans.get(ref) is loan:
            del self._loans[ref]
        done = loan.bringing
        if not done.done():
            done.cancel()
        elif not done.cancelled() and done.exception() is None:
            done.result().finish()

    async def _bring(self, ref: BlobRef) -> Spool:
        spool = self._new_spool(ref.size, None)
        with ExitStack() as undo:
            undo.callback(spool.finish)
            chunks = await self._store.open(ref, Span(0, ref.size))
            try:
                async for chunk in chunks:
                    await spool.write(chunk)
            finally:
                aclose = getattr(chunks, "aclose", None)
                if aclose is not None:
                    await aclose()
            await spool.drain()
            sha256 = next(digest.hex for digest in spool.digests if digest.algorithm == "sha256")
            if (sha256, spool.written) != (ref.sha256, ref.size):
                raise BlobMissing(ref.sha256, damaged=await self._store.set_aside(ref))
            undo.pop_all()
        return spool


def reading(spool: Spool) -> BinaryIO:
    """A complete body as a file, for the caller to close; it may outlive the spool."""
    memory = spool.peek(0, spool.written) if spool.in_memory else b""
    return io.BufferedReader(WholeBody(memory, spool.fileno, spool.written))
