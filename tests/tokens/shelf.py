"""A store of tokens in memory, and one whose index is away when told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from artifactproxy.errors import IndexUnavailable
from artifactproxy.ports.tokens import Token

NOW = 1_700_000_000.0


@dataclass
class Time:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Shelf:
    """`asked` lists the ids that were looked up; while `away` nothing can be told."""

    rows: dict[str, Token] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sealed: str = ""
    away: bool = False

    def _reach(self) -> None:
        if self.away:
            raise IndexUnavailable("away")

    async def add(self, token: Token, *, before: float) -> bool:
        self._reach()
        del before
        if any(
            row.name == token.name
            and row.revoked is None
            and (row.expires is None or row.expires > token.created)
            for row in self.rows.values()
        ):
            return False
        self.rows[token.id] = token
        return True

    async def adopt(self, tokens: Iterable[Token]) -> None:
        self._reach()
        self.rows |= {token.id: token for token in tokens}

    async def find(self, id_: str) -> Token | None:
        self.asked.append(id_)
        self._reach()
        return self.rows.get(id_)

    async def tokens(self) -> list[Token]:
        self._reach()
        return sorted(self.rows.values(), key=lambda row: (row.name, row.created))

    async def revoke(self, name: str, at: float) -> Token | None:
        self._reach()
        found = None
        for row in list(self.rows.values()):
            if row.name == name and row.revoked is None:
                found = self.rows[row.id] = replace(row, revoked=at)
        return found

    async def use(self, ids: Iterable[str], at: float) -> None:
        self._reach()
        for id_ in ids:
            self.rows[id_] = replace(self.rows[id_], used=at)

    async def seal(self, proposed: str) -> str:
        self._reach()
        self.sealed = self.sealed or proposed
        return self.sealed


@dataclass
class Board:
    """A bulletin that all its listeners hear at once."""

    listeners: list = field(default_factory=list)
    told: list = field(default_factory=list)

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None:
        del seconds
        self.told.append((topic, message))

    def listen(self, topic: str, hear) -> None:
        self.listeners.append((topic, hear))

    def say(self, topic: str, message: str) -> None:
        for wanted, hear in self.listeners:
            if wanted == topic:
                hear(message)
