"""What only lease files can suffer."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from pathlib import Path

import pytest

from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.errors import StoreUnavailable

KEY = "tools/simple/soup/"


async def opened(folder: Path) -> LocalCoordinator:
    coordinator = LocalCoordinator(folder, poll=0.001)
    await coordinator.start()
    return coordinator


async def test_no_file_and_no_memory_is_left_behind(tmp_path: Path) -> None:
    coordinator = await opened(tmp_path)
    for key in ("a", "b", "a"):
        async with await coordinator.acquire(key, wait=0) as lease:  # type: ignore[union-attr]
            assert lease.path.name == hashlib.sha256(key.encode()).hexdigest()
            assert await coordinator.acquire(key, wait=0.01) is None
    assert list(tmp_path.iterdir()) == []
    assert not len(coordinator.turns)


async def test_start_removes_what_dead_holders_left(tmp_path: Path) -> None:
    dead, held, foreign = tmp_path / ("0" * 64), tmp_path / ("1" * 64), tmp_path / "README"
    for path in (dead, held, foreign):
        path.touch()
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await opened(tmp_path)
        assert set(tmp_path.iterdir()) == {held, foreign}


async def test_a_lease_file_that_is_removed_between_open_and_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await opened(tmp_path), await opened(tmp_path)
    real = fcntl.flock
    removed: list[Path] = []

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not removed:
            removed.extend(tmp_path.iterdir())  # as its last holder does, at the worst moment
            removed[0].unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = await one.acquire(KEY, wait=0)
    assert lease is not None
    assert removed == [lease.path]
    assert lease.path.exists()
    assert await other.acquire(KEY, wait=0.01) is None
    await lease.release()


async def test_release_never_removes_the_file_of_another(tmp_path: Path) -> None:
    coordinator = await opened(tmp_path)
    lease = await coordinator.acquire(KEY, wait=0)
    assert lease is not None
    lease.path.unlink()
    lease.path.write_text("somebody else's")
    await lease.release()
    assert lease.path.read_text() == "somebody else's"


async def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    coordinator = await opened(tmp_path / "leases")
    target = tmp_path / "target"
    (tmp_path / "leases" / hashlib.sha256(KEY.encode()).hexdigest()).symlink_to(target)
    assert await coordinator.acquire(KEY, wait=0.01) is None
    assert not target.exists()


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="leases"):
        await opened(tmp_path / "file" / "leases")


async def test_waiting_tasks_of_one_process_are_served_in_order(tmp_path: Path) -> None:
    coordinator = await opened(tmp_path)
    order: list[int] = []

    async def work(number: int) -> None:
        lease = await coordinator.acquire(KEY, wait=10)
        assert lease is not None
        order.append(number)
        await asyncio.sleep(0)
        await lease.release()

    await asyncio.gather(*map(work, range(10)))
    assert order == list(range(10))
