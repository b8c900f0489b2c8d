"""Bodies that a store takes in before they are whole (B14, B18 of `BlobStore`)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from artifactproxy.errors import Fault
from artifactproxy.model import BlobRef


class Growing(Protocol):
    """A body that is still being written to a local file, as its uploader sees it. `written` bytes may
    be read, verified or not; `length` is None where upstream announced none."""

    @property
    def length(self) -> int | None: ...

    @property
    def written(self) -> int: ...

    @property
    def fault(self) -> Fault | None:
        """Why no more will come; what came may be wrong."""

    def peek(self, start: int, stop: int) -> bytes:
        """What is written of that span; raises OSError."""

    async def changed(self) -> None:
        """Return when more is written, the whole is verified, or it failed."""


class Intake(Protocol):
    """A put that began before its body was whole. Nothing is visible until `finish` returned, and one
    of the two is always called; `abandon` also after a `finish` that raised `StoreAway` for good."""

    async def finish(self, ref: BlobRef, path: Path) -> None:
        """The body is verified: from here on like `BlobStore.put` of the file at `path`. After `StoreAway`
        it may be called again."""

    async def abandon(self) -> None:
        """Forget it; what was sent already goes. Never raises."""


class Reception(Protocol):
    """A put whose bytes come in order and once, from a source that can be made to wait. Nothing is
    visible until `finish` returned; one of the two is always called, `abandon` after a failure too."""

    async def write(self, chunk: bytes) -> None:
        """Returns when more may come. Raises `StoreUnavailable`, `Busy`."""

    async def finish(self, ref: BlobRef) -> None:
        """All of it was written, and is verified to be `ref`. Raises `StoreUnavailable`."""

    async def abandon(self) -> None:
        """Forget it. Never raises."""
