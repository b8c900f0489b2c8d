"""Whether the wall clock runs evenly. Durations never depend on it, but dates that were stored do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from artifactproxy.ports import Clock

JUMP_SECONDS = 60.0  # less is the ordinary work of a time service


def steady() -> float:
    """Seconds that nobody can set; they pass while the machine sleeps as well, where it can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class ClockWatch:
    """`calm` is how many seconds ago the clock last jumped, infinite if it never did."""

    def __init__(self, clock: Clock, ticks: Callable[[], float] = steady) -> None:
        self._clock = clock
        self._ticks = ticks
        self._offset = clock() - ticks()
        self._jumped: float | None = None

    def look(self) -> float:
        """By how many seconds the clock was set, forward or (negative) back, since the last look; 0
        if it was not."""
        offset = self._clock() - self._ticks()
        by, self._offset = offset - self._offset, offset
        if abs(by) < JUMP_SECONDS:
            return 0.0
        self._jumped = self._ticks()
        return by

    @property
    def calm(self) -> float:
        return math.inf if self._jumped is None else self._ticks() - self._jumped
