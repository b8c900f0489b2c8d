"""Large bodies over several connections: R1 to R11, and U22 to U26 while they come so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.faults.watch import Watch, watched

MIB = 2**20
SEGMENT = MIB
FROM = 2 * MIB
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"
LARGE = 6 * MIB + 12_345


@pytest.fixture
async def wide(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    async with watched(tmp_path, chaos, remote=REMOTE) as watch:
        yield watch


def asked(watch: Watch, path: str = "/f.bin") -> list[str]:
    return [seen.headers.get("range", "") for seen in watch.chaos.requests if seen.path == path]


@pytest.mark.parametrize(
    "size",
    [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, FROM - 1, FROM, FROM + 1, 3 * SEGMENT - 1, 3 * SEGMENT, LARGE],
)
async def test_r1_every_size_is_whole(wide: Watch, size: int) -> None:
    body = wide.chaos.script("/f.bin", ok(), size=size)
    got = await wide.proxy.get("/files/f.bin")
    assert (got.status, got.source, got.body) == (200, "remote", body.bytes())
    await wide.proxy.settled()
    again = await wide.proxy.get("/files/f.bin")
    assert (again.source, again.body) == ("cache", body.bytes())
    assert asked(wide)[0] == "bytes=0-"
    if size < FROM:
        assert len(asked(wide)) == 1, "a small file ends in the first request"
