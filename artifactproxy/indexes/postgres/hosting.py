"""The part of the index in PostgreSQL that repositories which take pushes ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from artifactproxy.indexes.hosting import session_row
from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres import writes
from artifactproxy.indexes.postgres.database import Transaction
from artifactproxy.indexes.postgres.faults import UNFIT, index_fault
from artifactproxy.indexes.postgres.text import digest_of, pack, packed, unpack, unpacked
from artifactproxy.indexes.rows import after as after_prefix
from artifactproxy.indexes.rows import entry_of
from artifactproxy.model import ArtifactKey, CacheEntry
from artifactproxy.ports import Clock
from artifactproxy.ports.hosting import PART, Refusal, Session

if TYPE_CHECKING:
    from artifactproxy.indexes.postgres.database import Database


class _Seized(Exception):
    """Somebody deletes this blob: what was written so far is taken back."""


class PostgresHosting:
    """H1 to H9 of `ports.hosting`, over the pools of the index that inherits it."""

    _database: Database
    _clock: Clock
    _ask_open: Callable[[], None]
    _write: Callable[..., Awaitable[Any]]
    _long_read: Callable[..., Awaitable[list[Any]]]

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
        refusal: Refusal | None = await self._write(work)
        return refusal

    async def withdraw(self, keys: Sequence[ArtifactKey], *, alike: str = "") -> int:
        work = partial(_withdraw, keys=keys, alike=alike, now=self._clock())
        count: int = await self._write(work)
        return count

    async def committed(self, key: ArtifactKey) -> CacheEntry | None:
        rows = await self._now(sql.ENTRY_OF_KEY, fit_digest(key))
        return entry_of(key, unpacked(tuple(rows[0]))) if rows else None

    async def variants(
        self, repo: str, path: str, prefix: str, *, after: str = "", limit: int
    ) -> list[CacheEntry]:
        bounds = prefix + after, after_prefix(prefix) or ""
        return [
            row_entry(row) for row in await self._now(sql.VARIANTS, *packed((repo, path, *bounds)), limit)
        ]

    async def paths(self, repo: str, prefix: str, *, after: str = "", limit: int) -> list[str]:
        bounds = packed((repo, after, prefix, after_prefix(prefix) or ""))
        return [unpack(path) for (path,) in await self._long_read(sql.PATHS, *bounds, limit)]

    async def open_session(self, session: Session, *, most: int) -> bool:
        opened: int = await self._write(writes.running(sql.OPEN_UPLOAD, *packed(session_row(session)), most))
        return opened == 1

    async def session(self, id_: str) -> Session | None:
        rows = await self._now(sql.UPLOAD, pack(id_))
        return _session(rows[0]) if rows else None

    async def advance(self, session: Session, part: CacheEntry, at: float) -> Session | None:
        advanced: Session | None = await self._write(partial(_advance, session=session, part=part, at=at))
        return advanced

    async def close_session(self, session: Session, entries: Sequence[CacheEntry] = ()) -> bool:
        work = partial(_close, session=session, entries=entries, now=self._clock())
        closed: bool = await self._write(work)
        return closed

    async def idle_sessions(self, before: float, limit: int) -> list[Session]:
        return [_session(row) for row in await self._long_read(sql.IDLE_UPLOADS, before, limit)]

    async def hold(self, entry: CacheEntry) -> bool:
        try:
            held: bool = await self._write(partial(_hold, entry=entry, now=self._clock()))
        except _Seized:
            return False
        return held

    async def strays(self, before: float, limit: int) -> list[ArtifactKey]:
        rows = await self._long_read(sql.STRAYS, before, limit)
        return [ArtifactKey(*unpacked(tuple(row))) for row in rows]

    async def _now(self, statement: str, *values: Any) -> list[Any]:
        self._ask_open()
        return await self._database.read(statement, *values)


async def _publish(
    tx: Transaction,
    entries: Sequence[CacheEntry],
    needs: Sequence[ArtifactKey],
    fixed: Sequence[ArtifactKey],
    instead: Sequence[ArtifactKey],
    now: float,
) -> Refusal | None:
    tx.keys.clear()
    for key in sorted(digest_of(key) for key in fixed):
        await tx.rows(sql.LOCK_FIXED, key)
    asked = {digest_of(key): key for key in (*needs, *fixed)}
    held = {row["key"]: row["sha256"] for row in await tx.rows(sql.HOLD_NEEDED, list(asked))}
    wanted = {entry.key: entry.ref.sha256 for entry in entries if entry.ref}
    missing = tuple(key for key in needs if digest_of(key) not in held)
    taken = tuple(key for key in fixed if held.get(digest_of(key)) not in (None, wanted.get(key)))
    if missing or taken:
        return Refusal(missing, taken)
    if entries:
        await writes.write_entries(tx, entries, now)
    await _forget(tx, [digest_of(key) for key in instead], now)
    return None


async def _withdraw(tx: Transaction, keys: Sequence[ArtifactKey], alike: str, now: float) -> int:
    tx.keys.clear()
    held = {row["key"]: row["sha256"] for row in await tx.rows(sql.HOLD_REFS, [digest_of(k) for k in keys])}
    going = dict.fromkeys(held)
    for key in keys if alike else ():
        sha256 = held.get(digest_of(key))
        if sha256 is not None:
            bounds = packed((key.repo, key.path, alike, after_prefix(alike) or ""))
            going |= dict.fromkeys(row[0] for row in await tx.rows(sql.ALIKE, *bounds, sha256))
    return await _forget(tx, list(going), now)


async def _forget(tx: Transaction, digests: Sequence[bytes], now: float) -> int:
    """Rows by the digests of their keys; the blobs that nothing names any more are doomed."""
    if not digests:
        return 0
    await tx.rows(sql.HOLD_REFS, digests)
    rows = await tx.rows(sql.FORGET_RETURNING, digests)
    tx.keys += [row["key"] for row in rows]
    named = list(dict.fromkeys(row["sha256"] for row in rows if row["sha256"]))
    if named:
        await writes.doom_blobs(tx, named, now)
    return len(rows)


async def _advance(tx: Transaction, session: Session, part: CacheEntry, at: float) -> Session | None:
    size = part.ref.size if part.ref else 0
    rows = await tx.rows(sql.ADVANCE_UPLOAD, pack(session.id), session.size, size, at)
    if not rows:
        return None
    await writes.write_entries(tx, [part], at)
    return _session(rows[0])


async def _close(tx: Transaction, session: Session, entries: Sequence[CacheEntry], now: float) -> bool:
    tx.keys.clear()
    if await tx.run(sql.CLOSE_UPLOAD, pack(session.id), session.size, session.parts) != 1:
        return False
    if entries:
        await writes.write_entries(tx, entries, now)
    of = f"{PART}{session.id}:"
    bounds = packed((session.repo, session.name, of, after_prefix(of) or ""))
    rows = await tx.rows(sql.VARIANTS, *bounds, None)
    await _forget(tx, [digest_of(row_entry(row).key) for row in rows], now)
    return True


async def _hold(tx: Transaction, entry: CacheEntry, now: float) -> bool:
    (recorded,) = await writes.write_entries(tx, [entry], now)
    # The row of the blob is locked from here on: whoever seizes it comes before or after us.
    if entry.ref and await tx.rows(sql.IS_SEIZED, entry.ref.sha256):
        raise _Seized
    return recorded.written


def _session(row: Sequence[Any]) -> Session:
    return Session(*unpacked(tuple(row)))


# --- keys and rows --------------------------------------------------------------------------


def fit_digest(key: ArtifactKey) -> bytes:
    """The name of a row. Raises `BadRequest` for what no row can be named."""
    try:
        return digest_of(key)
    except UNFIT as error:
        raise index_fault(error) from error


def fit_digests(keys: Iterable[ArtifactKey]) -> list[bytes]:
    return [fit_digest(key) for key in keys]


def row_entry(row: Sequence[Any]) -> CacheEntry:
    values = unpacked(tuple(row))
    return entry_of(ArtifactKey(*values[-3:]), values)
