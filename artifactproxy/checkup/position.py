"""Where the background scrub stands, kept over restarts in one small file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}|")


class Position:
    """`begun` tells that a round is under way, `after` the sha256 it has passed ("": none yet),
    `finished_at` when the last one ended (POSIX seconds, None: never). Losing the file begins a round
    anew.

    The file is replaced at once; whatever else a crash may leave in it reads as nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._saved = True
        self.after, self.finished_at, self.begun = _read(path)

    async def begins(self) -> bool:
        """Likewise."""
        self.begun = True
        return await self._save()

    async def passed(self, sha256: str) -> bool:
        """Whether it could be written down; a disk may be full."""
        self.after = sha256
        return await self._save()

    async def finished(self, at: float) -> bool:
        """Likewise."""
        self.after, self.finished_at, self.begun = "", at, False
        return await self._save()

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether no other process goes on from this position meanwhile. A dead one claims nothing, and
        where nothing can be claimed it is only the reading that may be done twice."""
        fd = -1
        try:
            with suppress(OSError):
                fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            yield fd < 0 or _locked(fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def reload(self) -> None:
        """Another process of this folder may have gone on."""
        if self._saved and not self._turn.locked():
            self.after, self.finished_at, self.begun = _read(self._path)

    async def _save(self) -> bool:
        async with self._turn:  # a round by hand may end while one in the background goes on
            writing = asyncio.ensure_future(asyncio.to_thread(self._write))
            try:
                self._saved = await asyncio.shield(writing)
                return self._saved
            except asyncio.CancelledError:
                await asyncio.wait((writing,))
                raise

    def _write(self) -> bool:
        draft = self._path.with_suffix(".new")
        try:
            kept = {"after": self.after, "finished_at": self.finished_at, "begun": self.begun}
            draft.write_text(json.dumps(kept) + "\n")
            draft.replace(self._path)
        except OSError:
            return False
        return True


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _read(path: Path) -> tuple[str, float | None, bool]:
    try:
        kept = json.loads(path.read_text())
        after, at = str(kept["after"]), kept["finished_at"]
        finished_at = None if at is None else float(at)
    except (OSError, ValueError, KeyError, TypeError):
        return "", None, False
    if not _SHA256.fullmatch(after):
        return "", None, False
    return after, finished_at, bool(after) or kept.get("begun") is True
