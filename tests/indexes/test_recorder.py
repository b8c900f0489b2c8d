"""Group commit: a row that cannot be written takes no other along, and a sick index is not asked for each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from artifactproxy.errors import BadRequest, Fault, IndexUnavailable
from artifactproxy.indexes.postgres.recorder import Recorder
from artifactproxy.model import ArtifactKey, CacheEntry, Kind


def entry(path: str) -> CacheEntry:
    return CacheEntry(ArtifactKey("r", path), Kind.ARTIFACT, None, status=404)


class _Index:
    """`bad` paths are refused by `fault`, whoever stands beside them."""

    def __init__(self, fault: Fault, *bad: str) -> None:
        self.fault = fault
        self.bad = bad
        self.asked: list[list[str]] = []

    async def write(self, entries: Sequence[CacheEntry]) -> list[bool]:
        await asyncio.sleep(0)
        paths = [each.key.path for each in entries]
        self.asked.append(paths)
        if set(paths) & set(self.bad):
            raise self.fault
        return [True] * len(paths)


async def recorded(index: _Index, paths: str) -> dict[str, object]:
    recorder = Recorder(index.write)
    asked = (recorder.record(entry(path)) for path in paths)
    async with asyncio.timeout(60):
        found = await asyncio.gather(*asked, return_exceptions=True)
        await recorder.close()
    return dict(zip(paths, found, strict=True))


@pytest.mark.parametrize(
    "fault", [BadRequest("no text"), IndexUnavailable("it waits for a lock", code="index_busy")]
)
async def test_p03_one_row_that_fails_takes_no_other_along(fault: Fault) -> None:
    index = _Index(fault, "c")
    found = await recorded(index, "abcde")
    assert found.pop("c") is fault
    assert set(found.values()) == {True}


async def test_p03_an_index_that_fails_is_not_asked_again_for_every_row() -> None:
    fault = IndexUnavailable("it takes too long", code="index_slow")
    paths = "".join(chr(0x100 + n) for n in range(150))
    index = _Index(fault, *paths)
    found = await recorded(index, paths)
    assert set(map(id, found.values())) == {id(fault)}
    assert len(index.asked) <= 2 + 3  # of the first row alone, and of all the others together


async def test_p03_rows_that_no_index_takes_are_told_one_by_one() -> None:
    fault = BadRequest("no text")
    index = _Index(fault, *"bdf")
    found = await recorded(index, "abcdefgh")
    assert [path for path, each in found.items() if each is not True] == list("bdf")
