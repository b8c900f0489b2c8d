"""`artifactproxy restore`: all or nothing, also when it is stopped, killed or short of space."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess

import pytest

from artifactproxy.datadir import DataFolder
from artifactproxy.errors import StoreUnavailable
from artifactproxy.indexes.sqlite import SqliteIndex
from tests.backup.folders import DEADLINE, blobs, command, counters, fill, ran, rows, tree


@pytest.fixture(scope="module")
def backup(filled, tmp_path_factory):
    file = tmp_path_factory.mktemp("backup") / "b.tar"
    code, _, err = ran("backup", str(file), "--data", str(filled[0]))
    assert code == 0, err
    return file


@pytest.fixture
def restore(run, backup, tmp_path):
    """Restore into `data`: (exit code, standard output, standard error)."""

    def into(*options: str, failpoints: str = "", file: str = ""):
        return run(
            "restore", file or str(backup), "--data", str(tmp_path / "data"), *options, failpoints=failpoints
        )

    return into


def same(one, other) -> bool:
    return (rows(one), blobs(one), counters(one)) == (rows(other), blobs(other), counters(other))


# --- where to


def test_an_empty_folder_is_filled(restore, filled, tmp_path):
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    code, out, err = restore()
    assert code == 0, err
    assert out.startswith(f"{tmp_path / 'data'}: 18 blobs, 2.2 MB, as of 20")
    assert same(tmp_path / "data", filled[0])
    assert (tmp_path / "data" / "lost+found").is_dir()


def test_a_mount_point_is_filled(restore, filled, tmp_path):
    """Nothing is renamed across its border."""
    data = tmp_path / "data"
    data.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(data)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs root: mount -t tmpfs")
    try:
        code, _, err = restore()
        assert code == 0, err
        assert same(data, filled[0])
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


def test_a_filled_folder_is_refused_and_replaced_only_when_told(restore, filled, tmp_path):
    data = tmp_path / "data"
    asyncio.run(fill(data, 3))
    (data / "index.sqlite3-wal").write_bytes(b"of the old index")
    before = tree(data)
    code, out, err = restore()
    assert (code, out) == (1, "")
    assert "give --force" in err
    assert tree(data) == before
    assert restore("--force")[0] == 0
    assert same(data, filled[0])
    assert not (data / "index.sqlite3-wal").exists() or not (data / "index.sqlite3-wal").read_bytes()


def test_what_is_no_data_folder_is_never_replaced(restore, tmp_path):
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    (tmp_path / "data" / "blobs" / "mine").write_bytes(b"photographs")
    before = tree(tmp_path)
    for options in ((), ("--force",)):
        code, _, err = restore(*options)
        assert code == 1
        assert "is no data folder" in err
        after = tree(tmp_path)
        after.pop("data/lock", None)
        assert after == before


def test_the_folder_of_a_running_instance_is_refused(restore, tmp_path):
    folder = DataFolder(tmp_path / "data")
    before = tree(tmp_path)
    for options in ((), ("--force",)):
        code, _, err = restore(*options)
        assert code == 1
        assert "another artifactproxy works in" in err
        assert "stop it" in err
        assert tree(tmp_path) == before
    folder.close()


def test_a_folder_that_cannot_be_made(run, backup, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    code, _, err = run("restore", str(backup), "--data", str(tmp_path / "file" / "data"))
    assert code == 1
    assert "cannot be used" in err
    code, _, err = run("restore", str(tmp_path / "absent.tar"), "--data", str(tmp_path / "data"))
    assert code == 1
    assert "absent.tar: No such file or directory" in err
    code, _, err = run("restore", str(tmp_path), "--data", str(tmp_path / "data"))
    assert code == 1
    assert "Is a directory" in err
    assert os.listdir(tmp_path) == ["file"]


def test_an_index_that_was_in_use_counts_as_cleanly_closed(run, own, tmp_path):
    """Every blob has just been hashed: there is nothing to check again."""
    data, _ = own
    with sqlite3.connect(data / "index.sqlite3") as db:
        db.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
    db.close()
    assert run("backup", str(tmp_path / "b.tar"), "--data", str(data))[0] == 0
    assert run("restore", str(tmp_path / "b.tar"), "--data", str(tmp_path / "copy"))[0] == 0
    asyncio.run(_is_clean(tmp_path / "copy"))


async def _is_clean(data):
    index = SqliteIndex(data / "index.sqlite3")
    await index.start()
    assert index.was_clean
    assert await index.generation() > counters(data)["generation"] - 2000
    await index.close()


# --- stopped, killed, out of space


@pytest.mark.parametrize("place", ["restore.blob", "restore.blob@9", "restore.synced@3", "restore.verified"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("was_there", [False, True])
def test_an_error_changes_nothing(restore, filled, tmp_path, place, error, was_there):
    if was_there:
        shutil.copytree(filled[0], tmp_path / "data")
    before = tree(tmp_path)
    name, _, nth = place.partition("@")
    options = ("--force",) if was_there else ()
    code, out, err = restore(*options, failpoints=f"{name}=raise:{error}" + (f"@{nth}" if nth else ""))
    assert (code, out) == (1, "")
    assert os.strerror(getattr(errno, error)) in err
    assert tree(tmp_path) == before
    assert restore(*options)[0] == 0


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(restore, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(data)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs root: mount -t tmpfs")
    try:
        code, _, err = restore()
        assert code == 1
        assert re.search(r"it needs 2\d{6} bytes and the disk of", err)
        assert set(os.listdir(data)) <= {"lock"}
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_restore_changes_nothing(backup, tmp_path, number):
    data = tmp_path / "data"
    slow = "restore.blob=sleep:0.05"
    with command("restore", str(backup), "--data", str(data), failpoints=slow) as process:
        while not (data / "restoring" / "blobs").exists():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, os.listdir(tmp_path)) == (130, b"", [])
    assert b"Traceback" not in err


@pytest.mark.parametrize("place", ["restore.blob@3", "restore.verified"])
def test_killed_before_it_counts(run, restore, backup, filled, tmp_path, place):
    """The next command says so, the next restore starts afresh."""
    data = tmp_path / "data"
    name, _, nth = place.partition("@")
    _killed(backup, data, f"{name}=kill" + (f"@{nth}" if nth else ""))
    assert (data / "restoring").is_dir()
    with pytest.raises(StoreUnavailable, match="did not finish: run it again"):
        DataFolder(data)
    code, _, err = run("stats", "--data", str(data))
    assert code == 1
    assert "a restore into" in err
    code, _, err = restore()
    assert code == 0, err
    assert same(data, filled[0])
    assert not (data / "restoring").exists()


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    "place", ["restore.committed", "restore.removed@1", "restore.moved@1", "restore.removed@2",
              "restore.moved@2", "restore.removed@3", "restore.moved@3"]
)  # fmt: skip
def test_killed_after_it_counts(run, backup, filled, tmp_path, place, replace):
    """Whoever opens the folder next finishes it."""
    data = tmp_path / "data"
    if replace:
        asyncio.run(fill(data, 3))
        (data / "index.sqlite3-wal").write_bytes(b"of the old index")
    name, _, nth = place.partition("@")
    _killed(backup, data, f"{name}=kill" + (f"@{nth}" if nth else ""), *(["--force"] if replace else []))
    assert (data / "restored").is_dir()
    shutil.copytree(data, tmp_path / "again")
    DataFolder(data).close()
    assert same(data, filled[0])
    assert not (data / "restored").exists()
    # The next restore finishes it as well, and says that it had nothing more to do.
    code, _, err = run("restore", str(backup), "--data", str(tmp_path / "again"))
    assert code == 1
    assert "is finished now" in err
    assert same(tmp_path / "again", filled[0])


def _killed(file, data, failpoints: str, *options: str) -> None:
    code, _, err = ran("restore", str(file), "--data", str(data), *options, failpoints=failpoints)
    assert code == -signal.SIGKILL, err
