"""What RFC 9110 sections 13.1.5, 14.1 and 14.2 make of a GET with Range and If-Range, written from
the standard and from nothing of ours. Where it leaves the server a choice (several ranges, a suffix of
an empty representation), the choice of this program is the whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FIXDATE = "%a, %d %b %Y %H:%M:%S GMT"
_LIST = re.compile(
    r"(?i:bytes)=(?P<first>[0-9-]*)(?P<more>(?:[ \t]*,[ \t]*[0-9-]*)*)[ \t]*"  # the list rule of 5.6.1
)

Expected = tuple[int, int, int]
"""Status, first byte, byte after the last; of the whole for 200, nothing for 416."""


def expected(
    ranged: str | None, if_range: str | None, *, size: int, etag: str, modified: datetime
) -> Expected:
    whole = (200, 0, size)
    if ranged is None or (if_range is not None and not _same(if_range.strip(" \t"), etag, modified)):
        return whole
    match = _LIST.fullmatch(ranged.strip(" \t"))
    if match is None:
        return whole  # another unit, or no range at all
    specs = [spec for spec in re.split(r"[ \t,]+", f"{match['first']},{match['more']}") if spec]
    if len(specs) != 1:
        return whole
    if re.fullmatch(r"-[0-9]+", specs[0]):
        return _suffix(int(specs[0][1:]), size)
    if not re.fullmatch(r"[0-9]+-[0-9]*", specs[0]):
        return whole
    first, _, last = specs[0].partition("-")
    if last and int(last) < int(first):
        return whole  # invalid, not unsatisfiable (14.1.1)
    if int(first) >= size:
        return (416, 0, 0)
    return (206, int(first), min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Expected:
    if length == 0:
        return (416, 0, 0)
    return (206, max(0, size - length), size) if size else (200, 0, 0)


def _same(validator: str, etag: str, modified: datetime) -> bool:
    """13.1.5: a strong comparison for a tag, an exact match for a date."""
    if '"' in validator:
        return validator == etag and not etag.startswith("W/")
    try:
        return datetime.strptime(validator, _FIXDATE).replace(tzinfo=UTC) == modified
    except ValueError:
        return False
