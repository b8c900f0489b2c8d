"""A pytest plugin: where compared values hold long bytes, a failure tells their lengths and digests.

A body of 300 kB printed in full buries what differed.
"""

from __future__ import annotations

import hashlib
from pprint import pformat
from typing import Any

LONG = 256  # bytes


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    short = brief(left), brief(right)
    if op != "==" or (short[0] is left and short[1] is right):
        return None
    return [
        f"{short[0]!r:.80} == {short[1]!r:.80}",
        *("left", *_lines(short[0])),
        *("right", *_lines(short[1])),
    ]


def brief(value: Any) -> Any:
    """The value itself where there is nothing long in it, else a copy without the long bytes."""
    match value:
        case bytes() | bytearray() if len(value) > LONG:
            return f"<{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}>"
        case tuple() | list() if any(brief(part) is not part for part in value):
            return [brief(part) for part in value]
        case dict() if any(brief(part) is not part for part in value.values()):
            return {key: brief(part) for key, part in value.items()}
    return value


def _lines(value: object) -> list[str]:
    return [f"  {line}" for line in pformat(value, width=110).splitlines()]
