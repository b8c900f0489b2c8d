"""One attempt to send a span of a body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from artifactproxy.stores.s3.sources import SLICE, Source, SourceFailed


class Sending:
    """Its deadline moves with every slice that the socket took."""

    def __init__(self, source: Source, start: int, stop: int, stall: float) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._stall = stall
        self.deadline: asyncio.Timeout | None = None
        self.failure: SourceFailed | None = None
        self._ended = False

    def end(self) -> None:
        """The source may go now: a connection that is being closed reads no further slice."""
        self._ended = True

    def data(self) -> AsyncGenerator[bytes, None] | bytes:
        return self._slices() if self._stop > self._start else b""

    async def _slices(self) -> AsyncGenerator[bytes, None]:
        at = self._start
        while at < self._stop and not self._ended:
            self._moved()
            end = min(at + SLICE, self._stop)
            try:
                piece = self._source.read(at, end)
            except SourceFailed as failure:
                self.failure = failure
                raise
            yield piece
            at = end
        self._moved()

    def _moved(self) -> None:
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self._stall)
