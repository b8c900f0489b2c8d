"""What only a directory can suffer: full and read-only disks, crashes, leftovers, symlinks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import BlobMissing, StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores import medium
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.temps import Owner, TempNames, alive, owner_of, this_process

BODY = b"the whole body"


def ref_of(body: bytes = BODY) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


def blob(root: Path, ref: BlobRef) -> Path:
    return root / "blobs/sha256" / ref.sha256[:2] / ref.sha256


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FsStore]:
    store = FsStore(tmp_path, threads=4)
    await store.start()
    yield store
    failpoints.arm("")
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=40", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- crashes --------------------------------------------------------------------------------

_PUT = """
import asyncio, sys
from pathlib import Path
from artifactproxy.model import BlobRef
from artifactproxy.stores.fs import FsStore

async def main():
    store = FsStore(Path(sys.argv[1]))
    await store.start()
    await store.put_bytes(BlobRef(sys.argv[2], int(sys.argv[3])), sys.argv[4].encode())

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "whole"),
    [
        ("tmp.opened", False),
        ("tmp.full", False),
        ("tmp.fsynced@2", False),
        ("blob.linked", True),
        ("dir.fsynced", True),
    ],
)
async def test_killed_at_each_step_of_put(tmp_path: Path, point: str, whole: bool) -> None:
    name, _, nth = point.partition("@")
    environment = {**os.environ, "ARTIFACTPROXY_FAILPOINTS": f"{name}=kill@{nth or 1}"}
    ref = ref_of()
    command = [sys.executable, "-c", _PUT, str(tmp_path), ref.sha256, str(ref.size), BODY.decode()]
    assert subprocess.run(command, env=environment, timeout=30, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "tmp").iterdir())) == (0 if whole else 1)
    store = FsStore(tmp_path)
    await store.start()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert await store.size(ref.sha256) == (ref.size if whole else None)
    if whole:
        assert b"".join([chunk async for chunk in await store.open(ref, Span(0, ref.size))]) == BODY
    await store.put_bytes(ref, BODY)
    assert await store.size(ref.sha256) == ref.size
    await store.close()


# --- temporary files ------------------------------------------------------------------------


async def test_sweep_removes_files_of_dead_processes_only(store: FsStore, tmp_path: Path) -> None:
    me = this_process()
    names = {
        "mine": store.temp_path().name,
        "init": TempNames().next().replace(f".{me.pid}.", ".1.", 1),
        "reused": f"{me.boot}.{me.pid}.{me.started + 1}-1-aa.part",
        "rebooted": f"abcabcabcabc.{me.pid}.{me.started}-1-aa.part",
        "gone": f"{me.boot}.{2**22 + 7}.{me.started}-1-aa.part",
        "foreign": "download.part",
    }
    for name in names.values():
        (tmp_path / "tmp" / name).touch()
    assert await store.sweep() == 4
    assert {path.name for path in (tmp_path / "tmp").iterdir()} == {names["mine"], names["foreign"]}


