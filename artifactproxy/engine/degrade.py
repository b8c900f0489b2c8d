"""What this process must do without, looked at every few seconds and told once per change.

Readiness asks here, so that whoever polls it asks no store and no database more often than that.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from artifactproxy.errors import Fault
from artifactproxy.ports import Adapter, Observer

OK = "ok"
FRESH = 0.25  # seconds for which a good verdict is not asked for again
LONGEST = 4.0  # seconds that one look may take
PATIENCE = 0.8  # seconds that whoever asks is kept waiting; probes give up after one


@dataclass(frozen=True, slots=True)
class Readiness:
    """One verdict a dependency, `ok` or a sentence that says what is wrong; `mode` in one phrase;
    `ready` tells whether requests should come here."""

    verdicts: Mapping[str, str]
    mode: str
    ready: bool


class Watch:
    """One loop per process over `adapters`, by name. Without those that are `bearable` it is ready."""

    def __init__(
        self, adapters: Mapping[str, Adapter], observer: Observer, *, bearable: frozenset[str], every: float
    ) -> None:
        self._adapters = adapters
        self._observer = observer
        self._bearable = bearable
        self._every = every
        self._verdicts: dict[str, str] = {}
        self._at = -math.inf
        self._failed: dict[str, float] = {}
        self._look: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watch")

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._look) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def readiness(self) -> Readiness:
        """A good verdict may be a moment old; a bad one is asked for anew, but not waited for long
        where the last one is known."""
        if self._due():
            looking = self._looking()
            await asyncio.wait((looking,), timeout=PATIENCE if self._verdicts else None)
            if looking.done():
                looking.result()
        verdicts = dict(self._verdicts)
        wrong = {name for name, verdict in verdicts.items() if verdict != OK}
        return Readiness(verdicts, mode_of(wrong), ready=wrong <= self._bearable)

    @property
    def mode(self) -> str:
        return mode_of({name for name, verdict in self._verdicts.items() if verdict != OK})

    # --- what work finds out by itself ---

    def doubt(self) -> None:
        """Something was not to be had, which may have passed: whoever asks next is not told of before."""
        self._at = -math.inf

    def failed(self, name: str) -> None:
        """Somebody could not do without it just now."""
        self._failed[name] = time.monotonic()
        self._observer.gauge("degraded", 1, dependency=name)

    def worked(self, name: str) -> None:
        """Takes back what `failed` said, not what a look found."""
        if self._failed.pop(name, None) is not None:
            self._gauge(name)

    # --- looking ---

    def _due(self) -> bool:
        good = set(self._verdicts.values()) == {OK} and not self._failed
        return not good or time.monotonic() - self._at > FRESH

    def _looking(self) -> asyncio.Task[None]:
        """One look at a time, which no asker ends by leaving."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask_all(), name="look at the dependencies")
        return self._look

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)  # what was just started has just been tried
            await asyncio.wait((self._looking(),))

    async def _ask_all(self) -> None:
        begun = time.monotonic()
        names = list(self._adapters)
        found = await asyncio.gather(*(_verdict(self._adapters[name]) for name in names))
        before, self._verdicts = self._verdicts, dict(zip(names, found, strict=True))
        self._at = begun
        for name, verdict in self._verdicts.items():
            if begun - self._failed.get(name, math.inf) > self._every:
                del self._failed[name]
            self._gauge(name)
            self._tell(name, verdict, before.get(name, OK))

    def _gauge(self, name: str) -> None:
        bad = self._verdicts.get(name, OK) != OK or name in self._failed
        self._observer.gauge("degraded", float(bad), dependency=name)

    def _tell(self, name: str, verdict: str, before: str) -> None:
        if verdict != OK and before == OK:
            self._observer.warning("degraded", dependency=name, detail=verdict, mode=self.mode)
        elif verdict == OK and before != OK:
            self._observer.notice("recovered", dependency=name, mode=self.mode)


def mode_of(wrong: set[str]) -> str:
    """`ok`, or what is done without, in a fixed order."""
    return ", ".join(f"without {name}" for name in sorted(wrong)) or OK


async def _verdict(adapter: Adapter) -> str:
    try:
        async with asyncio.timeout(LONGEST):
            await adapter.check()
    except TimeoutError:
        return f"no answer within {LONGEST:g} s"
    except Fault as fault:
        return fault.detail
    return OK
