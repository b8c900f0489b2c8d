"""The index: held by another process, damaged, out of space by itself, or deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok
from tests.faults.machine import command, injecting, metric, program, readiness, told
from tests.house_proxy import Proxy, check_store, configuration, proxied
from tests.needs import needs

BIG = 1_000_000
BRISK = "limits: {index_wait: 300ms, flush_every: 1h, sweep_every: 1h}"
PAGE = 4096


async def right(proxy: Proxy, name: str, body: Oracle) -> None:
    got = await proxy.get(f"/files/{name}")
    assert got.status in (200, 503), got.body
    assert got.status == 503 or got.body == body.bytes(), "a wrong answer"


async def test_l12_another_process_holds_the_index(tmp_path: Path, chaos: Chaos) -> None:
    held = chaos.script("/held.bin", ok(), size=BIG)
    new = chaos.script("/new.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=BRISK) as proxy:
        await proxy.get("/files/held.bin")
        await proxy.settled()
        with closing(sqlite3.connect(proxy.data / "index.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert (await proxy.get("/files/held.bin")).source == "cache", "reading goes on"
            got = await proxy.get("/files/new.bin")
            assert (got.status, got.body) == (200, new.bytes())
            await proxy.settled()
            line = await told(proxy, lambda line: line.get("warning") == "record_waits")
            assert line["error"] == "index_busy"
            got = await proxy.get("/files/new.bin")
            assert (got.source, got.body) == ("cache", new.bytes()), "its row waits in memory"
            ready, found = await readiness(proxy)
            assert (ready, found["index"]) == (503, "another process holds the index")
            assert await metric(proxy, "store_errors_total", kind="index_busy") == 1
            assert await metric(proxy, "degraded", dependency="index") == 1
            other.execute("ROLLBACK")
        assert (await readiness(proxy))[0] == 200
        assert (await proxy.get("/files/held.bin")).body == held.bytes()
        assert (await proxy.get("/files/new.bin")).source == "cache"
        chaos.script("/later.bin", ok(), size=BIG)
        await proxy.get("/files/later.bin")
        await proxy.settled()
        assert await metric(proxy, "degraded") == 0
        assert chaos.hits("/new.bin") == 1
        await proxy.check()


async def test_l12_a_short_wait_for_the_index_costs_nothing(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        with closing(sqlite3.connect(proxy.data / "index.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            asking = asyncio.create_task(proxy.get("/files/f.bin"))
            await asyncio.sleep(0.3)
            other.execute("ROLLBACK")
        assert (await asking).body == body.bytes()
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()


# --- damage ---------------------------------------------------------------------------------


NAMES = [f"f{n}.bin" for n in range(200)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with many rows, after a clean stop; each test works on a copy."""
    folder = tmp_path_factory.mktemp("filled")

    async def fill() -> None:
        async with Chaos() as chaos, proxied(folder, chaos.origin) as proxy:
            script(chaos)
            await asyncio.gather(*(proxy.get(f"/files/{name}") for name in NAMES))
            await proxy.settled()

    asyncio.run(fill())
    with closing(sqlite3.connect(folder / "data" / "index.sqlite3")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "data"


def script(chaos: Chaos) -> dict[str, Oracle]:
    return {name: chaos.script(f"/{name}", ok(), size=2000 + n) for n, name in enumerate(NAMES)}


def pages_of(path: Path, table: str) -> list[int]:
    """Page numbers, from 1, of the leaves of a table or an index."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    content = path.read_bytes()
    kind = content[(root - 1) * PAGE]
    assert kind in (2, 5), f"{table} has a single page"
    start = (root - 1) * PAGE
    count = int.from_bytes(content[start + 3 : start + 5], "big")
    cells = [int.from_bytes(content[start + 12 + 2 * n : start + 14 + 2 * n], "big") for n in range(count)]
    return [int.from_bytes(content[start + cell : start + cell + 4], "big") for cell in cells]


def overwrite(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write((content * PAGE)[:PAGE])


@pytest.mark.parametrize(
    ("where", "content"),
    [("first", b"\0"), ("entries", b"\0"), ("entries", b"\xa5")],
    ids=["head", "zeros", "noise"],
)
async def test_l12_a_damaged_index_is_refused_at_start(
    tmp_path: Path, chaos: Chaos, template: Path, where: str, content: bytes
) -> None:
    configuration(tmp_path, chaos.origin)
    shutil.copytree(template, tmp_path / "data")
    index = tmp_path / "data" / "index.sqlite3"
    page = 1 if where == "first" else pages_of(index, "entries")[1]
    overwrite(index, page, content)
    before = index.read_bytes()
    code, said = await command(tmp_path, "serve")
    assert (code, said.count("\n")) == (1, 1)
    assert "the index is damaged" in said
    assert "artifactproxy fsck --repair" in said
    assert index.read_bytes() == before, "nothing was made worse"


@pytest.mark.parametrize("table", ["entries", "sqlite_autoindex_entries_1"])
async def test_l12_damaged_while_running(tmp_path: Path, chaos: Chaos, template: Path, table: str) -> None:
    bodies = script(chaos)
    shutil.copytree(template, tmp_path / "data")
    index = tmp_path / "data" / "index.sqlite3"
    async with proxied(tmp_path, chaos.origin, top=BRISK) as proxy:
        for page in pages_of(index, table):
            overwrite(index, page, b"\xa5")
        for name, body in list(bodies.items())[::5]:
            await right(proxy, name, body)
        new = chaos.script("/new.bin", ok(), size=BIG)
        await right(proxy, "new.bin", new)
        await proxy.settled()
        line = await told(proxy, lambda line: line.get("error") == "index_damaged")
        assert line["event"] == "warning"
        ready, found = await readiness(proxy)
        assert ready == 503
        assert "artifactproxy fsck --repair" in found["index"]
        assert await metric(proxy, "degraded", dependency="index") == 1
        assert (await proxy.get("/livez")).status == 200


# --- space, and the file itself -------------------------------------------------------------


@needs("strace")
async def test_l12_the_disk_of_the_index_alone_is_full(tmp_path: Path, chaos: Chaos) -> None:
    """SQLite writes with pwrite, bodies are written with write: only its own writes fail."""
    configuration(tmp_path, chaos.origin, top=BRISK)
    held = chaos.script("/held.bin", ok(), size=BIG)
    new = chaos.script("/new.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/held.bin")).body == held.bytes()
        await told(proxy, lambda line: line.get("result") == "stored")
        async with injecting(proxy, "pwrite64:error=ENOSPC"):
            assert (await proxy.get("/files/held.bin")).source == "cache"
            got = await proxy.get("/files/new.bin")
            assert (got.status, got.body) == (200, new.bytes())
            line = await told(proxy, lambda line: line.get("error") == "index_full")
            assert (line["event"], line["warning"]) == ("warning", "record_waits")
            ready, found = await readiness(proxy)
            assert (ready, found["index"]) == (503, "no space is left for the index")
            assert found["store"] == "ok"
            assert await metric(proxy, "store_errors_total", kind="index_full") == 1
            assert await metric(proxy, "degraded", dependency="index") == 1
        assert (await readiness(proxy))[0] == 200
        got = await proxy.get("/files/new.bin")
        assert (got.source, got.body) == ("cache", new.bytes()), "its row waits in memory"
        assert await proxy.stop() == 0
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/new.bin")).source == "cache", "and was written at the end"
        assert await proxy.stop() == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)


async def test_l12_the_index_is_deleted_under_the_running_program(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    held = chaos.script("/held.bin", ok(), size=BIG)
    new = chaos.script("/new.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/held.bin")).body == held.bytes()
        for path in proxy.data.glob("index.sqlite3*"):
            path.unlink()
        assert (await proxy.get("/files/held.bin")).body == held.bytes()
        assert (await proxy.get("/files/new.bin")).body == new.bytes()
        ready, found = await readiness(proxy)
        assert ready == 503
        assert found["index"].endswith("was removed or replaced under the running program: restart it")
        chaos.script("/later.bin", ok(), size=BIG)
        await proxy.get("/files/later.bin")
        await told(proxy, lambda line: line.get("path") == "later.bin" and line.get("result") == "stored")
        assert await metric(proxy, "degraded", dependency="index") == 1
        assert await proxy.stop() == 0
    async with program(tmp_path) as proxy:
        for name, body in (("held", held), ("new", new)):
            assert (await proxy.get(f"/files/{name}.bin")).body == body.bytes()
        assert (await readiness(proxy))[0] == 200
        assert await proxy.stop() == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)
