"""B1 to B12 of `ports.BlobStore`, for every kind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactproxy import failpoints, stores
from artifactproxy.errors import BlobMissing, StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import BlobStore, LocalFile
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
        assert box.leftovers() == []
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

    async with asyncio.timeout(10):
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
    with pytest.raises(BlobMissing):
        await store.locate(ref_of(b"never put"))


async def test_b9_a_blob_of_the_wrong_size_is_missing_and_can_be_put_again(
    store: BlobStore, box: Stores
) -> None:
    body = b"whole"
    ref = ref_of(body)
    await store.put_bytes(ref, body)
    box.damage(ref.sha256)
    with pytest.raises(BlobMissing):
        await store.locate(ref)
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
    assert box.leftovers() == []
    for ref, whole in ((ref_of(body), body), (ref_of(body + b"!"), body + b"!")):
        size = await store.size(ref.sha256)
        assert size in (None, ref.size)
        if size:
            assert await read(store, ref) == whole


async def test_b11_a_put_cancelled_in_the_queue_leaves_nothing(store: BlobStore, box: Stores) -> None:
    failpoints.arm("tmp.fsynced=sleep:0.02")
    bodies = [os.urandom(1000) for _ in range(24)]
    tasks = [asyncio.create_task(store.put(ref_of(body), temp_with(box, body))) for body in bodies]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert box.leftovers() == []
    assert await scanned(store) == {}


@pytest.mark.parametrize("point", ["tmp.opened", "tmp.full", "tmp.fsynced", "blob.linked", "dir.fsynced"])
@pytest.mark.parametrize(
    ("errno", "fault"), [("EIO", StoreUnavailable), ("ENOSPC", StoreFull), ("EDQUOT", StoreFull)]
)
async def test_b12_a_failing_medium(
    store: BlobStore, box: Stores, point: str, errno: str, fault: type[Exception]
) -> None:
    body = b"not to be had"
    failpoints.arm(f"{point}=raise:{errno}@1")
    with pytest.raises(fault) as caught:
        await store.put_bytes(ref_of(body), body)
    assert type(caught.value) is fault
    assert str(box.temp().parent) not in str(caught.value)
    assert await store.size(ref_of(body).sha256) is None
    assert box.leftovers() == []
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
        pytest.skip("this kind has no local files")
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
