"""What every part of the test suite may use."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator

import pytest

from tests.chaos import Chaos

SLOW = ("workers", "faults", "reliability", "hosted", "crash", "checkup", "fetch")
"""Folders whose tests wait most; they begin first, so that in the end no worker goes on alone."""

pytest_plugins = ["tests.differences", "tests.needs", "tests.reliability.results"]


def pytest_configure() -> None:
    """Whoever runs the tests in the background has them ignore Ctrl-C, and the programs that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {folder: place for place, folder in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def pytest_collection_finish() -> None:
    """The cases stay for the whole run; no collection of garbage needs to walk over them, thousands of
    times."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def chaos() -> AsyncIterator[Chaos]:
    """A scripted upstream on loopback; the test must leave no task behind."""
    before = asyncio.all_tasks()
    async with Chaos() as server:
        yield server
    for _ in range(1000):  # a closing connection needs a few turns of the loop
        left = {task for task in asyncio.all_tasks() - before if not task.done()} - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left behind: {sorted(task.get_coro().__qualname__ for task in left)}")
