"""How a body is cut into the parts of a multipart upload.

An S3 part has at least 5 MiB unless it is the last, and at most 5 GiB; an object has at most 10,000
parts and 5 TiB. Where the length is known all parts but the last are equal, which some stores
demand; where it is not, the parts grow, so that the largest object still fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20
LEAST: Final = 5 * MIB
MOST: Final = 5 * 2**30
COUNT: Final = 10_000
LARGEST: Final = 5 * 2**40
_LARGE: Final = 10 * 2**30  # above this fewer, larger parts
_LARGE_PART: Final = 16 * MIB
_STEP: Final = 900  # parts of one size, then twice that


@dataclass(frozen=True, slots=True)
class Part:
    """A half-open span of a body; numbers begin at 1."""

    number: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Plan:
    """Where parts begin and end: equal ones of `size` bytes, or growing from there."""

    size: int
    grows: bool = False

    def part(self, number: int) -> Part:
        """The part of that number of a body without end."""
        if not self.grows:
            return Part(number, (number - 1) * self.size, number * self.size)
        start, size, left = 0, self.size, number - 1
        while left >= _STEP:
            start, left = start + _STEP * size, left - _STEP
            size = min(2 * size, MOST)
        return Part(number, start + left * size, start + (left + 1) * size)

    def parts(self, length: int) -> Iterator[Part]:
        """All parts of a body of that length; one empty part for an empty body."""
        number, start = 1, 0
        while start < length or number == 1:
            stop = min(self.part(number).stop, length)
            yield Part(number, start, stop)
            number, start = number + 1, stop


def plan(length: int | None, preferred: int) -> Plan:
    """The plan for a body of `length` bytes (None: unknown) where parts of `preferred` bytes would do.

    Raises ValueError for more than 5 TiB.
    """
    size = min(max(preferred, LEAST), MOST)
    if length is None:
        return Plan(size, grows=True)
    if length > LARGEST:
        raise ValueError("an object has at most 5 TiB")
    if length > _LARGE:
        size = max(size, _LARGE_PART)
    needed = -(-length // COUNT)
    return Plan(max(size, -(-needed // MIB) * MIB))
