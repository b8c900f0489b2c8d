"""`artifactproxy backup`: what is in it, where it goes, and what a failure leaves (nothing)."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from artifactproxy.backup import archive
from artifactproxy.backup import take as take_module
from artifactproxy.backup.progress import Quiet
from artifactproxy.backup.restore import unpack
from artifactproxy.backup.take import take
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.medium import pin
from tests.backup.folders import DEADLINE, blobs, command, counters, fill, ran, rows, tree
from tests.contracts.harness import open_files


def test_everything_comes_back(run, filled, tmp_path):
    data, refs = filled
    before = tree(data)
    code, out, _ = run("backup", str(tmp_path / "b.tar"), "--data", str(data), "--json")
    report = json.loads(out)
    assert code == 0
    assert report["blobs"] == len(refs)
    assert report["blob_bytes"] == sum(ref.size for ref in refs)
    assert (report["entries"], report["promises"], report["missing"], report["damaged"]) == (17, 5, 0, 0)
    assert report["bytes"] == (tmp_path / "b.tar").stat().st_size
    assert tree(data) == before, "a backup only reads"
    assert os.listdir(tmp_path) == ["b.tar"]
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
    code, out, _ = run("restore", str(tmp_path / "b.tar"), "--data", str(tmp_path / "copy"), "--json")
    assert code == 0
    assert json.loads(out)["blobs"] == len(refs)
    assert rows(tmp_path / "copy") == rows(data)
    assert counters(tmp_path / "copy") == counters(data)
    assert blobs(tmp_path / "copy") == blobs(data)
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {"blobs", "format", "index.sqlite3", "lock"}
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "copy").rglob("*") if p.is_file()}
    assert modes == {0o600}


def test_any_tar_reads_it(run, filled, tmp_path):
    data, refs = filled
    assert run("backup", str(tmp_path / "b.tar"), "--data", str(data))[0] == 0
    with tarfile.open(tmp_path / "b.tar") as opened:
        names = opened.getnames()
        assert names[:2] == ["artifactproxy-backup.json", "index.sqlite3"]
        assert names[2:-1] == [blob_path(sha256) for sha256 in sorted(ref.sha256 for ref in refs)]
        assert names[-1] == "artifactproxy-backup-end.json"
        for name in names[2:-1]:
            assert opened.extractfile(name).read() == (data / name).read_bytes()


def test_temporary_files_and_quarantine_stay_behind(run, own, tmp_path):
    data, _ = own
    (data / "quarantine" / "bad").write_bytes(b"q")
    (data / "tmp" / "half.part").write_bytes(b"t")
    (data / "leases").mkdir(exist_ok=True)
    (data / "leases" / "x").write_bytes(b"l")
    orphan = data / "blobs/sha256/00" / ("0" * 64)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"no row names it")
    assert run("backup", str(tmp_path / "b.tar"), "--data", str(data))[0] == 0
    with tarfile.open(tmp_path / "b.tar") as opened:
        assert not [n for n in opened.getnames() if n.startswith(("tmp", "quarantine", "leases"))]
        assert blob_path("0" * 64) not in opened.getnames()


@pytest.mark.parametrize("through_a_pipe", [False, True])
def test_bad_blobs_are_reported_and_left_out(run, own, tmp_path, through_a_pipe):
    """Missing, one byte flipped, cut short, a link, a directory: exit code 3, the rest is kept."""
    data, refs = own
    large = [ref for ref in refs if ref.size > 500]
    gone, flipped, short, link, folder = (data / blob_path(ref.sha256) for ref in large[:5])
    gone.unlink()
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    os.truncate(short, 100)
    link.rename(data / "elsewhere")
    link.symlink_to(data / "elsewhere")
    folder.unlink()
    folder.mkdir()
    file = tmp_path / "b.tar"
    if through_a_pipe:
        with file.open("wb") as out:
            code, _, err = ran("backup", "-", "--data", str(data), "--json", stdout=out)
        report = json.loads(err[err.index("{") :])
    else:
        code, out, _ = run("backup", str(file), "--data", str(data), "--json")
        report = json.loads(out)
    assert code == 3
    assert (report["missing"], report["damaged"], report["blobs"]) == (1, 4, len(refs) - 5)
    assert {e["sha256"] for e in report["examples"]} == {ref.sha256 for ref in large[:5]}
    code, out, err = run("restore", str(file), "--data", str(tmp_path / "copy"), "--json")
    assert (code, json.loads(out)["left_out"]) == (0, 5), err
    assert set(blobs(tmp_path / "copy")) == {ref.sha256 for ref in refs} - {r.sha256 for r in large[:5]}
    kept = "".join("".join(found) for found in rows(tmp_path / "copy").values())
    lost = {ref.sha256 for ref in large[:5]}
    assert not [sha256 for sha256 in lost if f"'{sha256}'" in kept.replace(rows(data)["uses"][0], "")]


def test_a_blob_that_cannot_be_read_is_left_out(run, filled, tmp_path):
    data, refs = filled
    file = tmp_path / "b.tar"
    # The index is read twice before the blobs; an empty blob is not read at all.
    code, out, _ = run(
        "backup", str(file), "--data", str(data), "--json", failpoints="backup.read=raise:EIO@4"
    )
    assert (code, json.loads(out)["damaged"], json.loads(out)["blobs"]) == (3, 1, len(refs) - 1)
    assert run("restore", str(file), "--data", str(tmp_path / "copy"))[0] == 0
    assert len(blobs(tmp_path / "copy")) == len(refs) - 1


# --- where it goes


def test_an_existing_file_is_replaced_only_when_told(run, filled, tmp_path):
    file = tmp_path / "b.tar"
    file.write_bytes(b"precious")
    code, _, err = run("backup", str(file), "--data", str(filled[0]))
    assert (code, file.read_bytes()) == (1, b"precious")
    assert "give --force" in err
    assert run("backup", str(file), "--data", str(filled[0]), "--force")[0] == 0
    assert file.stat().st_size > 1000


def test_places_that_are_refused(run, own, tmp_path):
    data, _ = own
    (tmp_path / "link").symlink_to(data)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    for place, sentence in (
        (data / "b.tar", "in the data folder"),
        (data / "blobs" / "b.tar", "in the data folder"),
        (tmp_path / "link" / "b.tar", "in the data folder"),
        (tmp_path / "fifo", "use - and redirect it"),
        (tmp_path / "folder", "is no file"),
        (tmp_path / "absent" / "b.tar", "No such file or directory"),
    ):
        code, out, err = run("backup", str(place), "--data", str(data), "--force")
        assert (code, out) == (1, "")
        assert sentence in err
        assert "Traceback" not in err
        assert tree(tmp_path) == before


def test_two_backups_to_one_file(run, filled, tmp_path):
    part = tmp_path / "b.tar.part"
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half")
        other.flush()
        code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(filled[0]))
        assert (code, part.read_bytes()) == (1, b"half")
        assert "another backup is writing" in err
    assert run("backup", str(tmp_path / "b.tar"), "--data", str(filled[0]))[0] == 0
    assert os.listdir(tmp_path) == ["b.tar"]


def test_where_there_is_nothing_to_back_up(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for data in (tmp_path / "absent", tmp_path / "empty"):
        code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(data))
        assert code == 1
        assert "there is nothing to back up" in err
        assert os.listdir(tmp_path) == ["empty"]


def test_a_newer_layout_is_refused(run, own, tmp_path):
    data, _ = own
    (data / "format").write_text("99\n")
    code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(data))
    assert code == 1
    assert "use the newer artifactproxy" in err
    assert os.listdir(tmp_path) == ["data"]


def test_a_damaged_index_is_one_sentence(run, own, tmp_path):
    data, _ = own
    content = bytearray((data / "index.sqlite3").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (data / "index.sqlite3").write_bytes(content)
    code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(data))
    assert code == 1
    assert "the index is damaged" in err
    assert os.listdir(tmp_path) == ["data"]


def test_a_store_that_is_gone_is_no_store_without_blobs(run, own, tmp_path):
    """An unmounted disk: all blobs would be missing."""
    data, _ = own
    (data / "blobs" / "sha256").rename(data / "away")
    code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(data))
    assert code == 1
    assert "the directory of the blobs is gone" in err
    assert os.listdir(tmp_path) == ["data"]


def test_a_folder_with_tokens_that_nobody_has_served_from(run, tmp_path):
    data, backup, back = (tmp_path / name for name in ("data", "b.tar", "back"))
    code, _, err = run("token", "create", "ci", "--scope", "read", "--data", str(data))
    assert (code, (data / "blobs").exists()) == (0, False), err
    code, out, err = run("backup", str(backup), "--data", str(data), "--json")
    assert (code, json.loads(out)["blobs"]) == (0, 0), err
    assert run("restore", str(backup), "--data", str(back))[0] == 0
    code, out, _ = run("token", "list", "--data", str(back), "--json")
    assert [token["name"] for token in json.loads(out)] == ["ci"]


def test_blobs_that_are_gone_with_their_folder(run, own, tmp_path):
    data, _ = own
    (data / "blobs").rename(tmp_path / "away")
    code, _, err = run("backup", str(tmp_path / "b.tar"), "--data", str(data))
    assert (code, "the directory of the blobs is gone" in err) == (1, True)


# --- failures leave nothing


@pytest.mark.parametrize("place", ["backup.snapshot", "backup.blob", "backup.blob@5", "backup.synced"])
@pytest.mark.parametrize("error", ["ENOSPC", "EACCES"])
def test_an_error_leaves_nothing(run, filled, tmp_path, place, error):
    name, _, nth = place.partition("@")
    failpoints = f"{name}=raise:{error}" + (f"@{nth}" if nth else "")
    code, out, err = run("backup", str(tmp_path / "b.tar"), "--data", str(filled[0]), failpoints=failpoints)
    assert (code, out, os.listdir(tmp_path)) == (1, "", [])
    assert os.strerror(getattr(__import__("errno"), error)) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("size", "sentence"),
    [("1m", "No space left on device"), ("64k", "no space is left for a copy of the index beside it")],
)
def test_a_full_disk_is_named(run, filled, tmp_path, size, sentence):
    """The real thing: a file system that is too small."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs root: mount -t tmpfs")
    try:
        code, _, err = run("backup", str(disk / "b.tar"), "--data", str(filled[0]))
        assert (code, os.listdir(disk)) == (1, [])
        assert f"{disk / 'b.tar'}: {sentence}" in err
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_pipe_end_is_one_sentence(filled):
    with open("/dev/full", "wb") as full:
        code, _, err = ran("backup", "-", "--data", str(filled[0]), stdout=full)
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_backup_leaves_nothing(filled, tmp_path, number):
    place = tmp_path / "out"
    place.mkdir()
    slow = "backup.blob=sleep:0.05"
    with command("backup", str(place / "b.tar"), "--data", str(filled[0]), failpoints=slow) as process:
        _until(lambda: (place / "b.tar.part").exists() and not (place / "b.tar.index.part").exists(), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, os.listdir(place)) == (130, b"", [])
    assert b"Traceback" not in err


