"""How many uploads run at once, and what their parts may hold in memory: for the whole process, first
come, first served, and adjustable while they run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PART_MEMORY = 512 * 1024
"""What a part in flight holds: a slice, and as much again in the buffer of its connection."""


class Gate:
    """`capacity` units; whoever asks for more than there are at all has it alone."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.held = 0
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def resize(self, capacity: int) -> None:
        """Effective at once for those who wait; nobody loses what he holds."""
        self._capacity = capacity
        self._admit()

    @asynccontextmanager
    async def hold(self, units: int = 1) -> AsyncIterator[None]:
        await self._take(units)
        try:
            yield
        finally:
            self._give(units)

    async def _take(self, units: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((turn, units))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(units)
            else:
                with suppress(ValueError):
                    self._queue.remove((turn, units))
                self._admit()  # it may have stood in the way of smaller ones
            raise

    def _give(self, units: int) -> None:
        self.held -= units
        self._admit()

    def _admit(self) -> None:
        while self._queue:
            turn, units = self._queue[0]
            if self.held and self.held + units > self._capacity:
                return
            self._queue.popleft()
            if not turn.done():
                self.held += units
                turn.set_result(None)


class Budget:
    """`uploads` in several parts at once, `part_memory` bytes for all parts in flight (a body that is
    sent in one piece is one part), `push_memory` bytes for parts that lie nowhere else meanwhile.

    Uploads of bodies that still arrive go at their upstream's pace; they take at most three quarters of
    the places, so that complete ones never wait for a slow upstream.
    """

    def __init__(self, uploads: int, part_memory: int, push_memory: int = 64 * 2**20) -> None:
        self._uploads = Gate(uploads)
        self._early = Gate(_early(uploads))
        self._memory = Gate(part_memory)
        self._pieces = Gate(push_memory)
        self._has_early = _early(uploads) > 0

    def resize(self, *, uploads: int, part_memory: int) -> None:
        self._uploads.resize(uploads)
        self._early.resize(_early(uploads))
        self._has_early = _early(uploads) > 0
        self._memory.resize(part_memory)

    @asynccontextmanager
    async def upload(self, *, early: bool = False) -> AsyncIterator[None]:
        """A place for one upload in parts."""
        if not early:
            async with self._uploads.hold():
                yield
            return
        async with self._early.hold(), self._uploads.hold():
            yield

    @property
    def has_early(self) -> bool:
        """Whether a body may be uploaded before it is whole."""
        return self._has_early

    @asynccontextmanager
    async def part(self, size: int) -> AsyncIterator[None]:
        """Memory for one part of `size` bytes on its way."""
        async with self._memory.hold(max(1, min(size, PART_MEMORY))):
            yield

    @asynccontextmanager
    async def piece(self, size: int) -> AsyncIterator[None]:
        """Memory for a part of `size` bytes that lies nowhere else until it is sent."""
        async with self._pieces.hold(size):
            yield

    @property
    def pieces(self) -> int:
        """Bytes that such parts may hold now."""
        return self._pieces.held

    @property
    def running(self) -> int:
        return self._uploads.held

    @property
    def memory(self) -> int:
        """Bytes that parts in flight may hold now."""
        return self._memory.held


def _early(uploads: int) -> int:
    return uploads - max(1, uploads // 4)