def test_names_are_unique_and_tell_their_owner() -> None:
    names = TempNames()
    made = [names.next() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {owner_of(name) for name in made} == {this_process()}
    assert alive(this_process())
    assert owner_of("../" + made[0]) is None


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    owner = Owner(this_process().boot, child.pid, int(fields[19]))
    assert alive(owner)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(owner)
    child.communicate()
    assert not alive(owner)


def test_without_proc_the_process_id_decides() -> None:
    boot = this_process().boot
    assert alive(Owner(boot, os.getpid(), 0))
    assert not alive(Owner(boot, 2**22 + 7, 0))


# --- the medium -----------------------------------------------------------------------------


async def test_a_failed_fsync_makes_the_store_sick_until_a_probe_passes(
    store: FsStore, tmp_path: Path
) -> None:
    failpoints.arm("tmp.fsynced=raise:EIO")
    with pytest.raises(StoreUnavailable):
        await store.put_bytes(ref_of(), BODY)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.check()
        with pytest.raises(StoreUnavailable):
            await store.put_bytes(ref_of(), BODY)
    failpoints.arm("")
    await store.check()
    await store.put_bytes(ref_of(), BODY)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_failed_directory_fsync_leaves_nothing_visible(store: FsStore) -> None:
    await store.put_bytes(ref_of(b"before"), b"before")
    failpoints.arm("dir.fsynced=raise:EIO")
    for body in (BODY, b"before"):
        with pytest.raises(StoreUnavailable):
            await store.put_bytes(ref_of(body), body)
    assert await store.size(ref_of().sha256) is None
    assert await store.size(ref_of(b"before").sha256) == 6


async def test_every_put_reaches_the_medium_before_its_name(
    store: FsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_rename, real_fsync, real_flush = Path.rename, os.fsync, medium._flush

    def rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return real_rename(self, target)

    def flush(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_flush(fd)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(medium, "_flush", flush)
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("parent"), real_fsync(fd)))
    await store.put_bytes(ref_of(), BODY)
    assert calls == ["file", "parent", "rename", "folder"]
    calls.clear()
    await store.put_bytes(ref_of(), BODY)
    assert calls == ["file", "rename", "folder"]
    relaxed = FsStore(tmp_path, fsync=False)
    calls.clear()
    await relaxed.put_bytes(ref_of(b"relaxed"), b"relaxed")
    assert calls == ["rename"]
    await relaxed.close()


async def test_a_full_disk(small_disk: Path) -> None:
    store = FsStore(small_disk / "data")
    await store.start()
    body = os.urandom(512 * 1024)
    with pytest.raises(StoreFull):
        await store.put_bytes(ref_of(body), body)
    assert list((small_disk / "data/tmp").iterdir()) == []
    total, free = store.free()
    assert total == 256 * 1024
    assert 0 < free <= total
    await store.put_bytes(ref_of(), BODY)
    await store.check()
    assert await store.size(ref_of(body).sha256) is None
    await store.close()


async def test_no_more_inodes(small_disk: Path) -> None:
    store = FsStore(small_disk / "data")
    await store.start()
    stored = []
    with pytest.raises(StoreFull):
        for number in range(50):
            await store.put_bytes(ref_of(b"%d" % number), b"%d" % number)
            stored.append(ref_of(b"%d" % number))
    assert len(stored) > 5
    assert [await store.size(ref.sha256) for ref in stored] == [ref.size for ref in stored]
    assert list((small_disk / "data/tmp").iterdir()) == []
    await store.close()


async def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    store = FsStore(small_disk / "data")
    await store.start()
    await store.put_bytes(ref_of(), BODY)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for call in (store.check(), store.put_bytes(ref_of(b"new"), b"new"), store.delete(ref_of().sha256)):
        with pytest.raises(StoreUnavailable):
            await call
    os.close((await store.locate(ref_of())).fd)
    await store.close()


async def test_temp_on_another_filesystem_is_refused_at_start(small_disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "tmp").symlink_to(small_disk)
    store = FsStore(root)
    with pytest.raises(StoreUnavailable, match="one filesystem"):
        await store.start()
    assert list((root / "blobs/sha256").iterdir()) == []
    await store.close()


async def test_a_root_that_cannot_be_used_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        store = FsStore(root)
        with pytest.raises(StoreUnavailable, match="cannot hold blobs"):
            await store.start()
        await store.close()


async def test_no_more_descriptors(store: FsStore) -> None:
    await store.put_bytes(ref_of(), BODY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    opened = []
    try:
        with pytest.raises(OSError, match="open files") as caught:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(StoreUnavailable):
            await store.locate(ref_of())
        with pytest.raises(StoreUnavailable):
            await store.put_bytes(ref_of(b"new"), b"new")
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.close((await store.locate(ref_of())).fd)
    assert await store.size(ref_of(b"new").sha256) is None


async def test_the_file_size_limit(store: FsStore, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    body = os.urandom(100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StoreUnavailable):
            await store.put_bytes(ref_of(body), body)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "tmp").iterdir()) == []
    assert await store.size(ref_of(body).sha256) is None


async def test_an_unmounted_store_is_not_read_as_empty(store: FsStore, tmp_path: Path) -> None:
    await store.put_bytes(ref_of(), BODY)
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    for call in (store.locate(ref_of()), store.size(ref_of().sha256), anext(store.scan())):
        with pytest.raises(StoreUnavailable):
            await call


# --- the layout -----------------------------------------------------------------------------


async def test_only_the_owner_may_look(store: FsStore, tmp_path: Path) -> None:
    path = store.temp_path()
    path.write_bytes(BODY)
    path.chmod(0o777)
    await store.put(ref_of(), path)
    assert stat.S_IMODE(blob(tmp_path, ref_of()).stat().st_mode) == 0o600
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


async def test_damaged_blobs_go_to_quarantine(store: FsStore, tmp_path: Path) -> None:
    ref = ref_of()
    place = blob(tmp_path, ref)
    for damage in (
        lambda: place.write_bytes(b"short"),
        lambda: (place.unlink(), place.symlink_to("/etc/passwd")),
    ):
        await store.put_bytes(ref, BODY)
        damage()
        with pytest.raises(BlobMissing):
            await store.open(ref, Span(0, 1))
        assert not os.path.lexists(place)
    assert len(list((tmp_path / "quarantine").iterdir())) == 2
    await store.put_bytes(ref, BODY)
    place.write_bytes(b"longer than it was before")
    await store.put_bytes(ref, BODY)
    assert place.read_bytes() == BODY
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


async def test_delete_spares_the_young(tmp_path: Path) -> None:
    now = 1000.0
    store = FsStore(tmp_path, clock=lambda: now)
    await store.start()
    await store.put_bytes(ref_of(), BODY)
    now += 59
    await store.delete(ref_of().sha256, older_than=60)
    assert await store.size(ref_of().sha256) == len(BODY)
    now += 1
    await store.put_bytes(ref_of(), BODY)
    await store.delete(ref_of().sha256, older_than=60)
    assert await store.size(ref_of().sha256) == len(BODY)
    now += 60
    await store.delete(ref_of().sha256, older_than=60)
    assert await store.size(ref_of().sha256) is None
    await store.close()


async def test_a_collector_never_removes_what_was_just_put_again(tmp_path: Path) -> None:
    now = 1000.0
    store = FsStore(tmp_path, fsync=False, clock=lambda: now)
    other = FsStore(tmp_path, fsync=False, clock=lambda: now)
    await store.start()
    for _ in range(60):
        now += 100
        await asyncio.gather(
            other.delete(ref_of().sha256, older_than=60),
            store.put_bytes(ref_of(), BODY),
            other.delete(ref_of().sha256, older_than=60),
        )
        assert await store.size(ref_of().sha256) == len(BODY)
    await other.close()
    await store.close()


async def test_put_and_delete_wait_for_the_lock_of_their_directory(store: FsStore, tmp_path: Path) -> None:
    await store.put_bytes(ref_of(), BODY)
    folder = os.open(blob(tmp_path, ref_of()).parent, os.O_RDONLY)
    for call in (store.put_bytes(ref_of(), BODY), store.delete(ref_of().sha256)):
        fcntl.flock(folder, fcntl.LOCK_EX)
        task = asyncio.create_task(call)
        await asyncio.sleep(0.05)
        assert not task.done()
        fcntl.flock(folder, fcntl.LOCK_UN)
        async with asyncio.timeout(20):
            await task
    os.close(folder)
    assert await store.size(ref_of().sha256) is None


async def test_a_reader_of_a_file_that_shrinks_raises(store: FsStore, tmp_path: Path) -> None:
    body = os.urandom(600_000)
    await store.put_bytes(ref_of(body), body)
    chunks = await store.open(ref_of(body), Span(0, len(body)))
    await anext(chunks)
    os.truncate(blob(tmp_path, ref_of(body)), 1000)
    with pytest.raises(StoreUnavailable):
        await anext(chunks)


async def test_l11_putting_again_replaces_a_blob_that_has_rotted(store: FsStore, tmp_path: Path) -> None:
    """Nobody noticed the damage, but verified bytes of that name are at hand."""
    ref = ref_of()
    await store.put_bytes(ref, BODY)
    blob(tmp_path, ref).write_bytes(b"\0" * len(BODY))
    await store.put_bytes(ref, BODY)
    assert blob(tmp_path, ref).read_bytes() == BODY


async def test_l05_what_a_start_tried_out_is_swept_by_the_next(store: FsStore, tmp_path: Path) -> None:
    left = tmp_path / "blobs" / "sha256" / "0.1.1-1-ab.part"
    left.touch()
    assert await store.sweep() == 1
    assert not left.exists()
