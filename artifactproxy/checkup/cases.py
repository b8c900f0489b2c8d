"""The words of a walk: what is looked at, what it came upon, and the second look.

Beside a serving instance rows and blobs move while they are looked at. So what looks wrong is a
suspicion first: it is looked at once more after a moment, and only what is still wrong is told. The
same second look tells whether a repair helped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from artifactproxy.checkup.findings import Finding, Tally
from artifactproxy.model import ArtifactKey
from artifactproxy.ports import BlobStore, Clock
from artifactproxy.ports.checkup import Census, Oddity, StoreSurvey
from artifactproxy.providers._base import Provider

_BEAT = 0.5  # seconds between two lines while one step is long

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is checked. `providers` by repository, None where no configuration is at hand;
    `live` says that an instance serves meanwhile, `since` when its housekeeping began (None: it
    does not run). Seconds and bytes."""

    store: BlobStore
    survey: StoreSurvey
    census: Census
    clock: Clock
    providers: Mapping[str, Provider] | None = None
    temp_limit: int | None = None
    live: bool = False
    since: float | None = None
    settle: float = 0.3
    pinned: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Progress:
    step: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """A finding, what a repair needs to know of it, and the second look."""

    finding: Finding
    still: Callable[[], Awaitable[bool]]
    key: ArtifactKey | None = None
    sha256: str = ""
    oddity: Oddity | None = None
    number: int = 0


@dataclass(slots=True)
class Look:
    """One pass: its counts, and the blobs that need not be told of by a later step (`told`: what
    lies there is wrong; `counted`: how the index counts it is)."""

    scope: Scope
    tally: Tally
    told: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)

    async def settled(self, cases: list[Case]) -> list[Case]:
        if not cases or not self.scope.live:
            return cases
        await asyncio.sleep(self.scope.settle)
        return [case for case in cases if await case.still()]

    async def beating(
        self, step: str, work: Awaitable[_T], take: Callable[[_T], None]
    ) -> AsyncGenerator[Progress, None]:
        """Lines while one long thing is done, so that whoever listens knows it is."""
        task = asyncio.ensure_future(work)
        try:
            yield Progress(step, 0, None)
            while not (await asyncio.wait((task,), timeout=_BEAT))[0]:
                yield Progress(step, 0, None)
            take(task.result())
        finally:
            task.cancel()
