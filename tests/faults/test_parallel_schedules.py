"""Random failures in a random order: the answer is the right bytes or a reset, what is stored is right."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos import Chaos, Exchange, Oracle
from tests.chaos.behaviours import cut, flip, ok, stall, status
from tests.chaos.server import Behaviour
from tests.faults.test_parallel import BAD_PARTS, closed, eager
from tests.house_proxy import Proxy, promise, proxied

MIB = 2**20
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"


def other() -> Behaviour:
    async def changed(exchange: Exchange) -> None:
        exchange.body = Oracle(exchange.body.name, exchange.body.size, version=1)
        exchange.seen.headers.pop("if-range", None)
        await ok()(exchange)

    return changed


__all__ = ["eager"]  # a fixture that every test here uses

HONEST = [ok(), ok(), ok(), stall(70_000, seconds=0.02), stall(0.9, seconds=0.03), ok(validators=False)]
BROKEN = [cut(0.0), cut(1), cut(0.5), cut(0.9, rst=True), stall(0.5, seconds=5), status(500), status(503)]
FLIP = flip(0.5)
WRONG = [FLIP, other(), ok(ranges=False), status(416), *map(closed, BAD_PARTS.values())]

schedules = st.lists(st.sampled_from([*HONEST, *HONEST, *BROKEN, *WRONG]), min_size=1, max_size=12)
sizes = st.sampled_from([2 * MIB, 2 * MIB + 1, 3 * MIB - 1, 4 * MIB + 4321, 7 * MIB])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedule=schedules, size=sizes, promised=st.booleans(), seed=st.integers(0, 99))
def test_r1_r4_u22_u26_any_schedule_of_failures(
    tmp_path_factory: pytest.TempPathFactory,
    schedule: list[Behaviour],
    size: int,
    promised: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("schedule")
    asyncio.run(_play(folder, schedule, size, promised, random.Random(seed)))


async def _play(
    folder: Path, schedule: list[Behaviour], size: int, promised: bool, chance: random.Random
) -> None:
    async with Chaos() as chaos, proxied(folder, chaos.origin, remote=REMOTE) as proxy:
        # Without a promise nothing can tell of a bit that came wrong in a well-framed part.
        schedule = [ok() if behave is FLIP and not promised else behave for behave in schedule]
        body = chaos.script("/pkg-1.0.tar.gz", *schedule, ok(), size=size)
        path = promise(chaos, "pkg-1.0.tar.gz", body) if promised else "/files/pkg-1.0.tar.gz"
        allowed = {None, body.bytes()}
        if not promised:  # what comes whole from one representation is taken at its word
            allowed.add(Oracle(body.name, size, version=1).bytes())
        for _ in range(3):
            readers = [_read(proxy, path, chance.random() * 0.05) for _ in range(chance.randint(1, 4))]
            answers = await asyncio.gather(*readers)
            assert set(answers) <= allowed
            await proxy.settled()
        assert len(chaos.requests) < 250
        assert not [line for line in proxy.log_lines() if line.get("warning") == "fill_bug"]
        stored = {blob.stat().st_size for blob in proxy.blobs() if blob.stat().st_size > 100_000}
        assert stored <= {size}
        await proxy.check()


async def _read(proxy: Proxy, path: str, after: float) -> bytes | None:
    await asyncio.sleep(after)
    got = await proxy.get(path)
    return got.body if got.status == 200 else None
