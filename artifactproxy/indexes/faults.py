"""What SQLite's errors mean to whoever runs the program."""

from __future__ import annotations

import sqlite3

from artifactproxy.errors import BadRequest, Fault, IndexUnavailable

_SENTENCES = {
    sqlite3.SQLITE_FULL: ("index_full", "no space is left for the index"),
    sqlite3.SQLITE_BUSY: ("index_busy", "another process holds the index"),
    sqlite3.SQLITE_LOCKED: ("index_busy", "another process holds the index"),
    sqlite3.SQLITE_READONLY: ("index_readonly", "the index cannot be written"),
    sqlite3.SQLITE_CANTOPEN: ("index_unopened", "the index cannot be opened: is its directory writable?"),
    sqlite3.SQLITE_CORRUPT: ("index_damaged", "the index is damaged"),
    sqlite3.SQLITE_NOTADB: ("index_damaged", "the index is damaged"),
}
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
UNFIT = (UnicodeEncodeError, OverflowError)
"""What binding raises for a lone surrogate or an integer of more than 64 bits."""


def index_fault(error: Exception) -> Fault:
    """The public form of a driver's error."""
    if isinstance(error, UNFIT):
        return BadRequest("a name is not Unicode text, or a number is too large")
    if not isinstance(error, sqlite3.Error):
        return IndexUnavailable("the index could not be read or written")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    slug, sentence = _SENTENCES.get(code, ("", "the index could not be read or written"))
    return IndexUnavailable(sentence, code=slug)


def is_damage(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
