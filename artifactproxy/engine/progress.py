"""How far a running fill is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One connection at work: it brings bytes `start` to `stop`, has `at` reached, at `rate` bytes a
    second since it began."""

    start: int
    stop: int
    at: int
    rate: float


@dataclass(frozen=True, slots=True)
class Progress:
    """`total` None: not announced. `contiguous` bytes from the start are there and hashed, `landed` in
    all; `resumed` of them were left by an earlier life. `parts` are the connections over which the rest
    comes (empty: one, in order). `resumes` counts requests for the rest after something broke."""

    total: int | None
    contiguous: int
    landed: int
    connections: int
    parts: tuple[Part, ...] = ()
    resumed: int = 0
    resumes: int = 0
