"""Whether the event loop turns: its lag as a histogram, and a warning with the stack of what held it up.

A beat on the loop tells how late it comes. While one is overdue, a thread looks at what the loop's
thread is doing; the warning is written by the loop when it turns again, since the log is its own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import Protocol

_BEATS = 4  # in the time that counts as blocked
_STACK_MAX = 8000


class LagObserver(Protocol):
    def lag(self, seconds: float) -> None: ...

    def warning(self, event: str, **facts: str | float) -> None: ...


class LoopWatch:
    """`blocked` in seconds: standing still for this long is reported as `loop_blocked`."""

    def __init__(self, observer: LagObserver, *, blocked: float) -> None:
        self._observer = observer
        self._blocked = blocked
        self._every = blocked / _BEATS
        self._due = 0.0
        self._stack = ""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._watched = 0
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    def start(self) -> None:
        """Needs the running loop, whose thread is the one that is watched."""
        self._watched = threading.get_ident()
        self._next(asyncio.get_running_loop())
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = time.monotonic() + self._every
        self._timer = loop.call_later(self._every, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        lag = max(0.0, time.monotonic() - self._due)
        stack, self._stack = self._stack, ""
        self._observer.lag(lag)
        if lag >= self._blocked:
            # No stack: nothing in this process ran meanwhile (stopped, or the machine stood still).
            self._observer.warning("loop_blocked", seconds=round(lag, 3), stack=stack[-_STACK_MAX:])
        self._next(loop)

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            late = time.monotonic() - self._due
            # Early in the standstill: at its end the loop may already be doing something else.
            if late >= self._blocked / 2 and not self._stack:
                frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - the one way to see a thread
                self._stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
