"""B1 to B17 of `ports.BlobStore`, for every kind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactproxy import failpoints, stores
from artifactproxy.errors import BlobMissing, Fault, StoreAway, StoreFull, StoreUnavailable, UpstreamBroken
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import BlobStore, Intake, LocalFile
from tests.contracts.harness import STORES, Stores, harness_of, open_files


def ref_of(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


def temp_with(box: Stores, body: bytes) -> Path:
    path = box.temp()
    path.write_bytes(body)
    return path


async def read(store: BlobStore, ref: BlobRef, span: Span | None = None) -> bytes:
    chunks = await store.open(ref, span or Span(0, ref.size))
    return b"".join([chunk async for chunk in chunks])


async def scanned(store: BlobStore) -> dict[BlobRef, float]:
    return {ref: age async for ref, age in store.scan()}


async def is_missing(store: BlobStore, ref: BlobRef) -> None:
    """B9: where locate helps it tells of absence, elsewhere open does."""
    with pytest.raises(BlobMissing):
        if await store.locate(ref) is None:
            await store.open(ref, Span(0, ref.size))


async def nothing_left(box: Stores) -> None:
    """Some clean up behind the caller's back."""
    for _ in range(2_000):
        if not box.leftovers():
            break
        await asyncio.sleep(0.01)
    assert box.leftovers() == []


