"""Group commit: one thread, one connection, one transaction for all that waits.

While a commit is under way, writes queue on the event loop; when it ends, all of them go into the
next one. So a lone write is committed at once, and under load the cost of reaching the medium is
shared. A write is a function of the connection and may be run a second time, alone.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from artifactproxy import failpoints
from artifactproxy.errors import Fault, IndexUnavailable
from artifactproxy.indexes.faults import UNFIT, index_fault

_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]


def _nothing() -> None:
    """Most writes leave no look-up to forget."""


def _no_work(connection: sqlite3.Connection) -> None:
    del connection


@dataclass(slots=True, eq=False)
class _Item:
    work: Work[Any]
    future: asyncio.Future[Any]
    committed: Callable[[], None]
    result: Any = None
    fault: Fault | None = field(default=None)


class Writer:
    """Belongs to one event loop. `batch` bounds a transaction, `queue` what may wait for one."""

    def __init__(self, connection: sqlite3.Connection, *, batch: int = 1000, queue: int = 20_000) -> None:
        self._connection = connection
        self._batch = batch
        self._limit = queue
        self._queue: deque[_Item] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index-writer")
        self._busy = False
        self._closed = False
        self.trouble: Fault | None = None
        """What the last commit failed with, until one succeeds that wrote something."""

    async def run(self, work: Work[_T], committed: Callable[[], None] = _nothing) -> _T:
        """The result of `work`, after its transaction is on the medium.

        `committed` is called on the event loop before anybody learns of the commit. Leaving early
        does not take a write back. Raises `IndexUnavailable`.
        """
        if self._closed:
            raise IndexUnavailable("the index is closed")
        if len(self._queue) >= self._limit:
            raise IndexUnavailable("too many writes wait for the index", code="index_busy")
        result: _T = await self._enqueue(work, committed)
        return result

    async def close(self, last: Work[None] = _no_work) -> None:
        """Commit what waits, then `last`, and close the connection. A `last` that fails is lost:
        what it would have written must be safe to miss."""
        if self._closed:
            return
        self._closed = True
        with suppress(Fault):
            await self._enqueue(last, _nothing)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    def _enqueue(self, work: Work[_T], committed: Callable[[], None]) -> asyncio.Future[_T]:
        item = _Item(work, asyncio.get_running_loop().create_future(), committed)
        self._queue.append(item)
        if not self._busy:
            self._next()
        return item.future

    def _next(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
        self._busy = True
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, batch)
        job.add_done_callback(lambda done: self._settle(batch, done))

    def _settle(self, batch: list[_Item], done: asyncio.Future[None]) -> None:
        # A mistake in a write (no error of the database) fails its whole batch, loudly.
        mistake = done.exception()
        for item in batch:
            item.committed()
            if item.future.done():
                continue
            if mistake or item.fault:
                item.future.set_exception(mistake or item.fault)  # type: ignore[arg-type]
            else:
                item.future.set_result(item.result)
        self._busy = False
        if self._queue:
            self._next()

    # --- in the thread ----------------------------------------------------------------------

    def _commit(self, batch: list[_Item]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for item in batch:
                item.fault = self.trouble = _chained(error)
            return
        before = self._connection.total_changes
        try:
            for item in batch:
                self._attempt(item)
            failpoints.hit("row.written")
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._undo()
            if len(batch) == 1:
                batch[0].fault = self.trouble = _chained(error)
                return
            for item in batch:
                item.fault = None
                self._commit([item])
            return
        finally:
            self._undo()
        if self._connection.total_changes > before:
            self.trouble = None
        failpoints.hit("row.committed")

    def _attempt(self, item: _Item) -> None:
        """One write inside the transaction; its failure undoes only itself."""
        self._connection.execute("SAVEPOINT item")
        try:
            item.result = item.work(self._connection)
        except (sqlite3.Error, *UNFIT) as error:
            if not self._connection.in_transaction:
                raise  # the engine gave up the whole transaction: everybody tries again alone
            self._connection.execute("ROLLBACK TO item")
            item.fault = _chained(error)
        self._connection.execute("RELEASE item")

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _chained(error: Exception) -> Fault:
    fault = index_fault(error)
    fault.__cause__ = error
    return fault
