"""Making right what the check found: cached things are forgotten and fetched again, never guessed.

Each repair is followed by the second look of its case; only that decides whether it helped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from artifactproxy.checkup.cases import Case
from artifactproxy.checkup.findings import Refetch
from artifactproxy.checkup.invariants import in_time, without_secret
from artifactproxy.engine.janitor import ORPHAN_AGE_SECONDS
from artifactproxy.errors import Fault
from artifactproxy.model import ArtifactKey, Promise
from artifactproxy.ports import BlobStore, Clock, Ledger, MetadataIndex
from artifactproxy.ports.checkup import Census, Held, Oddity, StoreSurvey

UNREADABLE_MOST = 16


class Mender:
    """`refetch` None: what is forgotten is fetched by the next request. `repos` are those that
    can be fetched from; while `pinned` no blob is deleted."""

    def __init__(
        self,
        *,
        store: BlobStore,
        index: MetadataIndex,
        ledger: Ledger,
        survey: StoreSurvey,
        census: Census,
        clock: Clock,
        pinned: Callable[[], bool],
        repos: Collection[str] = (),
        refetch: Refetch | None = None,
    ) -> None:
        self._store = store
        self._index = index
        self._ledger = ledger
        self._survey = survey
        self._census = census
        self._clock = clock
        self._pinned = pinned
        self._repos = repos
        self._refetch = refetch
        self._unreadable = 0

    async def mend(self, case: Case) -> bool:
        """True if it is right now. What cannot be mended stays as it was."""
        try:
            if not await case.still():
                return True  # another repair has done it
            if case.oddity is not None:
                await self._odd(case.oddity)
            elif case.finding.kind in _MENDS:
                await _MENDS[case.finding.kind](self, case)
            return not await case.still()
        except Fault:
            return False

    async def _odd(self, oddity: Oddity) -> None:
        await self._survey.mend(oddity)
        sha256 = oddity.name.rpartition("/")[2]
        row = await self._census.blob(sha256)
        if row is not None and row.named and await self._survey.sizes([sha256]) == [None]:
            await self._lost(sha256)  # it was no blob, and has left the place of one

    async def unreadable(self, case: Case) -> None:
        """Many at once are the disk's trouble: setting all aside would empty the cache."""
        self._unreadable += 1
        if self._unreadable <= UNREADABLE_MOST:
            await self._lost(case.sha256)

    async def lost(self, case: Case) -> None:
        await self._lost(case.sha256)

    async def _lost(self, sha256: str) -> None:
        """A blob that is not what its name says is fetched again, or leaves with its rows."""
        await self._survey.set_aside(sha256)
        for row in await self._ledger.naming(sha256):
            await self._again(row.key)
        if await self._survey.sizes([sha256]) == [None]:
            await self._ledger.forget_blob(sha256)
            await self._bury(sha256)

    async def orphan(self, case: Case) -> None:
        if self._pinned():
            return
        if await self._ledger.doom([case.sha256], self._clock()):
            await self._store.delete(case.sha256, older_than=ORPHAN_AGE_SECONDS)
            await self._ledger.bury([case.sha256])

    async def overdue(self, case: Case) -> None:
        if self._pinned():
            return
        row = await self._census.blob(case.sha256)
        if row is not None and row.doomed_at is not None and not row.named:
            await self._store.delete(case.sha256)
            await self._ledger.bury([case.sha256])

    async def phantom(self, case: Case) -> None:
        await self._bury(case.sha256)

    async def recount(self, case: Case) -> None:
        """Writing a row again counts its blob again."""
        row = await self._row(case.key)
        if row is not None:
            await self._index.record(row.entry)

    async def generation(self, case: Case) -> None:
        await self._ledger.surpass(case.number)

    async def redate(self, case: Case) -> None:
        row = await self._row(case.key)
        if row is not None:
            await self._index.record(in_time(row.entry, self._clock()))

    async def redact(self, case: Case) -> None:
        row = await self._row(case.key)
        if row is not None:
            source = without_secret(row.entry.source, signed=True)
            await self._index.record(replace(row.entry, source=source))

    async def redact_promise(self, case: Case) -> None:
        promise = await self._census.promise(case.key) if case.key else None
        if isinstance(promise, Promise):
            await self._index.learn([replace(promise, url=without_secret(promise.url, signed=False))])

    async def forget(self, case: Case) -> None:
        if case.key is None:
            return
        refs = await self._ledger.forget([case.key])
        await self._ledger.doom([ref.sha256 for ref in refs if isinstance(ref.sha256, str)], self._clock())
        await self._again(case.key)

    async def unlearn(self, case: Case) -> None:
        if case.key is not None:
            await self._ledger.unlearn(case.key.repo, path=case.key.path, whole=True)

    async def _bury(self, sha256: str) -> None:
        await self._ledger.doom([sha256], self._clock())
        await self._ledger.bury([sha256])

    async def _again(self, key: ArtifactKey) -> None:
        if self._refetch is not None and key.repo in self._repos:
            await self._refetch(key)

    async def _row(self, key: ArtifactKey | None) -> Held | None:
        row = await self._census.row(key) if key else None
        return row if isinstance(row, Held) else None


_MENDS: dict[str, Callable[[Mender, Case], Awaitable[None]]] = {
    "missing": Mender.lost,
    "size": Mender.lost,
    "old-body": Mender.lost,
    "length": Mender.lost,
    "damaged": Mender.lost,
    "unreadable-blob": Mender.unreadable,
    "orphan": Mender.orphan,
    "overdue": Mender.overdue,
    "phantom": Mender.phantom,
    "doomed": Mender.recount,
    "uncounted": Mender.recount,
    "miscounted": Mender.recount,
    "generation": Mender.generation,
    "time": Mender.redate,
    "ttl": Mender.redate,
    "credential": Mender.redact,
    "credential-promised": Mender.redact_promise,
    "name": Mender.forget,
    "row": Mender.forget,
    "contradiction": Mender.forget,
    "promise": Mender.unlearn,
}
