"""A dependency that goes away while the program runs, and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from artifactproxy.errors import Fault, IndexUnavailable, StoreAway

WHOLE_STORE = ("put", "put_bytes", "begin", "open", "locate", "size", "delete", "tidy", "check")
WHOLE_INDEX = (
    "find",
    "generation",
    "record",
    "learn",
    "touch",
    "count",
    "check",
    "bury",
    "doom",
    "forget_blob",
    "condemned",
    "turn",
    "totals",
    "entries",
)


def index_away() -> IndexUnavailable:
    return IndexUnavailable("the index does not answer", code="index_away")


def store_away() -> StoreAway:
    return StoreAway("the store does not answer")


@contextmanager
def away(adapter: Any, fault: Callable[[], Fault], methods: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """These methods raise; yields how often each was called. A put leaves its file, as B16 says."""
    calls = dict.fromkeys(methods, 0)

    def failing(name: str) -> Callable[..., Any]:
        async def fail(*_args: object, **_named: object) -> None:
            calls[name] += 1
            raise fault()

        return fail

    for name in methods:
        setattr(adapter, name, failing(name))
    try:
        yield calls
    finally:
        for name in methods:
            delattr(adapter, name)
