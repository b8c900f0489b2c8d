"""What the web floor expects of the engine and of the observer; nothing else is reached from here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.degrade import Readiness
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import Fault
from artifactproxy.model import Ask, Right
from artifactproxy.ports import Observer
from artifactproxy.providers._base import Page
from artifactproxy.tokens.keys import Caller

Numbers = dict[str, Any]
"""What one process has counted, as JSON values."""


class EngineLike(Protocol):
    """The engine, as wide as the web floor needs it."""

    def mounts(self) -> Mapping[str, Mount]: ...

    async def handle(self, ask: Ask) -> Answer:
        """Answer a GET or HEAD. Raises `Fault`."""

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """The error page in the language of the repository's clients (problem+json for none)."""

    async def explain(self, ask: Ask) -> dict[str, Any]:
        """Route, row, decision and reason, without fetching. Raises `Fault`."""

    async def purge(self, repo: str, *, path: str = "", package: str = "") -> dict[str, Any]: ...

    async def gc(self, *, run: bool) -> dict[str, Any]: ...

    async def stats(self) -> dict[str, Any]: ...

    async def readiness(self) -> Readiness:
        """What it must do without, and whether requests should come here."""

    def states(self) -> dict[str, Any]:
        """Gauges: numbers by name, or a mapping of numbers by one label value."""


class CheckupLike(Protocol):
    """Checks that run for minutes and tell as they go. Each line is a mapping with one key:
    `progress` (`step`, `done`, `total` or None), `finding`, and last `summary`. Raises `Fault`."""

    def fsck(self, *, full: bool, repair: bool) -> AsyncIterator[dict[str, Any]]: ...

    def scrub(self, *, rate: int | None) -> AsyncIterator[dict[str, Any]]:
        """`rate` in bytes a second; None: as fast as the disk gives."""


class KeysLike(Protocol):
    """Who is believed."""

    async def caller_of(self, secret: str) -> Caller:
        """Raises `IndexUnavailable`."""

    def knows(self, secret: str) -> bool:
        """Whether this was right when it was last shown here, or is a ticket, which proves itself."""

    async def ticket_for(self, caller: Caller, most: Right) -> str:
        """What serves instead of the token for `TICKET_SECONDS`. Raises `IndexUnavailable`."""


class TokenDeskLike(Protocol):
    """Making and ending tokens. Raises `Fault`."""

    async def create(self, name: str, scopes: Sequence[str], seconds: float | None) -> dict[str, Any]: ...

    async def list(self) -> dict[str, Any]: ...

    async def revoke(self, name: str) -> dict[str, Any]: ...


class WebObserver(Observer, Protocol):
    """An observer that can also print itself for `/metrics`."""

    def exposition(self, parts: Sequence[Numbers] = ()) -> bytes:
        """Prometheus text format, of all processes that told `parts`; without them of this one."""

    def numbers(self) -> Numbers: ...


class SiblingsLike(Protocol):
    """The other processes of this instance. Whoever does not answer soon is left out."""

    async def numbers(self, mine: Numbers) -> list[Numbers]:
        """What each of them has counted; of one that is silent what it had counted when last heard.
        `mine` is kept for when this process is the silent one."""

    async def ask(self, what: str, value: object = None) -> list[Any]:
        """What each of them answers to this question."""
