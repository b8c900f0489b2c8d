"""Sizes in bytes and durations in seconds, as people write them.

`GB` is 10^9 and `GiB` is 2^30 bytes (IEC 80000-13); a bare number is bytes or seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal

SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
DURATIONS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(7 * 86400),
}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", re.ASCII)
_SIZE_SENTENCE = "must be a size such as 512MiB or 50GB (GB is 10^9, GiB is 2^30), or a number of bytes"
_DURATION_SENTENCE = "must be a duration such as 500ms, 30s, 10m, 2h or 7d, or a number of seconds"


def parse_size(written: object) -> int:
    """Bytes. Raises ValueError with a sentence that fits after the key."""
    if isinstance(written, int) and not isinstance(written, bool):
        if written < 0:
            raise ValueError("must not be negative")
        return written
    match = _QUANTITY.fullmatch(written) if isinstance(written, str) else None
    factor = SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(_SIZE_SENTENCE)
    size = Decimal(match[1]) * factor
    if size != size.to_integral_value():
        raise ValueError("is not a whole number of bytes")
    return int(size)


def parse_duration(written: object) -> float:
    """Seconds. Raises ValueError with a sentence that fits after the key."""
    if isinstance(written, int | float) and not isinstance(written, bool):
        if written < 0:
            raise ValueError("must not be negative")
        return float(written)
    match = _QUANTITY.fullmatch(written) if isinstance(written, str) else None
    factor = DURATIONS.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(_DURATION_SENTENCE)
    return float(Decimal(match[1]) * factor)


def show_size(size: int) -> int | str:
    """The shortest spelling that `parse_size` reads back as the same number."""
    for unit in ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB"):
        factor = SIZES[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return size


def show_duration(seconds: float) -> float | str:
    """The shortest spelling that `parse_duration` reads back as the same number."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = Decimal(repr(seconds)) / DURATIONS[unit]
        if seconds and count == count.to_integral_value() and count < 10**15:
            return f"{int(count)}{unit}"
    return seconds
