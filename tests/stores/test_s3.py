"""The S3 store beside its uploads: how it starts, reads, lists, ages, sends away, and ends."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from artifactproxy.cli_s3 import s3_check
from artifactproxy.errors import BlobMissing, StoreAway, StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.stores.s3 import owner, reading, wire
from artifactproxy.stores.s3.owner import ended, this_owner
from artifactproxy.stores.s3.probe import Check, Probe
from artifactproxy.stores.s3.retries import STOCK, Retries
from artifactproxy.stores.s3.store import S3Store
from artifactproxy.stores.s3.trouble import Answered, Unreached
from tests.bucket import Bucket, cut, delay, flip, garbage, ignore, refuse, reset, stall
from tests.chaos.certs import Authority
from tests.contracts.harness_s3 import MemoryIntents
from tests.needs import needs
from tests.stores.s3_tools import MIB, PART, World, body_of, key_of, read, ref_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Bucket() as bucket:
        yield World(bucket, tmp_path)


async def refused(world: World, **over: Any) -> str:
    """The sentence with which a start ends."""
    store = S3Store(world.options(**over), intents=MemoryIntents())
    with pytest.raises(StoreUnavailable) as caught:
        await store.start()
    assert caught.value.retry_after is None
    return caught.value.detail


# --- starting


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"bucket": "another"}, ("'another' does not exist", "store.bucket")),
        ({"bucket": "No Name"}, ("no name that S3 allows", "store.bucket")),
        ({"access_key": "nobody"}, ("access key", "store.access_key")),
        ({"secret_key": "wrong"}, ("signature", "store.secret_key")),
        ({"region": "eu-1"}, ("region", "store.region")),
        ({"endpoint": "http://127.0.0.1:9"}, ("nothing can be reached", "store.endpoint")),
        ({"endpoint": "http://no-such-host.invalid"}, ("not known", "store.endpoint")),
        ({"ca": "/nowhere.pem"}, ("/nowhere.pem", "store.ca")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_wrong_setting_is_told_with_its_mend(
    world: World, over: dict[str, str], words: tuple[str, ...]
) -> None:
    detail = await refused(world, **over)
    assert all(word in detail for word in words), detail
    assert "secret" not in detail.replace("store.secret_key", "")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (refuse(403, "AccessDenied"), ("refuses access", "policy")),
        (refuse(301, "PermanentRedirect", x_amz_bucket_region="eu-9"), ("region 'eu-9'", "store.region")),
        (refuse(301, "PermanentRedirect"), ("is not at", "store.endpoint")),
        (refuse(404, "Whatever"), ("404", "store.endpoint")),
        (refuse(400, "ExpiredToken"), ("have ended", "renew")),
        (refuse(403, "RequestTimeTooSkewed"), ("clock",)),
        (garbage(), ("does not speak S3", "store.endpoint")),
        (stall(), ("in time", "store.endpoint")),
        (reset(), ("breaks off", "store.endpoint")),
    ],
)
async def test_what_a_bucket_refuses_at_the_start_is_told_with_its_mend(
    world: World, action: Any, words: tuple[str, ...]
) -> None:
    world.bucket.rule("ListObjectsV2", action)
    detail = await refused(world, read=0.3)
    assert all(word in detail for word in words), detail


async def test_without_any_keys_the_start_says_where_they_may_stand(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "store.access_key" in await refused(world, access_key="", secret_key="")


@needs("openssl")
async def test_a_private_authority_is_trusted_beside_the_systems(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    async with Bucket(tls=authority.server("localhost")) as bucket:
        world, endpoint = World(bucket, tmp_path), f"https://localhost:{bucket.port}"
        assert "store.ca" in await refused(world, endpoint=endpoint)
        body, ref = body_of(2 * PART)
        async with world.store(ca=str(authority.pem), endpoint=endpoint) as store:
            await store.put(ref, world.file(body))
            assert await read(store, ref) == body


async def test_virtual_addressing_and_odd_prefixes(world: World) -> None:
    body, ref = body_of(1000)
    for prefix in ("", "a b/ü+=&%2F/~x/", "x" * 200 + "/"):
        async with world.store(prefix=prefix) as store:
            await store.put_bytes(ref, body)
            assert await read(store, ref) == body
            assert [found async for found, _ in store.scan()] == [ref]
        key = f"{prefix}blobs/sha256/{ref.sha256[:2]}/{ref.sha256}"
        assert world.bucket.objects[key].data == body


# --- reading


async def test_a_read_is_one_get(world: World) -> None:
    body, ref = body_of(3 * MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        before = len(world.bucket.history)
        assert await read(store, ref) == body
        assert await read(store, ref, Span(5, 99)) == body[5:99]
        assert [call.op for call in world.bucket.history[before:]] == ["GetObject", "GetObject"]


@pytest.mark.parametrize("span", [Span(0, 3 * MIB), Span(1, 2 * MIB + 7)], ids=["whole", "part"])
@pytest.mark.parametrize("action", [reset(MIB), cut(MIB), stall(MIB), reset(0)])
async def test_s02_a_body_that_breaks_off_is_continued(world: World, span: Span, action: Any) -> None:
    body, ref = body_of(3 * MIB)
    async with world.store(read=1.5) as store:
        await store.put_bytes(ref, body)
        rule = world.bucket.rule("GetObject", action, nth=range(2))
        assert await read(store, ref, span) == body[span.start : span.stop]
    assert rule.hits == 2
    *_, last = world.bucket.calls("GetObject")
    if action.after:
        assert last.headers["if-match"] == world.bucket.objects[key_of(ref)].etag
        assert last.headers["range"].startswith("bytes=")


async def test_s02_a_body_that_always_breaks_off_ends_in_a_fault(world: World) -> None:
    body, ref = body_of(3 * MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", cut(1000))
        with pytest.raises(StoreUnavailable):
            await read(store, ref)
    assert world.bucket.count("GetObject") == 1 + reading.RESUMES


async def test_progress_is_rewarded_with_further_tries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PROGRESS", 200_000)
    body, ref = body_of(3 * MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", cut(300_000), nth=range(8))
        assert await read(store, ref) == body


async def test_s14_a_range_that_is_ignored_shifts_no_byte(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, ref = body_of(MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", ignore("Range"))
        assert await read(store, ref, Span(1000, 500_000)) == body[1000:500_000]
        monkeypatch.setattr(reading, "SKIPPED", 10_000)
        with pytest.raises(StoreAway):
            await read(store, ref, Span(20_000, 500_000))


async def test_s07_the_end_of_a_wrong_blob_is_never_given(world: World) -> None:
    body, ref = body_of(MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", flip(0))
        got = b""
        with pytest.raises(StoreUnavailable):
            async for piece in await store.open(ref, Span(0, ref.size)):
                got += piece
        assert len(got) <= ref.size - reading.HOLD
        assert world.held(ref) is None
        assert [name for name in world.bucket.objects if name.startswith(f"p/quarantine/{ref.sha256}.")]
        assert world.told.count("blob_set_aside") == 1


async def test_s07_a_small_wrong_blob_is_missing_before_any_byte(world: World) -> None:
    body, ref = body_of(1000)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.damage(key_of(ref), body[::-1])
        with pytest.raises(BlobMissing) as caught:
            await store.open(ref, Span(0, 1000))
        assert caught.value.damaged


async def test_a_blob_that_is_replaced_while_it_is_read_in_part_is_told(world: World) -> None:
    body, ref = body_of(3 * MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", cut(MIB), nth=0)
        chunks = await store.open(ref, Span(1, ref.size))
        await anext(chunks)
        world.bucket.plant(key_of(ref), b"?" * ref.size)
        with pytest.raises(StoreUnavailable):
            [piece async for piece in chunks]


async def test_a_whole_read_goes_on_when_the_same_bytes_were_put_again(world: World) -> None:
    body, ref = body_of(3 * MIB)
    async with world.store() as store:
        await store.put_bytes(ref, body)
        world.bucket.rule("GetObject", cut(MIB), nth=0)
        chunks = await store.open(ref, Span(0, ref.size))
        first = await anext(chunks)
        world.bucket.objects[key_of(ref)].etag = '"of other parts"'
        assert first + b"".join([piece async for piece in chunks]) == body


async def test_slow_readers_leave_connections_for_what_is_stored(world: World) -> None:
    body, ref = body_of(4 * MIB)
    async with world.store(connections=5, read=2.0) as store:
        await store.put_bytes(ref, body)
        open_ = [await store.open(ref, Span(0, ref.size)) for _ in range(3)]
        for chunks in open_:
            await anext(chunks)
        with pytest.raises(StoreAway, match="busy"):
            await store.open(ref, Span(0, ref.size))
        other, its = body_of(1000)
        await store.put_bytes(its, other)
        for chunks in open_:
            await chunks.aclose()  # type: ignore[attr-defined]
        assert await read(store, ref) == body


async def test_readers_that_leave_give_their_places_back(world: World) -> None:
    body, ref = body_of(2 * MIB)
    async with world.store(connections=3) as store:
        await store.put_bytes(ref, body)
        for _ in range(10):
            chunks = await store.open(ref, Span(0, ref.size))
            await anext(chunks)
            del chunks
            gc.collect()
            await asyncio.sleep(0)
        task = asyncio.create_task(read(store, ref))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert await read(store, ref) == body


# --- absence, ages, lists


async def test_s09_a_head_that_says_404_is_asked_what_is_missing(world: World) -> None:
    _, ref = body_of(10)
    async with world.store() as store:
        assert await store.size(ref.sha256) is None
        world.bucket.rule("GetObject", refuse(404, "NoSuchBucket"))
        world.bucket.rule("HeadObject", refuse(404, "NoSuchBucket"))
        for asked in (store.size(ref.sha256), store.open(ref, Span(0, 10)), store.open(ref, Span(0, 0))):
            with pytest.raises(StoreAway):
                await asked
        world.bucket.heal()
        world.bucket.rule("GetObject", refuse(404))
        world.bucket.rule("HeadObject", refuse(404))
        with pytest.raises(StoreAway):
            await store.size(ref.sha256)


async def test_b7_the_young_are_not_deleted_and_the_age_is_the_servers(world: World) -> None:
    body, ref = body_of(10)
    async with world.store() as store:
        world.bucket.plant(key_of(ref), body, age=100)
        await store.delete(ref.sha256, older_than=1000)
        assert await store.size(ref.sha256) == 10
        world.bucket.ahead = 500.0  # below what a signature tolerates
        await store.put_bytes(ref, body)
        await store.delete(ref.sha256, older_than=100)
        assert await store.size(ref.sha256) == 10
        world.bucket.ahead = 700.0
        await store.delete(ref.sha256, older_than=100)
        assert await store.size(ref.sha256) is None


async def test_s13_pages_follow_each_other_to_the_last(world: World) -> None:
    refs = set()
    for number in range(2345):
        ref = ref_of(b"%d" % number)
        refs.add(ref)
        world.bucket.plant(key_of(ref), b"%d" % number)
    async with world.store() as store:
        assert {ref async for ref, _ in store.scan()} == refs
    assert world.bucket.count("ListObjectsV2") == 1 + 3


async def test_s12_a_full_bucket_is_no_bucket_that_is_away(world: World) -> None:
    body, ref = body_of(2 * PART)
    for code, status in (("XMinioStorageFull", 507), ("QuotaExceeded", 403)):
        for op in ("PutObject", "UploadPart", "CreateMultipartUpload"):
            world.bucket.heal()
            world.bucket.rule(op, refuse(status, code))
            async with world.store() as store:
                with pytest.raises(StoreFull):
                    await (
                        store.put_bytes(*reversed(body_of(9)))
                        if op == "PutObject"
                        else store.put(ref, world.file(body))
                    )
    assert world.files == []


# --- trying again


class _Trouble:
    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def retries(**over: Any) -> Retries:
    known: dict[str, Any] = {
        "silence": 1.0, "renew": lambda: None, "shift": lambda _: None, "rng": lambda: 0.0, "observer": None,
    }  # fmt: skip
    return Retries(3, **known | over)


SLOW = Answered("op", 503, "SlowDown", {})


async def test_s01_tries_are_counted_and_waits_grow_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("artifactproxy.stores.s3.retries.asyncio.sleep", sleep)
    asked = _Trouble(SLOW)
    with pytest.raises(StoreAway):
        await Retries(
            9, silence=1.0, renew=lambda: None, shift=lambda _: None, rng=lambda: 1.0, observer=None
        ).run("op", asked)
    assert asked.tries == 9
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_s01_further_tries_are_a_common_stock() -> None:
    one = retries()
    for _ in range(int(STOCK / 2)):
        with pytest.raises(StoreAway):
            await one.run("op", _Trouble(SLOW))
    spent = _Trouble(SLOW)
    with pytest.raises(StoreAway):
        await one.run("op", spent)
    assert spent.tries == 1
    for _ in range(10):
        await one.run("op", _Trouble("fine"))
    again = _Trouble(SLOW, "fine")
    assert await one.run("op", again) == "fine"


async def test_s08_credentials_are_renewed_once_and_no_more() -> None:
    renewed: list[int] = []
    asked = _Trouble(Answered("op", 403, "InvalidAccessKeyId", {}))
    with pytest.raises(StoreAway):
        await retries(renew=lambda: renewed.append(1)).run("op", asked)
    assert (asked.tries, len(renewed)) == (2, 1)


async def test_what_cannot_change_is_not_tried_again() -> None:
    for code, status in (("AccessDenied", 403), ("NoSuchKey", 404), ("NotImplemented", 501), ("", 412)):
        asked = _Trouble(Answered("op", status, code, {}))
        with pytest.raises(Answered):
            await retries().run("op", asked)
        assert asked.tries == 1
    asked = _Trouble(Unreached("op", "connect"), "fine")
    assert await retries().run("op", asked) == "fine"


async def test_a_bucket_that_is_away_is_told_once_and_so_is_its_return(world: World) -> None:
    async with world.store() as store:
        world.bucket.rule("*", refuse(503, "SlowDown"))
        for _ in range(3):
            with pytest.raises(StoreAway):
                await store.size("0" * 64)
        world.bucket.heal()
        await store.size("0" * 64)
        await store.size("0" * 64)
    assert (world.told.count("store_away"), world.told.count("store_back")) == (1, 1)


# --- ending


async def test_a_put_under_way_ends_before_the_store_does(world: World) -> None:
    body, ref = body_of(3 * PART)
    async with world.store() as store:
        world.bucket.rule("UploadPart", delay(0.05))
        task = asyncio.create_task(store.put(ref, world.file(body)))
        await asyncio.sleep(0.02)
    await task
    assert world.held(ref) == body


async def test_closing_does_not_wait_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifactproxy.stores.s3.store.CLOSING_SECONDS", 0.1)
    body, ref = body_of(3 * PART)
    async with world.store() as store:
        world.bucket.rule("UploadPart", stall())
        task = asyncio.create_task(store.put(ref, world.file(body)))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await task


def test_an_owner_is_dead_only_if_that_is_certain() -> None:
    mine = this_owner()
    assert not ended(mine)
    assert ended(mine.rpartition(".")[0] + ".1")
    assert not ended("elsewhere/" + mine.partition("/")[2].rpartition(".")[0] + ".1")
    assert not ended("what is this")


def test_an_owner_in_another_container_of_this_host_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers with the network of the host have its name and its kernel, and process ids of their own."""
    host, _, process = this_owner().partition("/")
    there = f"{host.rpartition('+')[0]}+1234/{process.rpartition('.')[0]}.1"
    assert not ended(there)
    monkeypatch.setattr(owner, "_SPACE", Path("/nowhere"))
    assert not ended(this_owner())
    assert ended(this_owner().rpartition(".")[0] + ".1")


