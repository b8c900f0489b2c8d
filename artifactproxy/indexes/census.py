"""Every row of the SQLite index, read-only and in pages, beside whoever serves from it.

A walk follows the rowid, which an update keeps; each page is a transaction of its own, so that the
checker never holds the write-ahead log back. All of it runs in one thread.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes import statements as sql
from artifactproxy.indexes.faults import index_fault, is_damage
from artifactproxy.indexes.overview import totals
from artifactproxy.indexes.rows import entry_of, key_row, promise_of
from artifactproxy.indexes.writer import Work
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Promise
from artifactproxy.ports import Totals
from artifactproxy.ports.checkup import BadRow, BlobRow, Held, OldBody
from artifactproxy.ports.tokens import Token

_T = TypeVar("_T")
_ENTRY = len(sql.ENTRY_COLUMNS) - 3
_PROMISE = len(sql.PROMISE_COLUMNS) - 3


class SqliteCensus:
    """Opened by its first question. With `still` nobody else has the file open, and then not even
    the side files of the write-ahead log are made. `page` is in rows."""

    def __init__(self, path: Path, *, still: bool = False, page: int = 200, wait: float = 5.0) -> None:
        self._path = path
        self._still = still
        self._page = page
        self._wait = wait
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="census")

    async def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.interrupt()
            await asyncio.get_running_loop().run_in_executor(self._thread, db.close)
        self._thread.shutdown(wait=False)

    # --- the whole --------------------------------------------------------------------------

    async def damage(self) -> list[str]:
        try:
            return await self._ask(_damage)
        except IndexUnavailable as fault:
            if isinstance(fault.__cause__, sqlite3.Error) and is_damage(fault.__cause__):
                return [str(fault.__cause__)]
            if fault.code == "index_missing":
                return [fault.detail]
            raise

    async def last_generation(self) -> int:
        return await self._ask(lambda db: int(db.execute(sql.LAST_GENERATION).fetchone()[0]))

    async def totals(self) -> Totals:
        return await self._ask(totals)

    async def tokens(self) -> list[Token]:
        """All at once: they are few. None in an index from before there were any."""
        tables = {name for (name,) in await self._rows(sql.TABLES, ())}
        return [Token(*row) for row in await self._rows(sql.TOKENS, ())] if "tokens" in tables else []

    # --- page by page -----------------------------------------------------------------------

    async def entries(self) -> AsyncIterator[list[Held | BadRow]]:
        async for rows in self._pages(sql.HELD_AFTER):
            yield [held_row(row) for row in rows]

    async def promises(self) -> AsyncIterator[list[Promise | BadRow]]:
        async for rows in self._pages(sql.PROMISES_AFTER):
            yield [promise_or_bad(row) for row in rows]

    async def blobs(self) -> AsyncIterator[list[BlobRow]]:
        async for rows in self._pages(sql.BLOBS_AFTER):
            yield [blob_row(row) for row in rows]

    async def old_bodies(self) -> AsyncIterator[list[OldBody]]:
        async for rows in self._pages(sql.OLD_AFTER):
            yield [OldBody(ArtifactKey(*row[:3]), row[3], row[4]) for row in rows]

    async def _pages(self, statement: str) -> AsyncIterator[list[Any]]:
        last = -(2**63)
        while rows := await self._rows(statement, (last, self._page)):
            yield rows
            last = rows[-1][-1]

    # --- one by one -------------------------------------------------------------------------

    async def row(self, key: ArtifactKey) -> Held | BadRow | None:
        rows = await self._rows(sql.HELD_OF_KEY, key_row(key))
        return held_row(rows[0]) if rows else None

    async def promise(self, key: ArtifactKey) -> Promise | BadRow | None:
        rows = await self._rows(sql.PROMISE_OF_KEY, key_row(key))
        return promise_or_bad(rows[0]) if rows else None

    async def blob(self, sha256: str) -> BlobRow | None:
        rows = await self._rows(sql.BLOB_OF_NAME, (sha256,))
        if rows:
            return blob_row(rows[0])
        named = await self._rows(sql.IS_NAMED, (sha256,))
        return BlobRow(BlobRef(sha256, 0), 0.0, None, named=True) if named else None

    async def unknown(self, sha256s: Sequence[str]) -> list[str]:
        return await self._ask(
            lambda db: [sha256 for sha256 in sha256s if not db.execute(sql.KNOWN, (sha256,)).fetchone()]
        )

    # --- the connection ---------------------------------------------------------------------

    async def _rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._ask(lambda db: db.execute(statement, parameters).fetchall())

    async def _ask(self, work: Work[_T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except sqlite3.Error as error:
            raise index_fault(error) from error
        except RuntimeError as error:  # the thread has ended
            raise IndexUnavailable("the index is closed") from error

    def _work(self, work: Work[_T]) -> _T:
        if self._db is None:
            self._db = self._opened()
        return work(self._db)

    def _opened(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise IndexUnavailable("the index is missing", code="index_missing", retry_after=None)
        return sqlite3.connect(
            read_only(self._path, still=self._still),
            uri=True,
            timeout=self._wait,
            isolation_level=None,
            check_same_thread=False,
        )


def read_only(path: Path, *, still: bool) -> str:
    """The address to open it by. Where nobody writes and no log lies beside it, nothing is made."""
    mode = "mode=ro"
    if still and _length(Path(f"{path}-wal")) == 0:
        mode += "&immutable=1"
    return f"file:{quote(os.fspath(path))}?{mode}"


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _damage(db: sqlite3.Connection) -> list[str]:
    """Also a file that lacks tables is damaged: an index is made in one transaction."""
    found = [line for (line,) in db.execute(sql.INTEGRITY) if line != "ok"]
    found += [f"a row of {row[0]} names a missing row of {row[2]}" for row in db.execute(sql.FOREIGN_KEYS)]
    missing = set(sql.SALVAGED_COLUMNS) - {name for (name,) in db.execute(sql.TABLES)}
    return found + [f"the table {name} is missing" for name in sorted(missing)]


def held_row(row: Sequence[Any]) -> Held | BadRow:
    """A row of HELD, its key before its last column; shared by both engines."""
    blob, key = row[_ENTRY + _PROMISE : _ENTRY + _PROMISE + 4], ArtifactKey(*row[-4:-1])
    try:
        entry: CacheEntry = entry_of(key, row[:_ENTRY])
    except KeyError as error:
        return BadRow("entries", key, _named(key), f"its kind is {error}")
    try:
        promise = None if row[_ENTRY] is None else promise_of(key, row[_ENTRY : _ENTRY + _PROMISE])
    except (TypeError, AttributeError):
        promise = None  # told by the walk over the promises
    known = None if blob[0] is None else BlobRow(BlobRef(blob[0], blob[1]), blob[2], blob[3], named=True)
    return Held(entry, promise, known)


def promise_or_bad(row: Sequence[Any]) -> Promise | BadRow:
    key = ArtifactKey(*row[-4:-1])
    try:
        return promise_of(key, row[:_PROMISE])
    except (TypeError, AttributeError):
        return BadRow("promises", key, _named(key), "its digests are none")


def _named(key: ArtifactKey) -> str:
    return f"{key.repo}/{key.path}" + (f" ({key.variant})" if key.variant else "")


def blob_row(row: Sequence[Any]) -> BlobRow:
    return BlobRow(BlobRef(row[0], row[1]), row[2], row[3], named=bool(row[4]))
