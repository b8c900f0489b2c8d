"""MetadataIndex, Ledger and Intents on one SQLite file (WAL, synchronous=FULL).

Reads of requests are done on the event loop through one connection: 20 microseconds against the
detour of a thread. Writes go through `writer.py`; long reads of the janitor have a thread and a
connection of their own. `shared=True` is for several processes on one file: then each look-up asks
whether another process has written, and generations are taken one by one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from artifactproxy.errors import Fault, IndexUnavailable
from artifactproxy.indexes import statements as sql
from artifactproxy.indexes import writes
from artifactproxy.indexes.faults import UNFIT, index_fault, is_damage
from artifactproxy.indexes.hosting import SqliteHosting
from artifactproxy.indexes.migrate import migrate, steps
from artifactproxy.indexes.overview import check_pages, totals
from artifactproxy.indexes.rows import CHUNK, after, chunks, entry_of, found_of, key_row, package_bounds
from artifactproxy.indexes.tokens import SqliteTokens
from artifactproxy.indexes.writer import Work, Writer
from artifactproxy.model import FIRST_SIGHT, ArtifactKey, BlobRef, CacheEntry, Found, Promise
from artifactproxy.ports import Clock, Intent, Totals, Use

_T = TypeVar("_T")
ADVICE = ": stop the program and run `artifactproxy fsck --repair`"
_DAY = 86400.0
_PRAGMAS = "PRAGMA foreign_keys=ON", "PRAGMA mmap_size=268435456", "PRAGMA journal_size_limit=67108864"


class SqliteIndex(SqliteHosting):
    """Seconds and counts; `locals_` names the repositories whose blobs are never evictable.

    `owner` is the one process that marks the index unclean while it runs; others only look.
    """

    def __init__(
        self,
        path: Path,
        *,
        locals_: Collection[str] = (),
        shared: bool = False,
        owner: bool = True,
        recent: int = 50_000,
        negative_keys: int = 10_000,
        superseded_keep: float = 7 * 86400.0,
        ledger_keep: float = 90 * 86400.0,
        busy_timeout: float = 5.0,
        block: int = 1000,
        clock: Clock = time.time,
    ) -> None:
        self.was_clean = True
        self._path = path
        self._locals = locals_
        self._shared = shared
        self._owner = owner
        self._recent_limit = recent
        self._negative_keys = negative_keys
        self._superseded_keep = superseded_keep
        self._ledger_keep = ledger_keep
        self._busy_timeout = busy_timeout
        self._block = 1 if shared else block
        self._clock = clock
        self._recent: OrderedDict[ArtifactKey, Found] = OrderedDict()
        self._seen_version = 0
        self._given = self._reserved = 0
        self._reserving: asyncio.Lock = asyncio.Lock()
        self._reads: sqlite3.Connection | None = None
        self._damage = False
        self._file: os.stat_result | None = None
        self.tokens = SqliteTokens(self._write, self._read, self._long_read)

    async def start(self) -> None:
        """Open, migrate, and mark as in use. Raises `IndexUnavailable` with what to do."""
        try:
            connection = await asyncio.to_thread(self._prepare)
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error
        self._writer = Writer(connection)
        self._reads = self._connect(wait=0.25)
        self._long_reads = self._connect(wait=self._busy_timeout)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="index-reader")

    def claim(self) -> bool:
        """For a supervisor, whose workers are no owners: migrate, mark as in use, and tell whether the
        last stop was clean. Raises as `start`."""
        try:
            self._prepare().close()
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error
        return self.was_clean

    def disclaim(self) -> None:
        """The other end of `claim`, when all workers have ended well. Raises `IndexUnavailable`."""
        try:
            with closing(self._connect(wait=self._busy_timeout)) as connection:
                _mark_clean(connection)
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error

    async def check(self) -> None:
        """After a failure only a write that reaches the medium heals."""
        if self._damage:
            raise IndexUnavailable(f"the index is damaged{ADVICE}", code="index_damaged")
        if not self._is_there():
            raise IndexUnavailable(
                f"{self._path} was removed or replaced under the running program: restart it",
                code="index_gone",
            )
        await self._writer.run(_probe if self._writer.trouble else _look)

    async def close(self) -> None:
        """Commit what waits, and say that this was a clean stop."""
        if self._reads is None:
            return
        reads, self._reads = self._reads, None
        reads.close()
        await asyncio.get_running_loop().run_in_executor(self._reader, self._long_reads.close)
        self._reader.shutdown(wait=False)
        await self._writer.close(_mark_clean if self._owner else _look)

    # --- while serving ----------------------------------------------------------------------

    async def find(self, key: ArtifactKey) -> Found:
        if self._shared:
            self._notice_others()
        found = self._recent.get(key)
        if found is not None:
            self._recent.move_to_end(key)
            return found
        row = self._read(sql.FIND, key_row(key))
        found = found_of(key, row)
        # Unknown keys are not kept: a scan for names that do not exist would push out the rest.
        if found.entry is not None:
            self._recent[key] = found
            if len(self._recent) > self._recent_limit:
                self._recent.popitem(last=False)
        return found

    def suspect(self, keys: Iterable[ArtifactKey]) -> None:
        if named := list(keys):
            self._drop(named)
        else:
            self._recent.clear()

    async def generation(self) -> int:
        while self._given >= self._reserved:
            async with self._reserving:
                if self._given >= self._reserved:
                    last = await self._writer.run(partial(writes.reserve, block=self._block))
                    self._given, self._reserved = last - self._block, last
        self._given += 1
        return self._given

    async def record(self, entry: CacheEntry) -> bool:
        work = partial(writes.write_entry, entry=entry, now=self._clock())
        return await self._writer.run(work, partial(self._drop, (entry.key,)))

    async def learn(self, promises: Iterable[Promise]) -> list[Promise]:
        refused: list[Promise] = []
        for chunk in chunks(promises):
            drop = partial(self._drop, [promise.key for promise in chunk])
            refused += await self._writer.run(partial(writes.write_promises, promises=chunk), drop)
        return refused

    async def touch(self, keys: Iterable[ArtifactKey], at: float) -> None:
        for chunk in chunks(keys):
            work = partial(writes.touch_entries, keys=chunk, at=at)
            await self._writer.run(work, partial(self._drop, chunk))

    async def count(self, uses: Iterable[Use]) -> None:
        # One item, not chunks: a half-counted call that is tried again would count twice.
        await self._writer.run(partial(writes.count_uses, uses=list(uses)))

    # --- for the janitor --------------------------------------------------------------------

    async def coldest(self, limit: int, before: float) -> list[tuple[BlobRef, float]]:
        rows = await self._long_read(sql.COLDEST, (before, limit))
        return [(BlobRef(sha256, size), used) for sha256, size, used in rows]

    async def entries(
        self, repo: str, *, path: str = "", prefix: str = "", purl: str = "", limit: int = 100_000
    ) -> list[CacheEntry]:
        if path:
            rows = await self._long_read(sql.ENTRIES_OF_PATH, (repo, limit, path))
        elif purl:
            rows = await self._long_read(sql.ENTRIES_OF_PACKAGE, (repo, limit, *package_bounds(purl)))
        else:
            rows = await self._long_read(sql.ENTRIES_BELOW, (repo, limit, prefix, after(prefix)))
        return [entry_of(ArtifactKey(*row[-3:]), row) for row in rows]

    async def forget(self, keys: Sequence[ArtifactKey], *, promises: bool = False) -> list[BlobRef]:
        refs: dict[BlobRef, None] = {}
        for chunk in chunks(keys):
            work = partial(writes.forget_entries, keys=chunk, promises=promises)
            # What an index taught is known to the database only.
            drop = self._recent.clear if promises else partial(self._drop, chunk)
            refs.update(dict.fromkeys(await self._writer.run(work, drop)))
        return list(refs)

    async def unlearn(self, repo: str, *, path: str = "", purl: str = "", whole: bool = False) -> int:
        statement: str
        parameters: tuple[str, ...]
        if path and whole:
            statement, parameters = sql.UNLEARN_WHOLE_PATH, (repo, path)
        elif path:
            statement, parameters = sql.UNLEARN_PATH, (repo, path, FIRST_SIGHT)
        elif purl:
            statement, parameters = sql.UNLEARN_PACKAGE, (repo, *package_bounds(purl))
        else:
            statement, parameters = sql.UNLEARN_REPO, (repo,)
        return await self._writer.run(
            lambda db: db.execute(statement, parameters).rowcount, self._recent.clear
        )

    async def forget_blob(self, sha256: str) -> list[ArtifactKey]:
        return await self._writer.run(partial(writes.forget_blob, sha256=sha256), self._recent.clear)

    async def named(self, after: str, limit: int) -> list[BlobRef]:
        return [BlobRef(*row) for row in await self._long_read(sql.NAMED_BLOBS, (after, limit))]

    async def naming(self, sha256: str) -> list[CacheEntry]:
        rows = await self._long_read(sql.ENTRIES_NAMING, (sha256,))
        return [entry_of(ArtifactKey(*row[-3:]), row) for row in rows]

    async def doom(self, sha256s: Sequence[str], at: float) -> list[str]:
        doomed: list[str] = []
        for chunk in chunks(sha256s):
            doomed += await self._writer.run(partial(writes.doom_blobs, sha256s=chunk, at=at))
        return doomed

    async def condemned(self, before: float, limit: int) -> list[BlobRef]:
        return [BlobRef(*row) for row in await self._long_read(sql.CONDEMNED, (before, limit))]

    async def seize(self, sha256s: Sequence[str], at: float) -> list[str]:
        return await self._writer.run(partial(writes.seize_blobs, sha256s=sha256s, at=at))

    async def bury(self, sha256s: Sequence[str], *, seized: bool = False) -> None:
        for chunk in chunks(sha256s):
            await self._writer.run(partial(writes.bury_blobs, sha256s=chunk, seized=seized))

    async def orphans(self, sha256s: Sequence[str]) -> list[str]:
        """Neither named by a row nor already on its way out."""
        return await self._long(
            lambda db: [sha256 for sha256 in sha256s if not db.execute(sql.KNOWN, (sha256,)).fetchone()]
        )

    async def surpass(self, generation: int) -> None:
        async with self._reserving:
            await self._writer.run(lambda db: db.execute(sql.SURPASS, (generation,)).rowcount)
            self._given = self._reserved = 0  # what was reserved may be below it

    async def turn(self, name: str, every: float) -> bool:
        return await self._writer.run(partial(writes.take_turn, name=name, every=every, now=self._clock()))

    async def expire(self, now: float) -> int:
        dropped = 0
        for work in (
            partial(writes.redate_uses, now=now, ahead=_DAY, limit=CHUNK),
            partial(writes.expire_absences, now=now, limit=CHUNK),
            partial(writes.bound_absences, most=self._negative_keys, limit=CHUNK),
            partial(writes.expire_bodies, before=now - self._superseded_keep, now=now, limit=CHUNK),
            partial(writes.expire_uses, before=now - self._ledger_keep, limit=CHUNK),
        ):
            while count := await self._writer.run(work):
                dropped += count
        if dropped:
            self._recent.clear()
        return dropped

    async def totals(self) -> Totals:
        return await self._long(totals)

    # --- uploads under way ------------------------------------------------------------------

    async def intend(self, intent: Intent) -> None:
        await self._writer.run(partial(writes.write_intent, intent=intent))

    async def fulfil(self, ids: Sequence[str]) -> None:
        for chunk in chunks(ids):
            await self._writer.run(partial(writes.drop_intents, ids=chunk))

    async def intents(self, before: float, limit: int) -> list[Intent]:
        return [Intent(*row) for row in await self._long_read(sql.INTENTS, (before, limit))]

    # --- connections ------------------------------------------------------------------------

    def _connect(self, *, wait: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=wait, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        return connection

    def _prepare(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = self._connect(wait=self._busy_timeout)
        with ExitStack() as unless_done:
            unless_done.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            check_pages(connection)
            self._file = self._path.stat()
            migrate(connection, steps())
            (clean,) = connection.execute(sql.READ_CLEAN).fetchone()
            self.was_clean = bool(clean)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(sql.ADD_LOCAL, [(repo,) for repo in self._locals])
            if self._owner:
                connection.execute(sql.MARK_CLEAN, (0,))
            connection.execute("COMMIT")
            unless_done.pop_all()
        return connection

    def _refusal(self, error: sqlite3.Error | OSError) -> IndexUnavailable:
        fault = index_fault(error)
        advice = f": {self._path}"
        if is_damage(error):
            advice = (
                f"{ADVICE}, or restore a backup, or move {self._path} with its -wal and -shm files"
                " away and start with an empty index"
            )
        return IndexUnavailable(fault.detail + advice, code=fault.code, retry_after=None)

    def _read(self, statement: str, parameters: Sequence[Any]) -> Any:
        if self._reads is None:
            raise IndexUnavailable("the index is closed")
        try:
            return self._reads.execute(statement, parameters).fetchone()
        except (sqlite3.Error, *UNFIT) as error:
            raise self._read_fault(error) from error

    def _read_fault(self, error: Exception) -> Fault:
        self._damage = self._damage or is_damage(error)
        return index_fault(error)

    def _is_there(self) -> bool:
        """Whether what is open still is the file at our path."""
        try:
            return self._file is None or os.path.samestat(self._file, self._path.stat())
        except OSError:
            return False

    async def _write(self, work: Work[_T]) -> _T:
        return await self._writer.run(work)

    async def _long_read(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._long(lambda db: db.execute(statement, parameters).fetchall())

    async def _long(self, work: Work[_T]) -> _T:
        if self._reads is None:
            raise IndexUnavailable("the index is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, work, self._long_reads)
        except (sqlite3.Error, *UNFIT) as error:
            raise self._read_fault(error) from error

    # --- recent look-ups --------------------------------------------------------------------

    def _drop(self, keys: Iterable[ArtifactKey]) -> None:
        for key in keys:
            self._recent.pop(key, None)

    def _notice_others(self) -> None:
        (version,) = self._read("PRAGMA data_version", ())
        if version != self._seen_version:
            self._seen_version = version
            self._recent.clear()


def _look(db: sqlite3.Connection) -> None:
    db.execute(sql.READ_CLEAN).fetchone()


def _probe(db: sqlite3.Connection) -> None:
    # Generations may have gaps, and SQLite writes nothing where nothing changes.
    writes.reserve(db, 1)


def _mark_clean(db: sqlite3.Connection) -> None:
    db.execute(sql.MARK_CLEAN, (1,))
