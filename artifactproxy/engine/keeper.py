"""What a fill leaves in the index: a row, promises. `storing` brings the bytes.

Clients already have good bytes when this runs, so a failure costs the cache entry and nothing
else; it is reported and never raised. A row that an index which is away cannot take waits in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Tools, cause_of, first_sight
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import BlobRef, CacheEntry, Kind, Promise


class Keeper:
    """Writes rows for one fill."""

    def __init__(self, tools: Tools, mount: Mount) -> None:
        self._tools = tools
        self._mount = mount

    async def fence(self) -> int:
        """The generation of this fill. 0 if the index cannot say: any row then wins over ours."""
        try:
            return await self._tools.index.generation()
        except IndexUnavailable as fault:
            self._tools.observer.warning("index_failed", repo=self._mount.name, error=fault.code)
            return 0

    async def spare(self, ref: BlobRef) -> None:
        """It may be on its way out, and the medium slower than the grace before it is deleted. An index
        that is away deletes nothing, and is asked again before the row is recorded."""
        with suppress(IndexUnavailable):
            await self._tools.ledger.bury([ref.sha256])

    async def enter(self, entry: CacheEntry) -> tuple[bool, str]:
        """The row of a blob that is stored, and what its first sight promises. Returns whether it is
        found from now on, and the code of what failed."""
        unpromised = entry.kind is Kind.ARTIFACT and entry.verified_by == "framing"
        promises = [first_sight(entry)] if unpromised else []
        try:
            await self._tools.index.record(entry)
            if promises:
                self._contradicted(await self._tools.index.learn(promises))
        except IndexUnavailable as fault:
            return self._later(entry, promises, fault), fault.code
        return True, ""

    async def record(self, entry: CacheEntry) -> None:
        """A row without new bytes: refreshed, or an absence."""
        try:
            await self._tools.index.record(entry)
        except IndexUnavailable as fault:
            self._later(entry, (), fault)

    def _later(self, entry: CacheEntry, promises: Collection[Promise], fault: IndexUnavailable) -> bool:
        kept = self._tools.unrecorded.keep(entry, promises)
        self._tools.observer.warning(
            "record_waits" if kept else "record_failed",
            repo=self._mount.name,
            path=entry.key.path,
            error=fault.code,
            cause=cause_of(fault),
        )
        return kept

    async def remember(self, promises: Collection[Promise]) -> None:
        """Learn; a promise that contradicts what is held is reported."""
        if not promises:
            return
        try:
            refused = await self._tools.index.learn(promises)
        except IndexUnavailable as fault:
            self._tools.observer.warning("learn_failed", repo=self._mount.name, error=fault.code)
            return
        self._contradicted(refused)

    def _contradicted(self, refused: Collection[Promise]) -> None:
        for promise in refused:
            # The bytes we hold stay; an operator decides (purge accepts the new ones).
            self._tools.observer.warning(
                "immutable_changed",
                repo=self._mount.name,
                path=promise.key.path,
                taught_by=promise.taught_by,
            )