@pytest.mark.parametrize("place", ["backup.snapshot", "backup.blob@3", "backup.synced"])
def test_a_killed_backup_is_no_backup_and_the_next_one_cleans_up(run, filled, tmp_path, place):
    name, _, nth = place.partition("@")
    failpoints = f"{name}=kill" + (f"@{nth}" if nth else "")
    file = tmp_path / "b.tar"
    code, _, _ = ran("backup", str(file), "--data", str(filled[0]), failpoints=failpoints)
    assert code == -signal.SIGKILL
    assert not file.exists()
    assert (tmp_path / "b.tar.part").exists()
    assert not asyncio.run(_is_pinned(filled[0])), "the hold on the blobs has died with it"
    assert run("backup", str(file), "--data", str(filled[0]))[0] == 0
    assert os.listdir(tmp_path) == ["b.tar"]
    assert run("restore", str(file), "--data", str(tmp_path / "copy"))[0] == 0


def test_the_pin_is_shared_and_ends(filled):
    data, _ = filled
    assert not asyncio.run(_is_pinned(data))
    with pin(data):
        with pin(data):
            assert asyncio.run(_is_pinned(data))
        assert asyncio.run(_is_pinned(data))
    assert not asyncio.run(_is_pinned(data))


async def _is_pinned(data: Path) -> bool:
    store = FsStore(data)
    pinned = store.pinned()
    await store.close()
    return pinned


