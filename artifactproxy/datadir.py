"""The data folder as a whole: who works in it, and which version of the layout it has.

`lock` is held (flock) by the one process that may change the folder; `format` holds the layout's
version: a newer one is refused, an older one would be migrated under the lock.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from artifactproxy.errors import StoreUnavailable

FORMAT = 1


class DataFolder:
    """Locked from construction until `close`. Raises `StoreUnavailable` with what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"the data folder {path} cannot be used: {error.strerror}; choose another with --data"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_format()
        except BlockingIOError as error:
            os.close(self._lock)
            raise StoreUnavailable(
                f"another artifactproxy works in {path}; stop it or choose another folder with --data"
            ) from error
        except StoreUnavailable:
            os.close(self._lock)
            raise

    def _check_format(self) -> None:
        marker = self.path / "format"
        try:
            found = marker.read_text().strip()
        except FileNotFoundError:
            draft = self.path / "format.new"
            draft.write_text(f"{FORMAT}\n")
            draft.replace(marker)
            return
        if not found.isdigit() or int(found) > FORMAT:
            raise StoreUnavailable(
                f"{marker} says layout {found!r}, this version knows {FORMAT}; use the newer artifactproxy"
            )

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    def close(self) -> None:
        os.close(self._lock)
