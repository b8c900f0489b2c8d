"""What a verified body leaves behind: durable bytes, a row, promises.

Clients already have good bytes when this runs, so a failure costs the cache entry and nothing
else; it is reported and never raised.
"""

from __future__ import annotations

from collections.abc import Collection

from artifactproxy.engine.ingest import Ingest
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Tools, cause_of, first_sight, ref_of
from artifactproxy.errors import IndexUnavailable, StoreUnavailable
from artifactproxy.model import CacheEntry, Kind, Promise


class Keeper:
    """Writes for one fill."""

    def __init__(self, tools: Tools, mount: Mount, ingest: Ingest) -> None:
        self._tools = tools
        self._mount = mount
        self._ingest = ingest

    async def fence(self) -> int:
        """The generation of this fill. 0 if the index cannot say: any row then wins over ours."""
        try:
            return await self._tools.index.generation()
        except IndexUnavailable as fault:
            self._tools.observer.warning("index_failed", repo=self._mount.name, error=fault.code)
            return 0

    async def store(self, spool: Spool, entry: CacheEntry) -> str:
        """The blob, then its row. Returns the code of what failed, "" if nothing did."""
        ref = ref_of(entry)
        try:
            # It may be on its way out, and the medium slower than the grace before it is deleted.
            await self._tools.ledger.bury([ref.sha256])
            await self._ingest.store(spool, ref)
            await self._tools.index.record(entry)
        except (StoreUnavailable, IndexUnavailable) as fault:
            self._tools.observer.warning(
                "store_failed",
                repo=self._mount.name,
                path=entry.key.path,
                error=fault.code,
                cause=cause_of(fault),
            )
            return fault.code
        if entry.kind is Kind.ARTIFACT and entry.verified_by == "framing":
            await self.remember([first_sight(entry)])
        return ""

    async def record(self, entry: CacheEntry) -> None:
        """A row without new bytes: refreshed, or an absence."""
        try:
            await self._tools.index.record(entry)
        except IndexUnavailable as fault:
            self._tools.observer.warning("record_failed", repo=self._mount.name, error=fault.code)

    async def remember(self, promises: Collection[Promise]) -> None:
        """Learn; a promise that contradicts what is held is reported."""
        if not promises:
            return
        try:
            refused = await self._tools.index.learn(promises)
        except IndexUnavailable as fault:
            self._tools.observer.warning("learn_failed", repo=self._mount.name, error=fault.code)
            return
        for promise in refused:
            # The bytes we hold stay; an operator decides (purge accepts the new ones).
            self._tools.observer.warning(
                "immutable_changed",
                repo=self._mount.name,
                path=promise.key.path,
                taught_by=promise.taught_by,
            )