def _until(condition, process) -> None:
    for _ in range(DEADLINE * 100):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("it never came to that")


# --- streams and size


def test_from_one_machine_to_another(filled, tmp_path):
    data, _ = filled
    sender = command("backup", "-", "--data", str(data))
    receiver = command("restore", "-", "--data", str(tmp_path / "copy"), stdin=sender.stdout)
    sender.stdout.close()
    out, err = receiver.communicate(timeout=DEADLINE)
    assert (receiver.returncode, sender.wait(DEADLINE)) == (0, 0), err
    assert b"18 blobs" in out
    assert b"standard output: 17 entries" in sender.stderr.read()
    sender.stderr.close()
    assert (rows(tmp_path / "copy"), blobs(tmp_path / "copy")) == (rows(data), blobs(data))


def test_a_reader_that_leaves_is_no_traceback(filled):
    process = command("backup", "-", "--data", str(filled[0]))
    process.stdout.read(600)
    process.stdout.close()
    assert process.wait(DEADLINE) == 1
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_more_blobs_need_no_more_memory(tmp_path, monkeypatch):
    """Neither side keeps a list of them: 1,500 more cost less than 100 bytes each."""
    for module in (archive, take_module):  # so that whole pieces do not hide it
        monkeypatch.setattr(module, "CHUNK", 32 * 1024)
    before = open_files()
    few, many = (_peaks(tmp_path / str(count), count) for count in (1100, 2600))
    assert max(larger - smaller for larger, smaller in zip(many, few, strict=True)) < 150_000
    assert max(many) < 2**20
    assert open_files() <= before


