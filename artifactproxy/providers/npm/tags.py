"""Where distribution tags point when the version they pointed at is not shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from artifactproxy.providers.npm import names

_LOWEST = ((-1, 0, 0), False, ())


def retagged(
    tags: Mapping[str, Any],
    gone: Collection[str],
    left: Mapping[str, bool],
    dates: Mapping[str, object],
) -> dict[str, Any]:
    """The tags, less those whose version is gone and has no successor.

    `latest` goes back to the highest stable version below that is not deprecated, else to what was
    published last; another tag to the highest prerelease of the same channel. `left` tells of each
    version that is shown whether it is deprecated, `dates` when it was published.
    """
    kept: dict[str, Any] = {}
    channels: dict[str, str] | None = None
    for tag, version in tags.items():
        if not isinstance(version, str) or version not in gone:
            kept[tag] = version
            continue
        if tag == "latest":
            successor = _latest(version, left, dates)
        else:
            channels = _highest(left) if channels is None else channels
            successor = channels.get(names.channel(version), "")
        if successor:
            kept[tag] = successor
    return kept


def _latest(old: str, left: Mapping[str, bool], dates: Mapping[str, object]) -> str:
    top = names.order(old)
    lower = [
        version
        for version, deprecated in left.items()
        if not deprecated and names.is_stable(version) and (top is None or _order(version) <= top)
    ]
    if lower:
        return max(lower, key=_order)
    return max(left, key=lambda v: (names.posix(dates.get(v)) or 0.0, _order(v)), default="")


def _highest(left: Mapping[str, bool]) -> dict[str, str]:
    """The highest prerelease of each channel."""
    ordered = sorted(left, key=_order)
    return {channel: version for version in ordered if (channel := names.channel(version))}


def _order(version: str) -> names.Order:
    return names.order(version) or _LOWEST
