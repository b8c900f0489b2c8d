"""What only a file can suffer: crashes, full disks, damage, other processes, newer programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes import statements
from artifactproxy.indexes.migrate import Step, migrate, split, steps
from artifactproxy.indexes.rows import after
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Found, Kind, Promise

KEY = ArtifactKey("tools", "soup.tgz")
ENTRY = CacheEntry(KEY, Kind.ARTIFACT, BlobRef("a" * 64, 10))


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def opened(path: Path, **options: Any) -> SqliteIndex:
    index = SqliteIndex(path, **{"busy_timeout": 0.1, **options})
    await index.start()
    return index


# --- crashes --------------------------------------------------------------------------------

_RECORD = """
import asyncio, sys
from pathlib import Path
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Kind

async def main():
    index = SqliteIndex(Path(sys.argv[1]))
    await index.start()
    key = ArtifactKey("tools", "soup.tgz")
    await index.record(CacheEntry(key, Kind.ARTIFACT, BlobRef("a" * 64, 10)))

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "there"), [("row.written", False), ("row.committed", True)])
async def test_killed_at_each_step_of_record(tmp_path: Path, point: str, there: bool) -> None:
    path = tmp_path / "index.sqlite"
    environment = {**os.environ, "ARTIFACTPROXY_FAILPOINTS": f"{point}=kill"}
    command = [sys.executable, "-c", _RECORD, str(path)]
    assert subprocess.run(command, env=environment, timeout=30, check=False).returncode == -signal.SIGKILL
    index = await opened(path)
    assert not index.was_clean
    assert await index.find(KEY) == (Found(ENTRY) if there else Found())
    assert (await index.totals()).blobs == there
    assert await index.record(replace(ENTRY, generation=1))
    await index.close()


