"""The index as fills and requests see it: what it says, and the rows that it could not take yet."""

from __future__ import annotations

from collections.abc import Iterable

from artifactproxy.engine.unrecorded import Kept, Unrecorded
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import ArtifactKey, CacheEntry, Found, Promise
from artifactproxy.ports import MetadataIndex, Use


class Overlay:
    """A `MetadataIndex` over another one, which its maker closes."""

    def __init__(self, index: MetadataIndex, unrecorded: Unrecorded) -> None:
        self._index = index
        self._unrecorded = unrecorded

    async def find(self, key: ArtifactKey) -> Found:
        kept = self._unrecorded
        if kept.of(key) is None and kept.taught(key) is None:
            return await self._index.find(key)
        try:
            found = await self._index.find(key)
        except IndexUnavailable:
            found = Found(uncertain=True)
        # It may have been recorded meanwhile.
        entry = _newer(kept.of(key), found)
        return Found(entry, found.promise or kept.taught(key), found.uncertain)

    async def record(self, entry: CacheEntry) -> bool:
        recorded = await self._index.record(entry)
        self._unrecorded.surpassed(entry)
        return recorded

    def suspect(self, keys: Iterable[ArtifactKey]) -> None:
        self._index.suspect(keys)

    async def generation(self) -> int:
        return await self._index.generation()

    async def learn(self, promises: Iterable[Promise]) -> list[Promise]:
        promises = list(promises)
        try:
            return await self._index.learn(promises)
        except IndexUnavailable:
            self._unrecorded.teach(promises)
            raise

    async def touch(self, keys: Iterable[ArtifactKey], at: float) -> None:
        await self._index.touch(keys, at)

    async def count(self, uses: Iterable[Use]) -> None:
        await self._index.count(uses)

    async def check(self) -> None:
        await self._index.check()

    async def close(self) -> None:
        """Nothing of its own to close."""


def _newer(kept: Kept | None, found: Found) -> CacheEntry | None:
    """The row that the index would have. One that it only remembers cannot be weighed by generations
    where it gave none: then the later look at upstream counts."""
    row = found.entry
    if kept is None or row is None:
        return kept.entry if kept is not None else row
    ours = kept.entry
    if found.uncertain and not ours.generation:
        return ours if ours.checked_at >= row.checked_at else row
    return ours if ours.generation >= row.generation else row
