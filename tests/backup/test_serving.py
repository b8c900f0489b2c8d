"""Backup while serving: clients fetch, indexes change, the cache is purged and collected meanwhile."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import StoreUnavailable
from artifactproxy.stores.medium import pin
from tests.backup.folders import DEADLINE, blobs, ran, ref_of, rows
from tests.backup.folders import command as started
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, check_store, configuration, promise, proxied

QUICK = "limits: {blob_grace: 1ms, sweep_every: 20ms, flush_every: 20ms, min_free_share: 0}"
HELD = "backup.blob=sleep:0.08"  # so that the backup is under way while things happen


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoints.arm("")


async def finished(process) -> tuple[int, dict[str, object], str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=DEADLINE)
    return process.returncode, json.loads(out or b"{}"), err.decode()


async def until_pinned(proxy: Proxy, file: Path) -> None:
    """Until the snapshot has been taken: from here on blobs are copied."""
    for _ in range(DEADLINE * 100):
        beside = file.with_name(file.name + ".index.part")
        if file.with_name(file.name + ".part").exists() and not beside.exists() and is_pinned(proxy):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the backup did not begin")


def is_pinned(proxy: Proxy) -> bool:
    return proxy.engine._parts.bounds.pinned()


async def cached(proxy: Proxy, chaos: Chaos, count: int) -> dict[str, bytes]:
    """Fetch files of both remotes and a page; path to body."""
    bodies = {}
    for number in range(count):
        size = (10, 5000, 300_000)[number % 3]
        if number % 2:
            body = chaos.script(f"/f{number}.bin", ok(), size=size)
            path = f"/files/f{number}.bin"
        else:
            body = chaos.script(f"/pkg{number}-1.0.tar.gz", ok(), size=size)
            path = promise(chaos, f"pkg{number}-1.0.tar.gz", body)
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, body.bytes())
        bodies[path] = body.bytes()
    await proxy.settled()
    return bodies


async def test_what_was_cached_is_served_from_the_copy(tmp_path: Path, chaos: Chaos) -> None:
    """Purged and collected on the origin meanwhile, fetched anew meanwhile: the copy has it all."""
    file, copy = tmp_path / "b.tar", tmp_path / "copy"
    async with proxied(tmp_path, chaos.origin, top=QUICK) as proxy:
        bodies = await cached(proxy, chaos, 12)
        pages = {f"/pypi/simple/pkg{n}/": (await proxy.get(f"/pypi/simple/pkg{n}/")).body for n in (0, 2)}
        before = await proxy.engine.stats()
        process = started("backup", str(file), "--data", str(proxy.data), "--json", failpoints=HELD)
        await until_pinned(proxy, file)
        loading = asyncio.create_task(_load(proxy, chaos))
        for repo in ("files", "pypi"):
            assert (await proxy.engine.purge(repo))["entries"] > 0
        report = await proxy.engine.gc(run=True)
        assert "a backup is running" in report["postponed"]
        await asyncio.sleep(0.1)  # some turns of the janitor
        assert process.poll() is None, "the backup has to be under way still"
        assert len(proxy.blobs()) >= before["blobs"], "a blob has left while it was to be copied"
        code, told, err = await finished(process)
        await loading
        assert (code, told["missing"], told["damaged"]) == (0, 0, 0), err
        assert told["blobs"] == before["blobs"]
        for _ in range(DEADLINE * 10):
            if not (held := [path for path in bodies if ref_of(bodies[path]).sha256 in blobs(proxy.data)]):
                break
            await asyncio.sleep(0.1)
        assert held == [], "after the backup the collector goes on"
    assert ran("restore", str(file), "--data", str(copy / "data"))[0] == 0
    check_store(copy / "data")
    hits = chaos.hits("/f1.bin")
    # Upstream is dead for the copy: nothing listens where it would ask.
    async with proxied(copy, "http://127.0.0.1:9", top=QUICK) as proxy:
        after = await proxy.engine.stats()
        for name in ("blobs", "bytes", "entries", "absences", "promises", "by_repo"):
            assert after[name] == before[name], name
        for path, body in bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.source, got.body) == (200, "cache", body), path
        for path, page in pages.items():
            # Rendered for another address of ours, the rest is the same.
            assert json_of(await proxy.get(path)) == json_of(page)
        await proxy.check()
    assert chaos.hits("/f1.bin") == hits


def json_of(page) -> set[str]:
    """The links of a page without the address they were made for."""
    text = (page if isinstance(page, bytes) else page.body).decode()
    return {part.partition("/pypi/")[2] for part in text.split('"') if "/pypi/" in part}


async def _load(proxy: Proxy, chaos: Chaos) -> None:
    for number in range(100, 110):
        body = chaos.script(f"/f{number}.bin", ok(), size=20_000)
        assert (await proxy.get(f"/files/f{number}.bin")).body == body.bytes()


async def test_whatever_happens_meanwhile_the_copy_is_consistent(tmp_path: Path, chaos: Chaos) -> None:
    """Two backups under constant change: every row of every copy has its blob."""
    stop = asyncio.Event()
    async with proxied(tmp_path, chaos.origin, top=QUICK + "\ndata_limit: 1MB") as proxy:

        async def clients(first: int) -> None:
            number = first
            while not stop.is_set():
                number += 2
                body = chaos.script(f"/c{number}.bin", ok(), size=30_000)
                assert (await proxy.get(f"/files/c{number}.bin")).body == body.bytes()
                chaos.script("/index.json", status(200, b"%d" % number))
                await proxy.get("/files/index.json", Cache_Control="no-cache")
                if number % 7 == 0:
                    await proxy.engine.purge("files", path=f"c{number}.bin")
                if number % 11 == 0:
                    await proxy.engine.gc(run=True)

        running = [asyncio.create_task(clients(first)) for first in (0, 1)]
        try:
            for number in range(2):
                await asyncio.sleep(0.2)
                process = started(
                    "backup", str(tmp_path / f"{number}.tar"), "--data", str(proxy.data), "--json",
                    failpoints="backup.snapshot=sleep:0.3,backup.blob=sleep:0.005",
                )  # fmt: skip
                code, told, err = await finished(process)
                assert (code, told["missing"], told["damaged"]) == (0, 0, 0), err
                assert told["blobs"] > 0
        finally:
            stop.set()
            await asyncio.gather(*running)
        await proxy.check()
    for number in range(2):
        assert ran("restore", str(tmp_path / f"{number}.tar"), "--data", str(tmp_path / f"d{number}"))[0] == 0
        check_store(tmp_path / f"d{number}")


async def test_promises_dates_and_ledger_are_kept(tmp_path: Path, chaos: Chaos) -> None:
    async with proxied(tmp_path, chaos.origin, top=QUICK) as proxy:
        await cached(proxy, chaos, 6)
        chaos.script("/absent.bin", status(404))
        assert (await proxy.get("/files/absent.bin")).status == 404
        await asyncio.sleep(0.1)  # the usage is written
        await proxy.settled()
        await proxy.engine._janitor.close()  # what is read twice must be the same
        here = rows(proxy.data)
        process = started("backup", str(tmp_path / "b.tar"), "--data", str(proxy.data), "--json")
        code, _, err = await finished(process)
        assert code == 0, err
    assert here["promises"]
    assert here["uses"]
    assert ran("restore", str(tmp_path / "b.tar"), "--data", str(tmp_path / "copy"))[0] == 0
    assert rows(tmp_path / "copy") == here
    with sqlite3.connect(tmp_path / "copy" / "index.sqlite3") as db:
        dates = db.execute(
            "SELECT released, first_seen FROM entries WHERE repo = 'pypi' AND kind = 'artifact'"
        ).fetchall()
    db.close()
    assert len(dates) == 3
    assert all(released == 1767323045.0 and seen > 1.7e9 for released, seen in dates)


async def test_the_collector_waits_for_a_backup(tmp_path: Path, chaos: Chaos) -> None:
    async with proxied(tmp_path, chaos.origin, top=QUICK + "\ndata_limit: 100kB") as proxy:
        janitor = proxy.engine._janitor
        with pin(proxy.data):
            await cached(proxy, chaos, 6)
            rows_before = (await proxy.engine.stats())["entries"]
            await janitor.sweep()
            await janitor.sweep()
            assert (await proxy.engine.stats())["entries"] == rows_before, "nothing is evicted in vain"
            await proxy.engine.purge("files")
            assert await janitor.collect(0.0) == (0, 0)
            assert (await proxy.engine.gc(run=False))["evictable"] >= 0
            assert "postponed" in await proxy.engine.gc(run=True)
        report = await proxy.engine.gc(run=True)
        assert "postponed" not in report
        assert sum(p.stat().st_size for p in proxy.blobs()) <= 100_000
        await proxy.check()


async def test_gc_says_with_its_exit_code_that_it_waits(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    data = str(tmp_path / "data")
    assert ran("stats", "--data", data)[0] == 0
    with pin(tmp_path / "data"):
        code, out, _ = await asyncio.to_thread(ran, "gc", "--run", "--json", "--data", data)
        assert (code, "postponed" in json.loads(out)) == (3, True)
    code, out, _ = await asyncio.to_thread(ran, "gc", "--run", "--json", "--data", data)
    assert (code, "postponed" in json.loads(out)) == (0, False)


async def test_a_store_that_cannot_tell_deletes_nothing(tmp_path: Path, chaos: Chaos) -> None:
    """Whether a backup runs is asked of `blobs/`; if that is gone, the answer is not no."""
    async with proxied(tmp_path, chaos.origin) as proxy:
        await cached(proxy, chaos, 2)
        (proxy.data / "blobs").rename(proxy.data / "away")
        with pytest.raises(StoreUnavailable):
            await proxy.engine._janitor.collect(0.0)
        (proxy.data / "away").rename(proxy.data / "blobs")
        await proxy.check()
