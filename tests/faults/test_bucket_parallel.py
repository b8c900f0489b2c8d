"""Into a bucket while it comes over several connections: parts leave as soon as nothing is missing before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import cut, flip, ok, slow
from tests.faults.bucketed import bucketed

MIB = 2**20
SIZE = 17 * MIB + 5
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
