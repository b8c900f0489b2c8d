"""Every row of the PostgreSQL index, read-only and in pages, beside whoever serves from it.

A walk follows the key, which nothing changes. Each page is a read-only transaction of its own, so that
a long walk keeps no old rows alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from artifactproxy.indexes.census import blob_row, held_row, promise_or_bad
from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.database import Database
from artifactproxy.indexes.postgres.faults import ERRORS, UNFIT, index_fault, refusal
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.indexes.postgres.text import digest_of, unpacked
from artifactproxy.model import ArtifactKey, BlobRef, Promise
from artifactproxy.ports import Totals
from artifactproxy.ports.checkup import BadRow, BlobRow, Held, OldBody

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresCensus:
    """One connection, opened by its first question. `page` is in rows."""

    def __init__(self, options: PostgresOptions, *, page: int = 200) -> None:
        self._database = Database(options, lambda _: None)
        self._long = options.long
        self._page = page
        self._connection: Any = None
        self._asking: asyncio.Lock = asyncio.Lock()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    # --- the whole --------------------------------------------------------------------------

    async def damage(self) -> list[str]:
        """What can be told without reading every page; `pg_amcheck` does that."""
        tables = list(sql.TABLES)
        present = {row[0] for row in await self._ask(sql.PRESENT, tables)}
        found = [f"the table {name} is missing" for name in tables if name not in present]
        found += [row[0] for row in await self._ask(sql.INVALID_INDEXES, tables)]
        found += [row[0] for row in await self._ask(sql.MISSING_KEYS, tables)]
        failures = await self._ask(sql.CHECKSUM_FAILURES)
        return found + [f"pages with a wrong checksum were read {row[0]} times" for row in failures]

    async def last_generation(self) -> int:
        return int((await self._ask(sql.LAST_GENERATION))[0][0])

    async def totals(self) -> Totals:
        return await totals(self._ask)

    # --- page by page -----------------------------------------------------------------------

    async def entries(self) -> AsyncIterator[list[Held | BadRow]]:
        async for rows in self._pages(sql.HELD_AFTER, b""):
            yield [held_row(row) for row in rows]

    async def promises(self) -> AsyncIterator[list[Promise | BadRow]]:
        async for rows in self._pages(sql.PROMISES_AFTER, b""):
            yield [promise_or_bad(row) for row in rows]

    async def blobs(self) -> AsyncIterator[list[BlobRow]]:
        last = ""
        while rows := await self._ask(sql.BLOBS_AFTER, last, self._page):
            yield [blob_row(row) for row in rows]
            last = rows[-1][0]

    async def old_bodies(self) -> AsyncIterator[list[OldBody]]:
        last: tuple[bytes, str] = (b"", "")
        while rows := await self._ask(sql.OLD_AFTER, *last, self._page):
            yield [OldBody(ArtifactKey(*row[:3]), row[3], row[4]) for row in rows]
            last = rows[-1][5], rows[-1][3]

    async def _pages(self, statement: str, last: Any) -> AsyncIterator[list[Any]]:
        while rows := await self._ask(statement, last, self._page):
            yield rows
            last = rows[-1][-1]

    # --- one by one -------------------------------------------------------------------------

    async def row(self, key: ArtifactKey) -> Held | BadRow | None:
        rows = await self._ask(sql.HELD_OF_KEY, _digest(key))
        return held_row(rows[0]) if rows else None

    async def promise(self, key: ArtifactKey) -> Promise | BadRow | None:
        rows = await self._ask(sql.PROMISE_OF_KEY, _digest(key))
        return promise_or_bad(rows[0]) if rows else None

    async def blob(self, sha256: str) -> BlobRow | None:
        rows = await self._ask(sql.BLOB_OF_NAME, sha256)
        if rows:
            return blob_row(rows[0])
        named = await self._ask(sql.IS_NAMED, sha256)
        return BlobRow(BlobRef(sha256, 0), 0.0, None, named=True) if named else None

    async def unknown(self, sha256s: Sequence[str]) -> list[str]:
        unknown = {row[0] for row in await self._ask(sql.UNKNOWN, sha256s)}
        return [sha256 for sha256 in sha256s if sha256 in unknown]

    # --- the connection ---------------------------------------------------------------------

    async def _ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self._asking:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._opened()
            try:
                await self._connection.execute(_BEGIN)
                rows = await self._connection.fetch(statement, *values, timeout=self._long)
                await self._connection.execute("COMMIT")
            except (*ERRORS, *UNFIT) as error:
                await self.close()
                raise index_fault(error) from error
        return [unpacked(tuple(row)) for row in rows]

    async def _opened(self) -> Any:
        try:
            return await self._database.connect(command_timeout=self._long, server_settings=None)
        except (*ERRORS, ValueError) as error:
            raise refusal(error, self._database.where) from error


def _digest(key: ArtifactKey) -> bytes:
    try:
        return digest_of(key)
    except UNFIT as error:
        raise index_fault(error) from error


async def totals(ask: Callable[..., Awaitable[list[Any]]]) -> Totals:
    """`ask` gives the rows of a statement. Raises what it raises."""
    ((blobs, size),) = await ask(sql.TOTAL_BLOBS)
    ((promises,),) = await ask(sql.TOTAL_PROMISES)
    repos = [(repo, count, int(held), absent) for repo, count, held, absent in await ask(sql.TOTAL_BY_REPO)]
    return Totals(
        blobs=blobs,
        bytes=int(size),
        entries=sum(count - absent for _, count, _, absent in repos),
        absences=sum(absent for *_, absent in repos),
        promises=promises,
        by_repo=tuple((repo, count - absent, held) for repo, count, held, absent in repos),
    )
