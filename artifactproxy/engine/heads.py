"""The heads of plain hits on immutable files, made once for each row and used until it changes."""

from __future__ import annotations

from artifactproxy.engine.describe import entity_of, head_for, hit
from artifactproxy.limits import Policy
from artifactproxy.model import (
    ArtifactKey,
    Ask,
    CacheEntry,
    Header,
    Kind,
    Route,
)

HEADS_MAX = 10_000
JUDGED = frozenset(
    ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
)


def plain(ask: Ask, entry: CacheEntry) -> bool:
    """Whether nothing in the request can change the answer: a whole, immutable file."""
    return (
        entry.kind is Kind.ARTIFACT
        and entry.ttl is None
        and ask.method == "GET"
        and JUDGED.isdisjoint(ask.headers)
    )


class Heads:
    """An index hands out the same row object until the row changes, so identity is enough."""

    def __init__(self) -> None:
        self._made: dict[ArtifactKey, tuple[CacheEntry, list[Header]]] = {}

    def of(self, entry: CacheEntry, route: Route, policy: Policy, now: float) -> list[Header]:
        made = self._made.get(entry.key)
        if made is None or made[0] is not entry:
            size = entry.ref.size if entry.ref else None
            ask = Ask(entry.key.repo, entry.key.path)
            head = head_for(ask, entity_of(entry, route, size), hit(entry, policy, now))
            if len(self._made) >= HEADS_MAX:
                self._made.clear()
            made = self._made[entry.key] = (entry, [h for h in head.headers if h[0] != "Age"])
        return [*made[1], ("Age", str(max(0, int(now - entry.checked_at))))]
