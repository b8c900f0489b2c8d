"""A warm proxy in front of the scripted upstream, consistent after every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.faults.watch import Watch, watched
from tests.house_proxy import PROMPT


@pytest.fixture
async def brisk(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    """A `watch` whose proxy soon gives up an upstream that is silent."""
    async with watched(tmp_path, chaos, extra=PROMPT) as running:
        yield running


@pytest.fixture
async def watch(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    async with watched(tmp_path, chaos) as running:
        yield running
