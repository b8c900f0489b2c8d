"""Where the background scrub stands, kept over restarts in one small file."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}|")


class Position:
    """`after` is the sha256 the round under way has passed ("": none is), `finished_at` when the
    last one ended (POSIX seconds, None: never). Losing the file begins a round anew.

    The file is replaced at once; whatever else a crash may leave in it reads as nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self.after, self.finished_at = _read(path)

    async def passed(self, sha256: str) -> bool:
        """Whether it could be written down; a disk may be full."""
        self.after = sha256
        return await self._save()

    async def finished(self, at: float) -> bool:
        """Likewise."""
        self.after, self.finished_at = "", at
        return await self._save()

    async def _save(self) -> bool:
        async with self._turn:  # a round by hand may end while one in the background goes on
            writing = asyncio.ensure_future(asyncio.to_thread(self._write))
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait((writing,))
                raise

    def _write(self) -> bool:
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps({"after": self.after, "finished_at": self.finished_at}) + "\n")
            draft.replace(self._path)
        except OSError:
            return False
        return True


def _read(path: Path) -> tuple[str, float | None]:
    try:
        kept = json.loads(path.read_text())
        after, at = str(kept["after"]), kept["finished_at"]
        finished_at = None if at is None else float(at)
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
    return (after, finished_at) if _SHA256.fullmatch(after) else ("", None)
