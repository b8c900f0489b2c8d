"""What we remember. One line here and one harness in `tests/contracts/` make a new kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from artifactproxy.ports import Ledger, MetadataIndex


class Index(MetadataIndex, Ledger, Protocol):
    """One class answers the requests and the janitor."""


def _sqlite() -> type[Index]:
    from artifactproxy.indexes.sqlite import SqliteIndex

    return SqliteIndex


def _postgres() -> type[Index]:
    from artifactproxy.indexes.postgres.index import PostgresIndex

    return PostgresIndex


KINDS: dict[str, Callable[[], type[Index]]] = {"postgres": _postgres, "sqlite": _sqlite}
"""Kind to the loader of its class, so that the drivers of unused kinds are never imported."""
