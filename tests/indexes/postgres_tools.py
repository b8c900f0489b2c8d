"""An index on a fresh database, with times short enough for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from artifactproxy.indexes.postgres.index import PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.model import ArtifactKey
from tests.chaos.tcp import Tcp
from tests.servers import postgres

SHORT: dict[str, Any] = {"pool": 4, "recheck": 0.1, "start_wait": 5.0, "pause": 0.05}


@asynccontextmanager
async def opened(url: str, *, notes: list[str] | None = None, **options: Any) -> AsyncIterator[PostgresIndex]:
    index = PostgresIndex(
        PostgresOptions(url, **{**SHORT, **options}), note=notes.append if notes is not None else print
    )
    await index.start()
    try:
        yield index
    finally:
        await index.close()


@asynccontextmanager
async def through(url: str) -> AsyncIterator[tuple[str, Tcp]]:
    """The same database through a network that can be made bad."""
    parts = urlsplit(url)
    async with Tcp((str(parts.hostname), int(parts.port or 0))) as proxy:
        login = parts.netloc.rpartition("@")[0]
        yield parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl(), proxy


def ask(url: str, statement: str) -> str:
    """By the administrator; blocks."""
    return postgres.shared().sql(statement, url.rpartition("/")[2])


def cut_off(url: str) -> None:
    """End every connection to the database; blocks."""
    name = url.rpartition("/")[2]
    ask(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()")  # fmt: skip


def numbered(number: int) -> ArtifactKey:
    return ArtifactKey("tools", f"file/{number}")
