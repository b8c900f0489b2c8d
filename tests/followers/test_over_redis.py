"""The same between machines: leases in a real Redis, which outlive their holders and may be lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.redis import RedisCoordinator
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.followers.cluster import Gate, cluster
from tests.followers.test_one_fetch import SIZE
from tests.followers.test_takeover import counted, followed
from tests.servers import redis

LIMITS = {"takeover_wait": 10.0}


class Leases:
    """Coordinators of one prefix; a lease ends a second after its holder."""

    def __init__(self) -> None:
        self.server = redis.shared()
        self.options = RedisOptions(
            self.server.url, prefix=self.server.fresh_prefix(), budget=2.0, rest=0.05, lease=1.0, renew=0.2
        )

    def __call__(self, address: str) -> RedisCoordinator:
        return RedisCoordinator(self.options, address=address, poll=0.001)


@pytest.fixture
def leases() -> Leases:
    return Leases()


async def test_a4_three_machines_ask_upstream_once(tmp_path: Path, chaos: Chaos, leases: Leases) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 3, coordinators=leases) as cl:
        asking = [asyncio.create_task(cl[n % 3].get("/files/f.bin")) for n in range(60)]
        await cl.joined(60)
        gate.go.set()
        assert all(got.body == body.bytes() for got in await asyncio.gather(*asking))
        assert chaos.hits("/f.bin") == 1
        await cl.check()


@pytest.mark.parametrize("validators", [True, False], ids=["tag", "no-tag"])
async def test_n01_a_lease_outlives_its_holder_and_one_follower_succeeds(
    tmp_path: Path, chaos: Chaos, leases: Leases, monkeypatch: pytest.MonkeyPatch, validators: bool
) -> None:
    """The other one finds the rest in the store, or still on its way there."""
    gate = Gate(0.5, validators=validators)
    body = chaos.script("/f.bin", gate, ok(validators=validators), size=SIZE)
    async with cluster(tmp_path, chaos, 3, coordinators=leases, limits=LIMITS) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        following = await followed(cl, (1, 2), "/files/f.bin")

        async def never(lease: object, key: str) -> None: ...

        monkeypatch.setattr(cl[0].coordinator, "give_back", never)
        cl[0].coordinator._keeper.cancel()
        await cl[0].kill()
        assert (await leading).body is None
        assert [got.body == body.bytes() for got in await asyncio.gather(*following)] == [True, True]
        assert chaos.hits("/f.bin") == 2
        assert counted(cl, "takeovers") == 1
        await cl.check()


async def test_r02_a_flush_in_the_middle_costs_a_download_at_most(
    tmp_path: Path, chaos: Chaos, leases: Leases
) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 3, coordinators=leases, limits=LIMITS) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        following = await followed(cl, (1,), "/files/f.bin")
        for key in leases.server.ask("KEYS", f"{leases.options.prefix}*"):
            leases.server.ask("DEL", key)
        late = asyncio.create_task(cl[2].get("/files/f.bin"))
        await cl[2].filling()
        gate.go.set()
        answers = await asyncio.gather(leading, late, *following)
        assert [got.body == body.bytes() for got in answers] == [True] * 3
        assert chaos.hits("/f.bin") <= 2
        await cl.check()