async def test_was_clean(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    for _ in range(2):
        index = await opened(path)
        assert index.was_clean
        looker = await opened(path, owner=False)
        assert not looker.was_clean
        await looker.close()
        await index.close()
        await index.close()


# --- the file -------------------------------------------------------------------------------


async def test_only_the_owner_may_look(tmp_path: Path) -> None:
    index = await opened(tmp_path / "new" / "index.sqlite")
    await index.record(ENTRY)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys(("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"), 0o600)
    await index.close()


async def test_committed_means_durable(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite")
    settings = await index._writer.run(
        lambda db: [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert settings == ["wal", 2, 1]
    await index.close()


async def test_a_look_up_is_one_indexed_statement(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite")
    plan = await index._long_read(f"EXPLAIN QUERY PLAN {statements.FIND}", ("r", "p", "v"))
    tables = [row[3] for row in plan if "USING" in row[3]]
    assert len(tables) == 2
    assert all("SEARCH" in step and "repo=? AND path=? AND variant=?" in step for step in tables)
    await index.close()


@pytest.mark.parametrize(
    "name", ["COLDEST", "ENTRIES_BELOW", "ENTRIES_OF_PACKAGE", "CONDEMNED", "KNOWN", "DOOM"]
)
async def test_the_janitor_never_walks_all_rows(tmp_path: Path, name: str) -> None:
    index = await opened(tmp_path / "index.sqlite")
    text = getattr(statements, name)
    count = max(number for number in range(1, 9) if f"?{number}" in text)
    plan = [row[3] for row in await index._long_read(f"EXPLAIN QUERY PLAN {text}", (1,) * count)]
    harmless = ["SCAN CONSTANT ROW", *(["SCAN b"] if "(SELECT ?1 AS sha256) b" in text else [])]
    assert not [
        step for step in plan if step.startswith("SCAN") and "INDEX" not in step and step not in harmless
    ]
    assert not [step for step in plan if "TEMP B-TREE" in step and name != "ENTRIES_OF_PACKAGE"]
    await index.close()


@pytest.mark.parametrize(
    "damage", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0" + b"\xff" * 4080]
)
async def test_a_damaged_file_is_refused_with_advice(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(damage)
    with pytest.raises(IndexUnavailable, match=r"move .*index\.sqlite") as caught:
        await opened(path)
    assert caught.value.code == "index_damaged"
    assert path.read_bytes() == damage


async def test_damage_met_while_serving_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = await opened(path)
    for number in range(300):
        await index.touch([], 0)
        await index.record(replace(ENTRY, key=ArtifactKey("tools", f"{number:0200d}")))
    await index.close()
    index = await opened(path)
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in range(15, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    faults = []
    for number in range(300):
        try:
            await index.find(ArtifactKey("tools", f"{number:0200d}"))
        except IndexUnavailable as fault:
            faults.append(fault.code)
    assert set(faults) == {"index_damaged"}
    await index.close()


async def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "index.sqlite"):
        with pytest.raises(IndexUnavailable, match=str(tmp_path)):
            await opened(path)


async def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount a small tmpfs")
    try:
        index = await opened(folder / "index.sqlite")
        assert await index.record(ENTRY)
        filler = folder / "filler"
        with pytest.raises(OSError, match="space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        big = replace(ENTRY, key=ArtifactKey("tools", "big"), etag="e" * 100_000)
        results = await asyncio.gather(index.record(big), index.record(big), return_exceptions=True)
        assert [getattr(result, "code", result) for result in results] == ["index_full"] * 2
        assert (await index.find(KEY)).entry == ENTRY
        filler.unlink()
        assert await index.record(big)
        await index.close()
        index = await opened(folder / "index.sqlite")
        assert index.was_clean
        assert (await index.find(big.key)).entry == big
        await index.close()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_finished_reads_let_the_log_be_truncated(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite", recent=0)
    await index.record(ENTRY)
    await index.find(KEY)
    await index.find(ArtifactKey("tools", "unknown"))
    await index.totals()
    await index.orphans(["a" * 64, "b" * 64])
    await index.entries("tools", limit=1)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert (tmp_path / "index.sqlite-wal").stat().st_size == 0
    await index.close()


async def test_busy_for_too_long_is_a_fault_for_all_that_waited(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = await opened(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(20):
            results = await asyncio.gather(*(index.record(ENTRY) for _ in range(100)), return_exceptions=True)
        assert {getattr(result, "code", result) for result in results} == {"index_busy"}
        assert await index.find(KEY) == Found()
        other.execute("ROLLBACK")
    assert await index.record(ENTRY)
    await index.close()


async def test_a_short_wait_for_another_writer_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = await opened(path, busy_timeout=10.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(index.record(ENTRY))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        other.execute("ROLLBACK")
    assert await waiting
    await index.close()


# --- several processes ----------------------------------------------------------------------


async def test_shared_instances_see_each_other_and_order_their_generations(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    one = await opened(path, shared=True)
    two = await opened(path, shared=True, owner=False)
    assert await one.record(ENTRY)
    assert (await two.find(KEY)).entry == ENTRY
    changed = replace(ENTRY, etag='"new"', generation=1)
    assert await one.record(changed)
    assert (await two.find(KEY)).entry == changed
    await two.forget([KEY])
    assert await one.find(KEY) == Found()
    last = 0
    for _ in range(5):
        for index in (one, two):
            number = await index.generation()
            assert number > last
            last = number
    await two.close()
    await one.close()


# --- memory ---------------------------------------------------------------------------------


async def test_recent_look_ups_are_bounded_and_never_stale(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite", recent=3)
    keys = [ArtifactKey("tools", str(number)) for number in range(10)]
    for key in keys:
        await index.record(replace(ENTRY, key=key))
        await index.find(key)
        await index.find(ArtifactKey("tools", f"unknown {key.path}"))
    assert list(index._recent) == keys[-3:]
    await index.touch([keys[-1]], 77.0)
    assert (await index.find(keys[-1])).entry.last_used == 77.0  # type: ignore[union-attr]
    promise = Promise(keys[-1], taught_by="list")
    await index.learn([promise])
    assert (await index.find(keys[-1])).promise == promise
    await index.forget([ArtifactKey("tools", "list")], promises=True)
    assert (await index.find(keys[-1])).promise is None
    await index.close()


async def test_too_many_waiting_writes_are_refused(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite")
    index._writer._limit = 3
    results = await asyncio.gather(
        *(index.record(replace(ENTRY, key=ArtifactKey("t", str(n)))) for n in range(6)),
        return_exceptions=True,
    )
    assert [getattr(result, "code", result) for result in results] == [True] * 4 + ["index_busy"] * 2
    await index.close()


async def test_writes_that_wait_share_a_commit(tmp_path: Path) -> None:
    index = await opened(tmp_path / "index.sqlite")
    failpoints.arm("row.committed=sleep:0")
    await asyncio.gather(*(index.record(replace(ENTRY, key=ArtifactKey("t", str(n)))) for n in range(200)))
    assert failpoints._passed["row.committed"] == 2
    await index.close()


# --- the schema -----------------------------------------------------------------------------


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    await (await opened(path)).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO steps (number, name) VALUES (9999, 'from the future')")
    with pytest.raises(IndexUnavailable, match="newer version") as caught:
        await opened(path)
    assert caught.value.code == "index_newer"


def test_steps_are_numbered_and_applied_once(tmp_path: Path) -> None:
    known = steps()
    assert [step.number for step in known] == list(range(1, len(known) + 1))
    second = Step(
        len(known) + 1,
        "next.sql",
        "CREATE TABLE more (x TEXT); -- a remark; with a semicolon\nDROP TABLE more;\n",
    )
    with closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as db:
        assert migrate(db, known) == [step.name for step in known]
        assert migrate(db, known) == []
        assert migrate(db, [*known, second]) == ["next.sql"]


def test_a_failing_step_leaves_the_schema_as_it_was(tmp_path: Path) -> None:
    known = [Step(1, "one.sql", "CREATE TABLE one (x TEXT);\nCREATE TABLE one (x TEXT);\n")]
    with closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as db:
        with pytest.raises(sqlite3.Error):
            migrate(db, known)
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_script_is_split_into_statements() -> None:
    assert [part.strip() for part in split("-- a;\nSELECT\n 1;\nSELECT ';';\n\n")] == [
        "-- a;\nSELECT\n 1;",
        "SELECT ';';",
    ]


def test_after_a_prefix() -> None:
    assert after("a/") == "a0"
    assert after("\ud7ff") == "\ue000"
    assert after("a\U0010ffff") == "b"
    assert after("") is None
    assert after("\U0010ffff") is None
