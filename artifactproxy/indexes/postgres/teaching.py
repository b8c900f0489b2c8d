"""Promises in bulk (I5): read what is known, decide in Python as the other engine does, write what
differs. Most of what an index document says is known already, and then nothing is locked or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres.database import Database, Transaction
from artifactproxy.indexes.postgres.faults import Again
from artifactproxy.indexes.postgres.text import digest_of, packed, unpacked
from artifactproxy.indexes.rows import promise_of, promise_row
from artifactproxy.indexes.writes import contradicts
from artifactproxy.model import Kind, Promise
from artifactproxy.rules.promises import merged

_ARTIFACT = Kind.ARTIFACT.value
_LARGEST = 2**63
_Rows = dict[bytes, tuple[Any, ...]]


class Teaching:
    """One chunk of promises about `keys`. `refused` and `changed`, what stands now by key, are right
    after the last run of `learn`."""

    def __init__(self, promises: Iterable[Promise]) -> None:
        self._promises = [(digest_of(p.key), p) for p in promises if _is_fit(p)]
        self.keys = list(dict.fromkeys(key for key, _ in self._promises))
        self.refused: list[Promise] = []
        self.changed: dict[bytes, Promise] = {}

    async def is_known(self, database: Database) -> bool:
        """Whether there is nothing to write, as far as can be seen without a lock."""
        if not self.keys:
            return True
        known = _read(await database.read(sql.PROMISED, self.keys))
        stored = await database.read(sql.STORED, self.keys)
        return not self._decided(known, _read(stored))

    async def learn(self, tx: Transaction) -> None:
        known = _read(await tx.rows(sql.HOLD_PROMISES, self.keys))
        stored = _read(await tx.rows(sql.STORED, self.keys))
        rows = self._decided(known, stored)
        tx.keys[:] = list(rows)
        if new := [rows[key] for key in rows if key not in known]:
            written = await tx.rows(sql.INSERT_PROMISES, *_arrays(new))
            if len(written) < len(new):
                raise Again  # somebody else was taught the same just now: merge with that
        if old := [rows[key] for key in rows if key in known]:
            await tx.rows(sql.UPDATE_PROMISES, *_arrays(old))

    def _decided(self, known: _Rows, stored: _Rows) -> _Rows:
        """The rows to write."""
        self.refused, self.changed = [], {}
        now = dict(known)
        rows: _Rows = {}
        for key, promise in self._promises:
            said = promise_row(promise)
            if now.get(key) == said[3:]:
                continue
            old = promise_of(promise.key, now[key]) if key in now else None
            kind, sha256 = stored.get(key, (None, None))
            if kind == _ARTIFACT and sha256 is not None and contradicts(promise, old, sha256):
                self.refused.append(promise)
                continue
            row = promise_row(merged(old, promise))
            if row[3:] != now.get(key):
                now[key] = row[3:]
                rows[key] = (key, *packed(row))
        written = {key: row for key, row in rows.items() if now[key] != known.get(key)}
        about = {key: promise.key for key, promise in self._promises if key in written}
        self.changed = {key: promise_of(about[key], now[key]) for key in written}
        return written


def _read(rows: Iterable[Any]) -> _Rows:
    return {row[0]: unpacked(tuple(row)[1:]) for row in rows}


def _arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _is_fit(promise: Promise) -> bool:
    """Names and sizes come from documents of others: nonsense promises nothing."""
    if promise.size is not None and not -_LARGEST <= promise.size < _LARGEST:
        return False
    texts = (text for text in promise_row(promise) if isinstance(text, str))
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True
