"""What one process fetches, the others read along: one request upstream, right bytes for everybody."""

from __future__ import annotations

import asyncio
import gzip
import json
from functools import partial
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.followers.cluster import Gate, cluster
from tests.house_proxy import promise

SIZE = 3_000_000
# One request upstream is a promise for processes that get their turn: nobody gives up on the other here.
patient = partial(
    cluster,
    extra="connect: 20s\nfirst_byte: 20s\nidle: 20s",
    limits={"takeover_wait": 20.0, "lease_wait": 20.0, "cold_range_wait": 20.0},
)


async def asked(chaos: Chaos, path: str) -> None:
    for _ in range(5_000):
        if chaos.hits(path):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("upstream was not asked")


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [1000, 60_000, SIZE])
async def test_a4_many_readers_on_three_processes_are_one_request_upstream(
    tmp_path: Path, chaos: Chaos, size: int, chunked: bool, unix: bool
) -> None:
    gate = Gate(0.5, chunked=chunked)
    body = chaos.script("/f.bin", gate, size=size)
    async with patient(tmp_path, chaos, 3, unix=unix) as cl:
        readers = [asyncio.create_task(cl[n % 3].get("/files/f.bin")) for n in range(30)]
        await cl.joined(30)
        gate.go.set()
        answers = await asyncio.gather(*readers)
        assert {(got.status, got.source) for got in answers} == {(200, "remote")}
        assert all(got.body == body.bytes() for got in answers)
        assert chaos.hits("/f.bin") == 1
        await cl.check()
        results = sorted(fill.result for replica in cl.replicas for fill in replica.fills())
        assert results == ["followed", "followed", "stored"]
        later = [await replica.get("/files/f.bin") for replica in cl.replicas]
        assert {(got.status, got.source) for got in later} == {(200, "cache")}
        assert chaos.hits("/f.bin") == 1


