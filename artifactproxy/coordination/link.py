"""One connection to Redis, and what its failures mean. No retries, no pool: whoever owns a link decides."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.scripts import Script
from artifactproxy.errors import ConfigError

T = TypeVar("T")

SENTENCES = {
    "away": "cannot be reached",
    "database": "has no database of that number",
    "denied": "refuses this user or password, or does not let it do what is needed",
    "full": "has no memory left",
    "loading": "is loading its data",
    "odd": "answers what makes no sense here",
    "protocol": "is no Redis",
    "readonly": "is a replica that takes no writes",
    "slow": "does not answer in time",
    "tls": "does not speak TLS that can be trusted",
}
"""What can be wrong with Redis, by its slug."""

_FIXES = {
    "database": "end the URL with the number of a database that it has, such as /0",
    "denied": "correct the URL (redis://user:password@host:6379/0) or let this user run scripts, publish and "
    "subscribe on keys and channels of the prefix",
    "protocol": "correct host and port of the URL",
    "tls": "use redis:// where there is no TLS, or name its authority with ?ssl_ca_certs=PATH",
}
"""What no waiting mends, and what does."""


class Broken(Exception):
    """The link cannot be used now; `cause` is a slug of `SENTENCES`."""

    def __init__(self, cause: str, where: str) -> None:
        super().__init__(f"Redis at {where} {SENTENCES[cause]}")
        self.cause = cause
        self.where = where

    def wrong(self) -> ConfigError | None:
        """The configuration's fault rather than the moment's, as a sentence that names the remedy."""
        fix = _FIXES.get(self.cause)
        said = "what answers" if self.cause == "protocol" else "Redis"
        return (
            ConfigError(f"coordination.url: {said} at {self.where} {SENTENCES[self.cause]}; {fix}")
            if fix
            else None
        )


@dataclass(frozen=True, slots=True)
class Command:
    """One command; with a script its first part is the key, and the arguments follow."""

    parts: tuple[str | bytes | int, ...]
    script: Script | None = None

    def wire(self, *, known: bool) -> tuple[str | bytes | int, ...]:
        if self.script is None:
            return self.parts
        head = ("EVALSHA", self.script.sha) if known else ("EVAL", self.script.text)
        return (*head, 1, *self.parts)


class Link:
    """Closed at first and after every failure. Raises `ConfigError` for a URL that is none."""

    def __init__(self, options: RedisOptions) -> None:
        self._within = options.connect
        self._connection, self.where = _connection(options)

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    async def open(self) -> None:
        """Connect, sign in, choose the database. Raises `Broken`."""
        await self._bounded(self._connection.connect())

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers in order; what Redis refuses is there as its `ResponseError`. A connection that
        was closed while nobody used it is made anew, once. Raises `Broken`: then any of them may have
        been done or not."""
        reused = self.is_open
        try:
            return await self._bounded(self._exchange(commands))
        except Broken as broken:
            if not reused or broken.cause != "away":
                raise
        return await self._bounded(self._exchange(commands))

    async def subscribe(self, channel: str) -> None:
        """From here on `receive` and `send` only. Raises `Broken`."""
        await self._bounded(self._subscribe(channel))

    async def receive(self, seconds: float) -> Any:
        """What comes next, or None after that time. Raises `Broken`."""
        try:
            return await self._connection.read_response(timeout=seconds)
        except (exceptions.RedisError, OSError) as error:
            raise await self._broken(error) from error

    async def send(self, *parts: str) -> None:
        await self._bounded(self._connection.send_command(*parts))

    async def close(self) -> None:
        """Never raises, and waits for nobody."""
        with suppress(exceptions.RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _bounded(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._within):
                return await work
        except (exceptions.RedisError, OSError, ValueError) as error:
            raise await self._broken(error) from error

    async def _broken(self, error: Exception) -> Broken:
        await self.close()
        return Broken(cause_of(error), self.where)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._connection.connect()
        replies = await self._send([command.wire(known=True) for command in commands])
        strange = [n for n, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if strange:
            again = await self._send([commands[n].wire(known=False) for n in strange])
            for n, reply in zip(strange, again, strict=True):
                replies[n] = reply
        return replies

    async def _send(self, commands: list[tuple[str | bytes | int, ...]]) -> list[Any]:
        await self._connection.send_packed_command(self._connection.pack_commands(commands))
        return [await self._reply() for _ in commands]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except exceptions.ResponseError as error:
            return error

    async def _subscribe(self, channel: str) -> None:
        await self._connection.connect()
        await self._connection.send_command("SUBSCRIBE", channel)
        await self._connection.read_response()


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks that use the driver until they are done: before Python 3.12 `asyncio.wait_for`, which
    it uses, may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)


def cause_of(error: BaseException) -> str:
    """The slug of what an exception of the driver, or an error that Redis answered, means."""
    text = str(error)
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "slow"
    if _chain_has(error, ssl.SSLError):
        return "tls"
    if isinstance(error, _DENIED) or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return "denied"
    for kind, slug in _CAUSES:
        if isinstance(error, kind):
            return slug
    if "DB index" in text or "invalid DB" in text:
        return "database"
    return "away" if isinstance(error, exceptions.ConnectionError | OSError) else "odd"


_DENIED = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.OutOfMemoryError, "full"),
    (exceptions.InvalidResponse, "protocol"),
)


def _chain_has(error: BaseException | None, kind: type[BaseException]) -> bool:
    for _ in range(10):
        if error is None or isinstance(error, kind):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, kind)


def _connection(options: RedisOptions) -> tuple[Any, str]:
    """A connection that is not open yet, and its place without the credentials. The driver's class is
    typed in part only."""
    try:
        wanted: dict[str, Any] = dict(parse_url(options.url))
        kind = wanted.pop("connection_class", Connection)
        wanted |= {"socket_timeout": options.connect, "socket_connect_timeout": options.connect}
        connection = kind(**wanted, protocol=2, retry=Retry(NoBackoff(), 0))
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise ConfigError(
            "coordination.url: not the address of a Redis; write redis://host:6379/0, "
            "rediss://host:6379/0 or unix:///path?db=0"
        ) from error
    host = wanted.get("host", "localhost")
    return connection, wanted.get("path") or f"{host}:{wanted.get('port', 6379)}"
