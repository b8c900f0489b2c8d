"""What the checker needs from the store and the index: everything they hold, as it lies.

The contracts are numbered and tested like those of the serving ports beside this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Promise
from artifactproxy.ports import Totals


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something in the store's own medium that is not as the store leaves it.

    `kind` is a stable slug (`stray`, `misplaced`, `temp`, `mode`, `link`), `name` says where in the
    store's own terms, `detail` what is wrong with it.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Content:
    """A blob as it lies: its size, and the sha256 of its bytes or why they cannot be read."""

    size: int
    sha256: str
    trouble: str = ""


class StoreSurvey(Protocol):
    """What the checker asks of the medium: beside the store, seldom, never in a request. It works
    on a store that was never started.

    V1 oddities finds whatever is neither a blob in its place nor work of a living process, and
    changes nothing. V2 mend makes one right without ever losing a blob that is what its name says:
    what cannot be explained goes to quarantine; False if it is still as it was. V3 set_aside takes
    a blob out of reach (quarantine), is idempotent, and running readers finish. V4 sizes and read
    tell of blobs as they lie and heal nothing; None is known absence, "cannot tell" raises
    `StoreUnavailable`; a blob that the medium cannot give is told as trouble of that blob.
    """

    def oddities(self) -> AsyncIterator[Oddity]: ...

    async def is_odd(self, oddity: Oddity) -> bool:
        """Whether this one is still there."""

    async def mend(self, oddity: Oddity) -> bool: ...

    async def set_aside(self, sha256: str) -> None: ...

    async def sizes(self, sha256s: Sequence[str]) -> list[int | None]: ...

    async def read(self, sha256: str, told: Callable[[int], None]) -> Content | None:
        """Hash a blob; `told` hears of every piece, in bytes."""

    async def temp_bytes(self) -> int:
        """What temporary files of living processes hold together."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BlobRow:
    """What the index keeps of a blob; times are POSIX seconds, `doomed_at` None while it is wanted.
    `named` says that a row or a superseded body names it."""

    ref: BlobRef
    added_at: float
    doomed_at: float | None
    named: bool


@dataclass(frozen=True, slots=True)
class OldBody:
    """A superseded body that is kept for a while."""

    key: ArtifactKey
    sha256: str
    replaced_at: float


@dataclass(frozen=True, slots=True)
class Held:
    """A row and what stands beside it."""

    entry: CacheEntry
    promise: Promise | None
    blob: BlobRow | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that no value of the model can hold; `about` says which, `detail` why."""

    table: str
    key: ArtifactKey
    about: str
    detail: str


class Census(Protocol):
    """Every row, for the checker: read-only, in pages, also while another process serves.

    N1 a walk sees every row that is older than its start and stays. N2 nothing is written, not
    even by opening. N3 damage is what the database itself finds wrong, one sentence each; what
    cannot be read raises `IndexUnavailable`. N4 rows come as they are stored, right or wrong.
    N5 single look-ups tell what is committed now.
    """

    async def damage(self) -> list[str]: ...

    def entries(self) -> AsyncIterator[list[Held | BadRow]]: ...

    def promises(self) -> AsyncIterator[list[Promise | BadRow]]: ...

    def blobs(self) -> AsyncIterator[list[BlobRow]]: ...

    def old_bodies(self) -> AsyncIterator[list[OldBody]]: ...

    async def last_generation(self) -> int:
        """The largest number that was reserved."""

    async def totals(self) -> Totals: ...

    async def row(self, key: ArtifactKey) -> Held | BadRow | None: ...

    async def promise(self, key: ArtifactKey) -> Promise | BadRow | None: ...

    async def blob(self, sha256: str) -> BlobRow | None:
        """Also of one that is only named, as wanted and of size 0; None: nothing knows it."""

    async def unknown(self, sha256s: Sequence[str]) -> list[str]:
        """Those that nothing names and that are not on their way out either."""

    async def close(self) -> None: ...
