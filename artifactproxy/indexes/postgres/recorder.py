"""Group commit: while one transaction is under way, rows to record wait; when it ends, all of them go
into the next. They become visible in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from artifactproxy.errors import Fault, IndexUnavailable
from artifactproxy.model import ArtifactKey, CacheEntry

Write = Callable[[Sequence[CacheEntry]], Awaitable[list[bool]]]
_BATCH = 200
_QUEUE = 20_000


@dataclass(slots=True, eq=False)
class _Item:
    entry: CacheEntry
    future: asyncio.Future[bool]


class Recorder:
    """`write` gets entries of different keys and tells which of them were written."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._queue: deque[_Item] = deque()
        self._task: asyncio.Task[None] | None = None

    async def record(self, entry: CacheEntry) -> bool:
        """Leaving early does not take it back. Raises what `write` raises."""
        if len(self._queue) >= _QUEUE:
            raise IndexUnavailable("too many writes wait for the index", code="index_busy")
        loop = asyncio.get_running_loop()
        item = _Item(entry, loop.create_future())
        self._queue.append(item)
        if self._task is None:
            self._task = loop.create_task(self._drain(), name="index-recorder")
        return await item.future

    async def close(self) -> None:
        """Write what waits."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._commit(self._batch())
        finally:
            self._task = None
            _fail(self._queue)

    def _batch(self) -> list[_Item]:
        keys: set[ArtifactKey] = set()
        batch: list[_Item] = []
        while self._queue and len(batch) < _BATCH and self._queue[0].entry.key not in keys:
            batch.append(self._queue.popleft())
            keys.add(batch[-1].entry.key)
        return batch

    async def _commit(self, batch: list[_Item]) -> None:
        try:
            results = await self._write([item.entry for item in batch])
            for item, written in zip(batch, results, strict=True):
                if not item.future.done():
                    item.future.set_result(written)
        except Fault as fault:
            if len(batch) == 1 or fault.code == "index_away":
                _fail(batch, fault)
                return
            for item in batch:  # one of them may be what fails
                await self._commit([item])
        finally:
            _fail(batch)


def _fail(items: Iterable[_Item], fault: Fault | None = None) -> None:
    """Nobody waits for ever, even where we end with a mistake."""
    for item in items:
        if not item.future.done():
            item.future.set_exception(fault or IndexUnavailable("the row was not written"))
