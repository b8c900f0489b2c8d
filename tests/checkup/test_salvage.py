"""A damaged index: refused at start by a sentence that helps, salvaged by `fsck --repair`."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactproxy import failpoints, inspection, wiring
from artifactproxy.datadir import DataFolder
from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.salvage import salvage
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Kind
from tests.backup.folders import fill, ran, rows
from tests.chaos import Chaos
from tests.checkup.test_fsck import clean
from tests.checkup.world import filled, sql

PAGE = 4096


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoints.arm("")


def _garbage(index: Path) -> None:
    index.write_bytes(os.urandom(20_000))


def _truncated(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2 // PAGE * PAGE)


def _emptied(index: Path) -> None:
    os.truncate(index, 0)


def _zeroed(index: Path) -> None:
    """The root page of the promises, whatever else lies around it."""
    with sql(index.parent) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'promises'").fetchone()
    with index.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))


def _headless(index: Path) -> None:
    with index.open("r+b") as file:
        file.write(bytes(100))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "garbage": _garbage,
    "truncated": _truncated,
    "emptied": _emptied,
    "zeroed": _zeroed,
    "headless": _headless,
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
async def test_a_damaged_index_is_exchanged(tmp_path: Path, chaos: Chaos, name: str) -> None:
    async with filled(tmp_path, chaos) as world:
        index = world.data / "index.sqlite3"
        DAMAGES[name](index)
        damaged = index.read_bytes()
        if name != "emptied":
            with pytest.raises(IndexUnavailable, match="artifactproxy fsck --repair"):
                async with wiring.running(world.config):
                    pass
        found, summary = await world.stopped()
        assert {f["invariant"] for f in found} >= {"I23"}
        assert index.read_bytes() == damaged

        found, summary = await world.stopped(repair=True)
        assert found[0]["invariant"] == "I23"
        assert "the damaged one is index.sqlite3.damaged-" in found[0]["detail"]
        assert summary["found"] == summary["repaired"]
        [aside] = world.data.glob("index.sqlite3.damaged-*")
        assert aside.read_bytes() == damaged
        found, summary = await world.stopped()
        assert summary["found"] == 0, found
        async with world.serving() as (proxy, _):
            await world.exact(proxy)
        await clean(world)


async def test_a_missing_index_is_made_anew(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world:
        (world.data / "index.sqlite3").unlink()
        found, _ = await world.stopped()
        assert next((f["invariant"], f["detail"]) for f in found) == ("I23", "the index is missing")
        _, summary = await world.stopped(repair=True)
        assert summary["found"] == summary["repaired"]
        async with world.serving() as (proxy, _):
            await world.exact(proxy)


async def _large(data: Path, count: int) -> None:
    """Rows enough for several levels of pages, and no blobs."""
    await fill(data, 1)
    from artifactproxy.indexes.sqlite import SqliteIndex

    index = SqliteIndex(data / "index.sqlite3")
    await index.start()
    entries = [
        CacheEntry(ArtifactKey("files", f"f{n}"), Kind.ARTIFACT, BlobRef(f"{n:064x}", n), generation=n + 1)
        for n in range(count)
    ]
    await asyncio.gather(*(index.record(entry) for entry in entries))
    await index.close()


def _leaves(index: Path, table: str) -> list[int]:
    """Numbers of the table's leaf pages, by walking its tree (sqlite.org/fileformat2.html, 1.6)."""
    db = sqlite3.connect(index)
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    db.close()
    body, todo, leaves = index.read_bytes(), [root], []
    while todo:
        number = todo.pop()
        page = body[(number - 1) * PAGE : number * PAGE]
        if page[0] == 13:
            leaves.append(number)
        elif page[0] == 5:
            cells = int.from_bytes(page[3:5], "big")
            offsets = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
            todo += [int.from_bytes(page[o : o + 4], "big") for o in offsets]
            todo.append(int.from_bytes(page[8:12], "big"))
    return sorted(leaves)


@pytest.mark.parametrize("which", [(0,), (-1,), (5,), (3, 4, 5, 9, 17), (0, 8, -1)])
async def test_every_row_outside_the_damage_is_saved(tmp_path: Path, which: tuple[int, ...]) -> None:
    data = tmp_path / "data"
    await _large(data, 1500)
    index = data / "index.sqlite3"
    before = rows(data)
    leaves = _leaves(index, "entries")
    assert len(leaves) > 20
    lost = 0
    with index.open("r+b") as file:
        for n in which:
            file.seek((leaves[n] - 1) * PAGE)
            page = file.read(PAGE)
            lost += int.from_bytes(page[3:5], "big")
            file.seek((leaves[n] - 1) * PAGE)
            file.write(bytes(PAGE))
    saved = salvage(index)
    after = rows(data)
    assert len(before["entries"]) - len(after["entries"]) == lost > 0
    without_ids = [{row.partition(",")[2] for row in kept["entries"]} for kept in (before, after)]
    assert without_ids[1] < without_ids[0]
    for table in ("promises", "superseded", "uses", "locals", "blobs"):
        assert after[table] == before[table], table
    assert saved.rows["entries"] == len(after["entries"])


