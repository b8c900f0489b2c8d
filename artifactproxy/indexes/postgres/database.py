"""Connections, and transactions that outlive the loss of one.

Two pools: what requests wait for, and a small share for what nobody waits for, so that neither stands
in the other's way. While the database is known to be away everything fails at once: one caller may try
every now and then, and whoever watches for changes tells when it is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from artifactproxy import failpoints
from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.faults import (
    ERRORS,
    UNFIT,
    Again,
    Where,
    index_fault,
    is_conflict,
    is_lost,
    is_readonly,
    sqlstate,
)
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.rules.retry import backoff

_T = TypeVar("_T")
_SLOW_IN_A_ROW = 3  # answers that took too long until the database counts as away
_RETRY_BASE = 0.02
_MILLISECONDS = 1000


@dataclass(slots=True)
class Transaction:
    """What a piece of work writes through. It may run several times: whatever it keeps outside must
    be set anew each time. `keys` and `repos` are what others must hear has changed."""

    connection: Any
    keys: list[bytes] = field(default_factory=list)
    repos: list[str] = field(default_factory=list)
    xid: str = ""

    async def rows(self, statement: str, *values: Any) -> list[Any]:
        rows: list[Any] = await self.connection.fetch(statement, *values)
        return rows

    async def run(self, statement: str, *values: Any) -> int:
        """How many rows it changed."""
        status: str = await self.connection.execute(statement, *values)
        return int(status.rsplit(" ", 1)[-1])


Work = Callable[[Transaction], Awaitable[_T]]
Told = Callable[[Transaction, _T], None]


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A transaction whose COMMIT got no answer, and what it would have returned."""

    transaction: Transaction
    result: Any