@pytest.fixture(params=sorted(stores.KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    box: Stores = harness_of(STORES, request.param, tmp_path)
    return box


@pytest.fixture
async def store(box: Stores) -> AsyncIterator[BlobStore]:
    before = open_files()
    async with box.open() as store:
        yield store
        failpoints.arm("")
        await nothing_left(box)
    gc.collect()
    assert open_files() <= before


def test_every_kind_loads_its_class() -> None:
    assert all(hasattr(load(), "put") for load in stores.KINDS.values())
    assert set(STORES) == set(stores.KINDS)


async def test_b1_put_then_read(store: BlobStore, box: Stores) -> None:
    body = os.urandom(700_001)
    path = temp_with(box, body)
    await store.put(ref_of(body), path)
    assert not path.exists()
    assert await read(store, ref_of(body)) == body
    assert await store.size(ref_of(body).sha256) == len(body)


async def test_b1_nobody_ever_sees_a_part(store: BlobStore, box: Stores) -> None:
    body = os.urandom(3_000_000)
    ref = ref_of(body)
    seen: list[int] = []

    async def watch() -> None:
        while not seen:
            size = await store.size(ref.sha256)
            if size is not None:
                seen.append(size)
                assert await read(store, ref) == body
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(watch(), store.put(ref, temp_with(box, body)))
    assert seen == [len(body)]


async def test_b1_a_file_of_another_size_is_refused(store: BlobStore, box: Stores) -> None:
    ref = ref_of(b"what was promised")
    with pytest.raises(StoreUnavailable):
        await store.put(ref, temp_with(box, b"short"))
    assert await store.size(ref.sha256) is None


async def test_b2_put_twice_and_from_many_at_once(store: BlobStore, box: Stores) -> None:
    bodies = [bytes([number]) * (number * 999) for number in range(8)]
    await asyncio.gather(
        *(store.put(ref_of(body), temp_with(box, body)) for body in bodies * 5),
        *(store.put_bytes(ref_of(body), body) for body in bodies * 5),
    )
    assert set(await scanned(store)) == {ref_of(body) for body in bodies}
    for body in bodies:
        assert await read(store, ref_of(body)) == body


async def test_b2_two_instances_put_the_same(store: BlobStore, box: Stores) -> None:
    async with box.open() as other:
        body = os.urandom(100_000)
        await asyncio.gather(*(each.put_bytes(ref_of(body), body) for each in (store, other) * 10))
        assert await read(other, ref_of(body)) == body


async def test_b3_put_makes_young(store: BlobStore, box: Stores) -> None:
    body = b"young again"
    await store.put_bytes(ref_of(body), body)
    box.clock.now += 1000
    assert (await scanned(store))[ref_of(body)] == pytest.approx(1000, abs=1)
    await store.put(ref_of(body), temp_with(box, body))
    assert (await scanned(store))[ref_of(body)] == pytest.approx(0, abs=1)


async def test_b4_open_raises_before_any_byte(store: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await store.open(ref_of(b"never put"), Span(0, 1))
    with pytest.raises(BlobMissing):
        await store.open(BlobRef("../../../../etc/passwd", 1), Span(0, 1))


async def test_b4_an_unread_stream_leaves_no_file_open(store: BlobStore) -> None:
    await store.put_bytes(ref_of(b"body"), b"body")
    for _ in range(50):
        chunks = await store.open(ref_of(b"body"), Span(0, 4))
        del chunks
    for _ in range(50):
        chunks = await store.open(ref_of(b"body"), Span(0, 4))
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
    gc.collect()
    await asyncio.sleep(0.01)


async def test_b4_a_cancelled_reader_frees_its_file(store: BlobStore) -> None:
    body = os.urandom(2_000_000)
    await store.put_bytes(ref_of(body), body)
    for laps in range(20):
        task = asyncio.create_task(read(store, ref_of(body)))
        for _ in range(laps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await read(store, ref_of(body)) == body


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.sampled_from([0, 1, 2, 1000, 262_144, 262_145, 600_000]))
async def test_b5_any_span(store: BlobStore, data: st.DataObject, size: int) -> None:
    body = (b"0123456789abcde" * (size // 15 + 1))[:size]
    await store.put_bytes(ref_of(body), body)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert await read(store, ref_of(body), Span(start, stop)) == body[start:stop]


async def test_b6_size_is_a_number_or_known_absence(store: BlobStore) -> None:
    await store.put_bytes(ref_of(b""), b"")
    assert await store.size(ref_of(b"").sha256) == 0
    assert await store.size(ref_of(b"unknown").sha256) is None
    assert await store.size("../../etc/passwd") is None


async def test_b7_delete_is_idempotent_and_readers_finish(store: BlobStore) -> None:
    body = os.urandom(1_000_000)
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    chunks = await store.open(ref, Span(0, ref.size))
    head = await anext(chunks)
    await store.delete(ref.sha256)
    await store.delete(ref.sha256)
    assert await store.size(ref.sha256) is None
    assert head + b"".join([chunk async for chunk in chunks]) == body
    await store.put_bytes(ref, body)
    assert await read(store, ref) == body


async def test_b8_scan_is_complete_while_others_put(store: BlobStore) -> None:
    old = {ref_of(body): body for body in (str(number).encode() for number in range(60))}
    for ref, body in old.items():
        await store.put_bytes(ref, body)

    async def put_more() -> None:
        for number in range(60, 90):
            await store.put_bytes(ref_of(b"%d" % number), b"%d" % number)
            await store.delete(ref_of(b"%d" % number).sha256)

    found, _ = await asyncio.gather(scanned(store), put_more())
    assert set(old) <= set(found)


async def test_b8_scan_of_an_empty_store(store: BlobStore) -> None:
    assert await scanned(store) == {}


async def test_b9_locate(store: BlobStore) -> None:
    body = b"here it lies"
    await store.put_bytes(ref_of(body), body)
    found = await store.locate(ref_of(body))
    if isinstance(found, LocalFile):
        await store.delete(ref_of(body).sha256)
        assert os.pread(found.fd, 100, 0) == body
        assert found.size == len(body)
        os.close(found.fd)
    await is_missing(store, ref_of(b"never put"))


async def test_b9_a_blob_of_the_wrong_size_is_missing_and_can_be_put_again(
    store: BlobStore, box: Stores
) -> None:
    body = b"whole"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    box.damage(ref.sha256)
    await is_missing(store, ref)
    assert await store.size(ref.sha256) is None
    await store.put_bytes(ref, body)
    box.damage(ref.sha256)
    await store.put_bytes(ref, body)
    assert await read(store, ref) == body


async def test_b10_foreign_objects_survive(store: BlobStore, box: Stores) -> None:
    survives = box.litter()
    await store.put_bytes(ref_of(b"body"), b"body")
    assert set(await scanned(store)) == {ref_of(b"body")}
    for name in ("README", "../../README", "", "zz", "AB" * 32):
        with pytest.raises(ValueError, match="sha256"):
            await store.delete(name)
        with pytest.raises(ValueError, match="sha256"):
            await store.put_bytes(BlobRef(name, 4), b"body")
    assert survives()


@pytest.mark.parametrize("laps", range(8))
async def test_b11_a_cancelled_put_leaves_all_or_nothing(store: BlobStore, box: Stores, laps: int) -> None:
    body = os.urandom(200_000 + laps)
    failpoints.arm("tmp.fsynced=sleep:0.01,blob.linked=sleep:0.01")
    for task in (
        asyncio.create_task(store.put(ref_of(body), temp_with(box, body))),
        asyncio.create_task(store.put_bytes(ref_of(body + b"!"), body + b"!")),
    ):
        await asyncio.sleep(0)  # a put that never began has taken nothing over
        for _ in range(laps):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
    await nothing_left(box)
    for ref, whole in ((ref_of(body), body), (ref_of(body + b"!"), body + b"!")):
        size = await store.size(ref.sha256)
        assert size in (None, ref.size)
        if size:
            assert await read(store, ref) == whole


async def test_b11_a_put_cancelled_in_the_queue_leaves_nothing(store: BlobStore, box: Stores) -> None:
    failpoints.arm("tmp.fsynced=sleep:0.2")
    bodies = [os.urandom(1000) for _ in range(24)]
    tasks = [asyncio.create_task(store.put(ref_of(body), temp_with(box, body))) for body in bodies]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await nothing_left(box)
    there = await scanned(store)
    assert set(there) <= {ref_of(body) for body in bodies}
    if box.recalls:
        assert there == {}


@pytest.mark.parametrize(
    ("errno", "fault"), [("EIO", StoreUnavailable), ("ENOSPC", StoreFull), ("EDQUOT", StoreFull)]
)
async def test_b12_a_failing_medium(
    store: BlobStore, box: Stores, errno: str, fault: type[Exception]
) -> None:
    for point, fail in box.breaks.items():
        body = f"not to be had: {point}".encode()
        fail(errno)
        with pytest.raises(fault) as caught:
            await store.put_bytes(ref_of(body), body)
        assert isinstance(caught.value, StoreFull) == (fault is StoreFull)
        assert str(box.temp().parent) not in str(caught.value)
        assert await store.size(ref_of(body).sha256) is None
        await nothing_left(box)
        await store.put_bytes(ref_of(body), body)
        assert await read(store, ref_of(body)) == body


async def test_check_and_close(store: BlobStore, box: Stores) -> None:
    await store.check()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.check()
    with pytest.raises(StoreUnavailable):
        await store.put_bytes(ref_of(b"late"), b"late")
    with pytest.raises(StoreUnavailable):
        await store.put(ref_of(b"late"), temp_with(box, b"late"))


async def test_b13_set_aside(store: BlobStore) -> None:
    body = b"found damaged"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    reading = await store.open(ref, Span(0, ref.size))
    assert await store.set_aside(ref) is True
    assert await store.set_aside(ref) is False
    assert await store.size(ref.sha256) is None
    with pytest.raises(BlobMissing):
        await store.open(ref, Span(0, ref.size))
    assert b"".join([chunk async for chunk in reading]) == body
    await store.put_bytes(ref, body)
    assert await read(store, ref) == body


async def test_b13_set_aside_leaves_what_was_put_meanwhile(store: BlobStore) -> None:
    body = b"put again while it was read"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    opened = await store.locate(ref)
    if not isinstance(opened, LocalFile):
        return  # nobody can have found a local file damaged
    try:
        await store.delete(ref.sha256)
        await store.put_bytes(ref, body)
        assert await store.set_aside(ref, opened) is False
        assert await read(store, ref) == body
    finally:
        os.close(opened.fd)
    again = await store.locate(ref)
    assert isinstance(again, LocalFile)
    try:
        assert await store.set_aside(ref, again) is True
    finally:
        os.close(again.fd)
    assert await store.size(ref.sha256) is None


async def test_b17_tidying_costs_no_blob(store: BlobStore, box: Stores) -> None:
    body = os.urandom(70_000)
    await store.put(ref_of(body), temp_with(box, body))
    assert await store.tidy() == 0, "nothing was left by anybody"
    assert await read(store, ref_of(body)) == body


class Arriving:
    """A body on its way, as its uploader sees it."""

    def __init__(self, body: bytes, *, length: int | None) -> None:
        self.body = body
        self.length = length
        self.written = 0
        self.fault: Fault | None = None
        self._step = asyncio.Event()

    def peek(self, start: int, stop: int) -> bytes:
        assert stop <= self.written
        return self.body[start:stop]

    async def changed(self) -> None:
        await self._step.wait()

    def _stepped(self) -> None:
        self._step.set()
        self._step = asyncio.Event()

    async def arrive(self, upto: int | None = None, *, step: int = 1_000_000) -> None:
        upto = len(self.body) if upto is None else upto
        while self.written < upto:
            self.written = min(self.written + step, upto)
            self._stepped()
            await asyncio.sleep(0.001)

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self._stepped()


async def finish(store: BlobStore, intake: Intake | None, ref: BlobRef, path: Path) -> None:
    """What the owner of a body does once it is verified."""
    await (store.put(ref, path) if intake is None else intake.finish(ref, path))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5 * 2**20, 12_345_678])
async def test_b14_a_body_is_taken_while_it_arrives(
    store: BlobStore, box: Stores, size: int, known: bool
) -> None:
    body = os.urandom(size)
    ref, arriving = ref_of(body), Arriving(body, length=size if known else None)
    intake = await store.begin(ref.sha256, arriving)
    await arriving.arrive()
    assert await store.size(ref.sha256) is None, "nothing is visible before it is verified"
    path = temp_with(box, body)
    await finish(store, intake, ref, path)
    assert not path.exists()
    assert await read(store, ref) == body


async def test_b14_finish_may_come_before_anything_left(store: BlobStore, box: Stores) -> None:
    body = os.urandom(11_000_000)
    arriving = Arriving(body, length=len(body))
    intake = await store.begin(ref_of(body).sha256, arriving)
    arriving.written = len(body)
    await finish(store, intake, ref_of(body), temp_with(box, body))
    assert await read(store, ref_of(body)) == body


@pytest.mark.parametrize("upto", [0, 1, 6_000_000, 12_000_000])
async def test_b14_what_is_abandoned_leaves_nothing(store: BlobStore, box: Stores, upto: int) -> None:
    body = os.urandom(12_000_000)
    arriving = Arriving(body, length=len(body))
    intake = await store.begin(ref_of(body).sha256, arriving)
    await arriving.arrive(upto)
    arriving.fail(UpstreamBroken("it broke off"))
    if intake is not None:
        await intake.abandon()
        await intake.abandon()
    await nothing_left(box)
    assert await scanned(store) == {}
    await store.put(ref_of(body), temp_with(box, body))
    assert await read(store, ref_of(body)) == body


@pytest.mark.parametrize("laps", range(4))
async def test_b14_a_cancelled_finish_leaves_all_or_nothing(store: BlobStore, box: Stores, laps: int) -> None:
    body = os.urandom(12_000_000)
    ref, arriving = ref_of(body), Arriving(body, length=len(body))
    intake = await store.begin(ref.sha256, arriving)
    await arriving.arrive(7_000_000)
    arriving.written = len(body)
    task = asyncio.create_task(finish(store, intake, ref, temp_with(box, body)))
    for _ in range(1 + laps):
        await asyncio.sleep(0.003 * laps)
    task.cancel()
    await asyncio.wait([task])
    await nothing_left(box)
    if await store.size(ref.sha256) is not None:
        assert await read(store, ref) == body


async def test_b14_many_bodies_at_once_share_the_bound(store: BlobStore, box: Stores) -> None:
    bodies = [os.urandom(6_000_000 + number) for number in range(6)]

    async def one(body: bytes) -> None:
        arriving = Arriving(body, length=None)
        intake = await store.begin(ref_of(body).sha256, arriving)
        await arriving.arrive()
        await finish(store, intake, ref_of(body), temp_with(box, body))

    await asyncio.gather(*map(one, bodies))
    assert set(await scanned(store)) == set(map(ref_of, bodies))


def fetch(url: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, method=method, data=b"!" if method == "PUT" else None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as reply:
            return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, b""


async def test_b15_an_address_is_of_a_blob_that_is_there_and_for_get_only(
    store: BlobStore, box: Stores
) -> None:
    body = b"to be had elsewhere"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    wanted = {"media_type": "application/zip", "filename": "a b.zip"}
    address = await store.address(ref, seconds=60, **wanted)
    if address is None:
        return
    status, headers, got = await asyncio.to_thread(fetch, address)
    assert (status, got) == (200, body)
    assert headers["content-type"] == "application/zip"
    assert "a b.zip" in headers["content-disposition"] or "a%20b.zip" in headers["content-disposition"]
    for method in ("PUT", "DELETE", "HEAD"):
        assert (await asyncio.to_thread(fetch, address, method))[0] == 403
    assert await read(store, ref) == body
    for seconds in (0.0, 1e9):
        clamped = await store.address(ref, seconds=seconds, **wanted)
        assert clamped is not None
        assert (await asyncio.to_thread(fetch, clamped))[0] == 200
    box.clock.now += 61
    assert (await asyncio.to_thread(fetch, address))[0] == 403, "it ends by itself"
    for gone in (ref_of(b"never put"), BlobRef("../../x", 1)):
        with pytest.raises(BlobMissing):
            await store.address(gone, seconds=60, **wanted)
    box.damage(ref.sha256)
    with pytest.raises(BlobMissing):
        await store.address(ref, seconds=60, **wanted)


async def test_b16_a_store_that_is_away_says_so(store: BlobStore, box: Stores) -> None:
    if box.away is None:
        return
    body = os.urandom(12_000_000)
    ref, arriving = ref_of(body), Arriving(body, length=len(body))
    await store.put_bytes(ref_of(b"held"), b"held")
    intake = await store.begin(ref.sha256, arriving)
    await arriving.arrive(6_000_000)
    box.away(True)
    await arriving.arrive()
    paths = [temp_with(box, body), temp_with(box, b"one piece")]
    for asked in (
        store.check(),
        store.size(ref_of(b"held").sha256),
        store.size(ref.sha256),
        store.open(ref_of(b"held"), Span(0, 4)),
        store.open(ref_of(b"never put"), Span(0, 4)),
        store.open(ref_of(b""), Span(0, 0)),
        store.address(ref_of(b"held"), seconds=9, media_type="", filename=""),
        store.put_bytes(ref_of(b"!"), b"!"),
        store.put(ref_of(b"one piece"), paths[1]),
        store.delete(ref_of(b"held").sha256),
        store.delete(ref_of(b"held").sha256, older_than=1),
        store.set_aside(ref_of(b"held")),
        scanned(store),
        finish(store, intake, ref, paths[0]),
    ):
        with pytest.raises(StoreAway):
            await asked
    assert [path.read_bytes() for path in paths] == [body, b"one piece"], "the owner may try again"
    box.away(False)
    await store.check()
    await store.put(ref, paths[0])
    await store.put(ref_of(b"one piece"), paths[1])
    assert not any(path.exists() for path in paths)
    assert await read(store, ref) == body
    assert await read(store, ref_of(b"held")) == b"held"
