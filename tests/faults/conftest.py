"""A warm proxy in front of the scripted upstream, consistent after every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.faults.watch import Watch, watched


@pytest.fixture
async def watch(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    async with watched(tmp_path, chaos) as running:
        yield running
