"""Clients that leave: in the middle of a body, alone or among others, or before there is one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.model import ArtifactKey
from artifactproxy.rules.peers import lease_name
from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, promise, proxied

from .clients import counted, dial, held, leave, logged, target, until, waits, well

BIG = 8_000_000
PATIENT = "idle: 30s\nfirst_byte: 30s"


async def _gone(proxy: Proxy, readers: int) -> None:
    """A reader that left is off the books at once, whatever the download does."""
    await until(lambda: proxy.engine.states()["readers"] == readers, "the reader is still there")
    await logged(proxy, event="request", error="client_left")
    assert await counted(proxy, "client_aborts", reason="client_left") >= 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("who", ["alone", "leader", "follower"])
async def test_c01_who_leaves_stops_no_download(
    tmp_path: Path, chaos: Chaos, who: str, share: float, how: str
) -> None:
    word, read = asyncio.Event(), int(BIG * share)
    body = chaos.script("/f.bin", waits(word, int(BIG * (share + 0.005))), size=BIG)
    async with proxied(tmp_path, chaos.origin, PATIENT) as proxy:
        first = await dial(proxy.base)
        await first.send(target("/files/f.bin"))
        assert (await first.head()).headers["cache-status"].endswith("stored")
        leaver, others = first, []
        if who != "alone":
            second = await dial(proxy.base)
            await second.send(target("/files/f.bin"))
            assert (await second.head()).headers["cache-status"].endswith("collapsed")
            leaver, stays = (first, second) if who == "leader" else (second, first)
            others.append(stays)
        assert await leaver.exactly(read) == body.slice(0, read)
        await leave(leaver, how)
        await _gone(proxy, len(others))
        assert proxy.engine.states()["orphans"] == (1 if who == "alone" else 0)
        word.set()
        for other in others:
            assert await other.exactly(BIG) == body.bytes()
            other.close()
        await proxy.settled()
        await logged(proxy, event="fill", path="f.bin", result="stored")
        assert await counted(proxy, "fills", repo="files", result="stored") == 1
        again = await proxy.get("/files/f.bin")
        assert (again.source, again.body) == ("cache", body.bytes())
        assert chaos.hits("/f.bin") == 1
        await well(proxy, chaos)


async def test_c01_only_so_many_downloads_go_on_for_nobody(tmp_path: Path, chaos: Chaos) -> None:
    word = asyncio.Event()
    names = ["a.bin", "b.bin", "c.bin"]
    bodies = {name: chaos.script(f"/{name}", waits(word, 1_000_000), size=BIG) for name in names}
    async with proxied(tmp_path, chaos.origin, PATIENT, top="limits: {orphans: 2}") as proxy:
        for name in names:
            client = await dial(proxy.base)
            await client.send(target(f"/files/{name}"))
            await client.exactly(100_000)
            await leave(client, "rst")
            await until(lambda: proxy.engine.states()["readers"] == 0)
        await until(lambda: proxy.engine.states()["fills"] == 2)
        assert proxy.engine.states()["orphans"] == 2
        line = await logged(proxy, event="fill", path="c.bin", result="failed")
        assert line["error"] == "cancelled"
        assert await counted(proxy, "fills", repo="files", result="failed") == 1
        word.set()
        await proxy.settled()
        assert held(proxy) == {"a.bin", "b.bin"}
        for name in names:
            assert (await proxy.get(f"/files/{name}")).body == bodies[name].bytes()
        assert [chaos.hits(f"/{name}") for name in names] == [1, 1, 2]
        await well(proxy, chaos)


@pytest.mark.parametrize(
    ("total", "at_leaving", "kept"),
    [(250_000, 150_000, True), (3_000_000, 150_000, False), (3_000_000, 600_000, False)],
    ids=["stays small", "grows too large", "is too large"],
)
async def test_c01_a_body_of_unknown_length_goes_on_while_it_is_small(
    tmp_path: Path, chaos: Chaos, total: int, at_leaving: int, kept: bool
) -> None:
    word = asyncio.Event()
    body = chaos.script("/f.bin", waits(word, at_leaving, chunked=True), ok(), size=total)
    async with proxied(tmp_path, chaos.origin, PATIENT, top="limits: {orphan_bytes: 300000}") as proxy:
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin"))
        await client.exactly(50_000)
        await leave(client, "rst")
        await _gone(proxy, 0)
        word.set()
        await proxy.settled()
        assert held(proxy) == ({"f.bin"} if kept else set())
        assert len(proxy.blobs()) == int(kept)
        assert await counted(proxy, "fills", result="stored" if kept else "failed") == 1
        again = await proxy.get("/files/f.bin")
        assert (again.source, again.body) == ("cache" if kept else "remote", body.bytes())
        await well(proxy, chaos)


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_c01_an_answer_that_is_only_passed_on_ends_with_its_client(
    tmp_path: Path, chaos: Chaos, how: str
) -> None:
    word = asyncio.Event()
    chaos.script("/-/v1/search", waits(word, 300_000, chunked=True), ok(), size=500_000)
    remotes = f"npm:\n  provider: npm\n  upstream: {chaos.origin}/\n"
    async with proxied(tmp_path, chaos.origin, PATIENT, remotes=remotes) as proxy:
        client = await dial(proxy.base)
        await client.send(target("/npm/-/v1/search?text=a"))
        await client.exactly(100_000)
        await leave(client, how)
        await _gone(proxy, 0)
        await proxy.upstream_idle()
        assert held(proxy) == set()
        await well(proxy, chaos)


# --- while there is no byte yet ---


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_c25_who_leaves_before_the_first_byte_leaves_the_others_alone(
    tmp_path: Path, chaos: Chaos, how: str
) -> None:
    word = asyncio.Event()
    body = chaos.script("/f.bin", waits(word, 0, head_too=True), size=500_000)
    async with proxied(tmp_path, chaos.origin, PATIENT) as proxy:
        stays = asyncio.create_task(proxy.get("/files/f.bin"))
        await until(lambda: chaos.hits("/f.bin"))
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin"))
        await until(lambda: proxy.engine.states()["readers"] == 2)
        await leave(client, how)
        await _gone(proxy, 1)
        word.set()
        got = await stays
        assert (got.status, got.body) == (200, body.bytes())
        assert chaos.hits("/f.bin") == 1
        await well(proxy, chaos)


async def test_c25_what_upstream_was_asked_for_is_finished(tmp_path: Path, chaos: Chaos) -> None:
    word = asyncio.Event()
    body = chaos.script("/f.bin", waits(word, 0, head_too=True), size=500_000)
    async with proxied(tmp_path, chaos.origin, PATIENT) as proxy:
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin"))
        await until(lambda: chaos.hits("/f.bin"))
        await leave(client, "rst")
        await _gone(proxy, 0)
        assert proxy.engine.states()["orphans"] == 1
        word.set()
        await proxy.settled()
        again = await proxy.get("/files/f.bin")
        assert (again.source, again.body, chaos.hits("/f.bin")) == ("cache", body.bytes(), 1)
        await well(proxy, chaos)


@pytest.mark.parametrize("another", [False, True], ids=["alone", "another waits"])
async def test_c25_leaving_the_queue_for_a_lease(tmp_path: Path, chaos: Chaos, another: bool) -> None:
    body = chaos.script("/f.bin", ok(), size=500_000)
    async with proxied(tmp_path, chaos.origin, PATIENT, top="limits: {lease_wait: 20s}") as proxy:
        elsewhere = LocalCoordinator(proxy.data / "leases")
        lease = await elsewhere.acquire(lease_name(ArtifactKey("files", "f.bin")), wait=1)
        assert lease is not None
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin"))
        await until(lambda: proxy.engine.states()["readers"] == 1)
        stays = asyncio.create_task(proxy.get("/files/f.bin")) if another else None
        await until(lambda: proxy.engine.states()["readers"] == 1 + int(another))
        await leave(client, "rst")
        await _gone(proxy, int(another))
        await until(lambda: proxy.engine.states()["fills"] == int(another))
        await lease.release()
        if stays is not None:
            assert (await stays).body == body.bytes()
        else:
            await logged(proxy, event="fill", path="f.bin", result="failed", error="cancelled")
            assert await counted(proxy, "fills", result="failed") == 1
        await proxy.settled()
        assert chaos.hits("/f.bin") == int(another)
        assert held(proxy) == ({"f.bin"} if another else set())
        await well(proxy, chaos)


async def test_c25_leaving_the_queue_for_upstream(tmp_path: Path, chaos: Chaos) -> None:
    word = asyncio.Event()
    first = chaos.script("/first.bin", waits(word, 200_000), size=500_000)
    chaos.script("/next.bin", ok(), size=500_000)
    limits = f"{PATIENT}\nconnections_per_host: 1\nqueue_wait: 20s"
    async with proxied(tmp_path, chaos.origin, limits) as proxy:
        busy = asyncio.create_task(proxy.get("/files/first.bin"))
        await until(lambda: chaos.hits("/first.bin"))

        def queued() -> int:
            return sum(state.queued for state in proxy.engine._parts.upstream.states().values())

        client = await dial(proxy.base)
        await client.send(target("/files/next.bin"))
        await until(lambda: queued() == 1)
        await leave(client, "rst")
        await _gone(proxy, 1)
        await until(lambda: queued() == 0, "it is still in the queue")
        await until(lambda: proxy.engine.states()["fills"] == 1)
        await logged(proxy, event="fill", path="next.bin", result="failed", error="cancelled")
        word.set()
        assert (await busy).body == first.bytes()
        await proxy.settled()
        assert chaos.hits("/next.bin") == 0
        assert held(proxy) == {"first.bin"}
        await well(proxy, chaos)


async def test_c25_leaving_while_an_index_must_vouch_for_the_file(tmp_path: Path, chaos: Chaos) -> None:
    """The file is on a host that only the index can vouch for; the index itself was asked for."""
    word = asyncio.Event()
    path = promise(chaos, "pkg-1.0.tar.gz", chaos.script("/pkg-1.0.tar.gz", ok()))
    foreign = path.replace("127.0.0.1", "localhost")
    page = json.dumps(
        {
            "meta": {"api-version": "1.1"},
            "name": "pkg",
            "versions": ["1.0"],
            "files": [],
        }
    ).encode()
    vouch = status(200, page, Content_Type="application/vnd.pypi.simple.v1+json")

    async def later(exchange: Exchange) -> None:
        await word.wait()
        await vouch(exchange)

    chaos.script("/simple/pkg/", later)
    async with proxied(tmp_path, chaos.origin, PATIENT, "file_hosts: [localhost]") as proxy:
        client = await dial(proxy.base)
        await client.send(target(foreign))
        await until(lambda: chaos.hits("/simple/pkg/"))
        assert proxy.engine.states()["fills"] == 2
        await leave(client, "rst")
        await logged(proxy, event="request", error="client_left")
        await until(lambda: proxy.engine.states()["fills"] == 1, "the file is still waited for")
        word.set()
        await proxy.settled()
        assert chaos.hits("/pkg-1.0.tar.gz") == 0
        assert held(proxy) == {"simple/pkg/"}
        await well(proxy, chaos)
