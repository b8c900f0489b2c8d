"""A store across the network that is away: clients get their bytes, the store gets them later.

The store is the embedded one, made to answer as a bucket that cannot be reached.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.away import WHOLE_INDEX, WHOLE_STORE, away, index_away, store_away
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.faults.machine import metric, readiness, told, until
from tests.house_proxy import proxied

BIG = 1_000_000
SMALL = 20_000
PUT = ("put", "put_bytes")
RETRIES = "limits: {store_retry: 20s, sweep_every: 1h}"


@pytest.mark.parametrize("size", [SMALL, BIG], ids=["in memory", "in a file"])
async def test_s01_it_is_stored_once_the_store_is_back(tmp_path: Path, chaos: Chaos, size: int) -> None:
    body = chaos.script("/f.bin", ok(), size=size)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        with away(proxy.engine.parts.store, store_away, PUT) as calls:
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.body) == (200, body.bytes())
            await until(lambda: sum(calls.values()) > 2)
            again = await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(10)))
            assert {(got.source, got.body) for got in again} == {("cache", body.bytes())}
            assert await metric(proxy, "stores_waiting") == 1
            assert await metric(proxy, "store_errors_total", kind="store_away") >= 2
            assert proxy.blobs() == []
        await proxy.settled()
        assert len([line for line in proxy.log_lines() if line.get("warning") == "store_waits"]) == 1
        line = await told(proxy, lambda line: line["event"] == "fill")
        assert line["result"] == "stored"
        assert (await proxy.get("/files/f.bin")).source == "cache"
        assert chaos.hits("/f.bin") == 1
        await proxy.check()


async def test_s09_after_its_time_the_file_goes_and_nothing_else(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top="limits: {store_retry: 100ms}") as proxy:
        with away(proxy.engine.parts.store, store_away, PUT):
            assert (await proxy.get("/files/f.bin")).body == body.bytes()
            await proxy.settled()
            assert (proxy.temp_files(), proxy.blobs()) == ([], [])
            line = await told(proxy, lambda line: line["event"] == "fill")
            assert (line["result"], line["error"]) == ("unstored", "store_away")
        assert (await proxy.get("/files/f.bin")).source == "remote"
        await proxy.settled()
        await proxy.check()


async def test_s09_what_waits_gives_its_room_to_what_is_asked_for(tmp_path: Path, chaos: Chaos) -> None:
    bodies = {name: chaos.script(f"/{name}", ok(), size=BIG) for name in ("a.bin", "b.bin", "c.bin")}
    top = f"limits: {{store_retry: 20s, temp_bytes: {2 * BIG + 1000}, sweep_every: 1h}}"
    async with proxied(tmp_path, chaos.origin, top=top) as proxy:
        with away(proxy.engine.parts.store, store_away, PUT):
            for waiting, (name, body) in enumerate(bodies.items(), 1):
                got = await proxy.get(f"/files/{name}")
                assert (got.status, got.body) == (200, body.bytes())
                await until(lambda n=waiting: proxy.engine.states()["stores_waiting"] == min(n, 2))
            assert len(proxy.temp_files()) == 2
            line = await told(proxy, lambda line: line["event"] == "fill")
            assert (line["path"], line["result"]) == ("a.bin", "unstored"), "the oldest"
            failed = await told(proxy, lambda line: line.get("warning") == "store_failed")
            assert "room was needed" in str(failed["detail"])
            assert await metric(proxy, "stores_given_up_total") == 1
        await proxy.settled()
        assert {n: (await proxy.get(f"/files/{n}")).source for n in bodies} == {
            "a.bin": "remote",
            "b.bin": "cache",
            "c.bin": "cache",
        }
        await proxy.settled()
        await proxy.check()


async def test_s09_a_stop_does_not_wait_for_the_store(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactproxy.wiring.STORING_SECONDS", 0.2)
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with asyncio.timeout(20):
        async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
            with away(proxy.engine.parts.store, store_away, PUT) as calls:
                assert (await proxy.get("/files/f.bin")).body == body.bytes()
                await until(lambda: calls["put"] > 1)
                await proxy.engine.close(0.2)
                assert (proxy.temp_files(), proxy.blobs()) == ([], [])
    assert os.listdir(tmp_path / "data" / "tmp") == []


@pytest.mark.parametrize("size", [SMALL, BIG])
async def test_s09_a_hit_that_cannot_be_read_passes_once_for_all(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    body = chaos.script("/f.bin", ok(), size=size)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        with away(proxy.engine.parts.store, store_away, WHOLE_STORE):
            crowd = await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(20)))
            assert {got.status for got in crowd} == {200}
            assert all(got.body == body.bytes() for got in crowd)
            assert {g.headers["Cache-Status"] for g in crowd if g.source == "remote"} == {
                "artifactproxy; fwd=bypass"
            }
            assert chaos.hits("/f.bin") == 2
            head = await proxy.get("/files/f.bin", method="HEAD")
            assert (head.status, head.headers["Content-Length"]) == (200, str(size))
            ready, found = await readiness(proxy)
            assert (ready, found["mode"]) == (503, "without store")
            assert (await proxy.get("/livez")).status == 200
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache", "its row was kept"
        assert chaos.hits("/f.bin") == 2
        await proxy.check()


@pytest.mark.parametrize(
    "upstream", [status(404), status(500), None], ids=["gone there too", "broken too", "other bytes"]
)
async def test_s09_without_an_upstream_it_is_our_trouble(tmp_path: Path, chaos: Chaos, upstream) -> None:
    chaos.script("/f.bin", ok(), size=SMALL)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        chaos.script("/f.bin", upstream or ok(), size=SMALL, version=1 if upstream else 2)
        with away(proxy.engine.parts.store, store_away, WHOLE_STORE):
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.error) == (503, "store_away"), "never a 404"
            assert "Retry-After" in got.headers
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()


async def test_s09_an_offline_remote_has_nobody_to_ask(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=SMALL)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
    async with proxied(tmp_path, chaos.origin, remote="offline: true", top=RETRIES) as proxy:
        with away(proxy.engine.parts.store, store_away, WHOLE_STORE):
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.error) == (503, "store_away")
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()


async def test_n05_without_store_and_index_files_still_pass(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        parts = proxy.engine.parts
        with away(parts.store, store_away, WHOLE_STORE), away(parts.index, index_away, WHOLE_INDEX):
            crowd = await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(10)))
            assert all((got.status, got.body) == (200, body.bytes()) for got in crowd)
            assert chaos.hits("/f.bin") == 1
            ready, found = await readiness(proxy)
            assert (ready, found["mode"]) == (503, "without index, without store")
        await proxy.settled()
        assert (await readiness(proxy))[0] == 200
        await proxy.check()