def _peaks(folder: Path, count: int) -> tuple[int, int]:
    """The most memory that Python held at once while taking and while unpacking small blobs."""
    data, place = folder / "data", folder / "place"
    refs = asyncio.run(fill(data, 6))
    _multiply(data, count)
    place.mkdir()
    with open(folder / "b.tar", "w+b") as file:
        tracemalloc.start()
        taken = take(data, file.fileno(), folder / "scratch", Quiet())
        taking = tracemalloc.get_traced_memory()[1]
        file.seek(0)
        tracemalloc.reset_peak()
        unpacked = unpack(file, place, Quiet())
        unpacking = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken.blobs == unpacked.blobs == count + len(refs)
    return taking, unpacking


def _multiply(data: Path, count: int) -> None:
    """More blobs than anybody wants to record one by one."""
    with sqlite3.connect(data / "index.sqlite3") as db:
        (width,) = db.execute("SELECT count(*) FROM pragma_table_info('entries')").fetchone()
        row = db.execute("SELECT * FROM entries WHERE sha256 IS NOT NULL LIMIT 1").fetchone()
        for number in range(count):
            content = b"many %d" % number
            sha256 = hashlib.sha256(content).hexdigest()
            path = data / blob_path(sha256)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            fields = [1000 + number, row[1], f"many/{number}", *row[3:5], sha256, len(content), *row[7:]]
            db.execute(f"INSERT INTO entries VALUES ({','.join('?' * width)})", fields)
            db.execute(
                "INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES (?, ?, 0, NULL)",
                (sha256, len(content)),
            )
    db.close()
