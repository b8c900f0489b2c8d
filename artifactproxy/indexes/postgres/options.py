"""How the database is reached and what it may cost: times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`url` is a libpq connection address with its password. `pool` connections at most (and one more
    that watches for changes), each waited for `acquire` seconds; a statement may take `command`, a lock
    `lock`, and a read of the janitor `long`. `pgbouncer`: transactions are pooled, so nothing may
    outlive one (no prepared statements, no session state). `recheck` is how old what this process
    remembers may be; `recent` how many rows it remembers. A transaction that the database gave up, or
    whose connection broke, is run `tries` times. A database that cannot be reached is asked once in
    `pause`, and everything else fails at once. What changed is kept for `changes_keep`."""

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
    long: float = 60.0
    tries: int = 5
    pause: float = 1.0
    changes_keep: float = 600.0
