"""Which blobs go when space is short: least recently used first. Bytes and POSIX seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from artifactproxy.model import BlobRef


def choose(candidates: Iterable[tuple[BlobRef, float]], need_bytes: int) -> list[BlobRef]:
    """The coldest blobs (each with the time of its last use) that together free `need_bytes`, or
    all of them if that is not enough. Empty blobs free nothing and stay."""
    chosen: dict[str, BlobRef] = {}
    freed = 0
    for ref, _ in sorted(candidates, key=lambda c: (c[1], -c[0].size, c[0].sha256)):
        if freed >= need_bytes:
            break
        if ref.size > 0 and ref.sha256 not in chosen:
            chosen[ref.sha256] = ref
            freed += ref.size
    return list(chosen.values())


def budget(data_limit: int | None, used: int, disk_total: int, disk_free: int, min_free_share: float) -> int:
    """Bytes to free now, 0 for none, never more than are used.

    With a `data_limit` only our own use counts; without one `min_free_share` of the disk is kept
    free, whoever fills it.
    """
    if data_limit is not None:
        return max(0, used - data_limit)
    short = math.ceil(disk_total * min_free_share) - disk_free
    return max(0, min(short, used))
