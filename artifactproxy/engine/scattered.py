"""Bytes that arrive out of order: the file of a spool, written anywhere by several connections.

As long as they come in order, of one connection, they take the way of every other body, which is the
shortest. The first chunk that does not ends that: from then on each has its place. What has landed without
a gap is hashed in order and then counts as written, so readers, uploads and followers see nothing unusual.
What comes just where the hash stands is hashed as it is written. The rest is read back from the page cache
for that: with eight connections seven bytes of eight land ahead of a gap, and keeping them in memory until
it closes would take a whole segment for each connection. It is in the cache, since it was written a moment
ago: nothing is read from the disk.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import allocate, save_map, write_at
from artifactproxy.rules.segments import SavedMap, Segment, SegmentMap

FOLLOW_BYTES = 2**20  # hashed at a time
SAVE_BYTES = 16 * 2**20  # of progress between two maps
SAVE_SECONDS = 1.0


class Scattered:
    """The body of `board` in the file of a spool. All methods raise as `Spool.write`."""

    def __init__(self, spool: Spool, board: SegmentMap) -> None:
        self.spool = spool
        self.board = board
        self.in_order = False
        """Whether nothing has come yet that was not the next."""
        self._turn = asyncio.Lock()
        self._grown = asyncio.Event()
        self._saved = (0, 0.0)

    async def begin(self, left_over: Path | None = None) -> None:
        """The file has its full size from here on: a disk too small for it is known before bytes come."""
        await self.spool.drain()
        self.spool.into_file(left_over)
        await self.spool.on_disk(allocate, self.spool.fileno, self.board.length)
        self.in_order = self.board.size == self.spool.written

    async def append(self, segment: Segment, chunk: bytes) -> bool:
        """The bytes of a connection up to `taken`; False where they do not come next in the whole, or others
        did not."""
        async with self._turn:
            if not self.in_order:
                return False
            if segment.taken - len(chunk) != self.spool.received:
                await self._settle()
                self.in_order = False
                return False
            await self.spool.write(chunk)
            segment.landed = max(segment.landed, self.spool.written)
            return True

    async def settle(self) -> None:
        """What came in order is on the disk, and the board knows of it."""
        async with self._turn:
            if self.in_order:
                await self._settle()

    async def _settle(self) -> None:
        await self.spool.drain()
        for segment in self.board.running:
            segment.landed = max(segment.landed, min(self.spool.written, segment.taken))
        self._grown.set()

    def is_next(self, offset: int) -> bool:
        """Whether the hash stands there, and waits for what comes."""
        return offset == self.spool.written and not self.spool.hashing

    async def land(self, offset: int, chunks: list[bytes]) -> None:
        """On the disk when it returns, though perhaps not yet written."""
        spool = self.spool
        if self.is_next(offset):
            await spool.on_disk(spool.land_next, chunks, hashes_to=offset + sum(map(len, chunks)))
        else:
            await spool.on_disk(write_at, spool.fileno, offset, chunks)

    def landed(self) -> None:
        """The board knows of more bytes."""
        self._grown.set()

    async def follow(self) -> None:
        """Until the whole is written: hash what has landed without a gap."""
        spool, board = self.spool, self.board
        while spool.written < board.length:
            self._grown.clear()
            stop = min(board.frontier, spool.written + FOLLOW_BYTES)
            if stop > spool.written and not (spool.hashing or self.in_order):
                await spool.on_disk(spool.follow, stop, hashes_to=stop)
            else:
                await self._grown.wait()

    async def end(self) -> None:
        """In order again, from what is written."""
        await self.spool.drain()
        self.spool.go_on()

    async def save(self, sha256: str, now: float) -> None:
        """Write down what has landed, now and then, so that a later life can go on with it; `sha256` is what
        the whole is promised to be ("": nothing can vouch for it then)."""
        size, (before, at) = self.board.size, self._saved
        path = self.spool.path
        if not sha256 or path is None or size == before:
            return
        if size - before < SAVE_BYTES and now - at < SAVE_SECONDS:
            return
        self._saved = (size, now)
        saved = SavedMap(sha256, self.board.length, tuple(self.board.spans()))
        await self.spool.on_disk(save_map, path, saved.text())
