"""A medium that is slower than the grace between doom and deletion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.house_proxy import check_store, proxied

TOP = "limits: {blob_grace: 10ms, sweep_every: 1h, flush_every: 1h}"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize("place", ["tmp.fsynced", "dir.fsynced", "row.written"])
async def test_a_doomed_blob_that_is_put_again_stays_however_slowly(
    tmp_path: Path, chaos: Chaos, place: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    async with proxied(tmp_path, chaos.origin, top=TOP) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        await proxy.engine.purge("files")
        failpoints.arm(f"{place}=sleep:0.25")
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        for _ in range(8):
            await proxy.engine._janitor.collect()
            await asyncio.sleep(0.05)
        failpoints.arm("")
        await proxy.settled()
        check_store(proxy.data)
        got = await proxy.get("/files/f.bin", Cache_Control="only-if-cached")
        assert (got.source, got.body) == ("cache", body.bytes())
        assert chaos.hits("/f.bin") == 2
        await proxy.check()
