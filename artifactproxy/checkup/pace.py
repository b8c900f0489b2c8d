"""How fast a scrub may read: a rate, and less while the event loop is late for its requests."""

from __future__ import annotations

import asyncio

LATE = 0.1
"""Seconds by which a sleep may end late before clients are taken to suffer."""
REST = 1.0
LONGEST_REST = 30.0  # then one piece is read all the same, or a busy machine is never scrubbed


class Pace:
    """`rate` in bytes a second; None: as fast as the disk gives.

    Every hit is opened and sent by the event loop, so a disk or a processor that is kept busy shows
    as lateness of its timers, which costs nothing to measure.
    """

    def __init__(
        self,
        rate: int | None,
        *,
        late: float = LATE,
        rest: float = REST,
        longest: float = LONGEST_REST,
    ) -> None:
        self._rate = rate
        self._late = late
        self._rest = rest
        self._longest = longest
        self._due = 0.0
        self.rested = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may be read."""
        wait = 0.0
        if self._rate:
            now = asyncio.get_running_loop().time()
            # What was not used while a heal or a rest took its time is not caught up.
            self._due = max(self._due, now)
            wait = self._due - now
            self._due += size / self._rate
        late, rested = await _slept(wait), 0.0
        while late > self._late and rested < self._longest:
            late = await _slept(self._rest)
            rested += self._rest
        self.rested += rested


async def _slept(seconds: float) -> float:
    """How many seconds late the loop was after this sleep."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    await asyncio.sleep(seconds)
    return loop.time() - until
