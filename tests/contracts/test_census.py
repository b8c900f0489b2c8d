"""N1 to N5 of `ports.Census` and L8 of `ports.Ledger`, for every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import ArtifactKey, BlobRef
from artifactproxy.ports.checkup import Held
from tests.contracts.harness import Indexes
from tests.contracts.test_index import KEY, PAGE, A, B, entry, promise

OTHER = ArtifactKey("tools", "other")


def numbered(number: int) -> ArtifactKey:
    return ArtifactKey("tools", f"file {number}")


async def walked(pages: Any) -> list[Any]:
    return [row async for page in pages for row in page]


async def test_n1_a_walk_sees_every_row_that_stays(box: Indexes) -> None:
    async with box.open() as index:
        for number in range(40):
            await index.record(entry(numbered(number)))
        census, seen = box.census(), set()
        async for page in census.entries():
            assert len(page) <= 7
            seen |= {row.entry.key for row in page}
            await index.forget([numbered(0), numbered(39)])
            await index.touch([numbered(20)], 10**9)
            await index.record(replace(entry(numbered(21)), generation=99))
            await index.record(entry(numbered(100 + len(seen))) if len(seen) < 60 else entry(OTHER))
            if len(seen) > 200:
                break
        assert {numbered(number) for number in range(1, 39)} <= seen
        await census.close()


async def test_n2_nothing_is_written(box: Indexes) -> None:
    async with box.open() as index:
        await index.record(entry())
    before = box.state()
    census = box.census()
    assert await census.damage() == []
    assert len(await walked(census.entries())) == 1
    await census.close()
    after = box.state()
    assert {name: body for name, body in after.items() if body} == before


async def test_n2_also_not_beside_a_writer(box: Indexes) -> None:
    async with box.open() as index:
        await index.record(entry())
        before = box.state()
        census = box.census()
        await walked(census.entries())
        await walked(census.blobs())
        assert box.state() == before
        await index.record(entry(OTHER))
        assert len(await walked(census.entries())) == 2
        await census.close()


async def test_n3_damage(box: Indexes) -> None:
    async with box.open() as index:
        for number in range(200):
            await index.record(entry(numbered(number)))
    box.harm()
    census = box.census()
    assert await census.damage()
    await census.close()
    with pytest.raises(IndexUnavailable):
        await census.totals()


async def test_n4_all_of_it(box: Indexes) -> None:
    async with box.open() as index:
        await index.record(entry())
        await index.learn([promise()])
        await index.record(replace(entry(PAGE), ref=BlobRef(A, 10)))
        await index.record(replace(entry(PAGE), ref=BlobRef(B, 20), generation=50))
        await index.doom(["c" * 64], 1.0)
        census = box.census()
        held = {row.entry.key: row for row in await walked(census.entries())}
        assert held[KEY].entry == (await index.find(KEY)).entry
        assert held[KEY].promise == (await index.find(KEY)).promise
        assert held[PAGE].blob.ref == BlobRef(B, 20)
        assert await walked(census.promises()) == [(await index.find(KEY)).promise]
        blobs = {row.ref.sha256: row for row in await walked(census.blobs())}
        assert blobs[A].doomed_at is None
        assert (blobs["c" * 64].doomed_at, blobs["c" * 64].named) == (1.0, False)
        await census.close()


async def test_n5_what_is_committed_now(box: Indexes) -> None:
    async with box.open() as index:
        census = box.census()
        assert await census.row(KEY) is None
        assert await census.blob(A) is None
        assert await census.unknown([A]) == [A]
        await index.record(entry())
        row = await census.row(KEY)
        assert isinstance(row, Held)
        assert row.entry == entry()
        assert (await census.blob(A)).named
        assert await census.unknown([A]) == []
        await index.forget([KEY])
        assert await census.row(KEY) is None
        assert not (await census.blob(A)).named
        assert await census.promise(KEY) is None
        await census.close()


async def test_l8_generations_beyond_a_number(box: Indexes) -> None:
    async with box.open() as index:
        first = await index.generation()
        await index.surpass(first + 1_000_000)
        assert await index.generation() > first + 1_000_000
        await index.surpass(1)
        assert await index.generation() > first + 1_000_000
        census = box.census()
        assert await census.last_generation() > first + 1_000_000
        await census.close()


async def test_l7_a_whole_path_loses_what_an_index_said(box: Indexes) -> None:
    async with box.open() as index:
        await index.learn([promise()])
        assert await index.unlearn(KEY.repo, path=KEY.path) == 0
        assert await index.unlearn(KEY.repo, path=KEY.path, whole=True) == 1
        assert (await index.find(KEY)).promise is None
