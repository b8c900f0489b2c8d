"""N02: every replica is stopped and started again, one after the other, while clients go on."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import Chaos
from tests.chaos.behaviours import slow
from tests.faults.processes import Processes, processes, reading
from tests.faults.replicas import Load, load
from tests.house_proxy import Got
from tests.needs import needs

pytestmark = needs("postgres", "redis-server")


class Balanced:
    """As a balancer does it: who refuses before a word of an answer is passed over."""

    def __init__(self, cl: Processes, first: int) -> None:
        self._cl = cl
        self._first = first

    async def get(self, path: str) -> Got:
        count = len(self._cl.all)
        for number in range(count):
            replica = self._cl.all[(self._first + number) % count]
            if replica is None:
                continue
            got = await replica.get(path)
            if got.status:
                return got
        return Got(0, {}, None)


class Behind:
    """The replicas behind a balancer, as `Load` sees them."""

    def __init__(self, cl: Processes) -> None:
        self.chaos = cl.chaos
        self.all = [Balanced(cl, number) for number in range(len(cl.all))]

    def __getitem__(self, number: int) -> Balanced:
        return self.all[number]


async def roll(cl: Processes, number: int, running: Load, name: str) -> None:
    """A download that is under way when its replica is told to stop comes to its end."""
    body = cl.chaos.script(name, slow(4_000_000), size=4_000_000)
    under_way = await reading(cl[number], f"/files{name}")
    assert await cl.stop(number) == 0
    got = await under_way.got()
    assert (got.status, got.body == body.bytes()) == (200, True)
    await running.more(5)
    await cl.start(number)
    await running.more(5)


async def test_n02_a_rolling_restart_fails_no_request(tmp_path: Path, chaos: Chaos) -> None:
    async with processes(tmp_path, chaos, limits={"drain": "20s"}) as cl:
        async with load(Behind(cl), 6) as running:  # type: ignore[arg-type]
            for turn in range(len(cl.all)):
                await roll(cl, turn, running, f"/slow-{turn}.bin")
        running.is_right()
        assert set(running.asked()) == {1}, "whoever stops hands its downloads on"
