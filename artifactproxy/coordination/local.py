"""Coordinator of the processes of one machine: an flock on `<folder>/<sha256 of the key>`.

The kernel drops the lock of a process that dies, however it dies, so nothing expires and nothing
is renewed. Tasks of one process queue in memory; only processes poll. The first line of a lease
file is the address of its holder, which may be that of the one before until it is written.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Self

from artifactproxy.coordination.turns import Turns
from artifactproxy.errors import ConfigError, StoreUnavailable
from artifactproxy.ports import Holder

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_ADDRESS = re.compile(r"(?:https?://|unix:/)[^\x00-\x1f\x7f]+")
_ADDRESS_BYTES = 2048


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
        self._owner.turns.give(self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()


class LocalCoordinator:
    """`address` is where the other processes reach this one ("": nowhere; then they wait). `shared` says
    that others use this folder, whether they can be reached or not. Of others only addresses of sockets
    below `within` count, where that is given. `poll` is the first pause, in seconds, between looks at
    another process's lease; it doubles up to `poll_max`."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "",
        shared: bool = False,
        within: Path | None = None,
        poll: float = 0.005,
        poll_max: float = 0.1,
    ) -> None:
        if address and not _sound(address, None):
            raise ConfigError(f"not an address that another process could reach: {address!r}")
        self._folder = folder
        self._address = address
        self._within = within.absolute() if within is not None else None
        self._poll = poll
        self._poll_max = poll_max
        self.turns = Turns()
        self.shared = shared or bool(address)

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

    async def acquire(self, key: str, *, wait: float) -> LocalLease | Holder | None:
        deadline = asyncio.get_running_loop().time() + wait
        if not await self.turns.take(key, deadline):
            return None
        outcome = None
        try:
            outcome = await self._lock(key, deadline)
        finally:
            if not isinstance(outcome, LocalLease):
                self.turns.give(key)
        return outcome

    async def _lock(self, key: str, deadline: float) -> LocalLease | Holder | None:
        path = self._path(key)
        pause = self._poll
        loop = asyncio.get_running_loop()
        while True:
            try:
                fd = _try_lock(path)
            except OSError:
                return None  # C7: a broken folder costs a duplicate download at most
            if fd is not None:
                self._sign(fd)
                return LocalLease(self, key, path, fd)
            address = self._signed(path)
            if address:
                return Holder(address)
            left = deadline - loop.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, self._poll_max)

    def _sign(self, fd: int) -> None:
        line = os.fsencode(f"{self._address}\n") if self._address else b""
        with suppress(OSError):  # a full disk: the others wait instead of following
            os.pwrite(fd, line, 0)
            os.ftruncate(fd, len(line))

    def _signed(self, path: Path) -> str:
        """The holder's address; "" if it has none, or has not written it yet: ours is then a leftover of
        a process that had our place before."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return ""
        try:
            line, end, _ = os.pread(fd, _ADDRESS_BYTES, 0).partition(b"\n")
        except OSError:
            return ""
        finally:
            os.close(fd)
        address = os.fsdecode(line)
        return address if end and address != self._address and _sound(address, self._within) else ""

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

    def _sweep(self, path: Path) -> None:
        if len(path.name) == hashlib.sha256().digest_size * 2:
            fd = _try_lock(path)
            if fd is not None:
                _give_back(path, fd)


def _sound(address: str, within: Path | None) -> bool:
    if not _ADDRESS.fullmatch(address) or len(os.fsencode(address)) >= _ADDRESS_BYTES:
        return False
    if within is None:
        return True
    path = Path(address.removeprefix("unix:"))
    return address.startswith("unix:") and ".." not in path.parts and path.is_relative_to(within)


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
