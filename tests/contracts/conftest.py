"""What the contracts of an index share; stores and coordinators have boxes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints, indexes
from tests.contracts.harness import INDEXES, Indexes, harness_of


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture(params=sorted(indexes.KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Indexes:
    box: Indexes = harness_of(INDEXES, request.param, tmp_path)
    return box


@pytest.fixture
async def index(box: Indexes) -> AsyncIterator[Any]:
    async with box.open() as index:
        yield index
