"""Coordinator of the processes of one machine: an flock on `<folder>/<sha256 of the key>`.

The kernel drops the lock of a process that dies, however it dies, so nothing expires and nothing
is renewed. Tasks of one process queue in memory; only processes poll. The content of a lease file
is free for the address of its holder.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from artifactproxy.errors import StoreUnavailable

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class _Turn:
    """The queue of one key in this process."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class LocalLease:
    """Held until `release`; also an async context manager."""

    def __init__(self, owner: LocalCoordinator, key: str, path: Path, fd: int) -> None:
        self.path = path
        self._owner = owner
        self._key = key
        self._fd = fd

    async def release(self) -> None:
        """A second call does nothing: by then the lease may be somebody else's."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        _give_back(self.path, fd)
        self._owner.next_turn(self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()


class LocalCoordinator:
    """`poll` is the first pause, in seconds, between looks at another process's lease; it doubles
    up to `poll_max`."""

    def __init__(self, folder: Path, *, poll: float = 0.005, poll_max: float = 0.1) -> None:
        self._folder = folder
        self._poll = poll
        self._poll_max = poll_max
        self._turns: dict[str, _Turn] = {}
        self.shared = False

    async def start(self) -> None:
        """Make the folder and remove the files that dead holders left."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                with suppress(OSError):
                    self._sweep(path)
        except OSError as error:
            raise _unusable(self._folder, error) from error

    async def check(self) -> None:
        probe = self._path(f"check {os.getpid()}")
        try:
            fd = _try_lock(probe)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        if fd is not None:
            _give_back(probe, fd)

    async def close(self) -> None:
        """Leases end with their holders, the last ones with the process."""

    async def acquire(self, key: str, *, wait: float) -> LocalLease | None:
        deadline = asyncio.get_running_loop().time() + wait
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        first = False
        lease = None
        try:
            first = await _take_turn(turn.lock, deadline)
            if first:
                lease = await self._lock(key, deadline)
        finally:
            if lease is None:
                if first:
                    turn.lock.release()
                self._leave(key, turn)
        return lease

    def next_turn(self, key: str) -> None:
        """For leases that end."""
        turn = self._turns[key]
        turn.lock.release()
        self._leave(key, turn)

    def _leave(self, key: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[key]

    async def _lock(self, key: str, deadline: float) -> LocalLease | None:
        path = self._path(key)
        pause = self._poll
        loop = asyncio.get_running_loop()
        while True:
            try:
                fd = _try_lock(path)
            except OSError:
                return None  # C7: a broken folder costs a duplicate download at most
            if fd is not None:
                return LocalLease(self, key, path, fd)
            left = deadline - loop.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, self._poll_max)

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

    def _sweep(self, path: Path) -> None:
        if len(path.name) == hashlib.sha256().digest_size * 2:
            fd = _try_lock(path)
            if fd is not None:
                _give_back(path, fd)


async def _take_turn(lock: asyncio.Lock, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):  # one that is past still takes a free lock
            await lock.acquire()
    except TimeoutError:
        return False
    return True


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of the file now at `path`; None if another has it."""
    while True:
        fd = os.open(path, _OPEN, 0o600)
        held = False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = _is_at(path, fd)
        except BlockingIOError:
            return None
        finally:
            if not held:
                os.close(fd)
        if held:
            return fd
        # Its holder removed the file between our open and our lock: that name is free again.


def _is_at(path: Path, fd: int) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)


def _give_back(path: Path, fd: int) -> None:
    # Removed while locked, so only ever our own file. Unlocked before it is closed, because a
    # forked child that inherited the descriptor would keep the lock alive.
    with suppress(OSError):
        if _is_at(path, fd):
            path.unlink()
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _unusable(folder: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"leases cannot be kept in {folder}: {os.strerror(error.errno or 0)}", code="coordination_unavailable"
    )
