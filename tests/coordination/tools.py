"""Redis coordinators with times of milliseconds, boards that are joined, and an observer that remembers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from artifactproxy.coordination.bulletin import ChannelBulletin
from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.redis import RedisCoordinator
from tests.servers.redis import Redis

QUICK = {"budget": 0.5, "connect": 2.0, "rest": 0.05, "lease": 5.0, "renew": 0.05}


class Notes:
    """An observer. `counts` by name and cause; `said` are events of warnings and notices."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.said: list[str] = []
        self.degraded: dict[str, float] = {}

    def outcome(self, outcome: Any) -> None: ...

    def notice(self, event: str, **facts: Any) -> None:
        self.said.append(event)

    def warning(self, event: str, **facts: Any) -> None:
        self.said.append(event)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.degraded[labels["dependency"]] = value

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[":".join((name, *labels.values()))] += int(amount)


def quick(url: str, **over: Any) -> RedisOptions:
    return RedisOptions(**{"url": url, **QUICK, **over})


@asynccontextmanager
async def opened(
    url: str, *, address: str = "", notes: Notes | None = None, **over: Any
) -> AsyncIterator[RedisCoordinator]:
    coordinator = RedisCoordinator(
        quick(url, **over), address=address, observer=notes, poll=0.002, poll_max=0.02
    )
    await coordinator.start()
    try:
        yield coordinator
    finally:
        await coordinator.close()


@asynccontextmanager
async def started(port: int) -> AsyncIterator[Redis]:
    """A server that comes up while others wait for it."""
    server = Redis(port=port)
    try:
        yield await asyncio.to_thread(server.start)
    finally:
        await asyncio.to_thread(server.stop)


async def eventually(is_so: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What `is_so` returns once that is true."""
    async with asyncio.timeout(seconds):
        while not (found := is_so()):
            await asyncio.sleep(0.01)
    return found


async def taken(coordinator: RedisCoordinator, key: str, seconds: float = 15.0) -> Any:
    """A lease, once Redis is asked again."""
    async with asyncio.timeout(seconds):
        while (lease := await coordinator.acquire(key, wait=0)) is None:
            await asyncio.sleep(0.01)
    return lease


class Net:
    """Joins processes as a supervisor does: what one sends, all the others get."""

    def __init__(self) -> None:
        self._ends: list[ChannelBulletin] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ChannelBulletin]:
        def send(raw: bytes) -> None:
            for end in self._ends:
                if end is not board:
                    asyncio.get_running_loop().call_soon(end.receive, raw)

        board = ChannelBulletin(send)
        self._ends.append(board)
        await board.start()
        try:
            yield board
        finally:
            self._ends.remove(board)
            await board.close()
