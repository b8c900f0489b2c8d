"""V1 to V4 of `ports.StoreSurvey`, for every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints, stores
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports.checkup import Content
from tests.contracts.harness import STORES, Stores, harness_of
from tests.contracts.test_blobstore import read, ref_of, temp_with

BODY = b"some bytes" * 1000


@pytest.fixture(params=sorted(stores.KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    box: Stores = harness_of(STORES, request.param, tmp_path)
    return box


@pytest.fixture
async def pair(box: Stores) -> AsyncIterator[tuple[Any, Any]]:
    survey = box.survey()
    async with box.open() as store:
        yield store, survey
    await survey.close()


async def odd(survey: Any) -> dict[str, str]:
    return {oddity.kind: oddity.name async for oddity in survey.oddities()}


async def test_v1_work_of_the_living_is_not_odd(box: Stores, pair: tuple[Any, Any]) -> None:
    store, survey = pair
    await store.put_bytes(ref_of(BODY), BODY)
    path = temp_with(box, b"on its way")
    assert await odd(survey) == {}
    assert await survey.temp_bytes() == (10 if box.counts_temps else 0)
    path.unlink()


async def test_v1_everything_else_is_and_stays(box: Stores, pair: tuple[Any, Any]) -> None:
    _, survey = pair
    planted = box.oddities()
    for _ in range(2):
        assert await odd(survey) == planted


async def test_v2_each_is_mended(box: Stores, pair: tuple[Any, Any]) -> None:
    _, survey = pair
    box.oddities()
    for oddity in [oddity async for oddity in survey.oddities()]:
        assert await survey.is_odd(oddity)
        assert await survey.mend(oddity)
        assert not await survey.is_odd(oddity)
        assert await survey.mend(oddity), "once more changes nothing"
    assert await odd(survey) == {}


async def test_v2_a_blob_that_is_its_name_is_never_lost(box: Stores, pair: tuple[Any, Any]) -> None:
    store, survey = pair
    ref = ref_of(BODY)
    await store.put_bytes(ref, BODY)
    await survey.set_aside(ref.sha256)
    box.misplace(ref.sha256)
    [oddity] = [oddity async for oddity in survey.oddities()]
    assert oddity.kind == "misplaced"
    assert await survey.mend(oddity)
    assert await read(store, ref) == BODY


async def test_v3_out_of_reach_at_once(box: Stores, pair: tuple[Any, Any]) -> None:
    store, survey = pair
    ref = ref_of(BODY)
    await store.put_bytes(ref, BODY)
    chunks = await store.open(ref, Span(0, ref.size))
    await survey.set_aside(ref.sha256)
    assert await store.size(ref.sha256) is None
    assert b"".join([chunk async for chunk in chunks]) == BODY
    await survey.set_aside(ref.sha256)
    await store.put_bytes(ref, BODY)
    assert await read(store, ref) == BODY


async def test_v4_as_they_lie(box: Stores, pair: tuple[Any, Any]) -> None:
    store, survey = pair
    good, bad, gone = ref_of(BODY), ref_of(b"to be damaged"), BlobRef("f" * 64, 1)
    await store.put_bytes(good, BODY)
    await store.put_bytes(bad, b"to be damaged")
    box.damage(bad.sha256)
    assert await survey.sizes([good.sha256, bad.sha256, gone.sha256, "no digest"]) == [
        good.size,
        bad.size + 1,
        None,
        None,
    ]
    told: list[int] = []
    assert await survey.read(good.sha256, told.append) == Content(good.size, good.sha256)
    assert sum(told) == good.size
    content = await survey.read(bad.sha256, told.append)
    assert content.size == bad.size + 1
    assert content.sha256 not in ("", bad.sha256)
    assert await survey.sizes([bad.sha256]) == [bad.size + 1], "nothing was healed"
    assert await survey.read(gone.sha256, told.append) is None


async def test_v4_what_the_medium_cannot_give(pair: tuple[Any, Any]) -> None:
    store, survey = pair
    await store.put_bytes(ref_of(BODY), BODY)
    failpoints.arm("survey.read=raise:EIO")
    content = await survey.read(ref_of(BODY).sha256, lambda _: None)
    assert (content.size, content.sha256) == (len(BODY), "")
    assert content.trouble
