"""The process that fills dies, stumbles or gives up: whoever followed goes on, with the right bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from artifactproxy.errors import StoreFull
from artifactproxy.ports import Holder
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, ok
from tests.followers.cluster import Cluster, Gate, cluster
from tests.followers.test_one_fetch import SIZE
from tests.house_proxy import Got, promise

PARTS = [0.1, 0.5, 0.9]


async def followed(cl: Cluster, numbers: tuple[int, ...], path: str) -> list[asyncio.Task[Got]]:
    """Requests on these replicas, each of which has begun to read along."""
    tasks = [asyncio.create_task(cl[number].get(path)) for number in numbers]
    for number in numbers:
        await cl[number].filling()
        for _ in range(5_000):
            fill = next(iter(cl[number].engine._fills._tasks), None)
            if fill is not None and fill.spool is not None and fill.spool.received:
                break
            await asyncio.sleep(0.01)
    return tasks


def counted(cl: Cluster, name: str) -> int:
    return sum(replica.observer.counts[name] for replica in cl.replicas)


@pytest.mark.parametrize("validators", [True, False], ids=["tag", "no-tag"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("at", PARTS)
async def test_n01_a_leader_that_dies_is_succeeded_by_one_follower(
    tmp_path: Path, chaos: Chaos, at: float, chunked: bool, validators: bool
) -> None:
    gate = Gate(at, chunked=chunked, validators=validators)
    body = chaos.script("/f.bin", gate, ok(validators=validators), size=SIZE)
    async with cluster(tmp_path, chaos, 3) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        following = await followed(cl, (1, 2), "/files/f.bin")
        await cl[0].kill()
        assert (await leading).body is None
        answers = await asyncio.gather(*following)
        assert [got.status for got in answers] == [200, 200]
        assert [got.body == body.bytes() for got in answers] == [True, True]
        assert chaos.hits("/f.bin") == 2, "one after another, never both followers"
        assert counted(cl, "takeovers") == 1
        await cl.check()
        again = await cl[2].get("/files/f.bin")
        assert (again.source, again.body == body.bytes()) == ("cache", True)


@pytest.mark.parametrize("at", PARTS)
async def test_n01_promised_files_survive_their_leader(tmp_path: Path, chaos: Chaos, at: float) -> None:
    gate = Gate(at)
    body = chaos.script("/soup-1.0.tar.gz", gate, ok(), size=SIZE)
    path = promise(chaos, "soup-1.0.tar.gz", body)
    async with cluster(tmp_path, chaos, 3) as cl:
        await asyncio.gather(*(replica.get("/pypi/simple/soup/") for replica in cl.replicas))
        await cl.check()
        leading = asyncio.create_task(cl[0].get(path))
        await gate.reached.wait()
        following = await followed(cl, (1, 2), path)
        await cl[0].kill()
        assert (await leading).body is None
        assert [got.body == body.bytes() for got in await asyncio.gather(*following)] == [True, True]
        assert chaos.last("/soup-1.0.tar.gz").headers["range"].startswith("bytes=")
        await cl.check()


async def test_n01_other_bytes_after_a_death_are_never_joined(tmp_path: Path, chaos: Chaos) -> None:
    """Upstream has changed the file meanwhile: resets, and never a mixture."""
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 3) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        following = await followed(cl, (1, 2), "/files/f.bin")
        other = chaos.script("/f.bin", ok(), size=SIZE, version=1)
        await cl[0].kill()
        await leading
        for got in await asyncio.gather(*following):
            assert got.body in (None, other.bytes()), "a whole answer is one upstream gave"
            assert got.body != body.bytes()
        await cl.check()


async def test_n01_a_leader_dies_after_its_last_byte(tmp_path: Path, chaos: Chaos) -> None:
    """Verified, read by all, and not stored: a follower does that."""
    body = chaos.script("/f.bin", ok(), size=SIZE)
    storing = asyncio.Event()
    async with cluster(tmp_path, chaos) as cl:

        async def stuck(ref, path):
            storing.set()
            await asyncio.Event().wait()

        cl[0].engine.parts.store.put = stuck
        assert (await cl[0].get("/files/f.bin")).body == body.bytes()
        await storing.wait()
        assert (await cl[1].get("/files/f.bin")).body == body.bytes()
        await cl[0].kill()
        await cl.check()
        assert [fill.result for fill in cl[1].fills()] == ["stored"]
        assert (await cl[1].get("/files/f.bin")).source == "cache"
    assert chaos.hits("/f.bin") == 1


async def test_a_full_disk_of_the_leader_is_its_own(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, ok(), size=SIZE)
    async with cluster(tmp_path, chaos) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        (following,) = await followed(cl, (1,), "/files/f.bin")
        next(iter(cl[0].engine._fills._tasks)).spool.fail(StoreFull("no room"))
        gate.go.set()
        assert (await leading).body is None
        assert (await following).body == body.bytes()
        await cl.check()


@pytest.mark.parametrize("size", [60_000, SIZE], ids=["small", "large"])
async def test_wrong_bytes_are_wrong_for_everybody_at_once(tmp_path: Path, chaos: Chaos, size: int) -> None:
    """The holder's verdict is passed on: three processes do not ask three times."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def wrong(exchange) -> None:
        await exchange.head(200, {"Content-Length": str(size), "ETag": '"w"'})
        await exchange.send(exchange.body.slice(0, size // 2))
        reached.set()
        await go.wait()
        await exchange.send(bytes(size - size // 2))

    body = chaos.script("/soup-1.0.tar.gz", wrong, size=size)
    path = promise(chaos, "soup-1.0.tar.gz", body)
    async with cluster(tmp_path, chaos, 3) as cl:
        await asyncio.gather(*(replica.get("/pypi/simple/soup/") for replica in cl.replicas))
        await cl.check()
        asking = [asyncio.create_task(replica.get(path)) for replica in cl.replicas]
        await reached.wait()
        await cl.joined(3)
        go.set()
        answers = await asyncio.gather(*asking)
        assert all(got.body is None or got.error == "digest" for got in answers)
        # A body that nobody has seen a byte of is asked for once more, by the one who leads.
        assert chaos.hits("/soup-1.0.tar.gz") == (2 if size < 65536 else 1)
        await cl.check()
        blobs = cl.data / "blobs"
        assert not [p for p in blobs.rglob("*") if p.is_file() and p.stat().st_size == size]


async def test_a_break_that_upstream_does_not_mend_is_passed_on(tmp_path: Path, chaos: Chaos) -> None:
    go = asyncio.Event()
    gate = Gate(0.5, validators=False)

    async def breaking(exchange) -> None:
        await exchange.head(200, {"Content-Length": str(SIZE), "Content-Type": "application/octet-stream"})
        await exchange.send(exchange.body.slice(0, SIZE // 2))
        gate.reached.set()
        await go.wait()
        exchange.hang_up()

    chaos.script("/f.bin", breaking, size=SIZE)
    async with cluster(tmp_path, chaos, 3) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        following = await followed(cl, (1, 2), "/files/f.bin")
        go.set()
        answers = await asyncio.gather(leading, *following)
        assert [got.body for got in answers] == [None] * 3
        assert chaos.hits("/f.bin") == 1
        await cl.check()


async def test_a_resume_of_the_leader_is_a_pause_for_its_followers(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", cut(0.5), ok(), size=SIZE)
    async with cluster(tmp_path, chaos, 3) as cl:
        answers = await asyncio.gather(*(replica.get("/files/f.bin") for replica in cl.replicas))
        assert [got.body == body.bytes() for got in answers] == [True] * 3
        assert chaos.hits("/f.bin") == 2
        await cl.check()


async def test_a_leader_without_clients_goes_on_for_its_followers(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5, chunked=True)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 2, limits={"orphans": 0}) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        (following,) = await followed(cl, (1,), "/files/f.bin")
        leading.cancel()
        await asyncio.sleep(0.1)
        assert cl[0].engine.states()["fills"] == 1
        gate.go.set()
        assert (await following).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await cl.check()


async def test_a_follower_without_clients_stops_reading(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 2) as cl:
        leading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        (following,) = await followed(cl, (1,), "/files/f.bin")
        following.cancel()
        await cl[1].settled()
        led = next(iter(cl[0].engine._fills._tasks))
        for _ in range(5_000):  # the holder notices a moment later
            if led.readers == 1:
                break
            await asyncio.sleep(0.01)
        assert led.readers == 1
        gate.go.set()
        assert (await leading).body == body.bytes()
        await cl.check()


class Stale:
    """A coordinator that names a process that has long been gone, as a lease outlives its holder."""

    shared = True

    def __init__(self, address: str, times: int) -> None:
        self._address = address
        self._times = times
        self.asked = 0

    async def acquire(self, key: str, *, wait: float):
        self.asked += 1
        return Holder(self._address) if self.asked <= self._times else None

    async def check(self) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize("times", [2, 10_000])
async def test_r04_a_lease_that_outlives_its_holder_is_waited_for_and_then_passed_over(
    tmp_path: Path, chaos: Chaos, times: int
) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    stale = Stale("http://127.0.0.1:1", times)
    limits = {"takeover_wait": 0.5}
    async with cluster(tmp_path, chaos, 1, coordinators=lambda _: stale, limits=limits) as cl:
        got = await cl[0].get("/files/f.bin")
        assert (got.status, got.source, got.body == body.bytes()) == (200, "remote", True)
        assert stale.asked > 2
        assert counted(cl, "takeovers") == 1
        await cl.check()


async def test_two_that_name_each_other_do_not_wait_for_ever(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    addresses: list[str] = []
    made: list[Stale] = []

    def crossed(address: str) -> Stale:
        addresses.append(address)
        made.append(Stale("", 10_000))
        return made[-1]

    async with cluster(
        tmp_path, chaos, 2, coordinators=crossed, limits={"takeover_wait": 0.5, "store_retry": 1.0}
    ) as cl:
        made[0]._address, made[1]._address = addresses[1], addresses[0]
        answers = await asyncio.gather(*(replica.get("/files/f.bin") for replica in cl.replicas))
        assert [got.body == body.bytes() for got in answers] == [True, True]
        await cl.check()


async def test_r01_without_a_coordinator_each_fetches_for_itself(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 3, coordinators=lambda _: Stale("", 0)) as cl:
        asking = [asyncio.create_task(cl[n % 3].get("/files/f.bin")) for n in range(12)]
        for replica in cl.replicas:
            await replica.filling()
        gate.go.set()
        assert all(got.body == body.bytes() for got in await asyncio.gather(*asking))
        assert chaos.hits("/f.bin") == 3
        await cl.check()


async def test_another_secret_is_another_cluster(tmp_path: Path, chaos: Chaos) -> None:
    """Who cannot prove to belong is told nothing, and fetches for itself."""
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, ok(), size=SIZE)
    async with cluster(tmp_path, chaos, 2, limits={"takeover_wait": 0.3}, secrets=lambda n: f"of {n}") as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        second = asyncio.create_task(cl[1].get("/files/f.bin"))
        assert (await second).body == body.bytes()
        gate.go.set()
        assert (await first).body == body.bytes()
        assert chaos.wholes("/f.bin") == 2
        assert cl[0].observer.counts["rejected peer_pass"] > 0
        await cl.check()
