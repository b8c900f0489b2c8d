"""The part of the SQLite index that repositories which take pushes ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from artifactproxy.indexes import statements as sql
from artifactproxy.indexes import writes
from artifactproxy.indexes.rows import after as after_prefix
from artifactproxy.indexes.rows import entry_of, key_row
from artifactproxy.model import ArtifactKey, CacheEntry
from artifactproxy.ports import Clock
from artifactproxy.ports.hosting import PART, Refusal, Session

if TYPE_CHECKING:
    from artifactproxy.indexes.writer import Writer


class SqliteHosting:
    """H1 to H9 of `ports.hosting`, over the connections of the index that inherits it."""

    _writer: Writer
    _clock: Clock
    _drop: Callable[[Iterable[ArtifactKey]], None]
    _read: Callable[[str, Sequence[Any]], Any]
    _long_read: Callable[..., Any]

    async def publish(
        self,
        entries: Sequence[CacheEntry],
        *,
        needs: Sequence[ArtifactKey] = (),
        fixed: Sequence[ArtifactKey] = (),
        instead: Sequence[ArtifactKey] = (),
    ) -> Refusal | None:
        work = partial(
            _publish, entries=entries, needs=needs, fixed=fixed, instead=instead, now=self._clock()
        )
        drop = partial(self._drop, [*(entry.key for entry in entries), *instead])
        return await self._writer.run(work, drop)

    async def withdraw(self, keys: Sequence[ArtifactKey], *, alike: str = "") -> int:
        gone: list[ArtifactKey] = []
        work = partial(_withdraw, keys=keys, alike=alike, now=self._clock(), gone=gone)
        await self._writer.run(work, lambda: self._drop(gone))
        return len(gone)

    async def committed(self, key: ArtifactKey) -> CacheEntry | None:
        row = self._read(sql.ENTRY_OF_KEY, key_row(key))
        return None if row is None else entry_of(key, row)

    async def variants(
        self, repo: str, path: str, prefix: str, *, after: str = "", limit: int
    ) -> list[CacheEntry]:
        bounds = prefix + after, after_prefix(prefix)
        rows = await self._long_read(sql.VARIANTS, (repo, path, *bounds, limit))
        return [entry_of(ArtifactKey(*row[-3:]), row) for row in rows]

    async def paths(self, repo: str, prefix: str, *, after: str = "", limit: int) -> list[str]:
        rows = await self._long_read(sql.PATHS, (repo, after, prefix, after_prefix(prefix), limit))
        return [path for (path,) in rows]

    async def open_session(self, session: Session, *, most: int) -> bool:
        return await self._writer.run(
            lambda db: db.execute(sql.OPEN_UPLOAD, (*session_row(session), most)).rowcount == 1
        )

    async def session(self, id_: str) -> Session | None:
        row = self._read(sql.UPLOAD, (id_,))
        return None if row is None else Session(*row)

    async def advance(self, session: Session, part: CacheEntry, at: float) -> Session | None:
        work = partial(_advance, session=session, part=part, at=at)
        return await self._writer.run(work, partial(self._drop, (part.key,)))

    async def close_session(self, session: Session, entries: Sequence[CacheEntry] = ()) -> bool:
        work = partial(_close, session=session, entries=entries, now=self._clock())
        return await self._writer.run(work, partial(self._drop, [entry.key for entry in entries]))

    async def idle_sessions(self, before: float, limit: int) -> list[Session]:
        return [Session(*row) for row in await self._long_read(sql.IDLE_UPLOADS, (before, limit))]

    async def hold(self, entry: CacheEntry) -> bool:
        return await self._writer.run(partial(_hold, entry=entry, now=self._clock()))

    async def strays(self, before: float, limit: int) -> list[ArtifactKey]:
        return [ArtifactKey(*row) for row in await self._long_read(sql.STRAYS, (before, limit))]


def session_row(session: Session) -> tuple[Any, ...]:
    return (
        session.id,
        session.repo,
        session.name,
        session.caller,
        session.size,
        session.parts,
        session.started,
        session.touched,
    )


def _sha256_of(db: sqlite3.Connection, key: ArtifactKey) -> str | None:
    row = db.execute(sql.REF_OF, key_row(key)).fetchone()
    return None if row is None else row[0]


def _publish(
    db: sqlite3.Connection,
    entries: Sequence[CacheEntry],
    needs: Sequence[ArtifactKey],
    fixed: Sequence[ArtifactKey],
    instead: Sequence[ArtifactKey],
    now: float,
) -> Refusal | None:
    missing = tuple(key for key in needs if _sha256_of(db, key) is None)
    wanted = {entry.key: entry.ref.sha256 for entry in entries if entry.ref}
    taken = tuple(key for key in fixed if _sha256_of(db, key) not in (None, wanted.get(key)))
    if missing or taken:
        return Refusal(missing, taken)
    for entry in entries:
        writes.write_entry(db, entry, now)
    _forget(db, instead, now)
    return None


def _withdraw(
    db: sqlite3.Connection, keys: Sequence[ArtifactKey], alike: str, now: float, gone: list[ArtifactKey]
) -> None:
    gone.clear()
    for key in keys:
        sha256 = _sha256_of(db, key)
        if sha256 is None:
            continue
        gone.append(key)
        if alike:
            rows = db.execute(sql.ALIKE, (key.repo, key.path, alike, after_prefix(alike), sha256))
            gone += [found for row in rows if (found := ArtifactKey(*row[:3])) not in gone]
    _forget(db, gone, now)


def _forget(db: sqlite3.Connection, keys: Sequence[ArtifactKey], now: float) -> None:
    refs = writes.forget_entries(db, keys, promises=False)
    writes.doom_blobs(db, [ref.sha256 for ref in refs], now)


def _advance(db: sqlite3.Connection, session: Session, part: CacheEntry, at: float) -> Session | None:
    size = part.ref.size if part.ref else 0
    row = db.execute(sql.ADVANCE_UPLOAD, (session.id, session.size, size, at)).fetchone()
    if row is None:
        return None
    writes.write_entry(db, part, at)
    return Session(*row)


def _close(db: sqlite3.Connection, session: Session, entries: Sequence[CacheEntry], now: float) -> bool:
    ended = db.execute(sql.CLOSE_UPLOAD, (session.id, session.size, session.parts))
    if ended.rowcount != 1:
        return False
    for entry in entries:
        writes.write_entry(db, entry, now)
    of = f"{PART}{session.id}:"
    rows = db.execute(sql.VARIANTS, (session.repo, session.name, of, after_prefix(of), -1)).fetchall()
    _forget(db, [ArtifactKey(*row[-3:]) for row in rows], now)
    return True


def _hold(db: sqlite3.Connection, entry: CacheEntry, now: float) -> bool:
    if entry.ref and db.execute(sql.IS_SEIZED, (entry.ref.sha256,)).fetchone():
        return False
    return writes.write_entry(db, entry, now)
