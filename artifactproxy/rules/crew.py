"""How many connections one download is worth: more while that brings more, fewer when it does not.
And what is done about one that is slower than the others. Rates are bytes a second.

A climb in steps of four and then of two. Whether an upstream limits each connection, each client, or nothing at all shows
only in what one more connection brings, so each step is a trial that the measured rate has to bear out.
Nothing is tried while upstream waits for us: there more can only cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

FAST: Final = 4  # times as many in a trial, for as long as none has failed; then twice
HUNGRY: Final = 0.5  # of the time that a connection waits for upstream: from there on more may bring more
GAIN: Final = 0.4  # of what a limit per connection would bring: less than that is noise
SAME: Final = 0.93  # of the rate before: not worse, with fewer connections
STEADY: Final = 64  # windows before it is doubted that all that are allowed are worth it
RESTS: Final = 4  # windows before the next trial, doubled each time, up to
LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class Crew:
    """`size` connections are wanted, of `most` allowed. `proven` is the size that the last step kept,
    and `rate` what it brought in bytes a second (0: not measured yet)."""

    most: int
    size: int = 1
    proven: int = 0
    rate: float = 0.0
    rests: int = 0
    patience: int = RESTS

    def judged(self, rate: float, waiting: float = 1.0) -> Crew:
        """After a window in which `size` connections brought `rate` bytes a second, and waited for upstream
        for this share (0 to 1) of the time."""
        if not self.proven:
            return _trial(replace(self, proven=self.size, rate=rate), waiting)
        if self.size > self.proven:
            step = self.size / self.proven - 1
            if rate >= self.rate * (1 + GAIN * step):
                kept = replace(self, proven=self.size, rate=rate, patience=RESTS)
                return _trial(kept, waiting) if self.size < self.most else replace(kept, rests=STEADY)
            fewer, patience = max(1, self.proven // 2), min(2 * self.patience, LONGEST)
            rests = patience if fewer == self.proven else 0
            return replace(self, size=fewer, patience=patience, rests=rests)
        if self.size < self.proven:
            if rate >= self.rate * SAME:
                return _fewer(replace(self, proven=self.size, rate=rate))
            rests = STEADY if self.proven >= self.most else self.patience
            return replace(self, size=self.proven, rests=rests)
        if self.rests:
            return replace(self, rests=self.rests - 1, rate=rate)
        return _trial(replace(self, rate=rate), waiting)

    def capped(self, most: int) -> Crew:
        """No more than these can be had: a place is missing here, or upstream asked for fewer."""
        most = max(1, min(self.most, most))
        return replace(self, most=most, size=min(self.size, most), proven=min(self.proven, most))


def _trial(crew: Crew, waiting: float) -> Crew:
    """More, or fewer where there cannot be more, or upstream would not bring more."""
    if crew.size == 1 and waiting < HUNGRY:
        return crew  # to be looked at again after the next window
    if crew.size >= crew.most or waiting < HUNGRY:
        return _fewer(crew)
    more = crew.size * (FAST if crew.patience == RESTS else 2)
    return replace(crew, size=min(more, crew.most))


def _fewer(crew: Crew) -> Crew:
    size = max(1, crew.size // 2)
    return replace(crew, size=size, rests=0 if size < crew.size else crew.patience)


# --- one connection among others ---

_SLOW_SHARE: Final = 0.25  # of what the others bring: one below it is exchanged for a new one
_SLOW_AFTER: Final = 0.5  # after so many seconds
_SLOW_LEFT: Final = 0.5  # if it would need so many more


def usual(rates: Iterable[float]) -> float:
    """What a connection brings that is neither fast nor slow; 0 if there is none."""
    known = sorted(rates)
    return known[len(known) // 2] if known else 0.0


def straggles(*, rate: float, others: float, worked: float, left: int) -> bool:
    """Whether a connection that has worked for `worked` seconds and has `left` bytes to bring is so much
    slower than the `others` that a new one will do better, also if it costs a handshake."""
    slow = worked > _SLOW_AFTER and rate < others * _SLOW_SHARE
    return slow and left > max(rate, 1.0) * _SLOW_LEFT


def share(*, rate: float, others: float) -> float:
    """The part (0 to 1) of what a connection has left that another one takes over, so that both end
    together."""
    return others / max(others + rate, 1.0)
