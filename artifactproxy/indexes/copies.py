"""The SQLite index as one file: copied while it is in use, judged before it is used again.

Everything here blocks and is for commands; the server never calls it. All of it raises
`IndexUnavailable`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes import statements as sql
from artifactproxy.indexes.faults import index_fault
from artifactproxy.indexes.migrate import migrate, steps
from artifactproxy.indexes.overview import totals
from artifactproxy.indexes.writes import forget_blob
from artifactproxy.model import BlobRef
from artifactproxy.ports import Totals

_PAGE = 500  # rows a walk over all blobs holds in memory
_WAIT = 5.0  # seconds for a lock that a running instance holds for a moment


def snapshot(index: Path, target: Path) -> None:
    """Write what is committed at this moment to `target`, a new file (0600).

    The index may be in use by others: in WAL mode a reader neither waits for writers nor delays
    them. The copy is compact, so that nothing of deleted rows is left in it.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with _faults(), closing(_connect(index, "rw")) as db:
        db.execute("PRAGMA synchronous=OFF")  # of the copy; whoever keeps it syncs it
        db.execute(sql.COPY_INTO, (os.fspath(target),))


class IndexCopy:
    """A copy that nobody else has open; its file may be unlinked meanwhile."""

    def __init__(self, path: Path) -> None:
        with _faults():
            self._db = _connect(path, "rw")
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._db.execute("PRAGMA journal_mode=MEMORY")

    def close(self) -> None:
        self._db.close()

    def judge(self) -> None:
        """Whole, of ours, and brought up to the schema of this program: for a copy from elsewhere.

        Anything that would act by itself (triggers, views, virtual tables) is refused before a
        table is read.
        """
        with _faults():
            self._db.execute("PRAGMA cell_size_check=ON")
            if self._db.execute(sql.ACTIVE_OBJECTS).fetchone():
                raise IndexUnavailable("the index holds what no artifactproxy put there", retry_after=None)
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise IndexUnavailable("the index is damaged", code="index_damaged", retry_after=None)
            migrate(self._db, steps())
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
                migrate(fresh, steps())
                ours = _shape(fresh)
            if _shape(self._db) != ours:
                raise IndexUnavailable("this is not an index of artifactproxy", retry_after=None)
            if self._db.execute(sql.ODD_NAMES).fetchone():
                raise IndexUnavailable("the index names blobs that cannot be", retry_after=None)

    def totals(self) -> Totals:
        with _faults():
            return totals(self._db)

    def named(self) -> tuple[int, int]:
        """How many blobs rows and superseded bodies name, and their bytes."""
        count = size = 0
        for ref in self.blobs():
            count += 1
            size += ref.size
        return count, size

    def blobs(self) -> Iterator[BlobRef]:
        """Every blob that is named, in the order of their sha256; rows may be forgotten meanwhile."""
        last = ""
        while True:
            with _faults():
                page = self._db.execute(sql.NAMED_BLOBS, (last, _PAGE)).fetchall()
            if not page:
                return
            yield from (BlobRef(sha256, size) for sha256, size in page)
            last = page[-1][0]

    def keep(self, is_here: Callable[[BlobRef], bool]) -> int:
        """Forget the rows of every blob that is not here; returns how many blobs that were.

        Blobs on their way out are forgotten too: their bytes are not in a backup.
        """
        forgotten = 0
        with _faults():
            self._db.execute("BEGIN IMMEDIATE")
            for ref in self.blobs():
                if not is_here(ref):
                    forget_blob(self._db, ref.sha256)
                    forgotten += 1
            self._db.execute(sql.BURY_ALL_UNNAMED)
            self._db.execute("COMMIT")
        return forgotten

    def mark_clean(self) -> None:
        """Every blob has been hashed: the next start need not look again."""
        with _faults():
            self._db.execute(sql.MARK_CLEAN, (1,))


def _shape(db: sqlite3.Connection) -> list[Any]:
    """Tables, indexes and columns. Not their text, which SQLite words anew when a step alters them."""
    return db.execute(sql.OBJECTS).fetchall() + db.execute(sql.COLUMNS).fetchall()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise index_fault(error) from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(os.fspath(path))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=_WAIT, isolation_level=None)