# --- s3-check


async def tried(world: World, **over: Any) -> dict[str, Check]:
    return {check.name: check async for check in Probe(world.options(**over)).checks()}


async def test_s3_check_finds_a_good_bucket_good_and_leaves_nothing(world: World) -> None:
    world.bucket.plant("p/mine", b"stays")
    checks = await tried(world)
    assert len(checks) == 16
    assert [check for check in checks.values() if not check.good] == []
    assert set(world.bucket.objects) == {"p/mine"}
    assert world.bucket.contents.uploads == {}
    written = [call.key for call in world.bucket.history if call.method in ("PUT", "POST", "DELETE")]
    assert all(key.startswith("p/s3-check-") for key in written)


@pytest.mark.parametrize(
    ("op", "action", "name"),
    [
        ("PutObject", refuse(403, "AccessDenied"), "put"),
        ("PutObject", refuse(400, "MissingContentMD5"), "put"),
        ("GetObject", ignore("Range"), "range"),
        ("GetObject", ignore("If-Match"), "conditional GET"),
        ("PutObject", ignore("If-None-Match"), "conditional PUT"),
        ("CompleteMultipartUpload", refuse(501, "NotImplemented"), "multipart"),
        ("ListMultipartUploads", refuse(501, "NotImplemented"), "list uploads"),
        ("CopyObject", refuse(403, "AccessDenied"), "copy"),
        ("DeleteObject", refuse(403, "AccessDenied"), "delete"),
        ("GetObject", flip(), "get"),
        ("HeadObject", refuse(500), "abort"),
    ],
)
async def test_s3_check_names_what_is_lacking(world: World, op: str, action: Any, name: str) -> None:
    world.bucket.rule(op, action)
    checks = await tried(world, tries=1)
    if op == "HeadObject":
        assert checks["abort"].good, "a HEAD that fails is asked again as a GET"
        return
    assert not checks[name].good
    assert checks[name].mend
    if "MD5" in str(action.reply().code if action.reply else ""):
        assert "store.checksums" in checks[name].mend


