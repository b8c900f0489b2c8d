"""Saving what can be read of a damaged SQLite index into a fresh one.

The new index is built beside the old one and counts from the rename to `index.sqlite3.salvaged`:
before it nothing has changed; after it whoever opens the data folder next finishes the exchange
(`finish`), so that a stop at any point leaves the old index or the new one, never none and never
the log of one beside the other. Everything here blocks; the folder must be locked.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactproxy import failpoints
from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes import statements as sql
from artifactproxy.indexes.census import read_only
from artifactproxy.indexes.faults import index_fault
from artifactproxy.indexes.migrate import migrate, steps

_PAGE = 200  # rows
_LAST = 2**63 - 1
_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(slots=True)
class Saved:
    """How many rows were saved, by table; `aside` is the name of the damaged file."""

    rows: Counter[str] = field(default_factory=Counter)
    aside: str = ""


def salvage(index: Path, told: Callable[[int], None] = lambda _: None) -> Saved:
    """Exchange a damaged index for one with every row that can still be read.

    `told` hears how many rows were saved so far. Raises `IndexUnavailable`, and OSError; then the
    damaged index is where it was.
    """
    part, ready = _beside(index, ".salvaging"), _beside(index, ".salvaged")
    saved = Saved()
    try:
        _remove(part)
        with closing(_fresh(part)) as new:
            _fill(index, new, saved, told)
            new.execute(sql.BEYOND_ROWS)
            new.execute(sql.COUNT_NAMED)
            new.execute(sql.MARK_CLEAN, (0,))
            failpoints.hit("salvage.built")
            new.execute("COMMIT")
        _sync(part)
        part.rename(ready)
    except sqlite3.Error as error:
        _remove(part)
        raise index_fault(error) from error
    except OSError:
        _remove(part)
        raise
    _sync(index.parent)
    failpoints.hit("salvage.ready")
    saved.aside = finish(index)
    return saved


def finish(index: Path) -> str:
    """Put a salvaged index in place, if one waits; returns the name the damaged one has now."""
    ready = _beside(index, ".salvaged")
    if not os.path.lexists(ready):
        return ""
    aside = _beside(index, f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    while os.path.lexists(aside):
        aside = aside.with_name(aside.name + "x")
    for side in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            Path(f"{index}{side}").rename(f"{aside}{side}")
            failpoints.hit("salvage.aside")
    _sync(index.parent)
    ready.rename(index)
    _sync(index.parent)
    failpoints.hit("salvage.moved")
    return aside.name


def mark_clean(index: Path) -> None:
    """Every blob has been hashed: the next start need not look again. Raises `IndexUnavailable`."""
    try:
        with closing(sqlite3.connect(index, isolation_level=None)) as db:
            db.execute(sql.MARK_CLEAN, (1,))
    except sqlite3.Error as error:
        raise index_fault(error) from error


def _fresh(part: Path) -> sqlite3.Connection:
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    new = sqlite3.connect(part, isolation_level=None)
    new.execute("PRAGMA journal_mode=MEMORY")
    new.execute("PRAGMA synchronous=OFF")  # it is synced whole, before it counts
    migrate(new, steps())
    new.execute("BEGIN IMMEDIATE")
    return new


def _fill(index: Path, new: sqlite3.Connection, saved: Saved, told: Callable[[int], None]) -> None:
    try:
        old = sqlite3.connect(read_only(index, still=True), uri=True, isolation_level=None)
    except sqlite3.Error:
        return
    with closing(old):
        for table in sql.SALVAGED_COLUMNS:
            into = sql.SALVAGED_COUNTER if table == "counters" else sql.salvage_into(table)
            for rows in _readable(old, table):
                for row in rows:
                    failpoints.hit("salvage.row")
                    with suppress(sqlite3.IntegrityError, sqlite3.DataError, OverflowError):
                        saved.rows[table] += new.execute(into, row).rowcount
                told(saved.rows.total())


def _readable(old: sqlite3.Connection, table: str) -> Iterator[list[Any]]:
    """Pages of rows between the damage: from both ends to it, then over every gap behind it."""
    forward, backward = sql.salvage_from(table), sql.salvage_from(table, backwards=True)
    top = _LAST
    while True:  # from the end
        rows, broken = _page(old, backward, top)
        yield [row[:-1] for row in rows]
        if rows:
            top = rows[-1][-1] - 1
        if broken or len(rows) < _PAGE:
            break
    at = 0
    while at <= top:
        rows, broken = _page(old, forward, at)
        rows = [row for row in rows if row[-1] <= top]
        yield [row[:-1] for row in rows]
        if rows:
            at = rows[-1][-1] + 1
        if broken:
            following = _beyond(old, forward, at, top)
            if following is None:
                return
            at = following
        elif len(rows) < _PAGE:
            return


def _beyond(old: sqlite3.Connection, forward: str, at: int, top: int) -> int | None:
    """The first rowid after `at` from which rows can be read: growing leaps, then halving.

    The leaps grow by an eighth, so that what is readable between two damaged stretches is found
    unless it is much smaller than what was damaged before it.
    """
    low, leap = at, 1
    while low + leap <= top and _page(old, forward, low + leap, 1)[1]:
        low += leap
        leap += max(1, (low - at) // 8)
    high = low + leap
    if high > top:
        return None
    while low + 1 < high:
        middle = (low + high) // 2
        if _page(old, forward, middle, 1)[1]:
            low = middle
        else:
            high = middle
    return high


def _page(old: sqlite3.Connection, statement: str, at: int, limit: int = _PAGE) -> tuple[list[Any], bool]:
    """Rows as far as they can be read, and whether damage ended them.

    The driver looks one row ahead and loses the last good one by that, so the end is read again
    row by row.
    """
    rows: list[Any] = []
    broken = False
    try:
        rows.extend(old.execute(statement, (at, limit)))
    except (sqlite3.DatabaseError, OverflowError):
        broken = limit > 1
        if not broken:
            return rows, True
    if broken:
        step = -1 if "DESC" in statement else 1
        while one := _page(old, statement, at, 1)[0]:
            rows += one
            at = one[0][-1] + step
    return rows, broken


def _beside(index: Path, suffix: str) -> Path:
    return index.with_name(index.name + suffix)


def _remove(part: Path) -> None:
    with suppress(OSError):
        part.unlink(missing_ok=True)
    for side in _SIDE_FILES:
        with suppress(OSError):
            Path(f"{part}{side}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_unfinished(index: Path) -> None:
    """Raises `IndexUnavailable` while a salvaged index waits to be put in place."""
    if os.path.lexists(_beside(index, ".salvaged")):
        raise IndexUnavailable(
            f"the repair of {index} did not finish: start artifactproxy, or run artifactproxy fsck --repair",
            retry_after=None,
        )
