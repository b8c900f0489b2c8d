"""What a supervisor asks of its workers, and whose answers are still missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

Done = Callable[[dict[int, Any], set[int]], None]
"""The answers by the number of the worker, and who gave none."""


class Asked(Protocol):
    @property
    def number(self) -> int: ...

    def say(self, message: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class _Question:
    missing: set[int]
    until: float
    done: Done
    answers: dict[int, Any] = field(default_factory=dict)


class Questions:
    """Each is done when all have answered or died, or its time is over."""

    def __init__(self) -> None:
        self._open: dict[int, _Question] = {}
        self._last = 0

    @property
    def due(self) -> float:
        """When the next one's time is over (monotonic seconds)."""
        return min((question.until for question in self._open.values()), default=float("inf"))

    def ask(self, what: str, value: Any, among: Iterable[Asked], seconds: float, done: Done) -> None:
        self._last += 1
        asked, number = list(among), self._last
        until = time.monotonic() + seconds
        self._open[number] = _Question({worker.number for worker in asked}, until, done)
        for worker in asked:
            worker.say({"is": "ask", "id": number, "what": what, "value": value})
        self._settle(number)

    def said(self, worker: int, message: dict[str, Any]) -> None:
        question = self._open.get(message["id"])
        if question is not None and worker in question.missing:
            question.missing.discard(worker)
            if "value" in message:
                question.answers[worker] = message["value"]
            self._settle(message["id"])

    def died(self, worker: int) -> None:
        for number, question in list(self._open.items()):
            question.missing.discard(worker)
            self._settle(number)

    def close_overdue(self) -> None:
        now = time.monotonic()
        for number, question in list(self._open.items()):
            if question.until <= now:
                self._finish(number)

    def _settle(self, number: int) -> None:
        if not self._open[number].missing:
            self._finish(number)

    def _finish(self, number: int) -> None:
        question = self._open.pop(number)
        question.done(question.answers, question.missing)
