"""The address that processes ask each other at: who may, what is told, and the way to a sibling."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from artifactproxy.model import ArtifactKey
from artifactproxy.rules import passes
from artifactproxy.rules.peers import FOLLOWED, HEAD, PATH, fill_name, read_word
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.followers.cluster import SECRET, Cluster, Gate, cluster
from tests.followers.test_one_fetch import SIZE

NAME = fill_name(ArtifactKey("files", "f.bin"))


async def ask(
    cl: Cluster, *, name: str = NAME, secret: str = SECRET, at: float = 0.0, query: str = "", **headers: str
) -> tuple[int, str, bytes | None]:
    """Status, word and body of a request with a pass made `at` seconds from now."""
    named = {field.replace("_", "-"): value for field, value in headers.items()}
    named.setdefault(passes.HEADER, passes.seal(secret, "GET", name, time.time() + at))
    url = f"{cl[0].base}{PATH}?key={name}{query}"
    async with cl[0].client.get(url, headers=named) as answer:
        try:
            body: bytes | None = await answer.read()
        except aiohttp.ClientPayloadError:
            body = None
        return answer.status, answer.headers.get(HEAD, ""), body


@pytest.mark.parametrize("given", ["", "v1", "v1 99999999999 " + "0" * 64, "v2 1 " + "0" * 64, "x" * 5000])
async def test_without_a_pass_nothing_is_told(tmp_path: Path, chaos: Chaos, given: str) -> None:
    gate = Gate(0.5)
    chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 1) as cl:
        reading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        answers = {
            await ask(cl, X_Peer_Pass=given),
            await ask(cl, X_Peer_Pass=given, name="0" * 64),
            await ask(cl, X_Peer_Pass=given, query="&worker=7"),
        }
        assert len(answers) == 1, "the same for what is there and for what is not"
        assert next(iter(answers))[:2] == (403, "")
        gate.go.set()
        await reading
        await cl.check()


@pytest.mark.parametrize(
    ("secret", "at", "expected"),
    [
        (SECRET, 0, 404),
        ("another", 0, 403),
        (SECRET, -50, 404),
        (SECRET, 50, 404),
        (SECRET, -130, 403),
        (SECRET, 130, 403),
        ("", 0, 403),
    ],
)
async def test_passes_end_and_clocks_may_differ(
    tmp_path: Path, chaos: Chaos, secret: str, at: float, expected: int
) -> None:
    async with cluster(tmp_path, chaos, 1) as cl:
        assert (await ask(cl, secret=secret, at=at))[0] == expected


async def test_a_pass_is_for_one_key(tmp_path: Path, chaos: Chaos) -> None:
    async with cluster(tmp_path, chaos, 1) as cl:
        other = passes.seal(SECRET, "GET", fill_name(ArtifactKey("files", "g.bin")), time.time())
        assert (await ask(cl, X_Peer_Pass=other))[0] == 403


async def test_the_rest_of_a_known_download(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 1) as cl:
        reading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        whole = asyncio.create_task(ask(cl, Range="bytes=1000-"))
        fill = next(iter(cl[0].engine._fills._tasks)).id
        same = asyncio.create_task(ask(cl, Range="bytes=1000-", **{FOLLOWED: fill}))
        tagged = asyncio.create_task(ask(cl, Range="bytes=2000-", If_Range=body.etag))
        await asyncio.sleep(0.1)
        gate.go.set()
        status, word, got = await whole
        head = read_word(word)
        assert (status, head.status, head.length, got) == (200, 200, SIZE, body.bytes())
        for task, start in ((same, 1000), (tagged, 2000)):
            _, word, got = await task
            head = read_word(word)
            assert (head.status, head.length, got) == (206, SIZE - start, body.slice(start, SIZE))
            assert head.headers["content-range"] == f"bytes {start}-{SIZE - 1}/{SIZE}"
        assert (await reading).body == body.bytes()
        await cl.check()


@pytest.mark.parametrize(
    "given", ["bytes=-5", "bytes=1-2", "bytes=x-", "items=1-", "bytes=" + "9" * 30 + "-"]
)
async def test_other_ranges_are_refused(tmp_path: Path, chaos: Chaos, given: str) -> None:
    async with cluster(tmp_path, chaos, 1) as cl:
        assert (await ask(cl, Range=given))[0] == 400


async def test_peers_are_no_clients(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    chaos.script("/f.bin", gate, size=SIZE)
    async with cluster(tmp_path, chaos, 2) as cl:
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        second = asyncio.create_task(cl[1].get("/files/f.bin"))
        await cl.joined(2)
        gate.go.set()
        await asyncio.gather(first, second)
        await cl.check()
        requests = [o for o in cl[0].observer.outcomes if o.what == "request"]
        assert [(o.repo, o.path) for o in requests] == [("files", "f.bin")]
        assert cl[0].observer.counts["peer_fills read"] == 1
        assert "upstream_errors" not in " ".join(cl[1].observer.counts)


async def test_a_request_for_another_worker_is_handed_on(tmp_path: Path, chaos: Chaos) -> None:
    """Two workers behind one advertised address: whoever gets the request asks the right one."""
    from artifactproxy.coordination.local import LocalCoordinator

    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    bases: list[str] = []

    def advertised(address: str) -> LocalCoordinator:
        bases.append(address)
        number = len(bases)
        shown = f"{bases[1] if number == 3 else bases[0]}?worker={number}"
        # The first worker is reached through the second, which is at the address of both.
        return LocalCoordinator(tmp_path / "data/leases", address=shown, poll=0.001)

    async with cluster(tmp_path, chaos, 2, coordinators=advertised) as cl:
        second = asyncio.create_task(cl[1].get("/files/f.bin"))
        await gate.reached.wait()
        first = asyncio.create_task(cl[0].get("/files/f.bin"))
        await cl.joined(2)
        gate.go.set()
        assert [got.body == body.bytes() for got in await asyncio.gather(first, second)] == [True, True]
        assert chaos.hits("/f.bin") == 1
        assert cl[0].observer.counts["peer_fills handed_on"] >= 1
        assert cl[1].observer.counts["peer_fills read"] == 1
        await cl.check()


@pytest.mark.parametrize("number", ["9", "x", "1/../2", "-1"])
async def test_a_worker_that_is_not_there(tmp_path: Path, chaos: Chaos, number: str) -> None:
    async with cluster(tmp_path, chaos, 1) as cl:
        status, _, _ = await ask(cl, query=f"&worker={number}")
        assert status == (404 if number == "9" else 400)


async def test_without_a_cluster_there_is_no_such_address(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok())
    async with cluster(tmp_path, chaos, 1) as cl:
        cl[0].server._internal = None
        assert (await ask(cl))[0] == 404
