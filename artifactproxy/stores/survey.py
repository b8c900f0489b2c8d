"""StoreSurvey for `FsStore`: the directory as it lies, judged and put in order.

It has threads of its own, so that a check takes none from the requests, and works on a directory
that no store was started on. Nothing but `mend` and `set_aside` changes anything.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from artifactproxy import failpoints
from artifactproxy.errors import StoreUnavailable
from artifactproxy.ports import Clock
from artifactproxy.ports.checkup import Content, Oddity
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.medium import Medium, store_fault
from artifactproxy.stores.temps import alive, left_over, owner_of, part_of

_T = TypeVar("_T")
_PIECE = 1024 * 1024
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SHARD = re.compile(r"[0-9a-f]{2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDERS = ("blobs", "blobs/sha256", "tmp", "quarantine")
_BAD_BLOB = frozenset({errno.EIO, errno.ELOOP, errno.EUCLEAN, errno.EISDIR, errno.EACCES, errno.EPERM})
"""What says that this blob is bad; every other failure is one of the whole store."""


class FsSurvey:
    """`private` names further files beside the store that only their owner may read."""

    def __init__(
        self, root: Path, *, private: Sequence[str] = (), fsync: bool = True, clock: Clock = time.time
    ) -> None:
        self._root = root.absolute()
        self._private = private
        self._clock = clock
        self._medium = Medium(self._root, fsync=fsync, clock=clock)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="survey")

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    # --- looking ----------------------------------------------------------------------------

    async def sizes(self, sha256s: Sequence[str]) -> list[int | None]:
        return await self._run("look up blobs", lambda: [self._size(sha256) for sha256 in sha256s])

    async def read(self, sha256: str, told: Callable[[int], None]) -> Content | None:
        try:
            fd = await self._run("open a blob", partial(os.open, self._root / blob_path(sha256), _READ))
        except StoreUnavailable as fault:
            return await self._unopened(sha256, fault)
        try:
            return await self._hashed(fd, told)
        finally:
            os.close(fd)

    async def temp_bytes(self) -> int:
        return await self._run("look through temporary files", self._temp_bytes)

    async def oddities(self) -> AsyncIterator[Oddity]:
        for oddity in await self._run("look through the directory", lambda: list(self._around())):
            yield oddity
        for shard in await self._run("list blobs", self._medium.shards):
            for oddity in await self._run("list blobs", partial(self._of_shard, shard)):
                yield oddity

    async def is_odd(self, oddity: Oddity) -> bool:
        return await self._run("look again", lambda: oddity.kind in self._kinds(oddity.name))

    # --- putting in order -------------------------------------------------------------------

    async def set_aside(self, sha256: str) -> None:
        await self._run("set a blob aside", partial(self._medium.set_aside, sha256, None))

    async def mend(self, oddity: Oddity) -> bool:
        await self._run("put its directory in order", lambda: self._mend(oddity))
        return not await self.is_odd(oddity)

    def _mend(self, oddity: Oddity) -> None:
        path = self._root / oddity.name
        if oddity.kind not in self._kinds(oddity.name):
            return
        if oddity.kind == "mode":
            path.chmod(0o700 if path.is_dir() else 0o600, follow_symlinks=True)
        elif oddity.kind == "temp":
            path.unlink(missing_ok=True)
        elif oddity.name in _FOLDERS or self._is_private(oddity.name) or self._rescued(path):
            return
        else:
            self._quarantine(path)

    def _rescued(self, path: Path) -> bool:
        """A file that is what its name says gets a file of its own in the right place, by the same
        way as any blob; then nothing is lost with this name."""
        name = path.name
        about = path.lstat()
        if not _SHA256.fullmatch(name) or not stat.S_ISREG(about.st_mode):
            return False
        at_home = path == self._root / blob_path(name)
        if not at_home and os.path.lexists(self._root / blob_path(name)):
            return False
        return self._medium.adopt(path, name)

    def _quarantine(self, path: Path) -> None:
        place = self._medium.quarantine
        place.mkdir(mode=0o700, exist_ok=True)
        path.rename(place / f"{path.name[:150]}.{time.time_ns()}")

    # --- judging ----------------------------------------------------------------------------

    def _around(self) -> Iterator[Oddity]:
        """Everything but what lies in the directories of two digits."""
        for name in (*_FOLDERS, *self._private):
            yield from self._odd(name)
        for folder in ("blobs", "blobs/sha256", "tmp"):
            names = [f"{folder}/{name}" for name in self._names(folder)]
            for name in names:
                if name not in _FOLDERS:
                    yield from self._odd(name)

    def _of_shard(self, shard: str) -> list[Oddity]:
        folder = f"blobs/sha256/{shard}"
        return [oddity for name in self._names(folder) for oddity in self._odd(f"{folder}/{name}")]

    def _odd(self, name: str) -> Iterator[Oddity]:
        for kind, detail in self._kinds(name).items():
            yield Oddity(kind, name, detail)

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in (self._root / folder).iterdir())
        except FileNotFoundError:
            if folder == "blobs/sha256":
                raise StoreUnavailable("the directory of the blobs is gone") from None
            return []
        except NotADirectoryError:
            return []

    def _kinds(self, name: str) -> dict[str, str]:
        """What is odd about one name below the root, by kind; a name that is gone is not odd."""
        try:
            about = (self._root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        parts = name.split("/")
        if name in _FOLDERS or (parts[:2] == ["blobs", "sha256"] and len(parts) == 3 and _is_shard(parts[2])):
            return _of_folder(about)
        if self._is_private(name):
            return _of_file(about)
        owner = owner_of(parts[-1]) if parts[0] == "tmp" or len(parts) < 4 else None
        if owner is not None and stat.S_ISREG(about.st_mode):
            # The trial of a start is made in tmp/ and renamed beside the blobs for a moment.
            if alive(owner) or left_over(part_of(self._root / name), self._clock()) is not None:
                return {}
            return {"temp": f"{about.st_size} bytes of a process that has ended"}
        if parts[0] == "tmp" or len(parts) != 4 or not _SHA256.fullmatch(parts[3]):
            return {"stray": "it is none of ours"}
        if parts[3][:2] != parts[2]:
            return {"misplaced": f"it belongs into {parts[3][:2]}/"}
        return _of_file(about)

    def _is_private(self, name: str) -> bool:
        return name in self._private

    # --- reading ----------------------------------------------------------------------------

    def _size(self, sha256: str) -> int | None:
        try:
            about = (self._root / blob_path(sha256)).lstat()
        except (ValueError, TypeError):
            return None
        except FileNotFoundError as error:
            if not self._medium.blobs.is_dir():
                raise StoreUnavailable("the directory of the blobs is gone") from error
            return None
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    async def _unopened(self, sha256: str, fault: StoreUnavailable) -> Content | None:
        cause = fault.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number == errno.ENOENT and self._medium.blobs.is_dir():
            return None
        if number in _BAD_BLOB:
            (size,) = await self.sizes([sha256])
            return Content(size or 0, "", os.strerror(number or 0))
        raise fault

    async def _hashed(self, fd: int, told: Callable[[int], None]) -> Content:
        digest, at = hashlib.sha256(), 0

        def piece() -> int:
            failpoints.hit("survey.read")
            read = os.pread(fd, _PIECE, at)
            digest.update(read)
            return len(read)

        try:
            while size := await self._run("read a blob", piece):
                at += size
                told(size)
        except StoreUnavailable as fault:
            cause = fault.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _BAD_BLOB:
                raise
            return Content(os.fstat(fd).st_size, "", os.strerror(cause.errno or 0))
        return Content(at, digest.hexdigest())

    def _temp_bytes(self) -> int:
        total = 0
        for name in self._names("tmp"):
            owner = owner_of(name)
            if owner is not None and alive(owner):
                with suppress(FileNotFoundError):
                    total += (self._medium.temps / name).lstat().st_size
        return total

    async def _run(self, doing: str, work: Callable[[], _T]) -> _T:
        """A cancelled caller waits, so that no descriptor is closed under a read."""
        running = asyncio.wrap_future(self._pool.submit(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except OSError as error:
            raise store_fault(error, doing) from error


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _of_folder(about: os.stat_result) -> dict[str, str]:
    if not stat.S_ISDIR(about.st_mode):
        return {"link": "it is no directory"}
    mode = stat.S_IMODE(about.st_mode)
    return {} if mode == 0o700 else {"mode": f"its mode is {mode:04o}, not 0700"}


def _of_file(about: os.stat_result) -> dict[str, str]:
    if not stat.S_ISREG(about.st_mode):
        return {"link": "it is no regular file"}
    found = {}
    if about.st_nlink > 1:
        found["link"] = f"its file has {about.st_nlink} names"
    mode = stat.S_IMODE(about.st_mode)
    if mode != 0o600:
        found["mode"] = f"its mode is {mode:04o}, not 0600"
    return found
