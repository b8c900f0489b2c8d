"""The S3 store on Ceph's gateway, which checks signatures and has habits of its own: `make e2e-ceph`.

Not a `test_` file: the gateway takes a while to start, and `make e2e` goes without it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from artifactproxy.errors import BlobMissing, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.store import S3Store
from tests.chaos.oracle import oracle
from tests.contracts.harness_s3 import MemoryIntents
from tests.servers import radosgw
from tests.servers.minio import FreshBucket

PART = 5 * 2**20
SMALL, BIG = oracle("small", 1000), oracle("big", 2 * PART + 1000)


@pytest.fixture(scope="module")
def gateway() -> Iterator[radosgw.Radosgw]:
    yield radosgw.shared()


@pytest.fixture
def bucket(gateway: radosgw.Radosgw) -> FreshBucket:
    return gateway.fresh_bucket("store")


@asynccontextmanager
async def opened(
    options: S3Options, intents: MemoryIntents | None = None, **over: Any
) -> AsyncIterator[S3Store]:
    store = S3Store(options, intents=intents or MemoryIntents(), **over)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def _options(bucket: FreshBucket, **over: Any) -> S3Options:
    return bucket.options(prefix="cache/", part_size=PART, **over)


def _ref(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


async def _put(store: S3Store, body: bytes, folder: Path) -> None:
    path = folder / "body.part"
    path.write_bytes(body)
    await store.put(_ref(body), path)


async def _read(store: S3Store, body: bytes, span: Span | None = None) -> bytes:
    return b"".join([c async for c in await store.open(_ref(body), span or Span(0, len(body)))])


@pytest.mark.parametrize(
    "over",
    [{}, {"sign_payload": True}, {"checksums": "when_supported"}],
    ids=["plain", "signed", "checksums"],
)
async def test_bodies_come_back(bucket: FreshBucket, tmp_path: Path, over: dict[str, Any]) -> None:
    intents = MemoryIntents()
    async with opened(_options(bucket, **over), intents) as store:
        for body in (b"", SMALL, BIG):
            for _ in range(2):
                await _put(store, body, tmp_path)
            assert await _read(store, body) == body
            assert await store.size(_ref(body).sha256) == len(body)
        assert await _read(store, BIG, Span(PART - 5, PART + 5)) == BIG[PART - 5 : PART + 5]
        assert {ref for ref, _ in [found async for found in store.scan()]} == {
            _ref(b) for b in (b"", SMALL, BIG)
        }
        assert intents.held == {}


async def test_what_is_missing_is_missing(bucket: FreshBucket, tmp_path: Path) -> None:
    async with opened(_options(bucket)) as store:
        with pytest.raises(BlobMissing):
            await _read(store, SMALL)
        assert await store.size(_ref(SMALL).sha256) is None
        await _put(store, SMALL, tmp_path)
        await store.delete(_ref(SMALL).sha256, older_than=3600)
        assert await store.size(_ref(SMALL).sha256) == len(SMALL)
        assert await store.set_aside(_ref(SMALL))
        assert not await store.set_aside(_ref(SMALL))
        assert await store.size(_ref(SMALL).sha256) is None
        await _put(store, SMALL, tmp_path)
        await store.delete(_ref(SMALL).sha256)
        assert await store.size(_ref(SMALL).sha256) is None


async def test_addresses_are_open_to_all(bucket: FreshBucket, tmp_path: Path) -> None:
    async with opened(_options(bucket)) as store, aiohttp.ClientSession() as session:
        await _put(store, SMALL, tmp_path)
        url = await store.address(_ref(SMALL), seconds=60, media_type="a/b", filename="x.whl")
        assert url is not None
        async with session.get(URL(url, encoded=True)) as answer:
            assert await answer.read() == SMALL
            assert answer.headers["Content-Type"] == "a/b"
            assert "x.whl" in answer.headers["Content-Disposition"]


async def test_uploads_that_may_be_somebodys_are_left_alone(bucket: FreshBucket) -> None:
    client = bucket.client()
    sha256 = _ref(BIG).sha256
    key = f"cache/blobs/sha256/{sha256[:2]}/{sha256}"
    client.create_multipart_upload(Bucket=bucket.name, Key=key)
    async with opened(_options(bucket)) as store:
        assert await store.tidy() == 0  # it may be somebody's who works
    assert len(client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret_key": "wrong"}, "secret_key"),
        ({"access_key": "nobody"}, "access_key"),
        ({"bucket": "no-such-bucket-here"}, "does not exist"),
    ],
)
async def test_a_start_that_fails_names_the_setting(
    bucket: FreshBucket, wrong: dict[str, str], said: str
) -> None:
    with pytest.raises(StoreUnavailable, match=said):
        async with opened(replace(_options(bucket), **wrong)):
            pass


async def test_a_gateway_that_hangs_is_away_and_comes_back(
    gateway: radosgw.Radosgw, bucket: FreshBucket, tmp_path: Path
) -> None:
    async with opened(_options(bucket, read=0.5, tries=2)) as store:
        await _put(store, SMALL, tmp_path)
        gateway.pause()
        try:
            with pytest.raises(StoreAway):
                await _read(store, SMALL)
        finally:
            gateway.resume()
        assert await _read(store, SMALL) == SMALL
        await asyncio.to_thread(gateway.restart)
        assert await _read(store, SMALL) == SMALL
