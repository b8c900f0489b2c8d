"""What the index cannot take now, kept in memory until it can: rows whose bytes are stored, and what
documents promised.

Losing a row costs a download: the blob it names is an orphan then, and gc finds those. Promises are read
again from their document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from artifactproxy.errors import BadRequest, IndexUnavailable, StoreUnavailable
from artifactproxy.model import ArtifactKey, CacheEntry, Promise
from artifactproxy.ports import BlobStore, Ledger, MetadataIndex, Observer

PROMISES = 5  # for each row that may be kept: documents promise many files that nobody asks for


@dataclass(frozen=True, slots=True)
class Kept:
    """One row, and what its first sight promises."""

    entry: CacheEntry
    promises: tuple[Promise, ...] = ()


class Unrecorded:
    """At most `most` rows, one a key; the oldest goes first."""

    def __init__(
        self, index: MetadataIndex, ledger: Ledger, store: BlobStore, observer: Observer, most: int
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._store = store
        self._observer = observer
        self._most = most
        self._rows: dict[ArtifactKey, Kept] = {}
        self._taught: dict[ArtifactKey, Promise] = {}
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, key: ArtifactKey) -> Kept | None:
        return self._rows.get(key)

    def keep(self, entry: CacheEntry, promises: Collection[Promise] = ()) -> bool:
        """Remember it for later; False where nothing is kept. An older generation never replaces a newer
        one here either (I3)."""
        held = self._rows.get(entry.key)
        if held is not None and held.entry.generation > entry.generation:
            return True
        if not self._most:
            return False
        self._rows.pop(entry.key, None)
        while len(self._rows) >= self._most:
            del self._rows[next(iter(self._rows))]
            self._observer.increment("unrecorded_dropped")
        self._rows[entry.key] = Kept(entry, tuple(promises) or (held.promises if held else ()))
        return True

    def taught(self, key: ArtifactKey) -> Promise | None:
        held = self._rows.get(key)
        return self._taught.get(key) or next(iter(held.promises if held else ()), None)

    def teach(self, promises: Iterable[Promise]) -> None:
        """Remember what a document promised; the oldest goes first."""
        for promise in promises:
            self._taught.pop(promise.key, None)
            self._taught[promise.key] = promise
        while len(self._taught) > self._most * PROMISES:
            del self._taught[next(iter(self._taught))]

    def surpassed(self, entry: CacheEntry) -> None:
        """The index has taken this row; what is kept for its key and is no newer goes."""
        held = self._rows.get(entry.key)
        if held is not None and held.entry.generation <= entry.generation:
            del self._rows[entry.key]

    def forget_blob(self, sha256: str) -> None:
        """Its bytes are gone."""
        for key, held in list(self._rows.items()):
            if held.entry.ref is not None and held.entry.ref.sha256 == sha256:
                del self._rows[key]

    async def flush(self) -> None:
        """Record what is kept, in order, until the index or the store cannot be asked. Never raises."""
        if not (self._rows or self._taught):
            return
        async with self._turn:  # a purge may flush beside the janitor
            recorded = 0
            try:
                await self._learn()
                while self._rows:
                    held = next(iter(self._rows.values()))
                    recorded += await self._record(held)
                    if self._rows.get(held.entry.key) is held:
                        del self._rows[held.entry.key]
            except (IndexUnavailable, StoreUnavailable):
                return  # whoever needs them now says so; here there is time
            finally:
                if recorded:
                    self._observer.notice("recorded_late", rows=recorded, left=len(self._rows))

    async def _learn(self) -> None:
        taught = list(self._taught.values())
        if not taught:
            return
        self._contradicted(await self._index.learn(taught))
        for promise in taught:
            if self._taught.get(promise.key) is promise:
                del self._taught[promise.key]

    def _contradicted(self, refused: Iterable[Promise]) -> None:
        for promise in refused:
            self._observer.warning(
                "immutable_changed",
                repo=promise.key.repo,
                path=promise.key.path,
                taught_by=promise.taught_by,
            )

    async def _record(self, held: Kept) -> bool:
        """False for a row that never will be."""
        entry = held.entry
        if entry.ref is not None:
            # Nobody could ask whether it was on its way out when it was put, nor stop that.
            await self._ledger.bury([entry.ref.sha256])
            if await self._store.size(entry.ref.sha256) != entry.ref.size:
                self._observer.increment("unrecorded_dropped")
                return False
        try:
            await self._index.record(entry)
            if held.promises:
                self._contradicted(await self._index.learn(held.promises))
        except BadRequest:  # a name that this index cannot hold: it must not stand in the others' way
            self._observer.increment("unrecorded_dropped")
            return False
        return True

    async def close(self) -> None:
        """Record what can be recorded; the rest is lost, and told."""
        await self.flush()
        if self._rows:
            self._observer.increment("unrecorded_dropped", len(self._rows))
            self._observer.warning("unrecorded_lost", rows=len(self._rows))
            self._rows.clear()
