"""What repositories that take pushes ask of the index: their rows, and uploads that are under way.

What was pushed is recorded in the same rows as what was fetched, so that eviction, checks, backups and
moves know of it. Here a key's `path` is the name of an image or artifact, and its `variant` says what
of it the row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from artifactproxy.model import ArtifactKey, CacheEntry

PART = "part:"
"""Begins the variant of a row that keeps a piece of an upload, or a body about to be put, from being
deleted. The id of the upload follows, then what piece it is."""


HOLD = ":hold"
"""Ends the variant of a row whose blob is about to be put: it may not be there yet."""


@dataclass(frozen=True, slots=True)
class Session:
    """An upload in pieces. `size` bytes in `parts` pieces are durable; times are POSIX seconds. `caller`
    is who began it."""

    id: str
    repo: str
    name: str
    caller: str = ""
    size: int = 0
    parts: int = 0
    started: float = 0.0
    touched: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing was published: keys without a row that were needed, keys that name other bytes."""

    missing: tuple[ArtifactKey, ...] = ()
    taken: tuple[ArtifactKey, ...] = ()


class Hosting(Protocol):
    """Rows of local repositories; same class as the index.

    H1 publish writes all rows, durably, or none: none while a key of `needs` has no row with a blob, or
    one of `fixed` names another blob; rows of `instead` leave in the same transaction. H2 withdraw takes
    rows away, with `alike` also those of the same path whose variant begins so and that name the same
    blob; blobs that nothing names any more are doomed in the same transaction. H3 committed tells what is
    true now, whoever wrote it. H4 variants and paths are pages in the order of bytes, each beginning after
    the last of the one before; what is there throughout is seen exactly once. H5 a session is opened
    unless its caller has `most` of them; what it was opened with is found by every process. H6 of several
    that advance a session from one size exactly one succeeds, and the row of its piece comes with it. H7
    close ends a session once: its pieces leave, and what it became comes in the same transaction. H8 hold
    names a blob before it is put; False while that blob is being deleted, and while it is held it is not
    (`Ledger.seize`). H9 strays are rows of pieces whose session is gone. Raises `IndexUnavailable`.
    """

    async def publish(
        self,
        entries: Sequence[CacheEntry],
        *,
        needs: Sequence[ArtifactKey] = (),
        fixed: Sequence[ArtifactKey] = (),
        instead: Sequence[ArtifactKey] = (),
    ) -> Refusal | None: ...

    async def withdraw(self, keys: Sequence[ArtifactKey], *, alike: str = "") -> int:
        """How many rows left."""

    async def committed(self, key: ArtifactKey) -> CacheEntry | None: ...

    async def variants(
        self, repo: str, path: str, prefix: str, *, after: str = "", limit: int
    ) -> list[CacheEntry]:
        """Rows of a path whose variant is `prefix` and something that sorts after `after`."""

    async def paths(self, repo: str, prefix: str, *, after: str = "", limit: int) -> list[str]:
        """Paths after `after` that have a row whose variant begins with `prefix`."""

    async def open_session(self, session: Session, *, most: int) -> bool: ...

    async def session(self, id_: str) -> Session | None: ...

    async def advance(self, session: Session, part: CacheEntry, at: float) -> Session | None:
        """The session with this piece behind what it had; None if that is not what it has any more."""

    async def close_session(self, session: Session, entries: Sequence[CacheEntry] = ()) -> bool:
        """False if it has ended, or grown, since."""

    async def idle_sessions(self, before: float, limit: int) -> list[Session]:
        """Those last touched before a moment."""

    async def hold(self, entry: CacheEntry) -> bool: ...

    async def strays(self, before: float, limit: int) -> list[ArtifactKey]:
        """Of those written before a moment."""
