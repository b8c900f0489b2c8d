"""What the processes of a cluster tell each other, as text. What is read was written by another version,
or by nobody one knows: whatever is odd is no message."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

from artifactproxy.model import ArtifactKey

CHANGED: Final = "changed"
"""Topic: what is remembered of these keys is old. No keys: of any."""
PAUSE: Final = "pause"
"""Topic: an origin asked to be left alone."""
BREAKER: Final = "breaker"
"""Topic: an origin does not answer, for so many seconds; with 0 it does again."""

TOKENS: Final = "tokens"
"""Topic: what is known of the token with this id is old."""

EVERYTHING: Final = "[]"
KEYS_MAX: Final = 1000
_FIELD_MAX = 10_000  # characters
_ORIGIN_MAX = 300
_SECONDS_MAX = 86_400.0


def changed(keys: Iterable[ArtifactKey]) -> str:
    """Of more than `KEYS_MAX` keys nothing is said but that anything may have changed."""
    rows = [[key.repo, key.path, key.variant] for key in keys]
    return json.dumps(rows) if len(rows) <= KEYS_MAX else EVERYTHING


def keys_of(text: str) -> list[ArtifactKey] | None:
    """What `changed` wrote; [] for everything, None for what is no such message."""
    rows = _parse(text)
    if not isinstance(rows, list):
        return None
    if len(rows) > KEYS_MAX:
        return []
    keys = [_key(row) for row in rows]
    known = [key for key in keys if key is not None]
    return known if len(known) == len(keys) else None


def told(origin: str, seconds: float, now: float) -> str:
    """`seconds` from `now`, POSIX seconds: who hears it late has to know what is left of them."""
    return json.dumps({"origin": origin, "seconds": seconds, "until": now + seconds})


def heard(text: str, now: float) -> tuple[str, float] | None:
    """The origin and the seconds that are left, never more than were told: the clocks of two machines
    differ. None for what `told` did not write or of which nothing is left; the origin is only known to
    be short, plain text."""
    said = _parse(text)
    if not isinstance(said, dict):
        return None
    origin, seconds, until = said.get("origin"), _number(said.get("seconds")), _number(said.get("until"))
    if not isinstance(origin, str) or not 0 < len(origin) <= _ORIGIN_MAX or not origin.isascii():
        return None
    if seconds is None or until is None or seconds < 0:
        return None
    if seconds == 0:
        return origin, 0.0
    return (origin, min(seconds, until - now, _SECONDS_MAX)) if until > now else None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _key(row: object) -> ArtifactKey | None:
    if not isinstance(row, list) or len(row) != 3:
        return None
    if not all(isinstance(part, str) and len(part) <= _FIELD_MAX for part in row):
        return None
    return ArtifactKey(*row)


def _number(value: object) -> float | None:
    """JSON knows no infinity, but its readers do; and numbers no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
