"""Hears what others have written, so that remembered rows need no question each.

Every transaction that changes rows says so in `changes`. This asks for what became visible since the
snapshot of its last look: no change is missed, however late its transaction committed. One connection
of its own; a new connection, another timeline (a failover) or a snapshot that went back (a restored
backup) begins a new epoch of `Memory`. Such a server may count generations from below those it gave
before: it is told to go on above them, or what is fetched next would be taken for older.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.database import Database
from artifactproxy.indexes.postgres.faults import ERRORS, is_lost, is_readonly, sqlstate
from artifactproxy.indexes.postgres.memory import Memory
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.indexes.postgres.text import unpack

_SWEEP_EVERY = 60.0
_OWN = 10_000  # transactions of ours that we have not met again yet


class Watch:
    def __init__(self, database: Database, memory: Memory, options: PostgresOptions) -> None:
        self._database = database
        self._memory = memory
        self._options = options
        self._connection: Any = None
        self._snapshot = ""
        self._timeline = 0
        self._looked = float("-inf")
        self.fresh_until = float("-inf")
        """Until then (monotonic clock) all that others committed `recheck` seconds ago has been heard."""
        self._given = self._surpassed = 0
        self._own: OrderedDict[str, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="index-watch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._hang_up()

    def own(self, xid: str) -> None:
        """What this transaction changed is known already."""
        if xid:
            self._own[xid] = None
        if len(self._own) > _OWN:
            self._own.popitem(last=False)

    def given(self, generation: int) -> None:
        """A fill of ours has this number."""
        self._given = max(self._given, generation)

    async def look(self) -> None:
        """Hear what is new. Raises what the driver raises."""
        began = time.monotonic()
        async with asyncio.timeout(self._options.connect + self._options.command):
            if self._connection is None or self._connection.is_closed() or self._slept(began):
                await self._begin()
            else:
                try:
                    await self._go_on()
                except ERRORS as error:
                    if not is_lost(error):
                        raise
                    await self._begin()  # it may be back already
            await self._surpass()
        self._looked = began
        self.fresh_until = began + self._options.recheck
        self._database.answered()

    async def _run(self) -> None:
        swept = time.monotonic()
        while True:
            # Half of what is allowed: a change may come just after a look.
            await asyncio.sleep(self._options.recheck / 2)
            try:
                await self.look()
                if time.monotonic() - swept > _SWEEP_EVERY:
                    swept = time.monotonic()
                    await self._sweep()
            except ERRORS as error:
                self._hang_up()
                if not sqlstate(error) or is_lost(error):
                    self._database.unreachable(error)

    def _slept(self, now: float) -> bool:
        """So long that changes may have been swept unheard."""
        return now - self._looked > self._options.changes_keep / 2

    async def _begin(self) -> None:
        self._hang_up()
        self._connection = await self._database.connect()
        self._anew(*(await self._ask(sql.SNAPSHOT))[0])

    def _anew(self, snapshot: str, timeline: int) -> None:
        self._snapshot, self._timeline = snapshot, timeline
        self._memory.doubt()
        self._surpassed = 0

    async def _surpass(self) -> None:
        """Once for each server that we may not have met."""
        if self._surpassed or not self._given:
            return
        try:
            await self._ask(sql.SURPASS, self._given)
        except ERRORS as error:
            if not is_readonly(error):
                raise
            await self._connection.execute("ROLLBACK")  # behind a pooler it was a transaction
        else:
            self._surpassed = self._given

    async def _go_on(self) -> None:
        rows = await self._ask(sql.CHANGES, self._snapshot)
        snapshot, timeline = rows[0][:2]
        if timeline != self._timeline or _xmax(snapshot) < _xmax(self._snapshot):
            self._anew(snapshot, timeline)
            return
        self._snapshot = snapshot
        for *_, xid, keys, repos in rows:
            if xid is None or xid in self._own:
                self._own.pop(xid, None)
                continue
            self._memory.drop(keys)
            for repo in repos:
                self._memory.drop_repo(unpack(repo))

    async def _ask(self, statement: str, *values: Any) -> list[Any]:
        return await self._database.fetch(self._connection, statement, values)

    async def _sweep(self) -> None:
        await self._ask(sql.DROP_CHANGES, self._options.changes_keep)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*ERRORS):
                connection.terminate()


def _xmax(snapshot: str) -> int:
    return int(snapshot.split(":")[1])
