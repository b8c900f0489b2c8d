"""The writes as functions of a connection inside a transaction that somebody else commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress

from artifactproxy.indexes import statements as sql
from artifactproxy.indexes.faults import UNFIT
from artifactproxy.indexes.rows import entry_row, key_row, promise_of, promise_row
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Kind, Promise
from artifactproxy.ports import Intent, Use
from artifactproxy.rules.promises import merged

_INDEX = Kind.INDEX.value
_ARTIFACT = Kind.ARTIFACT.value


def write_entry(db: sqlite3.Connection, entry: CacheEntry, now: float) -> bool:
    """I3, I10 and I11 in one transaction."""
    key = key_row(entry.key)
    held = db.execute(sql.HELD, key).fetchone()
    if db.execute(sql.RECORD, entry_row(entry)).rowcount != 1:
        return False
    if entry.ref:
        db.execute(sql.WANT_BLOB, (entry.ref.sha256, entry.ref.size, now))
    if held is None:
        return True
    kind, sha256, fetched_at = held
    if sha256 is None or (entry.ref and entry.ref.sha256 == sha256):
        return True
    if kind == _INDEX:
        db.execute(sql.SUPERSEDE, (*key, sha256, fetched_at, now))
    else:
        doom_blobs(db, [sha256], now)
    return True


def write_promises(db: sqlite3.Connection, promises: Sequence[Promise]) -> list[Promise]:
    """Returns those refused because they contradict what is stored (I5)."""
    refused = []
    for promise in promises:
        # Names and sizes come from documents of others: nonsense promises nothing.
        with suppress(*UNFIT):
            if not _write_promise(db, promise):
                refused.append(promise)
    return refused


def _write_promise(db: sqlite3.Connection, promise: Promise) -> bool:
    *known, kind, sha256 = db.execute(sql.PROMISED, key_row(promise.key)).fetchone()
    if tuple(known) == promise_row(promise)[3:]:
        return True
    old = None if known[0] is None else promise_of(promise.key, known)
    if kind == _ARTIFACT and sha256 is not None and contradicts(promise, old, sha256):
        return False
    row = promise_row(merged(old, promise))
    if row[3:] != tuple(known):
        db.execute(sql.LEARN, row)
    return True


def contradicts(promise: Promise, old: Promise | None, stored_sha256: str) -> bool:
    new = promise.digest("sha256")
    if new:
        return new.hex != stored_sha256
    # npm promises sha512 only: then the promise under which the bytes were stored decides.
    return any(
        digest.hex != before.hex
        for digest in promise.digests
        if old and (before := old.digest(digest.algorithm))
    )


def touch_entries(db: sqlite3.Connection, keys: Iterable[ArtifactKey], at: float) -> None:
    db.executemany(sql.TOUCH, [(*key_row(key), at) for key in keys])


def count_uses(db: sqlite3.Connection, uses: Iterable[Use]) -> None:
    rows = [(use.hour, use.caller, use.repo, use.purl, use.sha256, use.requests, use.bytes) for use in uses]
    db.executemany(sql.COUNT, rows)


def reserve(db: sqlite3.Connection, block: int) -> int:
    """The last number of a block of generations that nobody has been given."""
    (last,) = db.execute(sql.RESERVE, (block,)).fetchone()
    return int(last)


def forget_entries(db: sqlite3.Connection, keys: Sequence[ArtifactKey], *, promises: bool) -> list[BlobRef]:
    refs: dict[BlobRef, None] = {}
    for key in keys:
        row = db.execute(sql.REF_OF, key_row(key)).fetchone()
        if row and row[0] is not None:
            refs[BlobRef(*row)] = None
        db.execute(sql.FORGET, key_row(key))
        if promises and key.path:  # no path also means that no index taught it
            db.execute(sql.FORGET_TAUGHT, (key.repo, key.path))
    return list(refs)


def forget_blob(db: sqlite3.Connection, sha256: str) -> list[ArtifactKey]:
    keys = [ArtifactKey(*row) for row in db.execute(sql.KEYS_OF_BLOB, (sha256,))]
    db.execute(sql.FORGET_BLOB, (sha256,))
    db.execute(sql.FORGET_OLD_BLOB, (sha256,))
    return keys


def doom_blobs(db: sqlite3.Connection, sha256s: Sequence[str], at: float) -> list[str]:
    """A blob the index never knew (its writer died before the row) is doomed with size 0."""
    return [sha256 for sha256 in sha256s if db.execute(sql.DOOM, (sha256, at)).fetchone()]


def seize_blobs(db: sqlite3.Connection, sha256s: Sequence[str], at: float) -> list[str]:
    return [sha256 for sha256 in sha256s if db.execute(sql.SEIZE, (sha256, at)).fetchone()]


def bury_blobs(db: sqlite3.Connection, sha256s: Sequence[str], *, seized: bool = False) -> None:
    rows = [(sha256,) for sha256 in sha256s]
    db.executemany(sql.BURY_SEIZED if seized else sql.BURY, rows)
    if seized:
        db.executemany(sql.RELEASE, rows)


def expire_absences(db: sqlite3.Connection, now: float, limit: int) -> int:
    return db.execute(sql.EXPIRE_ABSENCES, (now, limit)).rowcount


def redate_uses(db: sqlite3.Connection, now: float, ahead: float, limit: int) -> int:
    """Uses dated ahead by a clock that was set back since: last in line for ever, if they stayed."""
    return db.execute(sql.REDATE_USES, (now, now + ahead, limit)).rowcount


def bound_absences(db: sqlite3.Connection, most: int, limit: int) -> int:
    """Drop the least recently used absences beyond `most`."""
    (count,) = db.execute(sql.COUNT_ABSENCES).fetchone()
    if count <= most:
        return 0
    return db.execute(sql.DROP_ABSENCES, (min(limit, count - most),)).rowcount


def expire_bodies(db: sqlite3.Connection, before: float, now: float, limit: int) -> int:
    """Superseded bodies past keeping; a blob that nothing names any more is doomed at once."""
    rows = db.execute(sql.EXPIRED_BODIES, (before, limit)).fetchall()
    db.executemany(sql.DROP_BODY, rows)
    doom_blobs(db, [row[3] for row in rows], now)
    return len(rows)


def expire_uses(db: sqlite3.Connection, before: float, limit: int) -> int:
    return db.execute(sql.EXPIRE_USES, (before, limit)).rowcount


def take_turn(db: sqlite3.Connection, name: str, every: float, now: float) -> bool:
    """A turn dated ahead (the clock was set back since) is nobody's."""
    return db.execute(sql.TAKE_TURN, (name, now, now - every)).fetchone() is not None


def write_intent(db: sqlite3.Connection, intent: Intent) -> None:
    db.execute(sql.INTEND, (intent.id, intent.sha256, intent.upload, intent.owner, intent.started))


def drop_intents(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    db.executemany(sql.FULFIL, [(id_,) for id_ in ids])
