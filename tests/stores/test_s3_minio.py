"""The shared contracts, and what no stand-in can prove, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from artifactproxy.errors import StoreAway
from artifactproxy.stores.s3.probe import Probe
from artifactproxy.stores.s3.store import S3Store
from artifactproxy.stores.s3.survey import S3Survey
from tests.bucket import Bucket
from tests.contracts import test_blobstore as shared
from tests.contracts.harness import Stores, Time
from tests.contracts.harness_s3 import PART, PREFIX, MemoryIntents
from tests.servers import minio
from tests.stores.s3_tools import World, body_of, read

store = shared.store

# Not those that need a clock that moves or a server that fails when told.
test_b1_put_then_read = shared.test_b1_put_then_read
test_b1_nobody_ever_sees_a_part = shared.test_b1_nobody_ever_sees_a_part
test_b1_a_file_of_another_size_is_refused = shared.test_b1_a_file_of_another_size_is_refused
test_b2_put_twice_and_from_many_at_once = shared.test_b2_put_twice_and_from_many_at_once
test_b2_two_instances_put_the_same = shared.test_b2_two_instances_put_the_same
test_b4_open_raises_before_any_byte = shared.test_b4_open_raises_before_any_byte
test_b4_an_unread_stream_leaves_no_file_open = shared.test_b4_an_unread_stream_leaves_no_file_open
test_b4_a_cancelled_reader_frees_its_file = shared.test_b4_a_cancelled_reader_frees_its_file
test_b5_any_span = shared.test_b5_any_span
test_b6_size_is_a_number_or_known_absence = shared.test_b6_size_is_a_number_or_known_absence
test_b7_delete_is_idempotent = shared.test_b7_delete_is_idempotent_and_readers_finish
test_b8_scan_is_complete_while_others_put = shared.test_b8_scan_is_complete_while_others_put
test_b8_scan_of_an_empty_store = shared.test_b8_scan_of_an_empty_store
test_b9_locate = shared.test_b9_locate
test_b9_a_blob_of_the_wrong_size = shared.test_b9_a_blob_of_the_wrong_size_is_missing_and_can_be_put_again
test_b10_foreign_objects_survive = shared.test_b10_foreign_objects_survive
test_b11_a_cancelled_put_leaves_all_or_nothing = shared.test_b11_a_cancelled_put_leaves_all_or_nothing
test_b13_set_aside = shared.test_b13_set_aside
test_b14_a_body_is_taken_while_it_arrives = shared.test_b14_a_body_is_taken_while_it_arrives
test_b14_what_is_abandoned_leaves_nothing = shared.test_b14_what_is_abandoned_leaves_nothing
test_b14_a_cancelled_finish = shared.test_b14_a_cancelled_finish_leaves_all_or_nothing
test_b14_many_bodies_at_once = shared.test_b14_many_bodies_at_once_share_the_bound
test_b17_tidying_costs_no_blob = shared.test_b17_tidying_costs_no_blob


@pytest.fixture
def box(tmp_path: Path) -> Stores:
    bucket = minio.shared().fresh_bucket("contracts")
    client = bucket.client()
    client.list_objects_v2(Bucket=bucket.name)  # its connection is not one that the store leaves open
    options = bucket.options(prefix=PREFIX, part_size=PART)
    temps, numbers, intents = tmp_path / "tmp", count(), MemoryIntents()
    temps.mkdir()

    @asynccontextmanager
    async def open_() -> AsyncIterator[S3Store]:
        one = S3Store(options, intents=intents)
        await one.start()
        try:
            yield one
        finally:
            await one.close()

    def put(name: str, body: bytes) -> None:
        client.put_object(Bucket=bucket.name, Key=PREFIX + name, Body=body)

    def get(name: str) -> bytes:
        body: bytes = client.get_object(Bucket=bucket.name, Key=PREFIX + name)["Body"].read()
        return body

    def litter() -> Callable[[], bool]:
        names = ["blobs/README", "blobs/sha256/zz/x", f"blobs/sha256/ab/{'cd' * 32}"]
        for name in names:
            put(name, b"not a blob")
        return lambda: all(get(name) == b"not a blob" for name in names)

    def damage(sha256: str) -> None:
        name = f"blobs/sha256/{sha256[:2]}/{sha256}"
        put(name, get(name) + b"!")

    def unused(*_: Any) -> Any:
        raise NotImplementedError

    return Stores(
        clock=Time(),
        temp=lambda: temps / f"{next(numbers)}.part",
        open=open_,
        litter=litter,
        damage=damage,
        leftovers=lambda: sorted(path.name for path in temps.iterdir()),
        survey=lambda: S3Survey(options),
        oddities=unused,
        misplace=unused,
        recalls=False,
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    bucket = minio.shared().fresh_bucket("real")
    made = World(Bucket(), tmp_path)
    made.bucket.options = bucket.options  # type: ignore[method-assign]
    return made


async def test_every_ability_that_is_needed_is_there(world: World) -> None:
    checks = [check async for check in Probe(world.options()).checks()]
    assert [check for check in checks if check.needed and not check.good] == []


@pytest.mark.parametrize("size", [0, 1, 100_000, PART, PART + 1, 23_456_789])
@pytest.mark.parametrize("demands", [False, True])
async def test_bodies_of_every_class_signed_and_unsigned(world: World, size: int, demands: bool) -> None:
    over = {"checksums": "when_supported", "sign_payload": True} if demands else {}
    body, ref = body_of(size)
    async with world.store(**over) as one:
        await one.put(ref, world.file(body))
        assert await read(one, ref) == body


async def test_uploads_whose_id_was_never_known_are_found_by_their_key(world: World) -> None:
    now = time.time()
    _, ref = body_of(PART)
    async with world.store(clock=lambda: now) as one:
        intend = world.intents.intend
        lost = []

        async def forgetful(intent: Any) -> None:
            lost.append(intent)
            if not intent.upload:
                await intend(intent)

        world.intents.intend = forgetful  # type: ignore[method-assign]
        filing = await _opened(one, ref.sha256)
        assert len(lost) == 2
        filing.upload._upload = ""  # as after a crash between the answer and the second intent
        await filing.drop()
        assert await one.tidy() == 0, "it may have been begun just now"
        now += 100_000
        listing_ages = _older(100_000)
        try:
            assert await one.tidy() == 1
        finally:
            listing_ages()
    assert world.intents.held == {}


async def _opened(one: S3Store, sha256: str) -> Any:
    from artifactproxy.rules.multipart import plan
    from artifactproxy.stores.s3.upload import Filing

    filing = Filing(one._dock, sha256)
    await filing.begin(plan(None, PART))
    return filing


def _older(seconds: float) -> Callable[[], None]:
    """Let the bucket's open uploads look so much older; returns what ends it."""
    from artifactproxy.stores.s3 import listing

    real = listing._now
    listing._now = lambda page: real(page) + seconds  # type: ignore[assignment]

    def end() -> None:
        listing._now = real

    return end


async def test_a_server_that_is_killed_is_away_and_comes_back(tmp_path: Path) -> None:
    with minio.Minio() as server:
        bucket = await asyncio.to_thread(server.fresh_bucket, "killed")
        world = World(Bucket(), tmp_path)
        world.bucket.options = bucket.options  # type: ignore[method-assign]
        body, ref = body_of(2 * PART)
        async with world.store(tries=2) as one:
            await one.put(ref, world.file(body))
            await asyncio.to_thread(server.kill)
            path = world.file(body)
            for asked in (one.check(), one.size(ref.sha256), read(one, ref), one.put(ref, path)):
                with pytest.raises(StoreAway):
                    await asked
            await asyncio.to_thread(server.start)
            await one.check()
            await one.put(ref, path)
            assert await read(one, ref) == body
