"""B18 of `ports.BlobStore`, for every kind that receives."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy import stores
from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import BlobStore, Reception
from tests.contracts.harness import STORES, Stores, harness_of
from tests.contracts.test_blobstore import nothing_left, read, ref_of

PART = 5 * 2**20
SIZES = [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 7]


RECEIVING = sorted(set(stores.KINDS) - {"fs"})
"""The others give None: a folder takes a file over by its name, so there is nothing to gain."""


@pytest.fixture(params=RECEIVING)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    box: Stores = harness_of(STORES, request.param, tmp_path)
    return box


@pytest.fixture
async def store(box: Stores) -> AsyncIterator[BlobStore]:
    async with box.open() as store:
        yield store
        await nothing_left(box)


async def received(store: BlobStore, body: bytes, length: int | None) -> Reception:
    reception = await store.receive(hashlib.sha256(body).hexdigest(), length)
    assert reception is not None
    for start in range(0, len(body), 700_001):
        await reception.write(body[start : start + 700_001])
    return reception


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", SIZES)
async def test_b18_nothing_is_visible_before_finish(store: BlobStore, size: int, known: bool) -> None:
    body = os.urandom(size)
    reception = await received(store, body, size if known else None)
    assert await store.size(ref_of(body).sha256) is None
    await reception.finish(ref_of(body))
    assert await store.size(ref_of(body).sha256) == size
    assert await read(store, ref_of(body)) == body


@pytest.mark.parametrize("size", SIZES)
async def test_b18_what_is_abandoned_leaves_nothing(store: BlobStore, size: int) -> None:
    body = os.urandom(size)
    reception = await received(store, body, size)
    await reception.abandon()
    await reception.abandon()
    assert await store.size(ref_of(body).sha256) is None


async def test_b18_not_what_was_announced(store: BlobStore) -> None:
    body = os.urandom(PART + 10)
    reception = await received(store, body, PART + 10)
    with pytest.raises(StoreUnavailable):
        await reception.finish(BlobRef("0" * 64, len(body)))
    await reception.abandon()
    assert await store.size(ref_of(body).sha256) is None
    assert await store.size("0" * 64) is None


async def test_b18_no_bad_body_harms_a_good_one(store: BlobStore) -> None:
    body = os.urandom(PART + 10)
    good, bad = await received(store, body, PART + 10), await received(store, body, PART + 10)
    await good.finish(ref_of(body))
    await bad.abandon()
    assert await read(store, ref_of(body)) == body


async def test_b18_many_at_once_share_the_bound(store: BlobStore) -> None:
    bodies = [os.urandom(2 * PART + n) for n in range(12)]
    most = 0

    async def push(body: bytes) -> None:
        nonlocal most
        reception = await received(store, body, len(body))
        budget = getattr(store, "budget", None)
        most = max(most, budget.pieces if budget else 0)
        await reception.finish(ref_of(body))

    await asyncio.gather(*(push(body) for body in bodies))
    assert most <= 64 * 2**20
    for body in bodies:
        assert await read(store, ref_of(body)) == body


async def test_b18_a_store_that_is_away_stops_it(store: BlobStore, box: Stores) -> None:
    assert box.away is not None
    body = os.urandom(3 * PART)
    reception = await received(store, body[:PART], None)
    box.away(True)
    try:
        with pytest.raises(StoreUnavailable):
            for start in range(PART, 3 * PART, 2**20):
                await reception.write(body[start : start + 2**20])
            await reception.finish(BlobRef(hashlib.sha256(body[:PART]).hexdigest(), 3 * PART))
    finally:
        box.away(False)
    await reception.abandon()
