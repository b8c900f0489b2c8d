"""A body in segments: what has landed, what is on its way over which connection, and what is next.

Offsets are bytes, spans half-open. The map knows no file and no clock; it is told what has been
taken from a connection and what lies on the disk, and says what to ask for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from artifactproxy.model import Span

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
LEAST: Final = 2**20  # a request costs a round trip, so nothing smaller is asked for on its own
WORTH_SPLITTING: Final = 256 * 1024  # of what is left to one connection, when others have nothing to do


@dataclass(frozen=True, slots=True)
class SavedMap:
    """What has landed of a promised body, as it is written beside the file that holds it."""

    sha256: str
    length: int
    spans: tuple[Span, ...]

    def text(self) -> str:
        spans = [[span.start, span.stop] for span in self.spans]
        return json.dumps({"version": 1, "sha256": self.sha256, "length": self.length, "spans": spans})


def read_map(text: str | bytes) -> SavedMap | None:
    """None for what is no such map, or contradicts itself."""
    try:
        read = json.loads(text)
        if read["version"] != 1:
            return None
        spans = tuple(Span(int(start), int(stop)) for start, stop in read["spans"])
        saved = SavedMap(str(read["sha256"]), int(read["length"]), spans)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    ends = [0, *(end for span in spans for end in (span.start, span.stop)), saved.length]
    orderly = ends == sorted(ends) and all(span.size for span in spans)
    return saved if orderly and _SHA256.fullmatch(saved.sha256) else None


def resumable(saved: SavedMap) -> tuple[Span, ...]:
    """What need not come again. One byte always does, since its answer tells what the whole is now."""
    last = saved.length - 1
    return tuple(Span(s.start, min(s.stop, last)) for s in saved.spans if s.start < last)


def next_to_ask(saved: SavedMap) -> int:
    """The first byte that has not landed."""
    return SegmentMap(saved.length, resumable(saved)).frontier


@dataclass(slots=True, eq=False)
class Segment:
    """What one connection brings in: `start` to `stop`, of which the bytes up to `taken` have come and
    those up to `landed` lie on the disk. `stop` moves when somebody takes over the rest, or when the
    connection goes on into what follows. `tries` counts requests that failed on these bytes."""

    start: int
    stop: int
    landed: int
    taken: int
    tries: int = 0

    @property
    def left(self) -> int:
        return self.stop - self.taken


class SegmentMap:
    """Of one body of `length` bytes; `landed` are spans that are there already.

    Free, on its way and landed together are always the whole, and never overlap.
    """

    def __init__(self, length: int, landed: Iterable[Span] = ()) -> None:
        self.length = length
        self._landed: list[Span] = []
        self._tries: dict[int, int] = {}
        self.running: list[Segment] = []
        for span in landed:
            self._add(span.start, span.stop)

    # --- looking ---

    @property
    def frontier(self) -> int:
        """Where the part ends that has landed without a gap."""
        at = 0
        for span in self.spans():
            if span.start > at:
                break
            at = max(at, span.stop)
        return at

    @property
    def size(self) -> int:
        """How many bytes have landed."""
        return sum(span.size for span in self.spans())

    @property
    def whole(self) -> bool:
        return self.frontier == self.length

    def spans(self) -> list[Span]:
        """What has landed, in order; touching spans may be two."""
        coming = (Span(s.start, s.landed) for s in self.running if s.landed > s.start)
        return sorted((*self._landed, *coming), key=lambda span: span.start)

    def free(self) -> Iterator[Span]:
        """What nobody brings in, in order."""
        at = 0
        taken = sorted((*self._landed, *(Span(s.start, s.stop) for s in self.running)), key=lambda s: s.start)
        for span in (*taken, Span(self.length, self.length)):
            if span.start > at:
                yield Span(at, span.start)
            at = max(at, span.stop)

    # --- handing out ---

    def claim(self, size: int, crew: int = 1) -> Segment | None:
        """The first free bytes, for one connection of `crew`; None if all are landed or on their way.

        At most `size`, and less towards the end, so that all connections end together and little lies
        behind a gap when the last byte comes.
        """
        gap = next(self.free(), None)
        if gap is None:
            return None
        left = sum(span.size for span in self.free())
        share = max(LEAST, math.ceil(left / (2 * max(crew, 1))))
        stop = min(gap.stop, gap.start + min(size, share))
        segment = Segment(gap.start, stop, gap.start, gap.start, self._tries.pop(gap.start, 0))
        self.running.append(segment)
        return segment

    def extend(self, segment: Segment, size: int) -> bool:
        """Whether the connection may go on past the end of its segment, since what follows is free."""
        gap = next((span for span in self.free() if span.start == segment.stop), None)
        if gap is None:
            return False
        self._tries.pop(gap.start, None)
        segment.stop = min(gap.stop, segment.stop + size)
        return True

    def reach(self, segment: Segment) -> int:
        """Up to where it could be extended now."""
        return next((span.stop for span in self.free() if span.start == segment.stop), segment.stop)

    def split(self, segment: Segment, share: float) -> Segment | None:
        """The last `share` (0 to 1) of what this connection has still to bring, for another one; None
        if that is not worth a request."""
        if segment.left < WORTH_SPLITTING:
            return None
        kept = math.ceil(segment.left * (1 - share))
        if segment.left == kept:
            return None
        other = Segment(segment.taken + kept, segment.stop, segment.taken + kept, segment.taken + kept)
        other.tries = segment.tries
        segment.stop = other.start
        self.running.append(other)
        return other

    # --- coming back ---

    def done(self, segment: Segment) -> None:
        """The connection has left this segment: what has landed of it stays, the rest is free."""
        self.running.remove(segment)
        self._add(segment.start, segment.landed)
        if segment.landed < segment.stop and segment.tries:
            self._tries[segment.landed] = segment.tries

    def forget_ahead(self) -> None:
        """Nothing counts that lies behind a gap; only while at most one segment is running."""
        frontier = self.frontier
        self._landed = [span for span in self._landed if span.start < frontier]
        self._tries.clear()

    def _add(self, start: int, stop: int) -> None:
        if stop <= start:
            return
        merged = Span(start, stop)
        kept = []
        for span in self._landed:
            if span.stop < merged.start or span.start > merged.stop:
                kept.append(span)
            else:
                merged = Span(min(span.start, merged.start), max(span.stop, merged.stop))
        self._landed = sorted([*kept, merged], key=lambda span: span.start)
