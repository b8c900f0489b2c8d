"""A client that waits long for what is to come, and the shortest way to use it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import pytest

from artifactproxy.errors import Fault
from artifactproxy.limits import RemoteLimits
from artifactproxy.model import UpstreamHead
from artifactproxy.ports import UpstreamRequest
from artifactproxy.upstream.access import RemoteAccess
from artifactproxy.upstream.client import UpstreamClient

LOOPBACK = (ip_network("127.0.0.0/8"),)
FAST = RemoteLimits(
    connect=10.0,
    first_byte=10.0,
    idle=10.0,
    min_rate=1,
    min_rate_window=20.0,
    queue_wait=10.0,
    breaker_failures=1000,
)


@dataclass
class Recorder:
    """An observer that remembers."""

    warnings: list[tuple[str, dict]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    def outcome(self, outcome) -> None: ...

    def notice(self, event: str, **facts) -> None: ...

    def warning(self, event: str, **facts) -> None:
        self.warnings.append((event, facts))

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        key = f"{name}:{labels.get('kind', '')}"
        self.counts[key] = self.counts.get(key, 0) + amount


@asynccontextmanager
async def client(
    *origins: str,
    lookup=None,
    observer=None,
    clock=time.time,
    total=128,
    limits=FAST,
    bulletin=None,
    **access,
) -> AsyncIterator[UpstreamClient]:
    """One remote, `r`. `access` are further fields of `RemoteAccess`; `changed` of its limits."""
    changed = access.pop("changed", {})
    made = UpstreamClient(
        {"r": RemoteAccess(origins=origins, limits=replace(limits, **changed), **access)},
        total_connections=total,
        observer=observer,
        clock=clock,
        lookup=lookup,
        bulletin=bulletin,
    )
    try:
        yield made
    finally:
        await made.close()


async def fetch(up: UpstreamClient, url: str, **fields) -> tuple[UpstreamHead, bytes]:
    async with up.open(UpstreamRequest("r", url, **fields)) as reply:
        return reply.head, b"".join([block async for block in reply.chunks()])


async def refusal(up: UpstreamClient, url: str, kind: type[Fault], code: str, **fields) -> Fault:
    """The fault that fetching `url` must raise."""
    with pytest.raises(kind) as caught:
        await fetch(up, url, **fields)
    assert caught.value.code == code, caught.value
    return caught.value
