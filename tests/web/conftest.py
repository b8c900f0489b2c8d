from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from artifactproxy.limits import Limits
from artifactproxy.web.access import AccessRules

from .scripted import Rig

try:
    import uvloop
except ImportError:
    uvloop = None


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Every wire test runs on both loops: they buffer writes and own sockets differently."""
    factories: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
async def rigs() -> AsyncIterator[Callable[..., Any]]:
    """Start servers with other limits or rules; open file descriptors are counted afterwards."""
    before = _open_files()
    started: list[Rig] = []

    async def start(
        access: AccessRules | None = None, *, ssl: Any = None, keys: Any = None, **limits: Any
    ) -> Rig:
        rig = await Rig(Limits(**{"lingering": 0.3, **limits}), access or AccessRules(), ssl, keys).start()
        started.append(rig)
        return rig

    yield start
    for rig in started:
        await rig.server.close()
    for _ in range(500):
        if _open_files() <= before:
            break
        await asyncio.sleep(0.02)
    assert _open_files() <= before, "an answer left a file open"


@pytest.fixture
async def rig(rigs) -> Rig:
    return await rigs()


def _open_files() -> int:
    """Regular files only: sockets of clients end when the test lets them go."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += fd.is_file()
        except OSError:
            continue
    return count
