"""Every test here runs over files and over a bucket, unless it asks for one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bucket import Bucket
from tests.hosted.rig import Rig, rig


@pytest.fixture(params=["fs", "s3"])
async def reg(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    bucket = Bucket() if request.param == "s3" else None
    async with rig(tmp_path / "a", bucket=bucket, limits={"log_every": "5ms", "keepalive": "2s"}) as running:
        yield running
