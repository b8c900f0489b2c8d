"""N01, N07, R04: a replica that leads downloads is killed, by whomever, or stands still."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok
from tests.faults.machine import metric, until
from tests.faults.processes import Processes, Reading, processes, reading
from tests.followers.cluster import Gate
from tests.house_proxy import promise
from tests.needs import needs

pytestmark = needs("postgres", "redis-server")

SIZE = 10_000_000  # two parts of an upload
PATIENT = {"idle": "60s"}  # upstream pauses as long as the test wants
FILES = {  # name: is it promised, does upstream give a tag
    "kept-1.0.tar.gz": (True, True),
    "bare-1.0.tar.gz": (True, False),
    "kept.bin": (False, True),
    "bare.bin": (False, False),
}


async def by_a_signal(cl: Processes) -> None:
    await cl.kill(0)


async def by_the_kernel(cl: Processes) -> None:
    """It has used up what it may: the same signal, from nobody it could ask."""
    dying = cl[0]
    resource.prlimit(dying.pid, resource.RLIMIT_CPU, (1, 1))
    async with asyncio.timeout(20):
        while dying.process.returncode is None:
            await dying.get("/metrics")
    assert dying.process.returncode == -signal.SIGKILL
    cl.all[0] = None


async def one_dies(
    cl: Processes, chaos: Chaos, at: float, ends: Callable[[Processes], Awaitable[None]]
) -> None:
    """The first replica leads downloads of every sort, and is gone when so much has come."""
    gates, bodies, paths = {}, {}, {}
    for name, (promised, tag) in FILES.items():
        gates[name] = Gate(at, validators=tag)
        bodies[name] = chaos.script(f"/{name}", gates[name], ok(validators=tag), size=SIZE)
        paths[name] = promise(chaos, name, bodies[name]) if promised else f"/files/{name}"
        if promised:
            assert (await cl[0].get(f"/pypi/simple/{name.partition('-')[0]}/")).status == 200
    leading = {name: await reading(cl[0], path) for name, path in paths.items()}
    for gate in gates.values():
        await gate.reached.wait()
    following: list[tuple[Oracle, Reading]] = []
    for name, path in paths.items():
        following += [(bodies[name], await reading(cl[number], path)) for number in (1, 2, 1, 2)]
    assert {name: chaos.hits(f"/{name}") for name in FILES} == dict.fromkeys(FILES, 1)
    await ends(cl)
    for name, left in leading.items():
        got = await left.got()
        assert got.body is None or (got.status, got.body) == (200, bodies[name].bytes())
    for body, each in following:
        got = await each.got()
        assert (got.status, got.source, got.body == body.bytes()) == (200, "remote", True)
    assert {name: chaos.hits(f"/{name}") for name in FILES} == dict.fromkeys(FILES, 2)
    assert await cl.total("takeovers_total") == len(FILES)
    await cl.quiet()
    for name, path in paths.items():
        for replica in cl.living():
            got = await replica.get(path)
            assert (got.source, got.body == bodies[name].bytes()) == ("cache", True)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
async def test_n01_the_leader_is_killed_and_its_followers_have_the_file(
    tmp_path: Path, chaos: Chaos, at: float
) -> None:
    """With and without a promise, with and without a tag; uploads that it had begun are ended."""
    async with processes(tmp_path, chaos, extra=PATIENT, limits={"sweep_every": "1s"}) as cl:
        await one_dies(cl, chaos, at, by_a_signal)
        await until(lambda: not cl.servers.bucket.contents.uploads)
        await cl.start(0)
        assert (await cl[0].get("/files/kept.bin")).source == "cache"


async def test_n07_the_kernel_kills_one_replica(tmp_path: Path, chaos: Chaos) -> None:
    async with processes(tmp_path, chaos, extra=PATIENT, limits={"sweep_every": "1s"}) as cl:
        await one_dies(cl, chaos, 0.5, by_the_kernel)
        await until(lambda: not cl.servers.bucket.contents.uploads)


async def test_r04_the_holder_stands_still_past_its_lease(tmp_path: Path, chaos: Chaos) -> None:
    """Two fill the same file, one after the other; there is one blob, one row, and nobody is wrong."""
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, ok(), size=SIZE)
    async with processes(tmp_path, chaos, extra=PATIENT) as cl:
        first = await reading(cl[0], "/files/f.bin")
        await gate.reached.wait()
        second = await reading(cl[1], "/files/f.bin")
        os.kill(cl[0].pid, signal.SIGSTOP)
        try:
            third = await reading(cl[2], "/files/f.bin")
            for each in (second, third):
                got = await each.got()
                assert (got.status, got.body == body.bytes()) == (200, True)
        finally:
            os.kill(cl[0].pid, signal.SIGCONT)
        gate.go.set()
        got = await first.got()
        assert got.body is None or got.body == body.bytes()
        await cl.quiet()
        assert await metric(cl[0], "lock_lost_total") == 1
        [stored] = [o for key, o in cl.servers.bucket.objects.items() if key.startswith("blobs/")]
        assert stored.size == SIZE
        for replica in cl.living():
            again = await replica.get("/files/f.bin")
            assert (again.source, again.body == body.bytes()) == ("cache", True)