class Database:
    """`note` hears of retries and lost connections, each a stable slug."""

    def __init__(self, options: PostgresOptions, note: Callable[[str], None]) -> None:
        self.where = Where(options.url)
        self._options = options
        self._note = note
        self._pools: tuple[Any, Any] | None = None
        self._closed = False
        self._away_until = self._readonly_until = 0.0
        self._slow = self._unmade = 0
        self._began = _begin(options)

    # --- life -------------------------------------------------------------------------------

    async def connect(self, **other: Any) -> Any:
        """One connection beside the pools. Raises what the driver raises."""
        return await asyncpg.connect(**{**self._arguments(), **other})

    async def open(self) -> None:
        """Connections are made when they are needed. Raises what the driver raises."""
        aside = max(1, self._options.pool // 4)
        requests = max(1, self._options.pool - aside)
        self._pools = (await self._pool(requests), await self._pool(aside))

    async def close(self) -> None:
        """Wait for what runs, for as long as it may take, and hang up."""
        self._closed = True
        pools, self._pools = self._pools or (), None
        for pool in pools:
            try:
                async with asyncio.timeout(self._options.acquire + self._options.command):
                    await pool.close()
            except ERRORS:
                pool.terminate()

    def _arguments(self) -> dict[str, Any]:
        several = "," in self.where.host
        options: dict[str, Any] = {
            "dsn": self._options.url,
            "timeout": self._options.connect,
            "command_timeout": self._options.command,
            "max_cached_statement_lifetime": 0,
        }
        if several:
            options["target_session_attrs"] = "read-write"
        if self._options.pgbouncer:
            return {**options, "statement_cache_size": 0}
        settings = {name: str(value) for name, value in _bounds(self._options).items()}
        return {**options, "server_settings": {**settings, "application_name": "artifactproxy", "jit": "off"}}

    async def _pool(self, size: int) -> Any:
        # Nothing of a session is ever set, so nothing has to be reset (that would be a round trip).
        return await asyncpg.create_pool(min_size=0, max_size=size, reset=_keep, **self._arguments())

    # --- whether it is there ----------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        return self._away_until > 0.0

    def unreachable(self, error: BaseException) -> None:
        """No connection could be made. One that ended while it was made may be one that somebody
        ended: the next attempt tells."""
        if sqlstate(error).startswith("53"):
            return  # it is there, and has no place left
        self._unmade += 1
        if self._unmade > 1 or isinstance(error, TimeoutError):
            self._away_until = asyncio.get_running_loop().time() + self._options.pause

    def answered(self) -> None:
        self._slow = self._unmade = 0
        self._away_until = 0.0

    def _admit(self) -> None:
        if self._closed or self._pools is None:
            raise IndexUnavailable("the index is closed")
        if self._away_until > 0.0:
            now = asyncio.get_running_loop().time()
            if now < self._away_until:
                raise IndexUnavailable("the index does not answer", code="index_away")
            self._away_until = now + self._options.pause  # this one tries; the others need not wait with it

    @asynccontextmanager
    async def _borrowed(self, *, aside: bool) -> AsyncIterator[Any]:
        """A connection; what goes wrong with it comes out as it is."""
        self._admit()
        assert self._pools is not None
        pool = self._pools[aside]
        try:
            connection = await pool.acquire(timeout=self._options.acquire)
        except TimeoutError as error:
            if pool.get_size() - pool.get_idle_size() >= pool.get_max_size():
                self._note("index_pool_exhausted")
                raise IndexUnavailable("all connections to the index are busy", code="index_busy") from error
            self.unreachable(error)
            raise
        except asyncpg.InterfaceError as error:
            raise IndexUnavailable("the index is closed") from error
        except ERRORS as error:
            self.unreachable(error)
            raise
        try:
            yield connection
        except TimeoutError:
            _hang_up(connection)
            raise
        finally:
            try:
                await _roll_back(connection)
            finally:
                with suppress(*ERRORS):
                    await pool.release(connection)

    # --- asking -----------------------------------------------------------------------------

    async def read(self, statement: str, *values: Any) -> list[Any]:
        """Rows of one statement that a request waits for: one round trip, a second try if the
        connection was lost. Raises `IndexUnavailable`, `BadRequest`."""
        for last in (False, True):
            try:
                async with self._borrowed(aside=False) as connection:
                    rows = await self.fetch(connection, statement, values)
            except (*ERRORS, *UNFIT) as error:
                self._met(error)
                if last or not (is_lost(error) or is_conflict(error)):
                    raise index_fault(error) from error
                self._note("index_retries")
            else:
                self.answered()
                return rows
        raise AssertionError

    async def long_read(self, statement: str, *values: Any) -> list[Any]:
        """Rows of a statement that may take long, and that no request waits for."""
        long = self._options.long
        try:
            async with self._borrowed(aside=True) as connection:
                await connection.execute(_begin(self._options, statement_timeout=long))
                rows: list[Any] = await connection.fetch(statement, *values, timeout=long)
                await connection.execute("COMMIT")
        except (*ERRORS, *UNFIT) as error:
            self._met(error)
            raise index_fault(error) from error
        self.answered()
        return rows

    async def fetch(self, connection: Any, statement: str, values: Sequence[Any]) -> list[Any]:
        """Behind a pooler two messages of one statement may reach two servers, unless a transaction
        keeps them together."""
        if not self._options.pgbouncer:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows
        await connection.execute(self._began)
        rows = await connection.fetch(statement, *values)
        await connection.execute("COMMIT")
        return rows

    def _met(self, error: BaseException) -> None:
        """A lost connection may be a restart that is over already: the next attempt will tell."""
        if is_lost(error):
            self._note("index_reconnects")
        elif isinstance(error, TimeoutError):
            self._note("index_slow")
            self._slow += 1
            if self._slow >= _SLOW_IN_A_ROW:
                self.unreachable(error)

    # --- writing ----------------------------------------------------------------------------

    async def write(self, work: Work[_T], told: Told[_T], *, aside: bool = False) -> _T:
        """Run it in a transaction, again if the database gave it up or the connection broke; `told`
        hears of the commit before anybody else does.

        Where COMMIT got no answer the database is asked what became of it, so that its effect and
        its result are those of one run. Raises `IndexUnavailable`, `BadRequest`.
        """
        if asyncio.get_running_loop().time() < self._readonly_until:
            raise index_fault(asyncpg.ReadOnlySQLTransactionError())
        doubt: _Doubt | None = None
        for attempt in range(self._options.tries):
            if attempt:
                self._note("index_retries")
                await asyncio.sleep(backoff(attempt, _RETRY_BASE, random.random()))  # noqa: S311  no secret
            try:
                async with self._borrowed(aside=aside) as connection:
                    if doubt is not None and await self._was_committed(connection, doubt.transaction.xid):
                        told(doubt.transaction, doubt.result)
                        return doubt.result  # type: ignore[no-any-return]
                    tried = await self._attempt(connection, work, told)
            except (*ERRORS, *UNFIT, Again) as error:
                last = attempt + 1 == self._options.tries
                await self._after(error, last=last)
                if last or not _is_worth_again(error):
                    raise index_fault(error) from error
                continue
            if isinstance(tried, _Doubt):
                self._note("index_unknown_commits")
                doubt = tried
                continue
            self.answered()
            return tried
        raise IndexUnavailable("whether the index has committed is not known", code="index_away")

    async def _attempt(self, connection: Any, work: Work[_T], told: Told[_T]) -> _T | _Doubt:
        transaction = Transaction(connection)
        await connection.execute(self._began)
        result = await work(transaction)
        transaction.xid = await _announced(transaction)
        failpoints.hit("row.written")
        try:
            ended = await connection.execute("COMMIT")
        except ERRORS as error:
            if sqlstate(error) and not is_lost(error):
                raise  # refused for certain
            self._met(error)
            _hang_up(connection)
            return _Doubt(transaction, result) if transaction.xid else result
        if ended != "COMMIT":
            raise Again
        failpoints.hit("row.committed")
        told(transaction, result)
        return result

    async def _was_committed(self, connection: Any, xid: str) -> bool:
        for _ in range(5):
            try:
                ((status,),) = await self.fetch(connection, sql.XID_STATUS, (xid,))
            except asyncpg.InvalidParameterValueError:
                return False  # this server never got so far: it is another one since
            if status != "in progress":
                return bool(status == "committed")
            await asyncio.sleep(_RETRY_BASE)
        raise Again

    async def _after(self, error: BaseException, *, last: bool) -> None:
        self._met(error)
        if is_readonly(error):
            self._note("index_readonly")
            if last:  # nor will the others succeed: connections for reading are made anew each time
                self._readonly_until = asyncio.get_running_loop().time() + self._options.pause
        if is_readonly(error) or sqlstate(error) == "57P01":
            for pool in self._pools or ():
                await pool.expire_connections()


def _is_worth_again(error: BaseException) -> bool:
    return is_lost(error) or is_conflict(error) or is_readonly(error)


async def _announced(transaction: Transaction) -> str:
    """Tell the others last, so that the change is not swept before it can be seen; the id of the
    transaction, "" where it wrote nothing."""
    if transaction.keys or transaction.repos:
        rows = await transaction.rows(sql.CHANGED, transaction.keys, transaction.repos)
    else:
        rows = await transaction.rows(sql.XID)
    return rows[0][0] or ""


async def _roll_back(connection: Any) -> None:
    with suppress(*ERRORS):
        if not connection.is_closed() and connection.is_in_transaction():
            await connection.execute("ROLLBACK")


def _hang_up(connection: Any) -> None:
    """Nobody waits until the server has heard that it may stop: it has its own limits."""
    with suppress(*ERRORS):
        connection.terminate()


async def _keep(connection: Any) -> None:
    """What a pool runs when a connection comes back."""


def _bounds(options: PostgresOptions) -> dict[str, int]:
    return {
        "statement_timeout": round(options.command * _MILLISECONDS),
        "lock_timeout": round(options.lock * _MILLISECONDS),
        "idle_in_transaction_session_timeout": round(2 * options.command * _MILLISECONDS),
    }


def _begin(options: PostgresOptions, **other: float) -> str:
    """Every statement of a transaction sees what was committed before it, whatever the database's
    default: the order of locks stands on that."""
    settings = _bounds(options) if options.pgbouncer else {}
    settings |= {name: round(seconds * _MILLISECONDS) for name, seconds in other.items()}
    lines = [sql.SET_LOCAL.format(name=name, value=value) for name, value in settings.items()]
    return "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *lines])