async def test_generations_go_on_above_every_saved_row(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await _large(data, 300)
    with sql(data) as db:
        db.execute("DELETE FROM counters")
    salvage(data / "index.sqlite3")
    with sql(data) as db:
        counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
    assert counters == {"generation": 300, "clean": 0}


@pytest.mark.parametrize("place", ["salvage.row", "salvage.built", "salvage.ready"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_failing_disk_leaves_the_damaged_index(tmp_path: Path, place: str, number: int) -> None:
    data = tmp_path / "data"
    await fill(data, 4)
    index = data / "index.sqlite3"
    body = index.read_bytes()
    failpoints.arm(f"{place}=raise:{errno.errorcode[number]}")
    with pytest.raises(OSError, match="failpoint"):
        salvage(index)
    failpoints.arm("")
    assert index.read_bytes() == body
    names = {path.name for path in data.iterdir()}
    assert names - {"index.sqlite3.salvaged"} == {"format", "lock", "blobs", "tmp", "quarantine", index.name}
    saved = salvage(index)
    assert saved.rows["entries"] == 6


async def test_a_full_disk_while_salvaging(tmp_path: Path, chaos: Chaos) -> None:
    """For real: a file system with no room for a second index."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root: mount -t tmpfs")
    code, _, _ = await _mounted(disk, "2m")
    assert code == 0
    try:
        await _large(tmp_path / "large", 2500)
        shutil.copytree(tmp_path / "large", disk / "data")
        index = disk / "data/index.sqlite3"
        body = index.read_bytes()
        assert len(body) > 1_000_000
        _zeroed(index)
        body = index.read_bytes()
        code, out, err = await asyncio.to_thread(ran, "fsck", "--repair", "--data", str(disk / "data"))
        assert (code, out) == (1, "")
        assert "no space" in err.lower()
        assert index.read_bytes() == body
        assert not list(disk.glob("data/*salvag*"))
    finally:
        await _run("umount", "-l", str(disk))


async def _mounted(disk: Path, size: str) -> tuple[int, bytes, bytes]:
    return await _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))


async def _run(*command: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err


def _die_in(place: str, index: Path) -> None:
    failpoints.arm(place)
    salvage(index)


KILLS = [
    "salvage.row=kill@3",
    "salvage.built=kill",
    "salvage.ready=kill",
    "salvage.aside=kill",
    "salvage.moved=kill",
]


@pytest.mark.parametrize("place", KILLS)
async def test_killed_while_salvaging(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    await fill(data, 8)
    index, before = data / "index.sqlite3", rows(data)
    _zeroed(index)
    process = multiprocessing.get_context("fork").Process(target=_die_in, args=(place, index))
    process.start()
    await asyncio.to_thread(process.join, 30)
    assert process.exitcode == -signal.SIGKILL
    committed = place.startswith(("salvage.ready", "salvage.aside", "salvage.moved"))

    DataFolder(data).close()  # as any start does
    census = SqliteCensus(index, still=True)
    assert bool(await census.damage()) is not committed
    await census.close()
    if not committed:
        salvage(index)
    assert len(list(data.glob("index.sqlite3.damaged-*"))) == 1
    assert not list(data.glob("*.salvag*"))
    after = rows(data)
    assert len(after["entries"]) == len(before["entries"])
    assert after["superseded"] == before["superseded"]
    assert after["promises"] == [], "their page was the one"
    found, summary = await inspection.inspect(data)
    assert (found, summary["checked"]["rows"]) == ([], 9)


async def test_killed_in_the_command_and_run_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await fill(data, 3)
    _zeroed(data / "index.sqlite3")
    code, _, _ = await asyncio.to_thread(
        ran, "fsck", "--repair", "--data", str(data), failpoints="salvage.aside=kill"
    )
    assert code == -signal.SIGKILL
    code, _, err = await asyncio.to_thread(ran, "fsck", "--data", str(data))
    assert (code, "the repair of" in err, "did not finish" in err) == (1, True, True)
    code, _, err = await asyncio.to_thread(ran, "fsck", "--repair", "--data", str(data))
    assert code == 0, err
    assert (data / "index.sqlite3").exists()


async def test_an_unfinished_exchange_is_no_damage_to_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await fill(data, 2)
    shutil.copy(data / "index.sqlite3", data / "index.sqlite3.salvaged")
    code, _, err = await asyncio.to_thread(ran, "fsck", "--data", str(data))
    assert (code, "did not finish" in err) == (1, True)
    DataFolder(data).close()
    assert not (data / "index.sqlite3.salvaged").exists()
    code, _, err = await asyncio.to_thread(ran, "fsck", "--data", str(data))
    assert code == 0, err
