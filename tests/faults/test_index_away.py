"""An index across the network that is away: what is still served, what is not stored, what waits.

The index is the embedded one, made to answer as one that cannot be reached: rows of recent look-ups
are remembered (I13), everything else raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from artifactproxy.engine.engine import Engine
from artifactproxy.model import ArtifactKey, Found
from tests.away import WHOLE_INDEX, away, index_away
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.faults.machine import metric, readiness, told
from tests.house_proxy import Proxy, promise, proxied

BIG = 1_000_000
QUIET = "limits: {flush_every: 1h, sweep_every: 1h}"
BYPASS = "artifactproxy; fwd=bypass"


@contextmanager
def index_gone(engine: Engine, recent: dict[ArtifactKey, Found]) -> Iterator[dict[str, int]]:
    """Away but for rows that were looked up before."""
    index = engine.parts.index
    with away(index, index_away, WHOLE_INDEX) as calls:

        async def find(key: ArtifactKey) -> Found:
            calls["find"] += 1
            if key not in recent:
                raise index_away()
            return replace(recent[key], uncertain=True)

        index.find = find  # type: ignore[method-assign]
        yield calls


async def rows(engine: Engine, *paths: str, repo: str = "files") -> dict[ArtifactKey, Found]:
    keys = [ArtifactKey(repo, path) for path in paths]
    return {key: await engine.parts.index.find(key) for key in keys}


async def flush(proxy: Proxy) -> None:
    await proxy.engine._unrecorded.flush()


async def test_p03_a_miss_asks_an_index_that_is_away_once_before_upstream(
    tmp_path: Path, chaos: Chaos
) -> None:
    """Each question may take all the time that the index has."""
    body = chaos.script("/f.bin", ok(), size=20_000)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with away(proxy.engine.parts.index, index_away, WHOLE_INDEX) as calls:
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.body) == (200, body.bytes())
            assert (calls["find"], calls["generation"]) == (1, 0)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await proxy.check()


async def test_p01_what_was_looked_up_lately_is_served_as_ever(tmp_path: Path, chaos: Chaos) -> None:
    names = [f"f{n}.bin" for n in range(30)]
    bodies = {name: chaos.script(f"/{name}", ok(), size=20_000 + n) for n, name in enumerate(names)}
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        await asyncio.gather(*(proxy.get(f"/files/{name}") for name in names))
        await proxy.settled()
        with index_gone(proxy.engine, await rows(proxy.engine, *names)):
            for name, body in bodies.items():
                got = await proxy.get(f"/files/{name}")
                assert (got.status, got.source, got.body) == (200, "cache", body.bytes())
                part = await proxy.get(f"/files/{name}", Range="bytes=10-19")
                assert (part.status, part.body) == (206, body.bytes()[10:20])
            ready, found = await readiness(proxy)
            assert (ready, found["mode"]) == (503, "without index")
            assert await metric(proxy, "degraded", dependency="index") == 1
            assert (await proxy.get("/livez")).status == 200
        assert (await readiness(proxy))[0] == 200
        assert all(chaos.hits(f"/{name}") == 1 for name in names)
        await proxy.check()


async def test_p01_a_remote_index_that_is_away_is_bearable(tmp_path: Path, chaos: Chaos) -> None:
    async with proxied(tmp_path, chaos.origin) as proxy:
        watch = proxy.engine._watch
        watch._bearable = frozenset({"coordination", "index"})
        with index_gone(proxy.engine, {}):
            ready, found = await readiness(proxy)
            assert (ready, found["mode"]) == (200, "without index")
            assert found["index"] == "the index does not answer"


@pytest.mark.parametrize("size", [20_000, BIG], ids=["small", "big"])
async def test_p01_what_cannot_be_looked_up_passes_unstored_and_once(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    body = chaos.script("/new.bin", ok(), size=size)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with index_gone(proxy.engine, {}):
            crowd = await asyncio.gather(*(proxy.get("/files/new.bin") for _ in range(20)))
            assert {got.status for got in crowd} == {200}
            assert all(got.body == body.bytes() for got in crowd)
            remote = [got for got in crowd if got.source == "remote"]
            assert remote
            assert {got.headers["Cache-Status"] for got in remote} == {BYPASS}
            assert {got.headers["Cache-Control"] for got in remote} == {"no-store"}
            assert chaos.hits("/new.bin") == 1
            line = await told(proxy, lambda line: line["event"] == "fill")
            assert (line["result"], proxy.blobs()) == ("unstored", [])
        await proxy.settled()
        assert (await proxy.get("/files/new.bin")).headers["Cache-Status"].endswith("stored")
        await proxy.settled()
        assert (await proxy.get("/files/new.bin")).source == "cache"
        await proxy.check()


async def test_p01_bytes_that_may_be_promised_otherwise_replace_nothing(tmp_path: Path, chaos: Chaos) -> None:
    held = chaos.script("/a.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        await proxy.get("/files/a.bin")
        await proxy.settled()
        changed = chaos.script("/a.bin", ok(), size=BIG, version=2)
        with index_gone(proxy.engine, {}):
            assert (await proxy.get("/files/a.bin")).body == changed.bytes()
            await proxy.settled()
        await flush(proxy)
        got = await proxy.get("/files/a.bin")
        assert (got.source, got.body) == ("cache", held.bytes())
        await proxy.check()


async def test_p01_an_absence_is_told_and_not_remembered(tmp_path: Path, chaos: Chaos) -> None:
    held = chaos.script("/a.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        await proxy.get("/files/a.bin")
        await proxy.settled()
        chaos.script("/a.bin", status(404))
        with index_gone(proxy.engine, {}):
            got = await proxy.get("/files/a.bin")
            assert (got.status, got.error) == (404, "upstream_absent")
        assert proxy.engine.states()["unrecorded"] == 0
        assert (await proxy.get("/files/a.bin")).body == held.bytes()
        await proxy.check()


async def test_p01_a_foreign_file_nobody_promised_is_not_fetched(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as other:
        other.script("/pkg-1.0.tar.gz", ok(), size=BIG)
        async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
            page = b'{"meta": {"api-version": "1.1"}, "name": "pkg", "versions": [], "files": []}'
            media = "application/vnd.pypi.simple.v1+json"
            chaos.script("/simple/pkg/", status(200, page, Content_Type=media))
            with index_gone(proxy.engine, {}):
                got = await proxy.get(f"/pypi/packages/127.0.0.1:{other.port}/pkg-1.0.tar.gz")
                assert (got.status, got.error) == (503, "index_away")
                assert "Retry-After" in got.headers
            assert other.requests == []


@pytest.mark.parametrize("asked_first", [True, False], ids=["page first", "file first"])
async def test_p01_what_a_page_promises_meanwhile_is_remembered(
    tmp_path: Path, chaos: Chaos, asked_first: bool
) -> None:
    """So that installing goes on: the files lie on another host than the pages."""
    async with Chaos() as other:
        body = other.script("/pkg-1.0.tar.gz", ok(), size=BIG)
        entry = {"filename": "pkg-1.0.tar.gz", "url": other.url("/pkg-1.0.tar.gz")}
        entry["hashes"] = {"sha256": body.sha256}
        page = {"meta": {"api-version": "1.1"}, "name": "pkg", "versions": ["1.0"], "files": [entry]}
        media = "application/vnd.pypi.simple.v1+json"
        chaos.script("/simple/pkg/", status(200, json.dumps(page).encode(), Content_Type=media))
        remote = "allow_private: [127.0.0.0/8]"
        async with proxied(tmp_path, chaos.origin, remote=remote, top=QUIET) as proxy:
            path = f"/pypi/packages/127.0.0.1:{other.port}/pkg-1.0.tar.gz"
            with index_gone(proxy.engine, {}):
                if asked_first:
                    assert (await proxy.get("/pypi/simple/pkg/", Accept=media)).status == 200
                got = await proxy.get(path)
                assert (got.status, got.body) == (200, body.bytes()), got
                assert got.headers["Cache-Status"] == BYPASS
                other.script("/pkg-1.0.tar.gz", ok(), size=BIG, version=2)
                assert (await proxy.get(path)).body is None, "what was promised is demanded"
            await proxy.settled()
            assert proxy.blobs() == []
            await flush(proxy)
            [found] = (await rows(proxy.engine, path.removeprefix("/pypi/"), repo="pypi")).values()
            assert found.promise is not None
            await proxy.check()


async def test_p01_a_file_of_the_upstream_itself_passes(tmp_path: Path, chaos: Chaos) -> None:
    """Its page would promise it, but nobody can say what the page taught."""
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with index_gone(proxy.engine, {}):
            page = await proxy.get("/pypi/simple/pkg/", Accept="application/vnd.pypi.simple.v1+json")
            assert page.status == 200
            [file] = json.loads(page.body or b"")["files"]
            assert file["hashes"]["sha256"] == body.sha256
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes())
            assert got.headers["Cache-Status"] == BYPASS
            await proxy.settled()
            assert proxy.blobs() == []
        await proxy.check()


@pytest.mark.parametrize("client", [{}, {"Cache_Control": "only-if-cached"}], ids=["offline", "only cached"])
async def test_p01_cannot_tell_is_not_said_to_be_absent(
    tmp_path: Path, chaos: Chaos, client: dict[str, str]
) -> None:
    remote = "" if client else "offline: true"
    async with proxied(tmp_path, chaos.origin, remote=remote, top=QUIET) as proxy:
        with index_gone(proxy.engine, {}):
            got = await proxy.get("/files/a.bin", **client)
            assert (got.status, got.error) == (503, "index_unavailable")
        got = await proxy.get("/files/a.bin", **client)
        assert (got.status, got.error) == (504, "not_cached")


async def test_p01_an_index_page_is_stale_or_newer_but_never_older(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/i.json", status(200, b'{"v": 1}', ETag='"1"'))
    fresh = {"Cache_Control": "no-cache"}
    async with proxied(tmp_path, chaos.origin, remote="min_revalidate: 0s", top=QUIET) as proxy:
        await proxy.get("/files/i.json")
        await proxy.settled()
        with index_gone(proxy.engine, await rows(proxy.engine, "i.json")):
            chaos.script("/i.json", status(503))
            got = await proxy.get("/files/i.json", **fresh)
            assert (got.status, got.body) == (200, b'{"v": 1}')
            assert "stale-if-error" in got.headers["Cache-Status"]
            chaos.script("/i.json", status(200, b'{"v": 2}', ETag='"2"'))
            proxy.engine._pipeline._stale._until.clear()
            assert (await proxy.get("/files/i.json", **fresh)).body == b'{"v": 2}'
            await proxy.settled()
            got = await proxy.get("/files/i.json")
            assert (got.source, got.body) == ("cache", b'{"v": 2}'), "its row waits in memory"
        await proxy.check()


@pytest.mark.parametrize(
    "methods",
    [
        ("record",),
        ("bury",),
        ("record", "bury"),
        ("generation",),
        ("generation", "record", "bury"),
        ("learn",),
    ],
    ids=" ".join,
)
async def test_p07_the_index_goes_between_two_steps_of_a_fill(
    tmp_path: Path, chaos: Chaos, methods: tuple[str, ...]
) -> None:
    body = chaos.script("/new.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with away(proxy.engine.parts.index, index_away, methods) as calls:
            assert (await proxy.get("/files/new.bin")).body == body.bytes()
            await proxy.settled()
            assert all(calls.values())
            got = await proxy.get("/files/new.bin")
            assert (got.source, got.body) == ("cache", body.bytes())
            [row] = (await rows(proxy.engine, "new.bin")).values()
            waits = int("record" in methods or "learn" in methods)
            assert (row.entry is None) == ("record" in methods)
            assert proxy.engine.states()["unrecorded"] == waits
        await flush(proxy)
        assert proxy.engine.states()["unrecorded"] == 0
        [row] = (await rows(proxy.engine, "new.bin")).values()
        assert row.entry is not None
        assert row.promise is not None
        assert chaos.hits("/new.bin") == 1
        await proxy.check()


async def test_p01_rows_that_wait_are_written_at_the_end(tmp_path: Path, chaos: Chaos) -> None:
    bodies = {f"f{n}.bin": chaos.script(f"/f{n}.bin", ok(), size=20_000 + n) for n in range(10)}
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with away(proxy.engine.parts.index, index_away, ("record", "bury")):
            await asyncio.gather(*(proxy.get(f"/files/{name}") for name in bodies))
            await proxy.settled()
        assert await metric(proxy, "unrecorded") == 10
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        for name, body in bodies.items():
            got = await proxy.get(f"/files/{name}")
            assert (got.source, got.body) == ("cache", body.bytes())
        await proxy.check()


async def test_p01_a_purge_reaches_rows_that_wait(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/new.bin", ok(), size=20_000)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with away(proxy.engine.parts.index, index_away, ("record", "bury")):
            await proxy.get("/files/new.bin")
            await proxy.settled()
        assert (await proxy.engine.purge("files"))["entries"] == 1
        assert (await proxy.get("/files/new.bin")).source == "remote"
        await proxy.check()


async def test_p01_a_lost_file_is_passed_through_meanwhile(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/a.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        await proxy.get("/files/a.bin")
        await proxy.settled()
        with index_gone(proxy.engine, await rows(proxy.engine, "a.bin")):
            for path in proxy.blobs():
                path.unlink()
            got = await proxy.get("/files/a.bin")
            assert (got.status, got.body) == (200, body.bytes())
        assert (await proxy.get("/files/a.bin")).body == body.bytes()
        await proxy.settled()
        assert (await proxy.get("/files/a.bin")).source == "cache"
        await proxy.check()


async def test_p08_a_blob_lost_before_its_row_was_written(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/a.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=QUIET) as proxy:
        with away(proxy.engine.parts.index, index_away, ("record", "bury")):
            await proxy.get("/files/a.bin")
            await proxy.settled()
            for path in proxy.blobs():
                path.unlink()
            assert (await proxy.get("/files/a.bin")).body == body.bytes()
            await proxy.settled()
        await flush(proxy)
        assert (await proxy.get("/files/a.bin")).source == "cache"
        await proxy.check()
