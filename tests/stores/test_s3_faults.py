"""What a bucket and the way to it may do to the store: rows S01 to S14 of the fault matrix.

The promise of all of them: never a wrong byte, never "missing" for what cannot be told, nothing visible
that was not verified, and no upload left open.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from artifactproxy.errors import BlobMissing, Fault, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores.s3.store import S3Store
from tests.bucket import (
    Action,
    Bucket,
    Key,
    cut,
    delay,
    error_in_200,
    executed_then,
    executed_then_hang,
    executed_then_reset,
    flip,
    garbage,
    ignore,
    refuse,
    reset,
    stall,
    wrong_etag,
)
from tests.bucket.replies import Reply
from tests.chaos.oracle import oracle
from tests.chaos.tcp import Tcp, calm, timeout
from tests.contracts.harness_s3 import MemoryIntents
from tests.stores.far import Heard

MIB = 2**20
PART = 5 * MIB
PREFIX = "cache/"
BIG = oracle("big", 2 * PART + 1000)
MIDDLE = oracle("middle", MIB)
SMALL = oracle("small", 1000)
_numbers = itertools.count()


def ref_of(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


def key_of(body: bytes) -> str:
    sha256 = ref_of(body).sha256
    return f"{PREFIX}blobs/sha256/{sha256[:2]}/{sha256}"


class World:
    """One store on one bucket."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.intents = MemoryIntents()
        self.heard = Heard()
        self.store: S3Store

    def file(self, body: bytes) -> Path:
        path = self.folder / f"{next(_numbers)}.part"
        path.write_bytes(body)
        return path

    async def put(self, body: bytes) -> None:
        await self.store.put(ref_of(body), self.file(body))

    async def read(self, body: bytes, span: Span | None = None) -> bytes:
        """What the store says that this blob is; raises as it does."""
        chunks = await self.store.open(ref_of(body), span or Span(0, len(body)))
        return b"".join([chunk async for chunk in chunks])

    def plant(self, body: bytes, **more: Any) -> str:
        self.bucket.plant(key_of(body), body, **more)
        return key_of(body)

    def stored(self, body: bytes) -> bool:
        found = self.bucket.objects.get(key_of(body))
        return found is not None and found.data == body

    @property
    def open_uploads(self) -> int:
        return len(self.bucket.contents.uploads)

    def set_aside(self) -> list[bytes | None]:
        return [o.data for key, o in self.bucket.objects.items() if key.startswith(f"{PREFIX}quarantine/")]


@asynccontextmanager
async def world(folder: Path, bucket: Bucket | None = None, **over: Any) -> AsyncIterator[World]:
    async with bucket or Bucket() as there:
        made = World(there, folder)
        settings = {"prefix": PREFIX, "part_size": PART, "read": 0.4, "connect": 1.0, **over}
        made.store = S3Store(
            there.options(**settings), intents=made.intents, observer=made.heard, rng=lambda: 0.01
        )
        await made.store.start()
        there.history.clear()
        try:
            yield made
        finally:
            await made.store.close()


