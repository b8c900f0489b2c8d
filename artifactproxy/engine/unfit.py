"""Bodies of unknown length that did not fit into temporary space: how far each came."""

from __future__ import annotations

from collections.abc import Callable

from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import ArtifactKey

REMEMBERED = 10_000


class Unfit:
    """`ready_for` raises `StoreUnavailable` where there is no room for so many bytes."""

    def __init__(self, ready_for: Callable[[int], None]) -> None:
        self._ready_for = ready_for
        self._sizes: dict[ArtifactKey, int] = {}

    def note(self, key: ArtifactKey, size: int) -> None:
        """It did not fit after `size` bytes, and whoever read it was cut off."""
        if len(self._sizes) >= REMEMBERED:
            self._sizes.clear()
        self._sizes[key] = size

    def lacking(self, key: ArtifactKey) -> StoreUnavailable | None:
        """Why it would not fit now: there must be twice the room. Without this each attempt would
        break off at the same place."""
        size = self._sizes.get(key)
        if size is None:
            return None
        try:
            self._ready_for(2 * size)
        except StoreUnavailable as fault:
            return fault
        del self._sizes[key]
        return None
