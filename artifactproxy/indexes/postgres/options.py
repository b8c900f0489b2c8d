"""How the database is reached and what it may cost: times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`url` is a libpq connection address with its password. `pool` connections at most, each waited
    for `acquire` seconds; a statement may take `command`, a lock `lock`. `pgbouncer`: transactions are
    pooled, so nothing may outlive one (no prepared statements, no session state). `recheck` is how
    old what this process remembers may be; `recent` how many rows it remembers."""

    url: str = field(repr=False)
    pool: int = 10
    acquire: float = 2.0
    command: float = 5.0
    lock: float = 2.0
    connect: float = 5.0
    start_wait: float = 60.0
    pgbouncer: bool = False
    recheck: float = 1.0
    recent: int = 50_000
