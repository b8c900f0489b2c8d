"""Where tokens are kept: a port with numbered contracts, as those of `ports`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token, which is not the token. Times are POSIX seconds; `scopes` as they are
    written, with blanks between them; `used` may be some minutes old."""

    id: str
    name: str
    fingerprint: str
    scopes: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    used: float | None = None


class TokenStore(Protocol):
    """K1 durable when `add` returns; False, and nothing changed, where a token of that name is neither
    revoked nor expired at that moment. K2 find tells every field, also of a revoked one; None for an id
    that was never given. K3 revoke hits the one of that name that is in force (or expired), keeps its
    row, and tells which it was; None if there is none. K4 tokens are listed by name, then by age. K5 use
    is bulk, creates no rows and never moves `used` back. K6 seal is what the first caller of all
    proposed, for ever and for everybody. K7 add forgets those that were revoked or expired before
    `before`. K8 what cannot be told raises `IndexUnavailable`. K9 adopt writes rows of another store as they
    are, in place of those with the same id; it may be repeated.
    """

    async def add(self, token: Token, *, before: float) -> bool: ...

    async def adopt(self, tokens: Iterable[Token]) -> None: ...

    async def find(self, id_: str) -> Token | None: ...

    async def tokens(self) -> list[Token]: ...

    async def revoke(self, name: str, at: float) -> Token | None: ...

    async def use(self, ids: Iterable[str], at: float) -> None: ...

    async def seal(self, proposed: str) -> str:
        """64 hex digits, under which tickets are sealed."""
