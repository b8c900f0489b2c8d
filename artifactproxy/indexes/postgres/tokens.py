"""TokenStore on PostgreSQL: its statements, run by the index's connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import astuple
from functools import partial
from typing import Any, Protocol, TypeVar

from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.database import Transaction, Work
from artifactproxy.indexes.tokens import latest
from artifactproxy.ports.tokens import Token

_T = TypeVar("_T")
Read = Callable[..., Awaitable[list[Any]]]


class _Write(Protocol):
    async def __call__(self, work: Work[_T]) -> _T: ...


class PostgresTokens:
    """`read` is one round trip that a request waits for."""

    def __init__(self, write: _Write, read: Read, long_read: Read) -> None:
        self._write = write
        self._read = read
        self._long_read = long_read

    async def add(self, token: Token, *, before: float) -> bool:
        return await self._write(partial(_add, token=token, before=before))

    async def adopt(self, tokens: Iterable[Token]) -> None:
        await self._write(partial(_adopt, tokens=sorted(tokens, key=lambda token: token.id)))

    async def find(self, id_: str) -> Token | None:
        rows = await self._read(sql.TOKEN, id_)
        return Token(*rows[0]) if rows else None

    async def tokens(self) -> list[Token]:
        return [Token(*row) for row in await self._long_read(sql.ALL_TOKENS)]

    async def revoke(self, name: str, at: float) -> Token | None:
        async def revoke(tx: Transaction) -> list[Any]:
            return await tx.rows(sql.REVOKE, name, at)

        return latest(await self._write(revoke))

    async def use(self, ids: Iterable[str], at: float) -> None:
        await self._write(partial(_use, ids=sorted(ids), at=at))

    async def seal(self, proposed: str) -> str:
        return await self._write(partial(_seal, proposed=proposed))


async def _add(tx: Transaction, token: Token, before: float) -> bool:
    await tx.rows(sql.HOLD_TOKENS)  # one name is asked for and taken by one at a time
    added = await tx.run(sql.ADD_TOKEN, *astuple(token)) == 1
    if added:
        await tx.run(sql.FORGET_TOKENS, before)
    return added


async def _adopt(tx: Transaction, tokens: list[Token]) -> None:
    for token in tokens:
        await tx.run(sql.ADOPT_TOKEN, *astuple(token))


async def _use(tx: Transaction, ids: list[str], at: float) -> None:
    for id_ in ids:
        await tx.run(sql.NOTE_USE, id_, at)


async def _seal(tx: Transaction, proposed: str) -> str:
    await tx.run(sql.PROPOSE_SEAL, proposed)
    return str((await tx.rows(sql.SEAL))[0][0])
