"""The bytes of one connection on their way to their place in the file."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from artifactproxy.engine.scattered import Scattered
from artifactproxy.engine.spool import BATCH_BYTES
from artifactproxy.errors import Fault
from artifactproxy.rules.segments import Segment

NEXT_BYTES = 128 * 1024
SOON = 0.01  # seconds for which few bytes wait for more: every trip to the disk costs the loop a switch


class Landing:
    """Of one segment. While it is the only one its bytes go on in order. Else few go to the disk within
    `SOON`, many at once, and the connection is paused while too many wait."""

    def __init__(self, body: Scattered, segment: Segment) -> None:
        self._body = body
        self._segment = segment
        self._pending: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._job: asyncio.Task[None] | None = None
        self._fault: Fault | None = None

    async def write(self, chunk: bytes) -> None:
        """Raises the fault of the disk."""
        self._segment.taken += len(chunk)  # at once: what is left of it may be given to others meanwhile
        if self._body.in_order and await self._body.append(self._segment, chunk):
            return
        self._pending.append(chunk)
        self._size += len(chunk)
        if self._size >= self._enough:
            self._begin()
        elif self._timer is None and self._job is None:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._begin)
        while self._size >= BATCH_BYTES and self._job is not None:
            await asyncio.wait((self._job,))
        self._raise()

    @property
    def _enough(self) -> int:
        """Bytes that go at once. Where the hash waits for just these, its thread should not stand idle."""
        return NEXT_BYTES if self._body.is_next(self._segment.landed) else BATCH_BYTES

    async def flush(self) -> None:
        """All of it is on the disk when this returns. Raises the fault of the disk."""
        await self._body.settle()
        while self._size or self._job is not None:
            self._begin()
            if self._job is not None:
                await asyncio.wait((self._job,))
            self._raise()
        self._raise()

    async def drop(self) -> None:
        """What waits is forgotten. When this returns nothing of it is on its way to the disk, where
        another connection may write next."""
        with suppress(Fault):  # which the spool tells everybody
            await self._body.settle()
        self._pending.clear()
        self._size = 0
        self._stop_timer()
        if self._job is not None:
            await asyncio.wait((self._job,))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        """What waits goes at once, so that as much can be read meanwhile."""
        self._stop_timer()
        if self._job is None and self._size and self._fault is None:
            chunks, self._pending = self._pending, []
            size, self._size = self._size, 0
            self._job = asyncio.get_running_loop().create_task(self._land(chunks, size))

    async def _land(self, chunks: list[bytes], size: int) -> None:
        try:
            await self._body.land(self._segment.landed, chunks)
            self._segment.landed += size
            self._body.landed()
        except Fault as fault:
            self._fault = fault
        finally:
            self._job = None
        if self._size >= self._enough:
            self._begin()
        elif self._size and self._fault is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._begin)

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault
