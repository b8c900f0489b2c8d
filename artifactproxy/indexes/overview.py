"""What is asked of a whole SQLite index: whether its pages are sound, and how much it holds."""

from __future__ import annotations

import sqlite3
import time

from artifactproxy.indexes import statements as sql
from artifactproxy.ports import Totals

_LOOK_SECONDS = 1.0


def check_pages(connection: sqlite3.Connection) -> None:
    """Look for damage before anything is built on it, but not for long: what a large index hides
    from this look is found where it is read. Raises sqlite3.DatabaseError."""
    until = time.monotonic() + _LOOK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    try:
        (verdict,) = connection.execute(sql.QUICK_CHECK).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if verdict != "ok":
        damage = sqlite3.DatabaseError(verdict)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def totals(db: sqlite3.Connection) -> Totals:
    blobs, size = db.execute(sql.TOTAL_BLOBS).fetchone()
    (promises,) = db.execute(sql.TOTAL_PROMISES).fetchone()
    repos = db.execute(sql.TOTAL_BY_REPO).fetchall()
    return Totals(
        blobs=blobs,
        bytes=size,
        entries=sum(row[1] - row[3] for row in repos),
        absences=sum(row[3] for row in repos),
        promises=promises,
        by_repo=tuple((repo, count - absent, held) for repo, count, held, absent in repos),
    )
