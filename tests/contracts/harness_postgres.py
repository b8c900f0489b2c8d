"""PostgreSQL under the contracts: one fresh database for each test, on the server all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifactproxy.indexes.postgres.census import PostgresCensus
from artifactproxy.indexes.postgres.index import PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.indexes.postgres.statements import TABLES
from tests.servers import postgres

if TYPE_CHECKING:
    from tests.contracts.harness import Indexes

RECHECK = 0.1
_used: list[str] = []


def fresh_database() -> str:
    """Its address; that of the test before is dropped."""
    server = postgres.shared()
    while _used:
        server.sql(f'DROP DATABASE IF EXISTS "{_used.pop()}" WITH (FORCE)')
    url = server.fresh_database()
    _used.append(url.rpartition("/")[2])
    return url


def postgres_indexes(root: Path) -> Indexes:
    from tests.contracts.harness import Indexes, Time  # it lists us

    del root
    clock = Time()
    url = fresh_database()
    name = url.rpartition("/")[2]
    server = postgres.shared()
    patient = {"acquire": 20.0, "command": 20.0, "lock": 20.0, "connect": 20.0, "start_wait": 60.0}
    options = PostgresOptions(url, pool=4, recheck=RECHECK, pause=0.05, **patient)

    @asynccontextmanager
    async def open_(*, owner: bool = True, **more: Any) -> AsyncIterator[PostgresIndex]:
        del owner
        index = PostgresIndex(options, **{"locals_": {"mine"}, "negative_keys": 5, "clock": clock, **more})
        await index.start()
        try:
            yield index
        finally:
            await index.close()

    def state() -> object:
        rows = {table: server.sql(f"SELECT * FROM {table} t ORDER BY t::text", name) for table in TABLES}
        rows["generations"] = server.sql("SELECT last_value, is_called FROM generations", name)
        return {table: text for table, text in rows.items() if text}

    def away() -> None:
        server.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    return Indexes(
        clock=clock,
        open=open_,
        census=lambda: PostgresCensus(options, page=7),
        state=state,
        harm=lambda: void(server.sql("DROP TABLE promises", name)),
        recheck=RECHECK,
        away=away,
        back=lambda: void(server.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')),
    )


def void(what: object) -> None:
    del what
