"""Leaving a fill, whatever becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable


class Once:
    """Leaving a fill exactly once: here, or when the body that was handed out is closed."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._kept = False

    def keep(self) -> Callable[[], None]:
        self._kept = True
        return self._leave

    def unless_kept(self) -> None:
        if not self._kept:
            self._leave()
