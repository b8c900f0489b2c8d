"""Blobs first, then the rows that name them, again and again until nothing is new.

The instance may serve meanwhile: what it stores while a pass runs is moved by the next one. Every
step may be repeated: a blob that the target has is skipped, a row is replaced only by one that is at
least as new. So a migration that was interrupted is simply run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from artifactproxy import failpoints
from artifactproxy.backup.progress import Progress
from artifactproxy.errors import StoreUnavailable
from artifactproxy.migrate.source import Refused, Source
from artifactproxy.model import BlobRef, CacheEntry, Promise
from artifactproxy.ports import BlobStore, Ledger, MetadataIndex
from artifactproxy.ports.checkup import BadRow, Census, StoreSurvey

_T = TypeVar("_T")
AT_ONCE = 8
PASSES = 10
_EXAMPLES = 20


class Index(MetadataIndex, Ledger, Protocol):
    """Where rows go: one object for both."""


@dataclass(slots=True)
class Moved:
    """What a migration did; `examples` are the first blobs that had to stay behind, and why. `settled`:
    the last pass found nothing new."""

    passes: int = 0
    blobs: int = 0
    bytes: int = 0
    there: int = 0
    missing: int = 0
    damaged: int = 0
    entries: int = 0
    promises: int = 0
    tokens: int = 0
    skipped: int = 0
    settled: bool = False
    examples: list[tuple[str, str]] = field(default_factory=list)

    def leave(self, ref: BlobRef, why: str) -> None:
        if why == "missing":
            self.missing += 1
        else:
            self.damaged += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((ref.sha256, why))


class Move:
    """`store` None: blobs stay where they are; `index` None: rows do. With `survey` every blob is read
    back from the target and hashed once more. Raises `Fault` when the target fails."""

    def __init__(
        self,
        source: Source,
        census: Census,
        store: BlobStore | None,
        index: Index | None,
        progress: Progress,
        *,
        survey: StoreSurvey | None = None,
    ) -> None:
        self._source = source
        self._census = census
        self._store = store
        self._index = index
        self._survey = survey
        self._progress = progress
        self._held: set[str] = set()
        self._refused: set[str] = set()
        self._rows: dict[int, int] = {}
        self.moved = Moved()

    async def run(self) -> Moved:
        moved = self.moved
        if self._store is not None:
            self._progress.step("listing what is there already", 0)
            async for ref, _ in self._store.scan():
                self._held.add(ref.sha256)
        while not moved.settled and moved.passes < PASSES:
            moved.passes += 1
            if self._index is not None:
                await self._index.surpass(await self._census.last_generation())
            new = await self._move_blobs()
            new += await self._move_rows()
            moved.settled = not new
        return moved

    # --- blobs ------------------------------------------------------------------------------

    async def _move_blobs(self) -> int:
        if self._store is None:
            return 0
        wanted = [ref async for ref in self._wanted()]
        self._progress.step(f"moving {len(wanted)} blobs", sum(ref.size for ref in wanted))
        await _at_once(self._move_blob, wanted)
        return len(wanted)

    async def _wanted(self) -> AsyncIterator[BlobRef]:
        async for page in self._census.blobs():
            for row in page:
                sha256 = row.ref.sha256
                if not row.named or sha256 in self._refused:
                    continue
                if sha256 in self._held:
                    self.moved.there += self.moved.passes == 1
                else:
                    yield row.ref

    async def _move_blob(self, ref: BlobRef) -> None:
        assert self._store is not None
        try:
            path = await asyncio.to_thread(self._source.copy, ref)
        except Refused as refused:
            self._refused.add(ref.sha256)
            self.moved.leave(ref, str(refused))
            return
        try:
            failpoints.hit("migrate.copied")
            await self._store.put(ref, path)
        finally:
            path.unlink(missing_ok=True)
        await self._judge(ref)
        failpoints.hit("migrate.stored")
        self._held.add(ref.sha256)
        self.moved.blobs += 1
        self.moved.bytes += ref.size
        self._progress.advance(ref.size)

    async def _judge(self, ref: BlobRef) -> None:
        assert self._store is not None
        if self._survey is not None:
            content = await self._survey.read(ref.sha256, lambda _: None)
            right = content is not None and content.sha256 == ref.sha256
        else:
            right = await self._store.size(ref.sha256) == ref.size
        if not right:
            raise StoreUnavailable(
                f"the target does not hold {ref.sha256} as it was sent: check it and run again"
            )

    # --- rows -------------------------------------------------------------------------------

    async def _move_rows(self) -> int:
        if self._index is None:
            return 0
        totals = await self._census.totals()
        self._progress.step(f"moving {totals.promises} promises", 0)
        new = 0
        async for page in self._census.promises():
            promises = [each for each in page if isinstance(each, Promise) and self._is_new(each)]
            await self._index.learn(promises)
            self.moved.promises += len(promises)
            new += len(promises)
        self._progress.step(f"moving {totals.entries} entries", 0)
        async for page_ in self._census.entries():
            entries = [held.entry for held in page_ if not isinstance(held, BadRow)]
            self.moved.skipped += len(page_) - len(entries) if self.moved.passes == 1 else 0
            movable = [entry for entry in entries if self._is_movable(entry) and self._is_new(entry)]
            await _at_once(self._index.record, movable)
            self.moved.entries += len(movable)
            new += len(movable)
        return new

    def _is_movable(self, entry: CacheEntry) -> bool:
        """Never a row without its blob; one that was stored a moment ago comes with the next pass."""
        return self._store is None or entry.ref is None or entry.ref.sha256 in self._held

    def _is_new(self, row: CacheEntry | Promise) -> bool:
        """Not as it was moved already. Uses move rows all the time, and are not worth another pass."""
        key = hash((type(row).__name__, row.key))
        state = hash((row.generation, row.checked_at) if isinstance(row, CacheEntry) else row)
        if self._rows.get(key) == state:
            return False
        self._rows[key] = state
        return True


async def _at_once(work: Callable[[_T], Awaitable[object]], items: Iterable[_T]) -> None:
    """A few at a time. After the first failure nothing more is begun, and what runs ends by itself."""
    queue = iter(items)
    failed: list[BaseException] = []

    async def worker() -> None:
        for item in queue:
            if failed:
                return
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(AT_ONCE)]
    for task in tasks:
        task.add_done_callback(lambda done: failed.extend(filter(None, [_error_of(done)])))
    await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        raise failed[0]


def _error_of(done: asyncio.Task[None]) -> BaseException | None:
    return None if done.cancelled() else done.exception()
