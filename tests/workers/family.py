"""An instance of several workers, as the program of its own that a user starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from artifactproxy.datadir import INDEX
from artifactproxy.indexes.sqlite import SqliteIndex
from tests.chaos import Chaos
from tests.faults.machine import Running, program
from tests.house_proxy import configuration

WORKERS = 3


@asynccontextmanager
async def family(
    folder: Path, chaos: Chaos, *, workers: int = WORKERS, top: str = "", extra: str = ""
) -> AsyncIterator[Running]:
    configuration(folder, chaos.origin, top=f"workers: {workers}\n{top}", extra=extra)
    async with program(folder) as running:
        yield running


def workers_of(proxy: Running) -> list[int]:
    """The process ids of the workers that live now."""
    text = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text()
    return [pid for pid in map(int, text.split()) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


async def gone(*pids: int, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while any(map(is_alive, pids)):
            await asyncio.sleep(0.02)


async def replaced(proxy: Running, dead: int, *, workers: int = WORKERS) -> None:
    """Until there are as many workers as before, and all of them answer."""
    async with asyncio.timeout(20):
        while dead in (now := workers_of(proxy)) or len(now) < workers:
            await asyncio.sleep(0.02)
    await answerers(proxy, workers)


def answerer(request_id: str) -> str:
    """What the ids of requests of one process have in common."""
    return request_id[:8]


def marked_clean(data: Path) -> bool:
    """How the next start will find the index; this look counts as no start."""
    index = SqliteIndex(data / INDEX)
    clean = index.claim()
    if clean:
        index.disclaim()
    return clean


async def answerers(proxy: Running, number: int = WORKERS) -> set[str]:
    """Ask until `number` processes have answered."""
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while len(seen) < number:
            got = await asyncio.gather(*(proxy.get("/livez") for _ in range(20)))
            seen |= {answerer(each.headers["X-Request-Id"]) for each in got if each.status}
    return seen
