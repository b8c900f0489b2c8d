"""Getting back what was cached and is damaged: the same bytes from upstream, or no row at all."""

from __future__ import annotations

import asyncio
from typing import Protocol

from artifactproxy import failpoints
from artifactproxy.errors import BrokenPromise, Fault, NotServed, UpstreamAbsent
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry
from artifactproxy.ports import BlobStore, Clock, Ledger, MetadataIndex, Observer

AT_ONCE = 2
"""Heals under way together: clients come first, and one damaged disk must not storm an upstream."""


class Fetching(Protocol):
    """The engine, as wide as healing needs it."""

    async def refetch(self, key: ArtifactKey, lost: CacheEntry | None, *, caller: str) -> None:
        """Returns when this document is held again, else raises the `Fault` why not; `lost` is the row
        whose bytes it must have."""


class Healer:
    """For `fsck` and `scrub`; `caller` is what the log calls them. Whatever is damaged has been set
    aside before: a blob that is there is taken as good.

    A blob that cannot be had again leaves no row, so that the next request asks upstream. What was
    pushed here exists nowhere else: its rows will be marked as lost in `_give_up`, not forgotten.
    """

    def __init__(
        self,
        engine: Fetching,
        store: BlobStore,
        index: MetadataIndex,
        ledger: Ledger,
        observer: Observer,
        clock: Clock,
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        self._engine = engine
        self._store = store
        self._index = index
        self._ledger = ledger
        self._observer = observer
        self._clock = clock
        self._turns = asyncio.Semaphore(at_once)

    async def refetch(self, key: ArtifactKey, *, caller: str = "fsck") -> bool:
        """Whether this document is held now. If not, the rows of the blob that was are forgotten;
        where they are already, what was promised for the key must come."""
        row = (await self._index.find(key)).entry
        healed = await self._fetch(key, row, caller)
        if row is not None and row.ref is not None:
            await self._give_up(row.ref)
        return healed

    async def restore(self, ref: BlobRef, *, caller: str = "scrub") -> bool:
        """The same for every row that names this blob. True too if none does: nothing is missing
        then. Superseded bodies are not fetched, upstream has others by now."""
        healed = True
        for row in await self._ledger.naming(ref.sha256):
            healed = await self._fetch(row.key, row, caller) and healed
        await self._give_up(ref)
        return healed

    async def _fetch(self, key: ArtifactKey, row: CacheEntry | None, caller: str) -> bool:
        ref = row.ref if row is not None else None
        async with self._turns:
            # A request may have come first, or another row of the same blob.
            if ref is not None and await self._store.size(ref.sha256) == ref.size:
                return True
            failpoints.hit("heal.begun")
            try:
                await self._engine.refetch(key, row if ref is not None else None, caller=caller)
            except Fault as fault:
                self._tell(key, ref, fault)
                return False
            failpoints.hit("heal.done")
        self._observer.notice("healed", repo=key.repo, path=key.path, caller=caller)
        return True

    async def _give_up(self, ref: BlobRef) -> None:
        """Nothing names a blob any more that is still gone."""
        if await self._store.size(ref.sha256) is None:
            await self._ledger.forget_blob(ref.sha256)
            await self._ledger.doom([ref.sha256], self._clock())

    def _tell(self, key: ArtifactKey, ref: BlobRef | None, fault: Fault) -> None:
        # Upstream has other bytes or none any more: nobody but an operator can help.
        lost = isinstance(fault, BrokenPromise | UpstreamAbsent | NotServed)
        self._observer.warning(
            "lost_for_good" if lost else "not_healed",
            repo=key.repo,
            path=key.path,
            sha256=ref.sha256 if ref else "",
            error=fault.code,
            detail=fault.detail,
        )
