"""What was used, by whom: collected in memory, written in batches, never in the way of a request."""

from __future__ import annotations

from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import ArtifactKey, Ask, CacheEntry
from artifactproxy.ports import Clock, MetadataIndex, Observer, Use

ROWS_MAX = 50_000  # beyond this, lines of the current batch are dropped and counted

_Line = tuple[int, str, str, str, str]


class Usage:
    """Last use of rows (for eviction) and the hourly ledger of who asked for what.

    A row is touched once in `touch_every` seconds: each time it must be read and described anew.
    """

    def __init__(self, index: MetadataIndex, observer: Observer, clock: Clock, touch_every: float) -> None:
        self._index = index
        self._observer = observer
        self._clock = clock
        self._touch_every = touch_every
        self._touched: set[ArtifactKey] = set()
        self._lines: dict[_Line, list[int]] = {}
        self._waits = False

    def note(self, entry: CacheEntry, ask: Ask, size: int) -> None:
        """Count one answer of `size` bytes."""
        if len(self._lines) >= ROWS_MAX or len(self._touched) >= ROWS_MAX:
            self._observer.increment("usage_dropped")
            return
        now = self._clock()
        if not 0 <= now - entry.last_used < self._touch_every:
            self._touched.add(entry.key)
        hour = int(now // 3600) * 3600
        sha256 = entry.ref.sha256 if entry.ref else ""
        line = self._lines.setdefault((hour, ask.caller, ask.repo, entry.purl, sha256), [0, 0])
        line[0] += 1
        line[1] += size

    async def flush(self) -> None:
        """Write what was collected. What an index that is away cannot take is kept, within the bound."""
        touched, self._touched = self._touched, set()
        lines, self._lines = self._lines, {}
        try:
            if touched:
                await self._index.touch(touched, self._clock())
                touched = set()
            if lines:
                await self._index.count([Use(*line, *numbers) for line, numbers in lines.items()])
        except IndexUnavailable as fault:
            self._keep(touched, lines)
            if not self._waits:
                self._observer.warning("usage_waits", error=fault.code, rows=len(lines))
            self._waits = True
            return
        self._waits = False

    def _keep(self, touched: set[ArtifactKey], lines: dict[_Line, list[int]]) -> None:
        self._touched |= touched
        for line, (requests, size) in lines.items():
            numbers = self._lines.setdefault(line, [0, 0])
            numbers[0] += requests
            numbers[1] += size

    async def close(self) -> None:
        """Write what can be written; the rest is lost, as a cache's ledger may be."""
        await self.flush()
        if self._lines or self._touched:
            self._observer.warning("usage_lost", rows=len(self._lines))
