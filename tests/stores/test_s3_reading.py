"""Reads of a bucket that falls silent or breaks off: what they hold, and what they raise."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from artifactproxy.errors import StoreAway
from artifactproxy.stores.s3 import store as stores
from tests.bucket import Action, Bucket, cut, refuse, reset, stall
from tests.bucket.replies import Reply
from tests.stores.s3_tools import MIB, PART, World, body_of, key_of, read


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Bucket() as bucket:
        yield World(bucket, tmp_path)


async def test_who_leaves_while_the_bucket_is_silent_gives_the_place_back_at_once(world: World) -> None:
    """Not when the garbage is collected: by then all places may be held by clients that left."""
    body, ref = body_of(MIB)
    async with world.store(connections=3) as store:  # two for bodies, one of them for readers
        await store.put_bytes(ref, body)
        silence = world.bucket.rule("GetObject", stall(), nth=0)
        gc.disable()
        try:
            leaving = asyncio.create_task(read(store, ref))
            while not silence.hits:
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])  # its frames live as long as the task does
            async with asyncio.timeout(0.5 * store._options.read):
                assert await read(store, ref) == body
            assert leaving.cancelled()
        finally:
            gc.enable()


@pytest.mark.parametrize("action", [cut(0), reset(0), stall(0)], ids=["fin", "rst", "silence"])
async def test_b16_a_look_that_breaks_off_behind_its_head_cannot_tell(world: World, action: Action) -> None:
    body, ref = body_of(2000)
    async with world.store(read=1.5) as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("HeadObject", refuse(404))
        once = world.bucket.rule("GetObject", action, nth=0)
        assert await store.size(ref.sha256) == ref.size  # asked again
        assert once.hits == 1
        world.bucket.rule("GetObject", action)
        with pytest.raises(StoreAway):
            await store.size(ref.sha256)


async def test_b16_a_put_whose_answer_breaks_off_is_sent_again(world: World) -> None:
    def longer(reply: Reply) -> None:
        reply.body = b"nothing that anybody needs"

    body, ref = body_of(2000)
    async with world.store(read=1.5) as store:
        half = Action(alter=longer, after=3, then="cut", executed=True)
        broken = world.bucket.rule("PutObject", half, nth=0)
        await store.put_bytes(ref, body)
        assert broken.hits == 1
        assert world.held(ref) == body
        assert world.bucket.count("PutObject") == 2


async def test_s02_a_client_waits_for_two_silences_and_no_longer(world: World) -> None:
    body, ref = body_of(2000)
    async with world.store(read=0.2, tries=50) as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("*", stall())
        with pytest.raises(StoreAway):
            await read(store, ref)
        assert world.bucket.count("GetObject") == 2
        with pytest.raises(StoreAway):
            await store.address(ref, seconds=60, media_type="", filename="")
        assert world.bucket.count("HeadObject") == 2


async def test_s02_while_the_bucket_is_silent_one_client_at_a_time_asks(world: World) -> None:
    body, ref = body_of(2000)
    async with world.store(read=0.2, connections=64) as store:
        await store.put_bytes(ref, body)
        silent = world.bucket.rule("GetObject", stall())
        with pytest.raises(StoreAway):
            await read(store, ref)
        asked = silent.hits
        crowd = await asyncio.gather(*(read(store, ref) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, StoreAway) for each in crowd)
        assert silent.hits - asked == 2  # the tries of the one
        world.bucket.heal()
        assert await read(store, ref) == body
        crowd = await asyncio.gather(*(read(store, ref) for _ in range(20)))
        assert set(crowd) == {body}


async def test_s02_a_busy_bucket_is_not_a_silent_one(world: World) -> None:
    """It answers, and at once: nobody is kept waiting by asking."""
    body, ref = body_of(2000)
    async with world.store(tries=2) as store:
        await store.put_bytes(ref, body)
        busy = world.bucket.rule("GetObject", refuse(503, "SlowDown"))
        with pytest.raises(StoreAway):
            await read(store, ref)
        crowd = await asyncio.gather(*(read(store, ref) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(each, StoreAway) for each in crowd)
        assert busy.hits == 12


async def test_s08_a_token_service_that_refuses_leaves_us_without_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles are assumed through a service of its own, whose errors are not those of the bucket."""
    body, ref = body_of(2000)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        refused = ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRoleWithWebIdentity")

        async def refuse_keys() -> None:
            raise refused

        held = store._wire._credentials._held  # type: ignore[union-attr]
        monkeypatch.setattr(held, "get_frozen_credentials", refuse_keys)
        for ask in (read(store, ref), store.size(ref.sha256), store.check()):
            with pytest.raises(StoreAway, match="no credentials"):
                await ask
        monkeypatch.undo()
        assert await read(store, ref) == body


PAGES = {
    "page": b"<html><body>log in first</body></html>",
    "nothing": b"",
    "another": b"<?xml version='1.0'?><Other/>",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
@pytest.mark.parametrize("op", ["CreateMultipartUpload", "CompleteMultipartUpload"])
async def test_s09_a_portal_that_says_yes_to_an_upload_has_stored_nothing(
    world: World, op: str, page: bytes
) -> None:
    body, ref = body_of(2 * PART + 1)
    async with world.store(tries=2) as store:
        path = world.file(body)
        world.bucket.rule(op, Action(reply=lambda: Reply(200, {"Content-Type": "text/html"}, page)))
        with pytest.raises(StoreAway):
            await store.put(ref, path)
        assert path.exists()
        world.bucket.heal()
        await store.put(ref, path)
        assert world.held(ref) == body


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
async def test_b13_what_was_not_copied_is_not_deleted(world: World, page: bytes) -> None:
    body, ref = body_of(2000)
    async with world.store(tries=2) as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("CopyObject", Action(reply=lambda: Reply(200, {"Content-Type": "text/html"}, page)))
        with pytest.raises(StoreAway):
            await store.set_aside(ref)
        assert world.held(ref) == body


class _Whole:
    """A body that arrived before anybody asked."""

    fault = None

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = self.written = len(body)

    def peek(self, start: int, stop: int) -> bytes:
        return self._body[start:stop]

    async def changed(self) -> None:
        await asyncio.get_running_loop().create_future()


async def test_an_upload_that_is_taken_up_again_is_nobody_elses_and_does_not_age(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, ref = body_of(2 * PART + 1)
    async with world.store(tries=1) as store:
        intake = await store.begin(ref.sha256, _Whole(body))
        assert intake is not None
        path = world.file(body)
        refused = world.bucket.rule("CompleteMultipartUpload", refuse(503, "SlowDown"), nth=0)
        with pytest.raises(StoreAway):
            await intake.finish(ref, path)
        assert refused.hits == 1
        waits = world.bucket.rule("CompleteMultipartUpload", stall(), nth=0)
        again = asyncio.create_task(intake.finish(ref, path))
        while not waits.hits:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(stores, "REST_SECONDS", -1.0)
        await store.tidy()
        assert not [call for call in world.bucket.calls("AbortMultipartUpload") if call.key == key_of(ref)]
        again.cancel()
        await asyncio.wait([again])
