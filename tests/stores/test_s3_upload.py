"""U1 to U11: how bodies get into a bucket, and what becomes of them when something fails."""

from __future__ import annotations

import asyncio
import errno
import os
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.errors import (
    BlobMissing,
    Fault,
    IndexUnavailable,
    StoreAway,
    StoreUnavailable,
    UpstreamBroken,
)
from artifactproxy.model import Span
from artifactproxy.ports import Intent
from artifactproxy.stores.s3 import copying, sources, tidying, upload
from artifactproxy.stores.s3.budget import PART_MEMORY, Budget, Gate
from tests.bucket import (
    Action,
    Bucket,
    Key,
    delay,
    error_in_200,
    executed_then,
    executed_then_hang,
    executed_then_reset,
    refuse,
    reset,
    stall,
)
from tests.contracts.test_blobstore import Arriving
from tests.stores.s3_tools import MIB, PART, World, body_of, key_of, read


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Bucket() as bucket:
        yield World(bucket, tmp_path)


@pytest.fixture(params=["sendfile", "slices"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a file leaves: in slices where the kernel cannot send it by itself."""
    if request.param == "slices":

        def cannot(*_: int) -> int:
            raise OSError(errno.EINVAL, "no sendfile")

        monkeypatch.setattr(os, "sendfile", cannot)


async def until(condition: object, *, what: str = "") -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


# --- U1: memory and lifetimes


async def test_point_u1_an_upload_holds_slices_and_never_a_part(tmp_path: Path) -> None:
    async with Bucket(keep=False) as bucket:
        world = World(bucket, tmp_path)
        body, ref = body_of(64 * MIB)
        path = world.file(body)
        del body
        async with world.store(parts=4) as store:
            await store.check()
            tracemalloc.start()
            try:
                await store.put(ref, path)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert bucket.count("UploadPart") == 13
        # The stand-in in the same process has its share of this.
        assert peak < 16 * MIB


@pytest.mark.parametrize("action", [refuse(503, "SlowDown"), reset(MIB), stall(MIB)])
@pytest.mark.usefixtures("way")
async def test_point_u1_nothing_is_read_after_the_last_try(
    world: World, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[int] = []
    closed: set[int] = set()
    read_, close, sendfile = sources.FileSource.read, sources.FileSource.close, os.sendfile

    def watched(self: sources.FileSource, start: int, stop: int) -> bytes:
        late.extend([start] if closed else [])
        assert stop - start <= sources.SLICE
        return read_(self, start, stop)

    def watched_too(out: int, fd: int, at: int, count: int) -> int:
        late.extend([at] if closed else [])
        return sendfile(out, fd, at, count)

    monkeypatch.setattr(sources.FileSource, "read", watched)
    monkeypatch.setattr(os, "sendfile", watched_too)
    monkeypatch.setattr(sources.FileSource, "close", lambda self: (closed.add(id(self)), close(self)))
    body, ref = body_of(3 * PART)
    world.bucket.rule("UploadPart", action)
    async with world.store(read=1.5, tries=2) as store:
        with pytest.raises(StoreAway):
            await store.put(ref, world.file(body))
        await asyncio.sleep(0.1)
    assert len(closed) == 1
    assert late == []


@pytest.mark.usefixtures("way")
async def test_point_u1_a_cancelled_put_reads_nothing_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read_, sendfile = sources.FileSource.read, os.sendfile
    monkeypatch.setattr(
        sources.FileSource, "read", lambda self, a, b: (reads.append(a), read_(self, a, b))[1]
    )
    monkeypatch.setattr(
        os, "sendfile", lambda out, fd, at, n: (reads.append(at), sendfile(out, fd, at, n))[1]
    )
    body, ref = body_of(4 * PART)
    async with world.store() as store:
        world.bucket.rule("UploadPart", stall(MIB))
        task = asyncio.create_task(store.put(ref, world.file(body)))
        await until(lambda: len(reads) > 4)
        task.cancel()
        await asyncio.wait([task])
        seen = len(reads)
        await asyncio.sleep(0.1)
        assert len(reads) == seen
        assert world.files == []


# --- U2, U9: the source


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1000, 3 * PART])
async def test_point_u9_a_file_that_became_shorter_is_an_error_and_no_object(
    world: World, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, ref = body_of(size)
    path = world.file(body)
    real, sendfile = os.pread, os.sendfile

    def shrinking(fd: int, length: int, offset: int) -> bytes:
        os.truncate(path, size // 2)
        return real(fd, length, offset)

    def shrinking_too(out: int, fd: int, offset: int, count: int) -> int:
        os.truncate(path, size // 2)
        return sendfile(out, fd, offset, count)

    async with world.store() as store:
        monkeypatch.setattr(os, "pread", shrinking)
        monkeypatch.setattr(os, "sendfile", shrinking_too)
        with pytest.raises(StoreUnavailable) as caught:
            await store.put(ref, path)
        monkeypatch.undo()
        assert not isinstance(caught.value, StoreAway)
        assert world.files == []
        await until(lambda: not world.bucket.contents.uploads)
        assert await store.size(ref.sha256) is None
    assert world.intents.held == {}


async def test_point_u2_an_unreadable_file_is_an_error_and_no_object(world: World) -> None:
    body, ref = body_of(2 * PART)
    path = world.file(body)
    path.unlink()
    async with world.store() as store:
        with pytest.raises(StoreUnavailable):
            await store.put(ref, path)
        assert await store.size(ref.sha256) is None
    assert world.bucket.count("CreateMultipartUpload") == 0


class Failing(Arriving):
    """A body whose temp file cannot be read, or gives less than was written."""

    short = False

    def peek(self, start: int, stop: int) -> bytes:
        if self.short:
            return super().peek(start, stop)[:-1]
        raise OSError(5, "broken")


@pytest.mark.parametrize("short", [True, False])
async def test_point_u2_a_source_that_fails_early_is_read_again_from_the_file(
    world: World, short: bool
) -> None:
    body, ref = body_of(3 * PART)
    arriving = Failing(body, length=len(body))
    arriving.short = short
    async with world.store() as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive()
        await intake.finish(ref, world.file(body))
    assert world.held(ref) == body
    assert world.intents.held == {}


# --- U3: our own digest


@pytest.mark.parametrize("size", [1, 60_000, 200_000, PART, 2 * PART + 1])
async def test_point_u3_every_whole_read_is_checked_whatever_the_size(world: World, size: int) -> None:
    body, ref = body_of(size)
    async with world.store() as store:
        await store.put(ref, world.file(body))
        assert await read(store, ref) == body
        wrong = bytearray(body)
        wrong[size // 2] ^= 1
        world.bucket.damage(key_of(ref), bytes(wrong))
        got = bytearray()
        with pytest.raises((BlobMissing, StoreUnavailable)):
            async for piece in await store.open(ref, Span(0, size)):
                got += piece
        assert len(got) <= max(0, size - 64 * 1024)
        assert await store.size(ref.sha256) is None, "it is set aside"


# --- U4: retries and credentials


@pytest.mark.parametrize(
    "action", [refuse(503, "SlowDown"), refuse(500), refuse(429, "TooManyRequests"), reset(MIB), stall(MIB)]
)
async def test_point_u4_a_part_is_sent_again_by_itself(world: World, action: Action) -> None:
    body, ref = body_of(3 * PART + 17)
    world.bucket.rule("UploadPart", action, nth=(0, 2))
    async with world.store(read=1.5) as store:
        await store.put(ref, world.file(body))
    assert world.held(ref) == body
    assert world.told.count("store_retries") == 2
    assert world.bucket.count("CreateMultipartUpload") == 1


async def test_point_u4_a_part_that_never_arrives_ends_in_an_abort(world: World) -> None:
    body, ref = body_of(3 * PART)
    path = world.file(body)
    async with world.store(tries=2) as store:
        world.bucket.rule("UploadPart", refuse(403, "AccessDenied"), nth=range(1, 99))
        with pytest.raises(StoreAway):
            await store.put(ref, path)
        assert path.read_bytes() == body, "it can be put again"
    assert world.bucket.contents.uploads == {}
    assert world.held(ref) is None
    assert world.intents.held == {}


async def test_point_u4_keys_that_were_rotated_are_looked_up_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ACCESS_KEY_ID", "access"), ("SECRET_ACCESS_KEY", "secret/+word")):
        monkeypatch.setenv(f"AWS_{name}", value)
    async with world.store(access_key="", secret_key="", parts=1) as store:
        for number, control in enumerate((False, True)):
            world.bucket.keys.clear()
            world.bucket.keys[f"new{number}"] = Key(f"other{number}")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"new{number}")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"other{number}")
            body, ref = body_of(2 * PART if control else 1000)
            await store.put(ref, world.file(body))
            assert world.held(ref) == body
        codes = [call.code for call in world.bucket.history]
        assert codes.count("InvalidAccessKeyId") == 2
        world.bucket.keys.clear()
        with pytest.raises(StoreAway):
            await store.put_bytes(ref, body)
        assert [call.code for call in world.bucket.history].count("InvalidAccessKeyId") == 4


async def test_point_u4_a_token_that_ended_is_renewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.bucket.keys["access"].ended = False
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/+word")
    body, ref = body_of(1000)
    async with world.store(access_key="", secret_key="") as store:
        world.bucket.keys["access"].ended = True
        world.bucket.keys["session"] = Key("word", token="token")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "session")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        await store.put_bytes(ref, body)
        assert await read(store, ref) == body
    assert "ExpiredToken" in [call.code for call in world.bucket.history]


# --- U5: Complete


@pytest.mark.parametrize(
    "action",
    [
        error_in_200(),
        error_in_200(executed=True),
        refuse(500),
        refuse(503, "SlowDown"),
        executed_then(500),
        executed_then_hang(),
        executed_then_reset(),
        reset(),
        stall(),
    ],
)
@pytest.mark.parametrize("again", [False, True], ids=["new", "already there"])
async def test_point_u5_an_unknown_complete_is_looked_into(world: World, action: Action, again: bool) -> None:
    body, ref = body_of(2 * PART)
    if again:
        world.bucket.plant(key_of(ref), body, age=5000)
    rule = world.bucket.rule("CompleteMultipartUpload", action, nth=0)
    async with world.store(read=1.5) as store:
        await store.put(ref, world.file(body))
        [(found, age)] = [each async for each in store.scan()]
    assert rule.hits == 1
    assert found == ref
    assert age < 60, "what lay there before is not taken for ours"
    assert world.held(ref) == body
    assert world.bucket.contents.uploads == {}
    assert world.bucket.count("AbortMultipartUpload") == 0
    assert world.intents.held == {}


async def test_point_u5_an_object_of_somebody_else_does_not_hide_an_open_upload(world: World) -> None:
    now = 1_000_000.0
    body, ref = body_of(2 * PART)
    async with world.store(clock=lambda: now) as store:
        rule = world.bucket.rule("CompleteMultipartUpload", refuse(500))
        task = asyncio.create_task(store.put(ref, world.file(body)))
        await until(lambda: rule.hits)
        world.bucket.plant(key_of(ref), body)
        await task
        assert len(world.intents.held) == len(world.bucket.contents.uploads) == 1
        now += tidying.OWN_SECONDS + 1
        world.bucket.lists_uploads = False
        assert await store.tidy() == 1
    assert world.bucket.contents.uploads == {}
    assert world.intents.held == {}


async def test_point_u5_an_upload_that_is_gone_is_begun_anew(world: World) -> None:
    body, ref = body_of(2 * PART)
    world.bucket.rule("CompleteMultipartUpload", refuse(404, "NoSuchUpload"), nth=0)
    async with world.store() as store:
        await store.put(ref, world.file(body))
    assert world.held(ref) == body
    assert world.bucket.count("CreateMultipartUpload") == 2


async def test_point_u5_an_upload_that_is_gone_midway_is_begun_anew(world: World) -> None:
    body, ref = body_of(3 * PART)
    world.bucket.rule("UploadPart", refuse(404, "NoSuchUpload"), nth=1)
    async with world.store(parts=1) as store:
        await store.put(ref, world.file(body))
    assert world.held(ref) == body
    assert len({call.upload for call in world.bucket.calls("UploadPart")}) == 2


async def test_point_u5_refused_parts_are_sent_in_another_upload(world: World) -> None:
    body, ref = body_of(2 * PART)
    world.bucket.rule("CompleteMultipartUpload", refuse(400, "InvalidPart"), nth=0)
    async with world.store() as store:
        await store.put(ref, world.file(body))
        await until(lambda: not world.bucket.contents.uploads)
    assert world.held(ref) == body
    assert world.intents.held == {}


async def test_point_u5_a_complete_that_never_works_leaves_the_upload_for_another_put(world: World) -> None:
    body, ref = body_of(3 * PART)
    path = world.file(body)
    async with world.store(tries=2) as store:
        world.bucket.rule("CompleteMultipartUpload", refuse(500))
        with pytest.raises(StoreAway):
            await store.put(ref, path)
        assert world.bucket.count("AbortMultipartUpload") == 0
        world.bucket.heal()
        await store.put(ref, path)
    assert world.held(ref) == body
    assert world.bucket.count("UploadPart") == 3, "no part was sent twice"
    assert world.intents.held == {}


async def test_point_u5_an_object_dated_from_its_begin_is_made_young(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "OLD_SECONDS", -1.0)
    body, ref = body_of(2 * PART)
    async with world.store() as store:
        await store.put(ref, world.file(body))
    assert world.bucket.count("CopyObject") == 1
    assert world.held(ref) == body


# --- U6: aborts and intents


async def test_point_u6_the_intent_is_there_before_the_upload_and_its_first_part(world: World) -> None:
    seen: dict[str, list[str]] = {}

    def noted(op: str) -> None:
        seen.setdefault(op, [intent.upload for intent in world.intents.held.values()])

    body, ref = body_of(2 * PART)
    async with world.store() as store:
        called = world.bucket._called
        world.bucket._called = lambda request: (call := called(request), noted(call.op))[0]  # type: ignore[method-assign]
        await store.put(ref, world.file(body))
    assert seen["CreateMultipartUpload"] == [""]
    assert [bool(each) for each in seen["UploadPart"]] == [True]
    assert [what for what, _ in world.intents.log] == ["intend", "intend", "fulfil"]


@pytest.mark.parametrize("laps", range(5))
async def test_point_u6_a_cancelled_put_is_aborted_behind_its_back(world: World, laps: int) -> None:
    body, ref = body_of(4 * PART)
    async with world.store() as store:
        world.bucket.rule("UploadPart", delay(0.05))
        task = asyncio.create_task(store.put(ref, world.file(body)))
        if laps:
            await until(lambda: world.bucket.count("UploadPart") >= laps)
        else:
            await until(lambda: world.bucket.count("CreateMultipartUpload"))
            await until(lambda: any(i.upload for i in world.intents.held.values()))
        task.cancel()
        await asyncio.wait([task])
        assert world.files == []
        await until(lambda: not world.bucket.contents.uploads and not world.intents.held)
        assert await store.size(ref.sha256) is None


@pytest.mark.parametrize("action", [refuse(404, "NoSuchUpload"), executed_then(404, "NoSuchUpload")])
async def test_point_u6_an_abort_of_what_is_gone_is_fine(world: World, action: Action) -> None:
    body, ref = body_of(2 * PART)
    async with world.store() as store:
        world.bucket.rule("UploadPart", refuse(403, "Denied"))
        world.bucket.rule("AbortMultipartUpload", action)
        with pytest.raises(StoreAway):
            await store.put(ref, world.file(body))
    assert world.intents.held == {}


async def test_point_u6_a_failed_abort_is_made_up_for_by_tidying(world: World) -> None:
    now = 1_000_000.0
    body, ref = body_of(2 * PART)
    async with world.store(clock=lambda: now) as store:
        world.bucket.rule("UploadPart", refuse(400, "InvalidArgument"))
        world.bucket.rule("AbortMultipartUpload", refuse(403, "AccessDenied"))
        task = asyncio.create_task(store.put(ref, world.file(body)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: world.told.count("upload_not_aborted") or len(world.intents.held) == 1)
        assert await store.tidy() == 0, "too young to be given up"
        now += tidying.OWN_SECONDS + 1
        for filing, _ in store._resting.values():
            await filing.drop()
        await until(lambda: not store._dock.detached)
        assert await store.tidy() == 0, "the bucket still refuses"
        assert len(world.intents.held) == 1
        world.bucket.heal()
        assert await store.tidy() == 1
        assert await store.tidy() == 0
    assert world.bucket.contents.uploads == {}
    assert world.intents.held == {}


async def _left_open(world: World, owner: str, started: float, *, known: bool) -> None:
    _, ref = body_of(10)
    upload_ = world.bucket.contents.create(key_of(ref), {})
    upload_.started -= 7200
    world.intents.held[owner] = Intent(owner, ref.sha256, upload_.id if known else "", owner, started)


@pytest.mark.parametrize("known", [True, False], ids=["with its id", "before its id was known"])
async def test_point_u6_uploads_of_the_dead_and_of_yesterday_are_aborted(world: World, known: bool) -> None:
    now = 1_000_000.0
    from artifactproxy.stores.s3.owner import this_owner

    mine = this_owner()
    dead = mine.rpartition(".")[0] + ".1"
    await _left_open(world, "another host", now - 90_000, known=known)
    await _left_open(world, dead, now - 5, known=known)
    await _left_open(world, "yet another host", now - 80_000, known=known)
    async with world.store(clock=lambda: now) as store:
        assert await store.tidy() == 2
        assert set(world.intents.held) == {"yet another host"}
        assert len(world.bucket.contents.uploads) == 1
        now += 10_000
        assert await store.tidy() == 1
    assert world.bucket.contents.uploads == {}


async def test_point_u6_uploads_that_no_intent_tells_of_go_after_a_day(world: World) -> None:
    ours = ["p/blobs/sha256/ab/ab" + "0" * 62, "p/quarantine/ab" + "0" * 62 + ".1700000000000000000"]
    others = ["p/blobs/foreign", "elsewhere"]
    for name in ours + others:
        world.bucket.contents.create(name, {}).started -= 90_000
    world.bucket.contents.create(ours[0], {})
    async with world.store() as store:
        assert await store.tidy() == 2
    assert len(world.bucket.contents.uploads) == 3


async def test_point_u6_running_uploads_are_left_alone_by_tidying(world: World) -> None:
    now = 1_000_000.0
    body, ref = body_of(3 * PART)
    arriving = Arriving(body, length=len(body))
    async with world.store(clock=lambda: now) as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive(2 * PART)
        await until(lambda: world.bucket.count("UploadPart"))
        now += 100_000
        assert await store.tidy() == 0
        await arriving.arrive()
        await intake.finish(ref, world.file(body))
    assert world.held(ref) == body


async def test_point_u6_an_index_that_is_away_does_not_hold_up_storing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise IndexUnavailable("away")

    monkeypatch.setattr(world.intents, "intend", away)
    monkeypatch.setattr(world.intents, "fulfil", away)
    body, ref = body_of(2 * PART)
    async with world.store() as store:
        await store.put(ref, world.file(body))
    assert world.held(ref) == body
    assert world.told.count("upload_unrecorded") == 2


# --- U7, U8: lengths and sizes


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART, 12 * MIB + 5])
async def test_point_u7_every_request_announces_its_length(world: World, size: int) -> None:
    body, ref = body_of(size)
    async with world.store() as store:
        await store.put(ref, world.file(body))
        assert await read(store, ref) == body
    sent = world.bucket.calls("PutObject") + world.bucket.calls("UploadPart")
    assert sum(call.size for call in sent) == size
    assert all(int(call.headers["content-length"]) == call.size for call in sent)
    assert all("transfer-encoding" not in call.headers for call in sent)
    assert {call.part for call in sent} == ({0} if size <= PART else set(range(1, -(-size // PART) + 1)))


async def test_point_u8_growing_parts_and_known_ones_make_the_same_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactproxy.rules.multipart._STEP", 2)
    body, ref = body_of(7 * PART + 3)
    arriving = Arriving(body, length=None)
    async with world.store() as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive()
        await intake.finish(ref, world.file(body))
        assert await read(store, ref) == body
    sizes = [call.size for call in sorted(world.bucket.calls("UploadPart"), key=lambda call: call.part)]
    assert sizes == [PART, PART, 2 * PART, 2 * PART, PART + 3]


# --- U10: the budget


async def test_point_u10_first_come_first_served_and_never_more_than_allowed() -> None:
    gate, order = Gate(2), []

    async def one(number: int, units: int) -> None:
        async with gate.hold(units):
            assert gate.held <= 2
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number, 1 + number % 2) for number in range(12)))
    assert order == sorted(order)
    assert gate.held == 0


async def test_point_u10_who_needs_more_than_there_is_has_it_alone() -> None:
    gate = Gate(2)
    async with asyncio.timeout(20):
        async with gate.hold(5):
            other = asyncio.create_task(_through(gate))
            await asyncio.sleep(0)
            assert not other.done()
        await other


async def _through(gate: Gate, units: int = 1) -> None:
    async with gate.hold(units):
        await asyncio.sleep(0)


async def test_point_u10_who_is_cancelled_in_the_queue_stands_in_nobodys_way() -> None:
    gate = Gate(2)
    async with gate.hold(1):
        large = asyncio.create_task(_through(gate, 2))
        await asyncio.sleep(0)
        small = asyncio.create_task(_through(gate, 1))
        await asyncio.sleep(0)
        assert gate.waiting == 2
        large.cancel()
        async with asyncio.timeout(20):
            await small
        await asyncio.wait([large])
    assert (gate.held, gate.waiting) == (0, 0)


async def test_point_u10_a_place_given_to_one_who_is_cancelled_comes_back() -> None:
    gate = Gate(1)
    async with gate.hold():
        waiting = asyncio.create_task(_through(gate))
        await asyncio.sleep(0)
    waiting.cancel()  # it was let in, and does not know yet
    await asyncio.wait([waiting])
    assert gate.held == 0


async def test_point_u10_resizing_is_felt_at_once() -> None:
    budget = Budget(4, 2 * PART_MEMORY)
    entered: list[int] = []
    leave = asyncio.Event()

    async def one(number: int) -> None:
        async with budget.part(PART):
            entered.append(number)
            await leave.wait()

    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    await asyncio.sleep(0.01)
    assert entered == [0, 1]
    budget.resize(uploads=4, part_memory=5 * PART_MEMORY)
    await asyncio.sleep(0.01)
    assert entered == [0, 1, 2, 3, 4]
    budget.resize(uploads=4, part_memory=PART_MEMORY)
    await asyncio.sleep(0.01)
    assert entered == [0, 1, 2, 3, 4], "a smaller one lets nobody in and throws nobody out"
    leave.set()
    await asyncio.gather(*tasks)
    assert budget.memory == 0


async def test_point_u10_bodies_that_arrive_slowly_never_take_every_place(world: World) -> None:
    bodies = [body_of(2 * PART + number) for number in range(5)]
    async with world.store(uploads=2) as store:
        slow = []
        for body, ref in bodies[:4]:
            arriving = Arriving(body, length=len(body))
            arriving.written = PART
            slow.append((await store.begin(ref.sha256, arriving), arriving))
        await until(lambda: store.budget.running == 1)
        body, ref = bodies[4]
        await store.put(ref, world.file(body))
        assert world.held(ref) == body
        for (body, ref), (intake, arriving) in zip(bodies, slow, strict=False):
            arriving.written = len(body)
            assert intake is not None
            await intake.finish(ref, world.file(body))
            assert world.held(ref) == body
        assert store.budget.running == 0


async def test_point_u10_parts_in_flight_are_bounded_over_all_uploads(world: World) -> None:
    flying = most = 0
    put = upload.Wire.put

    async def counted(self: object, *args: object, **kwargs: object) -> object:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        try:
            return await put(self, *args, **kwargs)  # type: ignore[arg-type]
        finally:
            flying -= 1

    upload.Wire.put = counted  # type: ignore[assignment,method-assign]
    try:
        bodies = [body_of(3 * PART) for _ in range(4)]
        async with world.store(part_memory=3 * PART_MEMORY, parts=4) as store:
            await asyncio.gather(*(store.put(ref, world.file(body)) for body, ref in bodies))
    finally:
        upload.Wire.put = put  # type: ignore[method-assign]
    assert most == 3
    assert all(world.held(ref) == body for body, ref in bodies)


# --- U11: connections


async def test_point_u11_connections_stay_within_the_pool_however_many_parts(world: World) -> None:
    body, ref = body_of(12 * PART)
    async with world.store(connections=5, parts=8) as store:
        await store.put(ref, world.file(body))
        assert await read(store, ref) == body
    assert world.bucket.count("UploadPart") == 12
    assert world.bucket.connections <= 5


async def test_point_u11_connections_are_kept_alive(world: World) -> None:
    async with world.store() as store:
        for number in range(20):
            body, ref = body_of(1000 + number)
            await store.put(ref, world.file(body))
    assert len({call.connection for call in world.bucket.calls("PutObject")}) == 1


@pytest.mark.usefixtures("way")
async def test_point_u11_a_part_goes_over_the_connection_of_the_part_before(world: World) -> None:
    body, ref = body_of(12 * PART)
    async with world.store(parts=2) as store:
        await store.put(ref, world.file(body))
    assert len({call.connection for call in world.bucket.calls("UploadPart")}) <= 2


# --- what is on the wire


async def test_no_checksum_is_computed_that_nobody_needs(world: World) -> None:
    body, ref = body_of(2 * PART)
    async with world.store() as store:
        await store.put(ref, world.file(body))
        await store.put_bytes(*reversed(body_of(1000)))
        await read(store, ref)
        await store.set_aside(ref)
    assert len(world.bucket.history) > 10
    for call in world.bucket.history:
        assert "content-md5" not in call.headers
        assert not [name for name in call.headers if name.startswith(("x-amz-checksum", "x-amz-trailer"))]
        assert "x-amz-sdk-checksum-algorithm" not in call.headers
        if call.headers.get("x-amz-content-sha256"):
            assert call.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


async def test_a_store_that_demands_them_gets_checksums_and_signed_bodies(world: World) -> None:
    body, ref = body_of(2 * PART + 5)
    async with world.store(checksums="when_supported", sign_payload=True) as store:
        await store.put(ref, world.file(body))
        await store.put_bytes(*reversed(body_of(1000)))
        assert await read(store, ref) == body
    sent = world.bucket.calls("PutObject") + world.bucket.calls("UploadPart")
    assert all("UNSIGNED" not in call.headers["x-amz-content-sha256"] for call in sent)
    assert all([name for name in call.headers if name.startswith("x-amz-checksum")] for call in sent)


# --- bodies that still arrive


async def test_parts_leave_while_the_body_arrives_and_are_sent_once(world: World) -> None:
    body, ref = body_of(4 * PART + 9)
    arriving = Arriving(body, length=len(body))
    async with world.store() as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive(2 * PART)
        await until(lambda: world.bucket.count("UploadPart") >= 2)
        assert world.bucket.count("CompleteMultipartUpload") == 0
        await arriving.arrive()
        await until(lambda: world.bucket.count("UploadPart") == 5)
        assert world.held(ref) is None
        await intake.finish(ref, world.file(body))
    assert world.held(ref) == body
    assert world.bucket.count("UploadPart") == 5
    assert world.intents.held == {}


@pytest.mark.parametrize("op", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("action", [refuse(403, "AccessDenied"), refuse(500), reset(), stall()])
async def test_what_fails_early_is_made_up_for_at_the_end(world: World, op: str, action: Action) -> None:
    body, ref = body_of(3 * PART)
    arriving = Arriving(body, length=len(body))
    rule = world.bucket.rule(op, action)
    async with world.store(read=1.5, tries=2) as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive()
        await asyncio.sleep(0.1)
        world.bucket.heal()
        await intake.finish(ref, world.file(body))
        await until(lambda: not store._dock.detached)
    assert rule.hits or op == "CompleteMultipartUpload"
    assert world.held(ref) == body


@pytest.mark.parametrize("fault", [UpstreamBroken("it broke"), StoreUnavailable("no disk")])
async def test_a_body_that_fails_takes_its_upload_along(world: World, fault: Fault) -> None:
    body, ref = body_of(3 * PART)
    arriving = Arriving(body, length=len(body))
    async with world.store() as store:
        intake = await store.begin(ref.sha256, arriving)
        assert intake is not None
        await arriving.arrive(2 * PART)
        arriving.fail(fault)
        await intake.abandon()
        await until(lambda: not world.bucket.contents.uploads and not world.intents.held)
        assert store.budget.running == 0


async def test_large_copies_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.servers import minio

    bucket = await asyncio.to_thread(lambda: minio.shared().fresh_bucket("copies"))
    monkeypatch.setattr(copying, "AT_ONCE", PART)
    monkeypatch.setattr(copying, "PIECE", PART)
    world = World(Bucket(), tmp_path)
    world.bucket.options = bucket.options  # type: ignore[method-assign]
    body, ref = body_of(2 * PART + 77)
    async with world.store() as store:
        await store.put(ref, world.file(body))
        assert await store.set_aside(ref) is True
        assert await store.size(ref.sha256) is None
        found = [each async for each in _keys(store)]
    assert len(found) == 1
    assert found[0].size == len(body)


async def _keys(store: object) -> AsyncIterator[object]:
    from artifactproxy.stores.s3.listing import keys

    async for each in keys(store._wire, "quarantine/"):  # type: ignore[attr-defined]
        yield each


@pytest.mark.parametrize("lists", [True, False], ids=["lists uploads", "lists none"])
async def test_point_u6_an_upload_whose_begin_was_not_answered_is_found_under_its_key(
    tmp_path: Path, lists: bool
) -> None:
    """It was begun once more, and by another id."""
    now = [time.time()]
    async with Bucket(lists_uploads=lists) as bucket:
        world = World(bucket, tmp_path)
        body, ref = body_of(PART + 1)
        bucket.rule("CreateMultipartUpload", executed_then(500), nth=0)
        async with world.store(clock=lambda: now[0]) as store:
            await store.put(ref, world.file(body))
            assert world.held(ref) == body
            assert len(bucket.contents.uploads) == 1
            assert await store.tidy() == 0, "it might be one that begins just now"
            now[0] += 700.0
            bucket.ahead = 700.0
            assert await store.tidy() == 1
        assert bucket.contents.uploads == {}
        assert world.intents.held == {}
