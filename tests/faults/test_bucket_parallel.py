"""Into a bucket while it comes over several connections: parts leave as soon as nothing is missing before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import cut, flip, gated, ok, slow
from tests.faults.bucketed import bucketed
from tests.faults.test_parallel import eager

MIB = 2**20
SIZE = 17 * MIB + 5
__all__ = ["eager"]  # a fixture that every test here uses
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"


@pytest.mark.parametrize("promised", [True, False])
async def test_parts_are_uploaded_while_later_ones_load(tmp_path: Path, chaos: Chaos, promised: bool) -> None:
    async with bucketed(tmp_path, chaos, remote=REMOTE) as rig:
        behaviours = [slow(6_000_000)]
        path, body = await rig.given(promised=promised, size=SIZE, behaviours=behaviours)
        rig.bucket.history.clear()
        await rig.right(path, body, source="remote")
        assert rig.hits(path) > 5
        assert rig.holds(body)
        await rig.is_hit(path, body)


async def test_the_first_part_has_left_before_a_later_segment_comes(tmp_path: Path, chaos: Chaos) -> None:
    """What lies behind 12 MiB is held back until the bucket has a part: whoever waited for the whole would
    wait here until the end of the test."""
    extra = "idle: 60s\nfirst_byte: 60s"
    async with bucketed(tmp_path, chaos, remote=REMOTE, extra=extra) as rig:
        held_back: list[int] = []
        came_after_it: list[bool] = []

        def sent() -> bool:
            return any(call.status == 200 for call in rig.bucket.calls("UploadPart"))

        async def late(exchange: Exchange) -> None:
            first = int(re.findall(r"\d+", exchange.seen.headers.get("range", "0"))[0])
            if first == 0:  # asked for all there is; it must not run ahead of the others
                await gated(MIB // 2, lambda: bool(held_back))(exchange)
            elif first < 12 * MIB:
                await ok()(exchange)
            else:
                held_back.append(first)
                await gated(0, sent)(exchange)
                came_after_it.append(sent())

        path, body = await rig.given(promised=True, size=SIZE, behaviours=[late])
        await rig.right(path, body, source="remote")
        assert came_after_it
        assert all(came_after_it)
        assert rig.holds(body)


@pytest.mark.parametrize("number", [0, 3, 9])
async def test_u22_wrong_parts_never_become_an_object(tmp_path: Path, chaos: Chaos, number: int) -> None:
    async with bucketed(tmp_path, chaos, remote=REMOTE) as rig:
        behaviours = [ok()] * number + [flip(0.5), cut(0.5), ok()]
        path, body = await rig.given(promised=True, size=SIZE, behaviours=behaviours)
        got = await rig.proxy.get(path)
        assert got.body in (None, body.bytes())
        await rig.proxy.settled()
        await rig.right(path, body)
        assert rig.holds(body)
