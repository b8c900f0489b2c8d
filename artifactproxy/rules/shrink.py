"""Whether a new version of an index looks older than the one before: frozen, rolled back, cut short."""

from __future__ import annotations

from typing import Final

from artifactproxy.rules.http import parse_http_date

KEPT_SHARE: Final = 0.8
"""An index that lists less than this share of what it listed is pointed out."""


def may_have_shrunk(before_bytes: int, now_bytes: int) -> bool:
    """Whether counting is worth it: what lists a good deal less is also shorter."""
    return now_bytes < before_bytes


def shrank(before: int, now: int) -> bool:
    """Whether `now` entries are suspiciously fewer than `before`; a few may always be withdrawn."""
    return now < before * KEPT_SHARE


def went_back(before: str, now: str) -> bool:
    """Whether the second `Last-Modified` is earlier than the first; False where one is no date."""
    old, new = parse_http_date(before), parse_http_date(now)
    return old is not None and new is not None and new < old