async def test_a_follower_gets_bytes_while_upstream_still_sends(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with patient(tmp_path, chaos) as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        async with cl[1].client.get(cl[1].base + "/files/f.bin") as answer:
            assert answer.headers["Cache-Status"] == "artifactproxy; fwd=miss; collapsed"
            early = await answer.content.readexactly(SIZE // 4)
            assert not gate.go.is_set()
            gate.go.set()
            assert early + await answer.read() == body.bytes()
        assert (await first).body == body.bytes()
        followed = next(fill for fill in cl[1].fills() or await finished(cl, 1))
        assert followed.extra["peer"] == cl[0].base
        await cl.check()


async def finished(cl, number: int):
    await cl[number].settled()
    return cl[number].fills()


async def test_what_ended_upstream_before_a_request_came_is_cache(tmp_path: Path, chaos: Chaos) -> None:
    """The holder is still storing: whoever comes then reads along, and upstream is done with it."""
    body = chaos.script("/f.bin", ok(), size=SIZE)
    storing, go = asyncio.Event(), asyncio.Event()
    async with patient(tmp_path, chaos) as cl:
        store, put = cl[0].engine.parts.store, cl[0].engine.parts.store.put

        async def slow_put(ref, path):
            storing.set()
            await go.wait()
            await put(ref, path)

        store.put = slow_put
        first = await cl[0].get("/files/f.bin")
        await storing.wait()
        second = await cl[1].get("/files/f.bin")
        go.set()
        assert (first.source, second.source) == ("remote", "cache")
        assert first.body == second.body == body.bytes()
        await cl.check()
        assert [fill.result for fill in cl[1].fills()] == ["followed"]
    assert chaos.hits("/f.bin") == 1


async def test_promised_files_are_checked_by_every_process(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.3)
    body = chaos.script("/soup-1.0-py3-none-any.whl", gate, size=SIZE)
    path = promise(chaos, "soup-1.0-py3-none-any.whl", body)
    async with patient(tmp_path, chaos, 3) as cl:
        readers = [asyncio.create_task(replica.get(path)) for replica in cl.replicas]
        await asked(chaos, "/soup-1.0-py3-none-any.whl")
        await cl.joined(3)
        gate.go.set()
        for got in await asyncio.gather(*readers):
            assert (got.status, got.body == body.bytes()) == (200, True)
        assert chaos.hits("/soup-1.0-py3-none-any.whl") == 1
        assert chaos.hits("/simple/soup/") == 1  # teachers are fills as well
        await cl.check()


JSON = "application/vnd.pypi.simple.v1+json"


def encoded_page(chaos: Chaos, go: asyncio.Event) -> bytes:
    """A large gzipped project page whose second half waits for `go`; returns what it says."""
    listed = [
        {"filename": f"soup-{n}.tar.gz", "url": f"f/soup-{n}.tar.gz", "hashes": {"sha256": f"{n * n:064x}"}}
        for n in range(5000)
    ]
    page = json.dumps(
        {"meta": {"api-version": "1.1"}, "name": "soup", "versions": [], "files": listed}
    ).encode()
    sent = gzip.compress(page)

    async def encoded(exchange) -> None:
        assert "gzip" in exchange.seen.headers["accept-encoding"]
        head = {
            "Content-Encoding": "gzip",
            "Content-Length": str(len(sent)),
            "ETag": '"z"',
            "Content-Type": JSON,
        }
        await exchange.head(200, head)
        await exchange.send(sent[: len(sent) // 2])
        await go.wait()
        await exchange.send(sent[len(sent) // 2 :])

    chaos.script("/simple/soup/", encoded)
    return page


async def test_an_encoded_index_is_one_request(tmp_path: Path, chaos: Chaos) -> None:
    go = asyncio.Event()
    encoded_page(chaos, go)
    async with patient(tmp_path, chaos, 3) as cl:
        asking = [asyncio.create_task(r.get("/pypi/simple/soup/", Accept=JSON)) for r in cl.replicas]
        await cl.joined(3)
        go.set()
        for got in await asyncio.gather(*asking):
            assert (got.status, len(json.loads(got.body or b"{}")["files"])) == (200, 5000)
        assert chaos.hits("/simple/soup/") == 1
        await cl.check()
        assert len((await cl[2].get("/pypi/simple/soup/", Accept=JSON)).body or b"") > 400_000


async def test_n01_an_encoded_index_is_asked_for_anew_after_a_death(tmp_path: Path, chaos: Chaos) -> None:
    """What lies here has lost its coding, so no range of upstream's body continues it."""
    go = asyncio.Event()
    encoded_page(chaos, go)
    async with patient(tmp_path, chaos, 3) as cl:
        asking = [asyncio.create_task(r.get("/pypi/simple/soup/", Accept=JSON)) for r in cl.replicas]
        await cl.joined(3)
        leader = next(r for r in cl.replicas for fill in r.engine._fills._tasks if fill.leads)
        await leader.kill()
        go.set()
        answers = [got for got in await asyncio.gather(*asking) if got.body is not None]
        assert [len(json.loads(got.body or b"{}")["files"]) for got in answers] == [5000, 5000]
        assert chaos.hits("/simple/soup/") == 2
        await cl.check()


async def test_a_304_serves_all_who_asked(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/a/index.json", ok(), size=40_000)
    async with patient(tmp_path, chaos, 3) as cl:
        assert (await cl[0].get("/files/a/index.json")).body == body.bytes()
        await cl.check()
        gate = asyncio.Event()

        async def unchanged(exchange) -> None:
            await gate.wait()
            assert exchange.seen.headers["if-none-match"] == body.etag
            await exchange.head(304, {"ETag": body.etag})

        chaos.script("/a/index.json", unchanged, size=40_000)
        before = chaos.hits("/a/index.json")
        mounts = [replica.engine.mounts()["files"] for replica in cl.replicas]
        for mount in mounts:
            object.__setattr__(mount.policy, "min_revalidate", -1.0)
        asking = [
            asyncio.create_task(replica.get("/files/a/index.json", Cache_Control="no-cache"))
            for replica in cl.replicas
        ]
        await cl.joined(3)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert [got.body == body.bytes() for got in answers] == [True] * 3
        assert chaos.hits("/a/index.json") == before + 1
        await cl.check()


async def test_an_absence_is_told_to_all(tmp_path: Path, chaos: Chaos) -> None:
    gate = asyncio.Event()

    async def lacking(exchange) -> None:
        await gate.wait()
        await exchange.head(404, {"Content-Length": "0"})

    chaos.script("/none.bin", lacking)
    async with patient(tmp_path, chaos, 3) as cl:
        asking = [asyncio.create_task(replica.get("/files/none.bin")) for replica in cl.replicas]
        await cl.joined(3)
        gate.set()
        assert [got.status for got in await asyncio.gather(*asking)] == [404] * 3
        assert chaos.hits("/none.bin") == 1
        await cl.check()


@pytest.mark.parametrize(("code", "expected"), [(500, 502), (403, 403), (451, 451), (429, 429)])
async def test_what_upstream_refused_the_holder_is_told_to_its_followers(
    tmp_path: Path, chaos: Chaos, code: int, expected: int
) -> None:
    gate = asyncio.Event()

    async def refusing(exchange) -> None:
        await gate.wait()
        await status(code)(exchange)

    chaos.script("/f.bin", refusing)
    async with patient(tmp_path, chaos, 3) as cl:
        asking = [asyncio.create_task(replica.get("/files/f.bin")) for replica in cl.replicas]
        await cl.joined(3)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert [got.status for got in answers] == [expected] * 3
        assert len({got.error for got in answers}) == 1
        assert chaos.hits("/f.bin") == 1
        await cl.check()


async def test_a_row_that_landed_while_we_waited_for_the_lease_answers(tmp_path: Path, chaos: Chaos) -> None:
    """Nobody can be followed here (no addresses): the second look-up finds what the first could not."""
    from artifactproxy.coordination.local import LocalCoordinator

    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)

    def mute(_: str) -> LocalCoordinator:
        return LocalCoordinator(tmp_path / "data/leases", shared=True, poll=0.001)

    async with cluster(tmp_path, chaos, 3, coordinators=mute) as cl:
        asking = [asyncio.create_task(replica.get("/files/f.bin")) for replica in cl.replicas]
        await asked(chaos, "/f.bin")
        while sum(replica.engine.states()["readers"] for replica in cl.replicas) < 3:
            await asyncio.sleep(0.01)
        gate.go.set()
        answers = await asyncio.gather(*asking)
        assert sorted(got.source for got in answers) == ["cache", "cache", "remote"]
        assert all(got.body == body.bytes() for got in answers)
        assert chaos.hits("/f.bin") == 1
        await cl.check()


async def test_a_range_is_answered_by_a_follower_too(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with patient(tmp_path, chaos, 2, remote="cold_ranges: wait") as cl:
        whole = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        part = asyncio.create_task(cl[1].get("/files/f.bin", Range="bytes=1000-1999"))
        await cl.joined(2)
        gate.go.set()
        got = await part
        assert (got.status, got.body) == (206, body.slice(1000, 2000))
        assert (await whole).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await cl.check()
