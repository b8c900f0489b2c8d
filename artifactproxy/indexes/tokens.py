"""TokenStore on the SQLite index: its statements, run by its connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any, Protocol, TypeVar

from artifactproxy.indexes import statements as sql
from artifactproxy.ports.tokens import Token

_T = TypeVar("_T")
Read = Callable[[str, Sequence[Any]], Any]
LongRead = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]


class _Write(Protocol):
    async def __call__(self, work: Callable[[sqlite3.Connection], _T]) -> _T: ...


class SqliteTokens:
    """`read` gives the first row, at once: a request waits for it."""

    def __init__(self, write: _Write, read: Read, long_read: LongRead) -> None:
        self._write = write
        self._read = read
        self._long_read = long_read

    async def add(self, token: Token, *, before: float) -> bool:
        return await self._write(partial(_add, token=token, before=before))

    async def adopt(self, tokens: Iterable[Token]) -> None:
        rows = [astuple(token) for token in tokens]
        await self._write(lambda db: db.executemany(sql.ADOPT_TOKEN, rows).rowcount)

    async def find(self, id_: str) -> Token | None:
        row = self._read(sql.TOKEN, (id_,))
        return Token(*row) if row else None

    async def tokens(self) -> list[Token]:
        return [Token(*row) for row in await self._long_read(sql.TOKENS, ())]

    async def revoke(self, name: str, at: float) -> Token | None:
        return latest(await self._write(lambda db: db.execute(sql.REVOKE, (name, at)).fetchall()))

    async def use(self, ids: Iterable[str], at: float) -> None:
        rows = [(id_, at) for id_ in ids]
        await self._write(lambda db: db.executemany(sql.NOTE_USE, rows).rowcount)

    async def seal(self, proposed: str) -> str:
        return await self._write(partial(_seal, proposed=proposed))


def latest(rows: Iterable[Sequence[Any]]) -> Token | None:
    """An expired one may have a younger one of its name."""
    tokens = [Token(*row) for row in rows]
    return max(tokens, key=lambda token: token.created, default=None)


def _add(db: sqlite3.Connection, token: Token, before: float) -> bool:
    added = db.execute(sql.ADD_TOKEN, astuple(token)).rowcount == 1
    if added:
        db.execute(sql.FORGET_TOKENS, (before,))
    return added


def _seal(db: sqlite3.Connection, proposed: str) -> str:
    db.execute(sql.PROPOSE_SEAL, (proposed,))
    return str(db.execute(sql.SEAL).fetchone()[0])
