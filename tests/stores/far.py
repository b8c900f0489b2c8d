"""A store behind a network, as small as it can be: no local files, and it breaks when told."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from artifactproxy.errors import StoreAway
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Clock, LocalFile, Outcome
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.medium import store_fault

PIECE = 16 * 1024


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.warnings: list[str] = []

    def outcome(self, outcome: Outcome) -> None: ...

    def notice(self, event: str, **facts: str | float) -> None: ...

    def warning(self, event: str, **facts: str | float) -> None:
        self.warnings.append(event)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name] = value

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[name] += int(amount)


class Far(FsStore):
    """`gets` are the spans that were asked for, `running` how many GETs are open now. `away` fails
    everything; `breaks` is after how many bytes of a body it fails; `held` stops every body there
    until `go`; `lies` are blobs whose last byte comes wrong; `refuses` is the errno with which the next
    put fails; `url` is the address that it gives."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, threads=4, clock=clock)
        self.gets: list[Span] = []
        self.running = 0
        self.away = False
        self.breaks: int | None = None
        self.held: int | None = None
        self.go = asyncio.Event()
        self.lies: set[str] = set()
        self.refuses = 0
        self.url: str | None = None
        self.asked: list[tuple[float, str, str]] = []

    def _reach(self) -> None:
        if self.away:
            raise StoreAway("the bucket does not answer")

    async def check(self) -> None:
        self._reach()
        await super().check()

    async def put(self, ref: BlobRef, path: Path) -> None:
        """What lies here is another file than the one that was sent."""
        self._reach()
        mine = self.temp_path()
        try:
            self._refuse()
            mine.write_bytes(path.read_bytes())
            await super().put(ref, mine)
        finally:
            path.unlink(missing_ok=True)

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        self._reach()
        self._refuse()
        await super().put_bytes(ref, body)

    def _refuse(self) -> None:
        error, self.refuses = self.refuses, 0
        if error:
            raise store_fault(OSError(error, "refused"), "store a blob")

    async def size(self, sha256: str) -> int | None:
        self._reach()
        return await super().size(sha256)

    async def delete(self, sha256: str, *, older_than: float = 0.0) -> None:
        self._reach()
        await super().delete(sha256, older_than=older_than)

    async def set_aside(self, ref: BlobRef, opened: LocalFile | None = None) -> bool:
        self._reach()
        return await super().set_aside(ref, opened)

    async def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        self._reach()
        async for found in super().scan():
            yield found

    async def locate(self, ref: BlobRef) -> None:  # type: ignore[override]
        """There are no files to hand out."""

    async def address(  # type: ignore[override]
        self, ref: BlobRef, *, seconds: float, media_type: str, filename: str
    ) -> str | None:
        self._reach()
        self.asked.append((seconds, media_type, filename))
        return self.url

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]:
        self._reach()
        located = await super().locate(ref)
        self.gets.append(span)
        chunks = self._body(ref, located, span)
        await anext(chunks)
        return chunks

    async def _body(self, ref: BlobRef, located: LocalFile, span: Span) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            yield b""
            at = span.start
            while at < span.stop:
                stop = min(at + PIECE, span.stop)
                for bound in (self.breaks, self.held):
                    if bound is not None and at < bound:
                        stop = min(stop, bound)
                if self.breaks is not None and at >= self.breaks:
                    raise StoreAway("the bucket broke the connection")
                if self.held is not None and at >= self.held:
                    await self.go.wait()
                piece = os.pread(located.fd, stop - at, at)
                at += len(piece)
                if at == ref.size and ref.sha256 in self.lies:
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                yield piece
                await asyncio.sleep(0)
        finally:
            self.running -= 1
            os.close(located.fd)
