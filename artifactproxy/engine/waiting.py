"""Verified bodies that wait for a store that is away, and uploads that nobody needs any more.

Clients were served long ago. What waits holds temporary space or memory that new bodies need as well,
so the oldest gives up first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from artifactproxy.engine.spool import Spool
from artifactproxy.ports import Observer

MOST = 1000
MEMORY_BYTES = 64 * 2**20  # of bodies that have no file
ASIDE_SECONDS = 30.0  # for which an upload may take to end


class Place:
    """One body in the queue; `given_up` is done when it must wait no longer."""

    def __init__(self, spool: Spool, vacate: Callable[[], bool]) -> None:
        self.vacate = vacate
        self.memory = spool.written if spool.in_memory else 0
        self.file = 0 if spool.in_memory else spool.written
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def give_up(self) -> None:
        if not self.given_up.done():
            self.given_up.set_result(None)

    async def rest(self, seconds: float) -> bool:
        """Wait; False where it was given up."""
        await asyncio.wait((self.given_up,), timeout=seconds)
        return not self.given_up.done()

    async def attempt(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, and raise what it raises; False where it was cancelled, being given up."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self.given_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if task.cancelled():
            return False
        await task
        return True


class Waiting:
    """All of one process. `make_room` is asked by the temporary space when it is short."""

    def __init__(self, observer: Observer, *, most: int = MOST, memory_bytes: int = MEMORY_BYTES) -> None:
        self._observer = observer
        self._most = most
        self._memory_bytes = memory_bytes
        self._places: dict[Place, None] = {}
        self._aside: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, spool: Spool, vacate: Callable[[], bool]) -> Place:
        """`vacate` gives the temp file back at once, and returns False where somebody reads it."""
        place = Place(spool, vacate)
        self._places[place] = None
        while len(self._places) > self._most or self._memory() > self._memory_bytes:
            self._drop(next(p for p in self._places if len(self._places) > self._most or p.memory))
        return place

    def leave(self, place: Place) -> None:
        self._places.pop(place, None)

    def make_room(self, size: int) -> None:
        """Give up the oldest files until so many bytes are free, or none is left that can go."""
        for place in list(self._places):
            if size <= 0:
                return
            if place.file and place.vacate():
                size -= place.file
                self._drop(place)

    def _drop(self, place: Place) -> None:
        self.leave(place)
        place.give_up()
        self._observer.increment("stores_given_up")

    def _memory(self) -> int:
        return sum(place.memory for place in self._places)

    # --- what ends by itself ---

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let it end in its own time, which is bounded."""

        async def bounded() -> None:
            async with asyncio.timeout(ASIDE_SECONDS):
                await work

        task = asyncio.create_task(bounded())
        self._aside.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._aside.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._observer.warning("not_abandoned", cause=f"{type(error).__name__}: {error}")

    async def close(self, seconds: float) -> None:
        """After the last fill has ended."""
        if self._aside:
            _, late = await asyncio.wait(set(self._aside), timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