async def test_s3_check_tells_a_clock_that_is_off(world: World) -> None:
    world.bucket.ahead = 600.0
    assert not (await tried(world))["clock"].good


def test_s3_check_as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.contracts.harness_s3 import beside

    bucket = beside().serve(Bucket())
    config = tmp_path / "c.yaml"
    text = f"data: {tmp_path}\nstore: {{kind: s3, bucket: NAME, endpoint: '{bucket.endpoint}', region: us-east-1, "
    text += "access_key: {env: KEY}, secret_key: {env: WORD}, prefix: 'x/'}\n"
    monkeypatch.setenv("KEY", "access")
    monkeypatch.setenv("WORD", "secret/+word")

    def run(name: str, *more: str) -> tuple[int, str]:
        config.write_text(text.replace("NAME", name))
        done = CliRunner().invoke(s3_check, ["--config", str(config), *more], standalone_mode=False)
        assert done.exception is None, done.exception
        return done.return_value, done.output

    code, output = run("artifacts")
    assert code == 0, output
    assert "ok\tmultipart" in output
    assert output.endswith("the bucket does what is needed\n")
    code, output = run("nope")
    assert code == 1
    assert "create it, or set store.bucket" in output
    code, output = run("artifacts", "--json")
    found = json.loads(output)
    assert (code, found["good"], found["bucket"]) == (0, True, "artifacts")
    assert {check["name"] for check in found["checks"]} >= {"put", "range", "multipart", "clock"}
    assert "secret/+word" not in output
    config.write_text(f"data: {tmp_path}\n")
    done = CliRunner().invoke(s3_check, ["--config", str(config)])
    assert done.exit_code == 2


def test_options_hide_the_secret() -> None:
    options = wire.S3Options("b", access_key="a", secret_key="very secret", session_token="hidden")
    assert "very secret" not in repr(options)
    assert dataclasses.replace(options, bucket="c").secret_key == "very secret"
    assert isinstance(BlobRef("0" * 64, 0), BlobRef)
