from __future__ import annotations

from collections.abc import Iterator

import pytest

from artifactproxy import failpoints


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")
