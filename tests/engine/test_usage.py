"""What was used, by whom: an index that is away gets it later."""

from __future__ import annotations

from artifactproxy.engine.usage import Usage
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import Ask
from tests.engine.parts import Notes, row

NOW = 1_700_000_000.0


class Index:
    def __init__(self) -> None:
        self.touched: set[object] = set()
        self.uses: list[tuple[str, int, int]] = []
        self.away = ""

    def _ask(self, name: str) -> None:
        if self.away in (name, "all"):
            raise IndexUnavailable("away", code="index_away")

    async def touch(self, keys, at) -> None:
        del at
        self._ask("touch")
        self.touched |= keys

    async def count(self, uses) -> None:
        self._ask("count")
        self.uses += [(use.caller, use.requests, use.bytes) for use in uses]


async def test_p01_nothing_is_lost_while_the_index_is_away() -> None:
    index, notes = Index(), Notes()
    usage = Usage(index, notes, lambda: NOW, 60.0)
    entry = row(b"x")
    for part in ("touch", "count", "all"):
        index.away = part
        usage.note(entry, Ask("files", "a", caller="me"), 10)
        await usage.flush()
    assert index.uses == []
    assert len(notes.events("usage_waits")) == 1, "told once"
    index.away = ""
    await usage.flush()
    assert (index.touched, index.uses) == ({entry.key}, [("me", 3, 30)])
    await usage.flush()
    await usage.close()
    assert len(index.uses) == 1
    assert notes.events("usage_lost") == []


async def test_what_is_left_at_the_end_is_told() -> None:
    index, notes = Index(), Notes()
    usage = Usage(index, notes, lambda: NOW, 60.0)
    index.away = "all"
    usage.note(row(b"x"), Ask("files", "a", caller="me"), 10)
    await usage.close()
    assert notes.events("usage_lost") == [{"rows": 1}]
