"""MetadataIndex, Ledger and Intents in PostgreSQL, for any number of replicas.

A look-up is one round trip, or none while what is remembered is known to be right (`watch.py`). Rows
are recorded in groups (`recorder.py`); what nobody waits for has connections of its own
(`database.py`). A write that has begun goes on when its caller leaves.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.migrate import steps
from artifactproxy.indexes.postgres import statements as sql
from artifactproxy.indexes.postgres import writes
from artifactproxy.indexes.postgres.census import totals
from artifactproxy.indexes.postgres.database import Database, Transaction, Work
from artifactproxy.indexes.postgres.faults import ERRORS, UNFIT, may_pass, refusal
from artifactproxy.indexes.postgres.hosting import PostgresHosting, fit_digest, fit_digests, row_entry
from artifactproxy.indexes.postgres.memory import Memory
from artifactproxy.indexes.postgres.migrate import migrate
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.indexes.postgres.recorder import Recorder
from artifactproxy.indexes.postgres.teaching import Teaching
from artifactproxy.indexes.postgres.text import digest_of, pack, unpack, unpacked
from artifactproxy.indexes.postgres.tokens import PostgresTokens
from artifactproxy.indexes.postgres.watch import Watch
from artifactproxy.indexes.rows import after, found_of, package_bounds
from artifactproxy.model import FIRST_SIGHT, ArtifactKey, BlobRef, CacheEntry, Found, Promise
from artifactproxy.ports import Clock, Intent, Totals, Use
from artifactproxy.rules.retry import backoff

_T = TypeVar("_T")
_DAY = 86400.0
_CHUNK = 500  # rows of one transaction, so that others get their turn in between
_TOUCHED = 5000  # touches wait for nobody
_SOME = 5000  # of a repository whose promises leave, so that no statement takes too long
_START_BASE = 0.2
STEPS = "artifactproxy.indexes.postgres"


def _unheard(what: str) -> None:
    del what


class PostgresIndex(PostgresHosting):
    """Seconds and counts; `locals_` names the repositories whose blobs are never evictable. `note`
    hears of retries, lost connections and the like, each a stable slug."""

    was_clean = True
    """Nothing of ours is lost when a replica ends without a word."""

    def __init__(
        self,
        options: PostgresOptions,
        *,
        locals_: Collection[str] = (),
        negative_keys: int = 10_000,
        superseded_keep: float = 7 * 86400.0,
        ledger_keep: float = 90 * 86400.0,
        clock: Clock = time.time,
        note: Callable[[str], None] = _unheard,
    ) -> None:
        self._options = options
        self._locals = locals_
        self._negative_keys = negative_keys
        self._superseded_keep = superseded_keep
        self._ledger_keep = ledger_keep
        self._clock = clock
        self._database = Database(options, note)
        self._memory = Memory(options.recent)
        self._watch = Watch(self._database, self._memory, options)
        self._recorder = Recorder(self._record)
        self._writes: set[asyncio.Task[Any]] = set()
        self._is_open = False
        self.tokens = PostgresTokens(self._write, self._database.read, self._long_read)

    async def start(self) -> None:
        """Connect, migrate, and begin to hear of changes. Raises `IndexUnavailable` with what to do;
        a database that is not there yet is waited for."""
        until = asyncio.get_running_loop().time() + self._options.start_wait
        attempt = 0
        try:
            while not self._is_open:
                try:
                    await self._prepare()
                    self._is_open = True
                except (*ERRORS, ValueError) as error:
                    wait = backoff(attempt, _START_BASE, 0.5 + random.random() / 2)  # noqa: S311  no secret
                    attempt += 1
                    if not may_pass(error) or asyncio.get_running_loop().time() + wait > until:
                        raise refusal(error, self._database.where) from error
                    await asyncio.sleep(wait)
            self._watch.start()
        finally:
            if not self._is_open:
                await self._watch.close()

    async def check(self) -> None:
        self._ask_open()
        if (await self._database.read(sql.READ_ONLY))[0][0] == "on":
            raise IndexUnavailable("the index can only be read", code="index_readonly")

    async def close(self) -> None:
        """Write what waits, and hang up."""
        if not self._is_open:
            return
        self._is_open = False
        await self._recorder.close()
        if self._writes:
            await asyncio.wait(self._writes)
        await self._watch.close()
        await self._database.close()

    # --- while serving ----------------------------------------------------------------------

    async def find(self, key: ArtifactKey) -> Found:
        if not self._is_open:
            raise IndexUnavailable("the index is closed")
        if time.monotonic() <= self._watch.fresh_until and (found := self._memory.get(key)) is not None:
            return found
        known = self._memory.last(key)
        if known is not None and self._database.is_away:
            return replace(known, uncertain=True)
        try:
            return await self._look_up(key)
        except IndexUnavailable:
            if known is None or not self._is_open:
                raise
            return replace(known, uncertain=True)

    def suspect(self, keys: Iterable[ArtifactKey]) -> None:
        if named := list(keys):
            self._drop(named)
        else:
            self._memory.doubt()

    async def generation(self) -> int:
        self._ask_open()
        number = int((await self._database.read(sql.GENERATION))[0][0])
        self._watch.given(number)
        return number

    async def record(self, entry: CacheEntry) -> bool:
        self._ask_open()
        return await self._recorder.record(entry)

    async def learn(self, promises: Iterable[Promise]) -> list[Promise]:
        self._ask_open()
        refused: list[Promise] = []
        for chunk in _chunks(promises, _CHUNK):
            teaching = Teaching(chunk)
            if not await teaching.is_known(self._database):
                await self._teach(teaching)
            refused += teaching.refused
        return refused

    async def touch(self, keys: Iterable[ArtifactKey], at: float) -> None:
        self._ask_open()
        for chunk in _chunks(keys, _TOUCHED):
            digests = fit_digests(chunk)
            await self._write(partial(writes.touch_entries, keys=digests, at=at), aside=True)
            self._memory.used(chunk, at)

    async def count(self, uses: Iterable[Use]) -> None:
        # One transaction, not chunks: a half-counted call that is tried again would count twice.
        await self._write(partial(writes.count_uses, uses=list(uses)), aside=True)

    # --- for the janitor --------------------------------------------------------------------

    async def coldest(self, limit: int, before: float) -> list[tuple[BlobRef, float]]:
        rows = await self._long_read(sql.COLDEST, before, limit)
        return [(BlobRef(sha256, size), used) for sha256, size, used in rows]

    async def entries(
        self, repo: str, *, path: str = "", prefix: str = "", purl: str = "", limit: int = 100_000
    ) -> list[CacheEntry]:
        of = pack(repo), limit
        if path:
            rows = await self._long_read(sql.ENTRIES_OF_PATH, *of, pack(path))
        elif purl:
            rows = await self._long_read(sql.ENTRIES_OF_PACKAGE, *of, *map(pack, package_bounds(purl)))
        elif (bound := after(prefix)) is not None:
            rows = await self._long_read(sql.ENTRIES_BELOW, *of, pack(prefix), pack(bound))
        else:
            rows = await self._long_read(sql.ENTRIES_FROM, *of, pack(prefix))
        return [row_entry(row) for row in rows]

    async def forget(self, keys: Sequence[ArtifactKey], *, promises: bool = False) -> list[BlobRef]:
        refs: dict[BlobRef, None] = {}
        for chunk in _chunks(keys, _CHUNK):
            work = partial(writes.forget_entries, keys=chunk, promises=promises)
            refs.update(dict.fromkeys(await self._write(work)))
        return list(refs)

    async def unlearn(self, repo: str, *, path: str = "", purl: str = "", whole: bool = False) -> int:
        if path and whole:
            work = writes.dropping(sql.UNLEARN_WHOLE_PATH, *map(pack, (repo, path)))
        elif path:
            work = writes.dropping(sql.UNLEARN_PATH, *map(pack, (repo, path, FIRST_SIGHT)))
        elif purl:
            work = writes.dropping(sql.UNLEARN_PACKAGE, *map(pack, (repo, *package_bounds(purl))))
        else:
            work = partial(writes.unlearn_some, repo=repo, limit=_SOME)
        dropped = count = await self._write(work)
        while not (path or purl) and count == _SOME:
            count = await self._write(work)
            dropped += count
        return dropped

    async def forget_blob(self, sha256: str) -> list[ArtifactKey]:
        return await self._write(partial(writes.forget_blob, sha256=sha256))

    async def named(self, after: str, limit: int) -> list[BlobRef]:
        return [BlobRef(*row) for row in await self._long_read(sql.NAMED_BLOBS, after, limit)]

    async def naming(self, sha256: str) -> list[CacheEntry]:
        return [row_entry(row) for row in await self._long_read(sql.ENTRIES_NAMING, sha256)]

    async def doom(self, sha256s: Sequence[str], at: float) -> list[str]:
        doomed: list[str] = []
        for chunk in _chunks(sha256s, _CHUNK):
            doomed += await self._write(partial(writes.doom_blobs, sha256s=chunk, at=at))
        return doomed

    async def condemned(self, before: float, limit: int) -> list[BlobRef]:
        return [BlobRef(*row) for row in await self._long_read(sql.CONDEMNED, before, limit)]

    async def seize(self, sha256s: Sequence[str], at: float) -> list[str]:
        return await self._write(partial(writes.seize_blobs, sha256s=sha256s, at=at))

    async def bury(self, sha256s: Sequence[str], *, seized: bool = False) -> None:
        for chunk in _chunks(sha256s, _CHUNK):
            await self._write(partial(writes.bury_blobs, sha256s=chunk, seized=seized))

    async def orphans(self, sha256s: Sequence[str]) -> list[str]:
        """Neither named by a row nor already on its way out."""
        unknown = {row[0] for row in await self._long_read(sql.UNKNOWN, sha256s)}
        return [sha256 for sha256 in sha256s if sha256 in unknown]

    async def surpass(self, generation: int) -> None:
        self._ask_open()
        await self._database.read(sql.SURPASS, generation)

    async def turn(self, name: str, every: float) -> bool:
        async def take(tx: Transaction) -> bool:
            return bool(await tx.rows(sql.TAKE_TURN, name, every))

        return await self._write(take)

    async def expire(self, now: float) -> int:
        dropped = 0
        for work in (
            writes.dropping(sql.REDATE_USES, now, now + _DAY, _CHUNK),
            writes.dropping(sql.EXPIRE_ABSENCES, now, _CHUNK),
            partial(writes.bound_absences, most=self._negative_keys, limit=_CHUNK),
            partial(writes.expire_bodies, before=now - self._superseded_keep, now=now, limit=_CHUNK),
            writes.running(sql.EXPIRE_USES, now - self._ledger_keep, _CHUNK),
        ):
            while count := await self._write(work, aside=True):
                dropped += count
        return dropped

    async def totals(self) -> Totals:
        return await totals(self._long_read)

    # --- uploads under way ------------------------------------------------------------------

    async def intend(self, intent: Intent) -> None:
        values = intent.id, intent.sha256, intent.upload, intent.owner, intent.started
        await self._write(writes.running(sql.INTEND, *values))

    async def fulfil(self, ids: Sequence[str]) -> None:
        for chunk in _chunks(ids, _CHUNK):
            await self._write(writes.running(sql.FULFIL, chunk))

    async def intents(self, before: float, limit: int) -> list[Intent]:
        return [Intent(*row) for row in await self._long_read(sql.INTENTS, before, limit)]

    # --- how --------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        connection = await self._database.connect(command_timeout=None)
        try:
            await migrate(connection, steps(STEPS), list(self._locals))
        finally:
            connection.terminate()
        await self._watch.look()
        await self._database.open()

    def _ask_open(self) -> None:
        if not self._is_open:
            raise IndexUnavailable("the index is closed")

    async def _look_up(self, key: ArtifactKey) -> Found:
        digest = fit_digest(key)
        token = self._memory.asking(digest)
        try:
            rows = await self._database.read(sql.FIND, digest)
            found = found_of(key, unpacked(tuple(rows[0])))
            self._memory.learn(digest, token, key, found)
        finally:
            self._memory.left(digest, token)
        return found

    async def _record(self, entries: Sequence[CacheEntry]) -> list[bool]:
        """Remembered at once: what was just fetched is asked for next."""
        tokens = {key: self._memory.asking(key) for key in fit_digests(entry.key for entry in entries)}

        def told(tx: Transaction, recorded: list[writes.Recorded]) -> None:
            self._watch.own(tx.xid)
            for entry, each, (digest, token) in zip(entries, recorded, tokens.items(), strict=True):
                found = Found(entry, each.promise)
                if not each.written or not self._memory.learn(digest, token, entry.key, found):
                    self._memory.drop([digest])

        try:
            work = partial(writes.write_entries, entries=entries, now=self._clock())
            recorded = await self._database.write(work, told)
        finally:
            for digest, token in tokens.items():
                self._memory.left(digest, token)
        return [each.written for each in recorded]

    async def _teach(self, teaching: Teaching) -> None:
        """What was just recorded is promised by first sight next, and stays remembered."""
        tokens = {key: self._memory.asking(key) for key in teaching.keys if self._memory.holds(key)}

        def told(tx: Transaction, _: None) -> None:
            self._watch.own(tx.xid)
            self._memory.drop(key for key in tx.keys if key not in tokens)
            for key in tx.keys:
                if key in tokens:
                    self._memory.promised(key, tokens[key], teaching.changed[key])

        try:
            await self._write(teaching.learn, told=told)
        finally:
            for key, token in tokens.items():
                self._memory.left(key, token)

    async def _write(
        self, work: Work[_T], *, aside: bool = False, told: Callable[[Transaction, _T], None] | None = None
    ) -> _T:
        """It goes on when the caller leaves."""
        self._ask_open()
        writing = self._database.write(work, told or self._told, aside=aside)
        task = asyncio.get_running_loop().create_task(writing)
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        """What went wrong may have nobody left to hear it."""
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()

    def _told(self, tx: Transaction, result: object) -> None:
        del result
        self._watch.own(tx.xid)
        self._memory.drop(tx.keys)
        for repo in tx.repos:
            self._memory.drop_repo(unpack(repo))

    async def _long_read(self, statement: str, *values: Any) -> list[Any]:
        self._ask_open()
        return await self._database.long_read(statement, *values)

    def _drop(self, keys: Iterable[ArtifactKey]) -> None:
        for key in keys:
            with suppress(*UNFIT):
                self._memory.drop([digest_of(key)])


def _chunks(values: Iterable[_T], size: int) -> Iterable[list[_T]]:
    supply = iter(values)
    while chunk := list(islice(supply, size)):
        yield chunk
