"""N05: a replica that is cut off from the database, from Redis, from the bucket, or from several of them.

What it serves then is the table of docs/operations.md; the other replica notices nothing.
"""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.chaos.tcp import Toxics, down, timeout
from tests.faults.machine import metric, readiness, told
from tests.faults.replicas import Replica, Replicas, replicas
from tests.needs import needs

pytestmark = needs("postgres", "redis-server")

SIZE = 300_000
NAMES = {"index": "database", "coordination": "redis", "store": "bucket"}
BUCKET = {"read": "1s", "connect": "500ms"}  # where it is a hole; else this machine may be busy
DATABASE = {"acquire": "1s", "command": "1s", "lock": "1s", "connect": "1s"}
UNHURRIED = "5s"
ALL = tuple(NAMES)
MATRIX = [
    tuple(name for name, cut in zip(ALL, chosen, strict=True) if cut) for chosen in product((0, 1), repeat=3)
]
CASES = [(away, down()) for away in MATRIX] + [(away, timeout()) for away in (*((one,) for one in ALL), ALL)]


async def mode_is(replica: Replica, away: tuple[str, ...]) -> None:
    wanted = ", ".join(f"without {name}" for name in sorted(away)) or "ok"
    async with asyncio.timeout(30):
        while (found := await readiness(replica))[1]["mode"] != wanted:
            await asyncio.sleep(0.05)
    assert found[0] == (503 if "store" in away else 200)
    assert {name: found[1][name] == "ok" for name in ALL} == {name: name not in away for name in ALL}
    assert (await replica.get("/livez")).status == 200
    for name in ALL:
        assert await metric(replica, "degraded", dependency=name) == (name in away)


async def warmed(cl: Replicas, chaos: Chaos) -> dict[str, bytes]:
    """The first replica has a copy of one file, and knows of another that the second has stored."""
    bodies = {name: chaos.script(f"/{name}", ok(), size=SIZE).bytes() for name in ("copy.bin", "there.bin")}
    assert (await cl[0].get("/files/copy.bin")).body == bodies["copy.bin"]
    assert (await cl[1].get("/files/there.bin")).body == bodies["there.bin"]
    await cl.settled()
    await cl[0].heard()  # what it learns now is not thrown away as older than a change
    assert (await cl[0].get("/files/copy.bin")).source == "cache"
    assert (await cl[0].get("/files/there.bin", "HEAD")).status == 200
    return bodies


@pytest.mark.parametrize(
    ("away", "how"),
    CASES,
    ids=[f"{'+'.join(away) or 'none'}-{'hole' if how.black_hole else 'refused'}" for away, how in CASES],
)
async def test_n05_cut_off(tmp_path: Path, chaos: Chaos, away: tuple[str, ...], how: Toxics) -> None:
    hole = away if how.black_hole else ()
    store = BUCKET if "store" in hole else dict.fromkeys(BUCKET, UNHURRIED)
    database = DATABASE if "index" in hole else dict.fromkeys(DATABASE, UNHURRIED)
    async with replicas(tmp_path, chaos, 2, store=store, database=database) as cl:
        bodies = await warmed(cl, chaos)
        for name in away:
            getattr(cl[0].net, NAMES[name]).toxics = how
        await mode_is(cl[0], away)
        await held_is_served(cl, bodies, away)
        new = chaos.script("/new.bin", ok(), size=SIZE)
        crowd = await asyncio.gather(*(cl[0].get("/files/new.bin") for _ in range(5)))
        assert {(got.status, got.body == new.bytes()) for got in crowd} == {(200, True)}
        assert "remote" in {got.source for got in crowd}
        got = await cl[0].get("/files/none.bin")
        assert (got.status, got.error) == (404, "upstream_absent"), "what upstream says is passed on"
        await the_other_is_well(cl, bodies)
        await mode_is(cl[0], away)
        cl[0].net.heal()
        await mode_is(cl[0], ())
        for name in away:
            await told(
                cl[0], lambda line, name=name: line["event"] == "recovered" and line["dependency"] == name
            )
        await cl.settled()
        assert (await cl[0].get("/files/new.bin")).body == new.bytes()
        await cl.next_is_right()


async def held_is_served(cl: Replicas, bodies: dict[str, bytes], away: tuple[str, ...]) -> None:
    for _ in range(3):
        got = await cl[0].get("/files/copy.bin")
        assert (got.status, got.source, got.body) == (200, "cache", bodies["copy.bin"])
        part = await cl[0].get("/files/copy.bin", Range="bytes=100-199")
        assert (part.status, part.body) == (206, bodies["copy.bin"][100:200])
    got = await cl[0].get("/files/there.bin")
    source = "remote" if "store" in away else "cache"
    assert (got.status, got.source, got.body) == (200, source, bodies["there.bin"])


async def the_other_is_well(cl: Replicas, bodies: dict[str, bytes]) -> None:
    await mode_is(cl[1], ())
    for name, body in bodies.items():
        got = await cl[1].get(f"/files/{name}")
        assert (got.status, got.source, got.body) == (200, "cache", body)
    fresh = cl.chaos.script("/fresh.bin", ok(), size=SIZE)
    assert (await cl[1].get("/files/fresh.bin")).body == fresh.bytes()
