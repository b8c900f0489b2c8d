"""The steps of `sql/`, applied once, by whichever replica comes first; the others wait for it.

A program runs on its own schema and on one that is a single step ahead, so that replicas can be
exchanged one by one: every step only adds, and leaves what older programs write valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from artifactproxy.indexes.migrate import Step
from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.faults import stop
from artifactproxy.indexes.postgres.text import pack

AHEAD = 1
_OLDEST_SERVER = 130000  # xid8 and snapshots of it


async def migrate(connection: Any, known: list[Step], local_repos: Sequence[str]) -> list[str]:
    """Bring the schema up to date and add the names of the local repositories, in one transaction;
    returns the names of the steps it took.

    Raises `IndexUnavailable` with what to do, and what the driver raises.
    """
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    version, encoding = await connection.fetchrow(sql.SERVER)
    if version < _OLDEST_SERVER:
        raise stop(f"PostgreSQL {version // 10000} is too old for an index: it needs 13 or newer")
    if encoding != "UTF8":
        raise stop(f"the database is encoded in {encoding}: create it with createdb -E UTF8 -T template0")
    pending = await _pending(connection, known)
    if pending:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(sql.SET_LOCAL.format(name=name, value=0))
        await connection.fetchval(sql.LOCK_STEPS)
        pending = await _pending(connection, known)  # somebody may have been first
        await connection.execute(sql.MAKE_STEPS)
    for step in pending:
        await connection.execute(step.sql)
        await connection.execute(sql.TAKE_STEP, step.number, step.name)
    await connection.execute(sql.ADD_LOCALS, [pack(repo) for repo in local_repos])
    await connection.execute("COMMIT")
    return [step.name for step in pending]


async def _pending(connection: Any, known: list[Step]) -> list[Step]:
    present = {row[0] for row in await connection.fetch(sql.PRESENT, ["steps", "entries"])}
    if "steps" not in present:
        if "entries" in present:
            raise stop("the database holds tables of another program: give the index one of its own")
        return known
    applied = {number for (number,) in await connection.fetch(sql.STEPS)}
    latest = known[-1].number
    if max(applied, default=0) > latest + AHEAD:
        raise stop(
            f"the index was made by a newer version (schema {max(applied)}, this one knows {latest}):"
            " run that version, or restore a backup from before the upgrade",
            "index_newer",
        )
    return [step for step in known if step.number not in applied]