class Body:
    """A body that arrives when it is told to."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length: int | None = len(data)
        self.written = 0
        self.fault: Fault | None = None
        self._changed = asyncio.Event()

    def peek(self, start: int, stop: int) -> bytes:
        assert stop <= self.written
        return self.data[start:stop]

    async def changed(self) -> None:
        await self._changed.wait()

    def arrive(self, size: int) -> None:
        self.written = size
        self._changed.set()
        self._changed = asyncio.Event()


async def until(true: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def tidied(w: World) -> int:
    """What another process finds to abort two days later; nothing is left then."""
    options = w.bucket.options(prefix=PREFIX)
    later = S3Store(options, intents=w.intents, owner="another", clock=lambda: w.bucket.now() + 2 * 86400)
    await later.start()
    try:
        count = await later.tidy()
    finally:
        await later.close()
    assert w.open_uploads == 0
    assert w.intents.held == {}
    return count


# --- S01 -------------------------------------------------------------------------------------

BUSY = [
    refuse(503, "SlowDown"),
    refuse(429, "TooManyRequests"),
    refuse(500, "InternalError"),
    Action(reply=lambda: Reply(502, {"Content-Type": "text/html"}, b"<html>a balancer")),
]


@pytest.mark.parametrize("action", BUSY, ids=["503", "429", "500", "502"])
@pytest.mark.parametrize(
    "op", ["PutObject", "GetObject", "HeadObject", "UploadPart", "CreateMultipartUpload"]
)
async def test_s01_a_busy_bucket_is_asked_again(tmp_path, op, action):
    async with world(tmp_path) as w:
        rule = w.bucket.rule(op, action, nth=range(2))
        body = BIG if "Upload" in op else SMALL
        await w.put(body)
        assert await w.store.size(ref_of(body).sha256) == len(body)
        assert await w.read(body) == body
        assert rule.hits == 2
        assert w.heard.warnings == []
        left = [intent.upload for intent in w.intents.held.values()]
        # One that was asked for and not answered may be open: it is looked for later, under its key.
        assert left == ([""] if op == "CreateMultipartUpload" else [])


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["one", "parts"])
async def test_s01_a_bucket_that_stays_busy_is_away_and_the_file_is_kept(tmp_path, body):
    async with world(tmp_path) as w:
        w.bucket.rule("*", refuse(503, "SlowDown"))
        path = w.file(body)
        for _ in range(2):
            with pytest.raises(StoreAway) as caught:
                await w.store.put(ref_of(body), path)
            assert caught.value.retry_after is not None
            assert path.read_bytes() == body
        assert w.bucket.count("PutObject") in (0, 2 * 3)  # `tries` each
        w.bucket.heal()
        await w.store.put(ref_of(body), path)
        assert w.stored(body)
        assert not path.exists()
        assert w.open_uploads == 0
        # Whether a refused Create made an upload all the same is for `tidy` to find out.
        assert {intent.upload for intent in w.intents.held.values()} <= {""}
        assert await tidied(w) == 0


@pytest.mark.parametrize("seed", range(3))
async def test_s01_nothing_is_lost_while_a_third_of_all_requests_fail(tmp_path, seed):
    bodies = [oracle(f"{seed}.{n}", size) for n, size in enumerate([0, 1, 70_000, 3 * MIB, 2 * PART + 1])]
    async with world(tmp_path, Bucket(seed=seed), tries=12) as w:
        w.bucket.rule("*", refuse(503, "SlowDown"), share=0.3)
        await asyncio.gather(*(w.put(body) for body in bodies))
        for body in bodies:
            assert await w.read(body) == body
            assert await w.store.size(ref_of(body).sha256) == len(body)
        assert all(w.stored(body) for body in bodies)
        assert (w.open_uploads, w.intents.held) == (0, {})


async def test_s01_a_dead_bucket_is_not_flooded_with_further_tries(tmp_path):
    async with world(tmp_path, tries=10) as w:
        w.bucket.rule("*", refuse(503, "SlowDown"))
        asks = [w.store.size(ref_of(bytes([n])).sha256) for n in range(60)]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreAway}
        assert w.bucket.count() <= 60 + 100  # of 600


# --- S02 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", ["GetObject", "HeadObject", "PutObject", "UploadPart", "CreateMultipartUpload"]
)
@pytest.mark.parametrize("action", [stall(), reset()], ids=["silence", "reset"])
async def test_s02_a_request_without_an_answer_is_sent_again(tmp_path, op, action):
    async with world(tmp_path) as w:
        rule = w.bucket.rule(op, action, nth=0)
        body = BIG if "Upload" in op else SMALL
        async with asyncio.timeout(20):
            await w.put(body)
            assert await w.store.size(ref_of(body).sha256) == len(body)
            assert await w.read(body) == body
        assert rule.hits == 1


async def test_s02_a_bucket_that_never_answers_is_away_soon(tmp_path):
    async with world(tmp_path, tries=2, read=0.2) as w:
        w.plant(SMALL)
        w.bucket.rule("*", stall())
        async with asyncio.timeout(20):
            for ask in (
                lambda: w.read(SMALL),
                lambda: w.store.size(ref_of(SMALL).sha256),
                lambda: w.put(MIDDLE),
                lambda: w.store.check(),
                lambda: w.store.delete(ref_of(SMALL).sha256),
                lambda: w.store.address(ref_of(SMALL), seconds=60, media_type="", filename=""),
            ):
                with pytest.raises(StoreAway):
                    await ask()


@pytest.mark.parametrize(
    "action", [cut(300_000), stall(300_000), reset(300_000)], ids=["fin", "silence", "rst"]
)
@pytest.mark.parametrize("span", [None, Span(1000, MIB - 1000)], ids=["whole", "span"])
async def test_s02_a_body_that_breaks_off_is_continued(tmp_path, action, span):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", action, nth=range(3))
        async with asyncio.timeout(20):
            got = await w.read(MIDDLE, span)
        assert got == (MIDDLE if span is None else MIDDLE[1000:-1000])
        first, *further = w.bucket.calls("GetObject")
        assert len(further) == 3
        etag = w.bucket.objects[key_of(MIDDLE)].etag
        assert all(call.headers["if-match"] == etag for call in further)
        starts = [int(call.headers["range"][6:].partition("-")[0]) for call in further]
        assert starts == sorted(set(starts))
        assert "if-match" not in first.headers


async def test_s02_a_body_that_breaks_off_for_ever_raises_and_never_ends_clean(tmp_path):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", cut(10_000))
        got = b""
        with pytest.raises(StoreAway):
            async for chunk in await w.store.open(ref_of(MIDDLE), Span(0, len(MIDDLE))):
                got += chunk
        assert MIDDLE.startswith(got)
        assert len(got) < len(MIDDLE)
        assert w.bucket.count("GetObject") == 4
        assert w.stored(MIDDLE)  # a broken line is no reason to set it aside


async def test_s02_another_object_is_no_continuation(tmp_path):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", stall(300_000), nth=0)
        chunks = await w.store.open(ref_of(MIDDLE), Span(0, MIB - 1))
        got = await anext(chunks)
        w.bucket.plant(key_of(MIDDLE), oracle("other", MIB))
        with pytest.raises(StoreUnavailable):
            async for chunk in chunks:
                got += chunk
        assert MIDDLE.startswith(got)


async def test_s02_an_upload_that_stalls_half_way_is_sent_again(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("PutObject", stall(100_000), nth=0)
        w.bucket.rule("UploadPart", stall(100_000), nth=0)
        async with asyncio.timeout(30):
            await w.put(MIDDLE)
            await w.put(BIG)
        assert w.stored(MIDDLE)
        assert w.stored(BIG)


async def test_s02_a_network_that_goes_and_comes_back(tmp_path):
    async with Bucket() as bucket, Tcp(("127.0.0.1", bucket.port)) as proxy:
        w = World(bucket, tmp_path)
        options = bucket.options(
            prefix=PREFIX, endpoint=f"http://127.0.0.1:{proxy.port}", read=1.5, connect=1.5, tries=2
        )
        w.store = S3Store(options, intents=w.intents, observer=w.heard, rng=lambda: 0.01)
        await w.store.start()
        w.plant(SMALL)
        assert await w.read(SMALL) == SMALL
        proxy.toxics = timeout()
        async with asyncio.timeout(20):
            with pytest.raises(StoreAway):
                await w.read(SMALL)
        proxy.toxics = calm()
        assert await w.read(SMALL) == SMALL
        await bucket.stop()
        with pytest.raises(StoreAway):
            await w.store.size(ref_of(SMALL).sha256)
        await bucket.start(bucket.port)
        assert await w.read(SMALL) == SMALL
        await w.store.close()


# --- S03 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [refuse(500), refuse(400, "RequestTimeout"), reset(PART // 2), stall(PART // 2), executed_then(500)],
    ids=["500", "timeout", "reset", "stall", "done but 500"],
)
async def test_s03_only_the_part_that_failed_is_sent_again(tmp_path, action):
    async with world(tmp_path, parts=1) as w:
        w.bucket.rule("UploadPart", action, nth=(1, 2))
        await w.put(BIG)
        assert [call.part for call in w.bucket.calls("UploadPart")] == [1, 2, 2, 2, 3]
        assert w.stored(BIG)
        assert (w.open_uploads, w.intents.held) == (0, {})


async def test_s03_a_part_that_never_arrives_leaves_nothing(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("UploadPart", refuse(500))
        with pytest.raises(StoreAway):
            await w.put(BIG)
        assert w.bucket.objects == {}
        assert w.bucket.count("CompleteMultipartUpload") == 0
    assert w.open_uploads == 0  # at the latest with the store
    assert w.intents.held == {}


async def test_s03_parts_that_are_there_are_not_sent_again(tmp_path):
    async with world(tmp_path, parts=1) as w:
        w.bucket.rule("UploadPart", refuse(500), nth=range(1, 100))
        path = w.file(BIG)
        with pytest.raises(StoreAway):
            await w.store.put(ref_of(BIG), path)
        w.bucket.heal()
        w.bucket.history.clear()
        await w.store.put(ref_of(BIG), path)
        assert [call.part for call in w.bucket.calls("UploadPart")] == [2, 3]
        assert w.stored(BIG)


async def test_s03_a_part_that_fails_while_the_body_arrives_is_sent_at_the_end(tmp_path):
    async with world(tmp_path) as w:
        rule = w.bucket.rule("UploadPart", refuse(500), nth=range(3))
        body = Body(BIG)
        intake = await w.store.begin(ref_of(BIG).sha256, body)
        assert intake is not None
        body.arrive(PART + 5)
        await until(lambda: rule.hits == 3)
        body.arrive(len(BIG))
        await intake.finish(ref_of(BIG), w.file(BIG))
        assert w.stored(BIG)
        assert (w.open_uploads, w.intents.held) == (0, {})


async def test_s03_an_upload_that_the_bucket_forgot_is_begun_anew(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("UploadPart", refuse(404, "NoSuchUpload"), nth=1)
        await w.put(BIG)
        assert w.bucket.count("CreateMultipartUpload") == 2
        assert w.stored(BIG)
        await until(lambda: not w.open_uploads and not w.intents.held)


# --- S04 -------------------------------------------------------------------------------------

UNKNOWN = {
    "done, 500": executed_then(500),
    "done, silence": executed_then_hang(),
    "done, reset": executed_then_reset(),
    "done, error in a 200": error_in_200(executed=True),
    "not done, 500": refuse(500),
    "not done, reset": reset(),
    "not done, error in a 200": error_in_200(),
    "not done, SlowDown in a 200": error_in_200("SlowDown"),
}


@pytest.mark.parametrize("how", UNKNOWN)
async def test_s04_whether_it_is_complete_is_looked_up(tmp_path, how):
    async with world(tmp_path) as w:
        rule = w.bucket.rule("CompleteMultipartUpload", UNKNOWN[how], nth=0)
        async with asyncio.timeout(30):
            await w.put(BIG)
        assert rule.hits == 1
        assert w.stored(BIG)
        assert w.bucket.count("AbortMultipartUpload") == 0
        assert w.bucket.count("CreateMultipartUpload") == 1
        assert (w.open_uploads, w.intents.held) == (0, {})
        assert await w.read(BIG) == BIG


async def test_s04_an_upload_that_is_gone_and_made_nothing_is_begun_anew(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("CompleteMultipartUpload", refuse(404, "NoSuchUpload"), nth=0)
        await w.put(BIG)
        assert w.bucket.count("CreateMultipartUpload") == 2
        assert w.stored(BIG)


async def test_s04_never_complete_is_away_and_nothing_is_visible(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("CompleteMultipartUpload", error_in_200())
        path = w.file(BIG)
        with pytest.raises(StoreAway):
            await w.store.put(ref_of(BIG), path)
        assert w.bucket.objects == {}
        assert w.bucket.count("AbortMultipartUpload") == 0  # it may have succeeded
        assert path.exists()
        w.bucket.heal()
        await w.store.put(ref_of(BIG), path)
        assert w.stored(BIG)


async def test_s04_an_older_object_is_not_taken_for_what_was_completed(tmp_path):
    async with world(tmp_path) as w:
        w.plant(BIG, age=3600)
        w.bucket.rule("CompleteMultipartUpload", refuse(500), nth=0)
        await w.put(BIG)
        assert w.bucket.count("CompleteMultipartUpload") == 2
        assert w.bucket.now() - w.bucket.objects[key_of(BIG)].modified < 60


@pytest.mark.parametrize("action", [executed_then(500), executed_then_hang(), executed_then_reset()])
async def test_s04_a_small_put_whose_answer_is_lost_is_sent_again(tmp_path, action):
    async with world(tmp_path) as w:
        w.bucket.rule("PutObject", action, nth=0)
        await w.put(SMALL)
        await w.store.put_bytes(ref_of(SMALL), SMALL)
        assert w.stored(SMALL)


# --- S05 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists", [True, False], ids=["lists uploads", "does not list"])
async def test_s05_an_abort_that_is_refused_is_remembered_and_done_later(tmp_path, lists):
    async with world(tmp_path, Bucket(lists_uploads=lists)) as w:
        w.bucket.rule("AbortMultipartUpload", refuse(500))
        body = Body(BIG)
        intake = await w.store.begin(ref_of(BIG).sha256, body)
        assert intake is not None
        body.arrive(PART + 1)
        await until(lambda: w.bucket.count("UploadPart") == 1)
        await intake.abandon()
        await until(lambda: "upload_not_aborted" in w.heard.warnings)
        assert w.open_uploads == 1
        assert len(w.intents.held) == 1
    w.bucket.heal()
    async with w.bucket:
        assert await tidied(w) == 1
        assert await tidied(w) == 0


async def test_s05_an_upload_that_is_gone_already_is_aborted_enough(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("AbortMultipartUpload", refuse(404, "NoSuchUpload"))
        body = Body(BIG)
        intake = await w.store.begin(ref_of(BIG).sha256, body)
        assert intake is not None
        body.arrive(PART + 1)
        await until(lambda: w.bucket.count("UploadPart") == 1)
        await intake.abandon()
        await until(lambda: not w.intents.held)
        assert "upload_not_aborted" not in w.heard.warnings


# --- S06, S07 --------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [Span(0, MIB), Span(5, 10)], ids=["whole", "span"])
async def test_s06_an_object_that_is_gone_is_missing_for_certain(tmp_path, span):
    async with world(tmp_path) as w:
        with pytest.raises(BlobMissing) as caught:
            await w.store.open(ref_of(MIDDLE), span)
        assert not caught.value.damaged
        assert await w.store.size(ref_of(MIDDLE).sha256) is None
        with pytest.raises(BlobMissing):
            await w.store.address(ref_of(MIDDLE), seconds=60, media_type="", filename="")


async def test_s06_an_object_that_goes_while_it_is_read_raises(tmp_path):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", stall(300_000), nth=0)
        chunks = await w.store.open(ref_of(MIDDLE), Span(0, MIB))
        got = await anext(chunks)
        del w.bucket.objects[key_of(MIDDLE)]
        with pytest.raises(StoreUnavailable):
            async for chunk in chunks:
                got += chunk
        assert MIDDLE.startswith(got)
        assert len(got) < len(MIDDLE)


@pytest.mark.parametrize("size", [0, MIB - 1, MIB + 1])
@pytest.mark.parametrize("span", [Span(0, MIB), Span(5, 10)], ids=["whole", "span"])
async def test_s07_an_object_of_another_size_is_refused_before_any_byte(tmp_path, size, span):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        other = (MIDDLE + b"!")[:size]
        w.bucket.damage(key_of(MIDDLE), other)
        with pytest.raises(BlobMissing) as caught:
            await w.store.open(ref_of(MIDDLE), span)
        assert caught.value.damaged
        assert key_of(MIDDLE) not in w.bucket.objects
        assert w.set_aside() == [other]
        await w.put(MIDDLE)
        assert await w.read(MIDDLE) == MIDDLE


@pytest.mark.parametrize("at", [0, MIB // 2, MIB - 1])
async def test_s07_nobody_gets_all_of_an_object_with_other_bytes(tmp_path, at):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        other = bytearray(MIDDLE)
        other[at] ^= 1
        w.bucket.damage(key_of(MIDDLE), bytes(other))
        size = 0
        with pytest.raises(StoreUnavailable):
            async for chunk in await w.store.open(ref_of(MIDDLE), Span(0, MIB)):
                size += len(chunk)
        assert size <= MIB - 65536
        assert w.set_aside() == [bytes(other)]
        with pytest.raises(BlobMissing):
            await w.read(MIDDLE)


async def test_s07_a_small_object_with_other_bytes_is_refused_before_any(tmp_path):
    async with world(tmp_path) as w:
        w.plant(SMALL)
        w.bucket.rule("GetObject", flip(7), nth=0)
        with pytest.raises(BlobMissing) as caught:
            await w.read(SMALL)
        assert caught.value.damaged


# --- S08 -------------------------------------------------------------------------------------


def _rotated(bucket: Bucket, code: str) -> Key:
    """Make the keys of the bucket such that those in use get this answer; returns the new ones."""
    new = Key("new-secret")
    if code == "ExpiredToken":
        bucket.keys["access"].ended = True
    elif code == "InvalidAccessKeyId":
        del bucket.keys["access"]
    bucket.keys["access" if code == "SignatureDoesNotMatch" else "fresh"] = new
    return new


CODES = ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"]


@pytest.mark.parametrize("code", CODES)
async def test_s08_new_keys_are_looked_for_once(tmp_path, code, monkeypatch):
    profile = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    profile.write_text(text.format("access", "secret/+word"))
    bodies = [oracle(f"n{n}", 100_000) for n in range(8)]
    async with world(tmp_path, access_key="", secret_key="", session_token="") as w:
        await w.put(SMALL)
        new = _rotated(w.bucket, code)
        name = "access" if code == "SignatureDoesNotMatch" else "fresh"
        profile.write_text(text.format(name, new.secret))
        await asyncio.gather(*(w.put(body) for body in bodies), w.read(SMALL), w.put(BIG))
        assert all(w.stored(body) for body in bodies)
        assert w.stored(BIG)
        refused = [call for call in w.bucket.history if call.code == code]
        assert 1 <= len(refused) <= 10  # one each of those that were under way
        assert w.heard.warnings == []


@pytest.mark.parametrize("code", CODES)
async def test_s08_keys_that_are_not_taken_make_the_bucket_away_and_nothing_missing(tmp_path, code):
    async with world(tmp_path) as w:
        w.plant(SMALL)
        old = Key(w.bucket.keys["access"].secret)
        _rotated(w.bucket, code)
        with pytest.raises(StoreAway):
            await w.read(SMALL)
        with pytest.raises(StoreAway):
            await w.store.size(ref_of(MIDDLE).sha256)
        path = w.file(MIDDLE)
        with pytest.raises(StoreAway):
            await w.store.put(ref_of(MIDDLE), path)
        with pytest.raises(StoreAway) as caught:
            await w.store.check()
        assert old.secret not in caught.value.detail
        w.bucket.keys = {"access": old}
        await w.store.put(ref_of(MIDDLE), path)
        assert await w.read(SMALL) == SMALL


# --- S09 -------------------------------------------------------------------------------------

CLOSED = {
    "no bucket": refuse(404, "NoSuchBucket"),
    "404 of a stranger": Action(reply=lambda: Reply(404, {"Content-Type": "text/html"}, b"<html>not here")),
    "policy": refuse(403, "AccessDenied"),
    "another region": refuse(301, "PermanentRedirect"),
    "a captive portal": garbage(b"<html>please log in"),
}


@pytest.mark.parametrize("how", CLOSED)
async def test_s09_a_bucket_that_is_closed_holds_nothing_missing(tmp_path, how):
    async with world(tmp_path) as w:
        w.plant(SMALL)
        w.bucket.rule("*", CLOSED[how])
        sha256 = ref_of(SMALL).sha256
        asked = [w.store.check, lambda: _first(w.store.scan()), lambda: w.put(BIG)]
        if how != "a captive portal":  # which says 200: what it sends is of another size
            asked += [lambda: w.store.size(sha256), lambda: w.read(SMALL)]
        for ask in asked:
            with pytest.raises(StoreUnavailable):
                await ask()
        w.bucket.heal()
        assert await w.read(SMALL) == SMALL


@pytest.mark.parametrize("body", [SMALL, MIDDLE], ids=["small", "middle"])
@pytest.mark.parametrize("span", [None, Span(5, 10)], ids=["whole", "span"])
async def test_s09_the_page_of_a_portal_is_no_damaged_object(tmp_path, body, span):
    async with world(tmp_path) as w:
        w.plant(body)
        w.bucket.rule("GetObject", garbage(b"<html>please log in"))
        with pytest.raises(StoreUnavailable):
            await w.read(body, span)
        w.bucket.heal()
        assert w.stored(body)  # nothing was set aside
        assert await w.read(body, span) == (body if span is None else body[5:10])


async def _first(found: AsyncIterator[Any]) -> Any:
    async for each in found:
        return each
    return None


async def test_s09_a_bucket_that_went_away_is_told_from_an_object_that_did(tmp_path):
    async with world(tmp_path) as w:
        w.plant(SMALL)
        w.bucket.name = "renamed"
        with pytest.raises(StoreAway):
            await w.store.size(ref_of(SMALL).sha256)
        with pytest.raises(StoreAway):
            await w.read(SMALL)
        with pytest.raises(StoreAway, match="does not exist"):
            await w.store.check()
        w.bucket.name = "artifacts"
        assert await w.read(SMALL) == SMALL


# --- S10 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [3600.0, -3600.0], ids=["ahead", "behind"])
async def test_s10_another_clock_is_taken_over(tmp_path, ahead):
    async with world(tmp_path) as w:
        w.bucket.ahead = ahead
        await w.put(SMALL)
        refused = [call for call in w.bucket.history if call.code == "RequestTimeTooSkewed"]
        assert len(refused) == 1
        assert await w.read(SMALL) == SMALL
        assert await w.store.size(ref_of(SMALL).sha256) == len(SMALL)
        await w.put(BIG)
        await w.store.check()
        found = [(ref, age) async for ref, age in w.store.scan()]
        assert {ref for ref, _ in found} == {ref_of(SMALL), ref_of(BIG)}
        assert all(age < 60 for _, age in found)  # by the clock of the bucket
        assert [c for c in w.bucket.history if c.code == "RequestTimeTooSkewed"] == refused


async def test_s10_a_store_starts_with_another_clock(tmp_path):
    async with world(tmp_path, Bucket(ahead=7200.0)) as w:
        await w.put(SMALL)
        assert w.stored(SMALL)


# --- S11, S12 --------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["one", "parts"])
@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict"])
async def test_s11_a_name_that_is_taken_by_the_same_bytes_is_a_success(tmp_path, body, code):
    async with world(tmp_path) as w:
        w.plant(body)
        status = 412 if code == "PreconditionFailed" else 409
        w.bucket.rule("PutObject", refuse(status, code), nth=0)
        w.bucket.rule("CompleteMultipartUpload", refuse(status, code), nth=0)
        await w.put(body)
        assert w.stored(body)
        # What may still be open is known to whoever tidies up; where the bucket can list or not.
        assert set(w.bucket.contents.uploads) <= {intent.upload for intent in w.intents.held.values()}
        await tidied(w)


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["one", "parts"])
async def test_s11_a_name_that_is_taken_by_other_bytes_is_told_and_they_are_kept(tmp_path, body):
    async with world(tmp_path) as w:
        w.bucket.plant(key_of(body), b"something else")
        w.bucket.rule("PutObject", refuse(412, "PreconditionFailed"))
        w.bucket.rule("CompleteMultipartUpload", refuse(412, "PreconditionFailed"))
        with pytest.raises(StoreUnavailable):
            await w.put(body)
        assert w.bucket.objects[key_of(body)].data == b"something else"
        if body is SMALL:
            assert "store_conflict" in w.heard.warnings


async def test_s11_many_writers_of_one_name_make_one_object(tmp_path):
    async with world(tmp_path) as one:
        other = World(one.bucket, tmp_path)
        other.store = S3Store(
            one.bucket.options(prefix=PREFIX, part_size=PART), intents=other.intents, rng=lambda: 0.01
        )
        await other.store.start()
        await asyncio.gather(*(w.put(body) for w in (one, other) for body in (BIG, SMALL, BIG)))
        await other.store.close()
        assert one.stored(BIG)
        assert one.stored(SMALL)
        assert len(one.bucket.objects) == 2
        assert (one.open_uploads, one.intents.held, other.intents.held) == (0, {}, {})


async def test_s12_a_bucket_without_conditional_writes_is_good_enough(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("*", ignore("If-None-Match", "If-Match"))
        for _ in range(2):
            await w.put(SMALL)
            await w.put(BIG)
        assert w.stored(SMALL)
        assert w.stored(BIG)
        writes = ("PutObject", "CompleteMultipartUpload")
        assert not [c for c in w.bucket.history if c.op in writes and "if-none-match" in c.headers]


# --- S13 -------------------------------------------------------------------------------------

_ENDLESS = (
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>'
    b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
)
PAGES = {
    "html": garbage(),
    "not xml": garbage(b"<ListBucketResult", "application/xml"),
    "empty": garbage(b"", "application/xml"),
    "another document": garbage(b"<Error><Code>InternalError</Code></Error>", "application/xml"),
    "no end": garbage(_ENDLESS, "application/xml"),
    "no next page": garbage(_ENDLESS.replace(b"again", b""), "application/xml"),
    "refused": refuse(500),
    "silent": stall(),
}


@pytest.mark.parametrize("how", PAGES)
@pytest.mark.parametrize("page", [0, 1], ids=["first page", "second page"])
async def test_s13_a_list_that_makes_no_sense_is_never_an_end(tmp_path, how, page):
    async with world(tmp_path, tries=2) as w:
        for number in range(1100 if page else 3):
            body = b"%d" % number
            w.bucket.plant(key_of(body), body)
        w.bucket.rule("ListObjectsV2", PAGES[how], nth=range(page, 1000))
        async with asyncio.timeout(20):
            with pytest.raises(StoreUnavailable):
                async for _ in w.store.scan():
                    pass


async def test_s13_requests_never_wait_for_lists(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("List*", stall())
        await w.put(SMALL)
        await w.put(BIG)
        assert await w.read(BIG) == BIG
        assert await w.store.size(ref_of(SMALL).sha256) == len(SMALL)
        await w.store.delete(ref_of(SMALL).sha256)
        await w.store.check()
        assert not [call for call in w.bucket.history if call.op.startswith("List")]


async def test_s13_a_late_list_is_a_list(tmp_path):
    async with world(tmp_path) as w:
        w.plant(SMALL)
        w.bucket.rule("ListObjectsV2", delay(0.1))
        assert [ref async for ref, _ in w.store.scan()] == [ref_of(SMALL)]


async def test_s13_a_wrong_etag_of_a_part_costs_another_upload(tmp_path):
    async with world(tmp_path) as w:
        w.bucket.rule("UploadPart", wrong_etag(), nth=0)
        await w.put(BIG)
        assert w.stored(BIG)
        await until(lambda: not w.open_uploads and not w.intents.held)


# --- S14 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [Span(0, 10), Span(5, 300_000), Span(MIB - 7, MIB)])
async def test_s14_a_bucket_that_ignores_ranges_never_shifts_bytes(tmp_path, span):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", ignore("Range"))
        assert await w.read(MIDDLE, span) == MIDDLE[span.start : span.stop]


async def test_s14_nor_when_it_forgets_them_half_way(tmp_path):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", cut(300_000), nth=0)
        w.bucket.rule("GetObject", ignore("Range"))
        assert await w.read(MIDDLE) == MIDDLE


def _says(content_range: str) -> Action:
    def alter(reply: Reply) -> None:
        reply.headers["Content-Range"] = content_range

    return Action(alter=alter)


@pytest.mark.parametrize(
    "content_range",
    [f"bytes 6-10/{MIB}", f"bytes 5-9/{MIB}", f"bytes 5-11/{MIB}", "bytes 5-10/*", "nonsense", ""],
)
async def test_s14_a_range_under_another_name_gives_no_byte(tmp_path, content_range):
    async with world(tmp_path) as w:
        w.plant(MIDDLE)
        w.bucket.rule("GetObject", _says(content_range))
        with pytest.raises(StoreUnavailable):
            await w.store.open(ref_of(MIDDLE), Span(5, 11))
        assert w.stored(MIDDLE)
