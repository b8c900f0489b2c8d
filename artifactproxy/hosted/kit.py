"""What the rooms of a registry share: ports, the engine's stations, one request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from artifactproxy.engine.answer import Answer, Bytes, Nothing
from artifactproxy.engine.receiving import Receiving
from artifactproxy.engine.shelf import Shelf
from artifactproxy.engine.terms import Tools
from artifactproxy.hosted.local import Local
from artifactproxy.hosted.pushed import Pushed
from artifactproxy.model import ArtifactKey, Ask, CacheEntry, Header, Kind, Route
from artifactproxy.ports import Outcome
from artifactproxy.ports.hosting import Hosting
from artifactproxy.rules.oci.operations import Operation


class Inflow(Protocol):
    """The body of a request. `length` None: not announced. `waits`: the client sends nothing of it until
    somebody reads."""

    @property
    def length(self) -> int | None: ...

    @property
    def waits(self) -> bool: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """In order, once. Raises `BadRequest` where it breaks off, `BodySlow`."""


class Nobody:
    """The body of a request that has none."""

    length = 0
    waits = False

    async def chunks(self) -> AsyncIterator[bytes]:
        return
        yield b""


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `ask.base` is the address behind which names stand, with its `/v2` part; `name` is
    that of a repository inside the registry."""

    local: Local
    operation: Operation
    ask: Ask
    body: Inflow

    @property
    def repo(self) -> str:
        return self.local.name

    @property
    def name(self) -> str:
        return self.operation.name

    def address(self, rest: str) -> str:
        """Of something that belongs to this name."""
        return f"{self.ask.base}/{self.name}/{rest}"


@dataclass(frozen=True, slots=True)
class Kit:
    tools: Tools
    hosting: Hosting
    receiving: Receiving
    shelf: Shelf

    async def held(self, key: ArtifactKey) -> CacheEntry | None:
        """A row that does not change. One that another process wrote a moment ago is found too."""
        entry = (await self.tools.index.find(key)).entry
        if entry is None or entry.ref is None:
            entry = await self.hosting.committed(key)
        return entry if entry is not None and entry.ref is not None else None


def route_of(entry: CacheEntry) -> Route:
    return Route(Kind.ARTIFACT, entry.key, (), media_type=entry.media_type)


def outcome_of(call: Call, reason: str) -> Outcome:
    ask = call.ask
    return Outcome(
        "request",
        repo=call.repo,
        provider=Pushed.name,
        kind=type(call.operation.target).__name__.lower(),
        method=ask.method,
        path=ask.path,
        result="local",
        reason=reason,
        source="cache",
        caller=ask.caller,
        request_id=ask.request_id,
    )


def empty(call: Call, status: int, reason: str, *headers: Header) -> Answer:
    """An answer without a body."""
    length: tuple[Header, ...] = () if status == 204 else (("Content-Length", "0"),)
    body = Nothing() if status == 204 else Bytes(b"")
    return Answer(status, [*headers, *length], body, outcome_of(call, reason))


def document(call: Call, body: bytes, media_type: str, reason: str, *headers: Header) -> Answer:
    described: list[Header] = [
        *headers,
        ("Content-Type", media_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-cache"),
        ("X-Artifact-Source", "cache"),
    ]
    shown = Nothing() if call.ask.method == "HEAD" else Bytes(body)
    return Answer(200, described, shown, outcome_of(call, reason))
