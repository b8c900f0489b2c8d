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
            fault = await self._try(batch)
            if fault is not None and len(batch) > 1 and fault.code != "index_away":
                fault = await self._one_by_one(batch)
            _fail(batch, fault)
        finally:
            _fail(batch)

    async def _try(self, items: Sequence[_Item]) -> Fault | None:
        """Why none of them was written."""
        try:
            results = await self._write([item.entry for item in items])
        except Fault as fault:
            return fault
        for item, written in zip(items, results, strict=True):
            if not item.future.done():
                item.future.set_result(written)
        return None

    async def _one_by_one(self, batch: Iterable[_Item]) -> Fault | None:
        """One of them may be what fails. When the index fails a second one it is the index, and each of
        the rest could take as long: then why they are not tried."""
        failed = 0
        for item in batch:
            fault = await self._try([item])
            if fault is None:
                continue
            _fail([item], fault)
            failed += isinstance(fault, IndexUnavailable)
            if failed > 1:
                return fault
        return None


def _fail(items: Iterable[_Item], fault: Fault | None = None) -> None:
    """Nobody waits for ever, even where we end with a mistake."""
    for item in items:
        if not item.future.done():
            item.future.set_exception(fault or IndexUnavailable("the row was not written"))
