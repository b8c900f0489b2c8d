"""The disk in front of a bucket: what comes from it is verified once, and never less than that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from artifactproxy.errors import BlobMissing, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores.arrivals import HELD
from artifactproxy.stores.copies import TierLimits
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.s3 import reading
from artifactproxy.stores.tier import Tier
from tests.bucket import Bucket, contents
from tests.stores.far import Heard
from tests.stores.s3_tools import MIB, World, body_of, key_of

SIZES = [1000, HELD, 3 * MIB]


class Box:
    def __init__(self, world: World, tier: Tier, heard: Heard) -> None:
        self.world, self.tier, self.heard = world, tier, heard

    def lay(self, size: int, *, wrong: bool = False) -> tuple[bytes, BlobRef]:
        """A blob that another machine stored; `wrong`: its last byte is another."""
        body, ref = body_of(size)
        data = body[:-1] + bytes([body[-1] ^ wrong])
        self.world.bucket.contents.put(key_of(ref), contents.body_of(data), {})
        return body, ref

    async def read(self, ref: BlobRef, into: bytearray) -> None:
        async for piece in await self.tier.open(ref, Span(0, ref.size)):
            into += piece


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(Bucket())
        world, heard = World(bucket, tmp_path), Heard()
        store = await stack.enter_async_context(world.store())
        disk = FsStore(tmp_path / "near", fsync=False)
        await disk.start()
        tier = Tier(
            store, disk, budget=64 * MIB, observer=heard, fetch=store.fetch, limits=TierLimits(small=MIB)
        )
        await tier.start()
        stack.push_async_callback(tier.close)
        yield Box(world, tier, heard)


@pytest.mark.parametrize("size", SIZES)
async def test_what_comes_through_the_disk_is_not_hashed_by_the_store_too(
    box: Box, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "hashlib", None)
    body, ref = box.lay(size)
    got = bytearray()
    await box.read(ref, got)
    assert bytes(got) == body


@pytest.mark.parametrize("size", SIZES)
async def test_b4_nobody_gets_all_of_a_blob_that_is_not_what_its_name_says(box: Box, size: int) -> None:
    body, ref = box.lay(size, wrong=True)
    got = bytearray()
    with pytest.raises((BlobMissing, StoreUnavailable)):
        await box.read(ref, got)
    assert len(got) <= max(0, size - HELD)
    assert body.startswith(bytes(got))
    assert key_of(ref) not in box.world.bucket.objects
    assert box.heard.counts["integrity_failures"] == 1
    with pytest.raises(BlobMissing):
        await box.read(ref, got)
