"""The disk in front of a remote store: what it keeps, what it shares, and what it must never break."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import BlobMissing, Fault, StoreAway, StoreFull, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Growing, LocalFile
from artifactproxy.stores.arrivals import HELD
from artifactproxy.stores.copies import Coldest, TierLimits
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.tier import Tier
from tests.contracts.harness import Time, open_files
from tests.stores.far import PIECE, Far, Heard

MIB = 2**20
LIMITS = TierLimits(small=MIB, shun=0.05, rest=0.0)


def body_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def ref_of(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


@dataclass
class Box:
    """A tier, and what stands behind it; `again` gives another tier on the same folder and bucket."""

    tier: Tier
    far: Far
    heard: Heard
    clock: Time
    root: Path
    again: Callable[..., object]

    def copies(self) -> set[str]:
        return {path.name for path in (self.root / "near/blobs").rglob("*") if path.is_file()}

    def temps(self) -> list[str]:
        return os.listdir(self.root / "near/tmp")

    def temp(self, body: bytes) -> Path:
        path = self.tier.temp_path()
        path.write_bytes(body)
        return path

    async def only_far(self, body: bytes) -> BlobRef:
        """Stored by another machine: the bucket has it, this disk does not."""
        ref = ref_of(body)
        await self.far.put_bytes(ref, body)
        return ref

    async def settled(self) -> None:
        """Until no transfer runs and the folder is within its budget, as far as it will be."""
        async with asyncio.timeout(60):
            while self.tier._arrivals._tasks or not (
                self.tier._copies._counting is None or self.tier._copies._counting.done()
            ):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def standing(
    root: Path, budget: int, limits: TierLimits = LIMITS, clock: Time | None = None
) -> AsyncIterator[Box]:
    clock = clock or Time()
    clock.now = max(clock.now, time.time())  # the kernel dates some reads by itself
    near, far, heard = FsStore(root / "near", fsync=False, clock=clock), Far(root / "far", clock), Heard()
    await near.start()
    await far.start()
    tier = Tier(far, near, budget=budget, observer=heard, clock=clock, limits=limits)
    await tier.start()
    box = Box(tier, far, heard, clock, root, lambda budget=budget: standing(root, budget, limits, clock))
    try:
        await box.settled()
        yield box
    finally:
        failpoints.arm("")
        await tier.close()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    before = open_files()
    async with standing(tmp_path, 64 * MIB) as box:
        yield box
        failpoints.arm("")
        await box.settled()
        assert box.temps() == []
        assert box.far.running == 0
    gc.collect()
    assert open_files() <= before


async def read(tier: Tier, ref: BlobRef, span: Span | None = None) -> bytes:
    chunks = await tier.open(ref, span or Span(0, ref.size))
    return b"".join([chunk async for chunk in chunks])


async def read_until(tier: Tier, ref: BlobRef) -> tuple[bytes, Exception | None]:
    """What a client would have got, and how it ended."""
    got = bytearray()
    try:
        async for chunk in await tier.open(ref, Span(0, ref.size)):
            got += chunk
    except (Fault, BlobMissing) as error:
        return bytes(got), error
    return bytes(got), None


class Whole:
    """A body that has arrived."""

    def __init__(self, body: bytes) -> None:
        self.length = self.written = len(body)
        self.fault = None
        self._body = body

    def peek(self, start: int, stop: int) -> bytes:
        return self._body[start:stop]

    async def changed(self) -> None: ...


# --- what is kept ---------------------------------------------------------------------------


async def test_point_u12_every_path_that_stores_leaves_a_copy(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taking:
        async def finish(self, ref: BlobRef, path: Path) -> None:
            await box.far.put(ref, path)

        async def abandon(self) -> None: ...

    async def begin(sha256: str, body: Growing) -> Taking:
        return Taking()

    bodies = [body_of(300_000, seed) for seed in range(3)]
    refs = [ref_of(body) for body in bodies]
    await box.tier.put(refs[0], box.temp(bodies[0]))
    await box.tier.put_bytes(refs[1], bodies[1])
    assert await box.tier.begin(refs[2].sha256, Whole(bodies[2])) is None
    monkeypatch.setattr(box.far, "begin", begin)
    intake = await box.tier.begin(refs[2].sha256, Whole(bodies[2]))
    assert intake is not None
    await intake.finish(refs[2], box.temp(bodies[2]))
    assert box.copies() == {ref.sha256 for ref in refs}
    assert box.temps() == []
    for ref, body in zip(refs, bodies, strict=True):
        assert await box.far.size(ref.sha256) == len(body)
        located = await box.tier.locate(ref)
        assert located is not None
        assert os.pread(located.fd, ref.size, 0) == body
        os.close(located.fd)
    assert box.far.gets == []
    assert box.heard.counts["tier_hits"] == 3


async def test_a_put_that_fails_far_away_leaves_no_copy_and_the_file_to_its_owner(box: Box) -> None:
    body = body_of(1000)
    path = box.temp(body)
    box.far.away = True
    with pytest.raises(StoreAway):
        await box.tier.put(ref_of(body), path)
    with pytest.raises(StoreAway):
        await box.tier.put_bytes(ref_of(body), body)
    assert box.copies() == set()
    assert box.temps() == [path.name]
    box.far.away = False
    await box.tier.put(ref_of(body), path)
    assert box.copies() == {ref_of(body).sha256}


@pytest.mark.parametrize("errno", ["ENOSPC", "EIO"])
async def test_a_disk_that_fails_fails_no_put(box: Box, errno: str) -> None:
    one, two = body_of(200_000, 1), body_of(200_000, 2)
    for point in ("tmp.fsynced", "blob.linked"):
        # The first passage is that of the store far away.
        failpoints.arm(f"{point}=raise:{errno}@2")
        await box.tier.put(ref_of(one), box.temp(one))
        assert await box.far.size(ref_of(one).sha256) == len(one)
        assert box.copies() == set()
        failpoints.arm("")
        await box.tier.put_bytes(ref_of(two), two)  # left alone for a while
        assert box.copies() == set()
        await asyncio.sleep(2 * LIMITS.shun)
        await box.settled()
    await box.tier.put_bytes(ref_of(two), two)
    assert box.copies() == {ref_of(two).sha256}
    assert "tier_failed" in box.heard.warnings


async def test_delete_and_set_aside_take_both(box: Box) -> None:
    body = body_of(5000)
    ref = ref_of(body)
    for take in (box.tier.delete(ref.sha256), box.tier.set_aside(ref)):
        await box.tier.put_bytes(ref, body)
        await take
        assert box.copies() == set()
        with pytest.raises(BlobMissing):
            await read(box.tier, ref)
    await box.tier.put_bytes(ref, body)
    await box.tier.delete(ref.sha256, older_than=60)  # young: it stays where it counts
    assert await box.tier.size(ref.sha256) == ref.size
    assert await read(box.tier, ref) == body


@pytest.mark.parametrize("take", ["delete", "set_aside"])
async def test_what_is_removed_while_its_copy_is_being_made_leaves_no_copy(
    box: Box, monkeypatch: pytest.MonkeyPatch, take: str
) -> None:
    ref = await box.only_far(body := body_of(300_000))
    putting, go_on = asyncio.Event(), asyncio.Event()
    put = box.tier._disk.put

    async def slow(ref: BlobRef, path: Path) -> None:
        putting.set()
        await go_on.wait()
        await put(ref, path)

    monkeypatch.setattr(box.tier._disk, "put", slow)
    assert await read(box.tier, ref) == body
    async with asyncio.timeout(60):
        await putting.wait()
        removal = asyncio.ensure_future(
            box.tier.delete(ref.sha256) if take == "delete" else box.tier.set_aside(ref)
        )
        await asyncio.sleep(0.02)
        go_on.set()
        await removal
    assert box.copies() == set()
    await box.settled()
    assert box.copies() == set()


async def test_a_blob_that_the_bucket_lost_is_served_from_its_copy(box: Box) -> None:
    body = body_of(5000)
    ref = ref_of(body)
    await box.tier.put_bytes(ref, body)
    await box.far.delete(ref.sha256)
    assert await read(box.tier, ref) == body
    box.far.away = True
    assert await read(box.tier, ref) == body


async def test_a_damaged_copy_is_not_the_blob(box: Box) -> None:
    body = body_of(5000)
    ref = ref_of(body)
    await box.tier.put_bytes(ref, body)
    copy = box.root / "near/blobs/sha256" / ref.sha256[:2] / ref.sha256
    copy.write_bytes(body + b"!")  # of another size: seen when it is opened
    assert await box.tier.locate(ref) is None
    assert await read(box.tier, ref) == body
    await box.settled()
    copy.write_bytes(bytes(ref.size))  # of another content: told by whoever hashed it
    located = await box.tier.locate(ref)
    assert located is not None
    assert await box.tier.set_aside(ref, located) is True
    os.close(located.fd)
    assert await box.tier.size(ref.sha256) == ref.size
    assert await read(box.tier, ref) == body
    assert box.heard.warnings == ["damaged_copy", "damaged_copy"]


async def test_b15_an_address_is_the_remote_stores(box: Box) -> None:
    ref = await box.only_far(b"far")
    box.far.url = "https://bucket.example/far?signed"
    address = await box.tier.address(ref, seconds=60, media_type="text/plain", filename="a.txt")
    assert address == box.far.url
    assert box.far.asked == [(60, "text/plain", "a.txt")]


async def test_check_tells_which_of_the_two_is_unusable(box: Box) -> None:
    await box.tier.check()
    failpoints.arm("tmp.fsynced=raise:EIO")
    (box.root / "near/tmp").rename(box.root / "near/gone")
    with pytest.raises(StoreUnavailable, match="the disk in front of the store"):
        await box.tier.check()
    (box.root / "near/gone").rename(box.root / "near/tmp")
    box.far.away = True
    with pytest.raises(StoreAway, match="bucket"):
        await box.tier.check()


# --- misses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, HELD, HELD + 1, 3 * MIB + 7])
async def test_a12_many_readers_one_get(box: Box, size: int) -> None:
    body = body_of(size)
    ref = await box.only_far(body)
    assert await box.tier.locate(ref) is None
    got = await asyncio.gather(*(read(box.tier, ref) for _ in range(30)))
    assert set(got) == {body}
    assert box.far.gets == [Span(0, size)]
    await box.settled()
    assert box.copies() == {ref.sha256}
    assert await read(box.tier, ref) == body
    assert len(box.far.gets) == 1
    assert (box.heard.counts["tier_misses"], box.heard.counts["tier_hits"]) == (30, 1)


async def test_an_empty_blob(box: Box) -> None:
    ref = await box.only_far(b"")
    assert await read(box.tier, ref) == b""


async def test_a_slow_reader_slows_nobody(box: Box) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    slow = await box.tier.open(ref, Span(0, ref.size))
    head = await anext(slow)
    assert await read(box.tier, ref) == body
    await box.settled()
    await box.tier.delete(ref.sha256)  # what is open stays readable
    assert head + b"".join([chunk async for chunk in slow]) == body


async def test_who_comes_later_reads_what_is_there_at_once(box: Box) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    box.far.held = MIB
    first = await box.tier.open(ref, Span(0, ref.size))
    second = await box.tier.open(ref, Span(0, ref.size))
    got = bytearray()
    while len(got) < MIB:
        got += await anext(second)
    assert got == body[:MIB]
    part = await read(box.tier, ref, Span(10_000, 20_000))
    assert part == body[10_000:20_000]
    assert len(box.far.gets) == 1
    box.far.go.set()
    assert got + b"".join([chunk async for chunk in second]) == body
    assert b"".join([chunk async for chunk in first]) == body


async def test_a_range_is_a_range_of_the_bucket_unless_it_is_here(box: Box) -> None:
    large, small = body_of(2 * MIB, 1), body_of(MIB - 1, 2)
    refs = [await box.only_far(large), await box.only_far(small)]
    assert await read(box.tier, refs[0], Span(MIB, MIB + 10)) == large[MIB : MIB + 10]
    assert box.far.gets == [Span(MIB, MIB + 10)]
    assert box.copies() == set()
    assert await read(box.tier, refs[1], Span(5, 10)) == small[5:10]
    await box.settled()
    assert box.far.gets[1:] in ([Span(0, refs[1].size)], [])
    assert await read(box.tier, refs[1]) == small
    await read(box.tier, refs[0])
    await box.settled()
    del box.far.gets[:]
    assert await read(box.tier, refs[0], Span(MIB, MIB + 10)) == large[MIB : MIB + 10]
    assert box.far.gets == []


async def test_a_range_far_ahead_of_what_arrives_does_not_wait_for_it(box: Box) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    box.far.held = MIB
    first = await box.tier.open(ref, Span(0, ref.size))
    box.far.held = None
    assert await read(box.tier, ref, Span(MIB + 500_000, ref.size)) == body[MIB + 500_000 :]
    assert len(box.far.gets) == 2
    box.far.go.set()
    assert b"".join([chunk async for chunk in first]) == body


async def test_nobody_reads_so_the_get_ends(box: Box) -> None:
    ref = await box.only_far(body_of(2 * MIB))
    box.far.held = MIB
    readers = [await box.tier.open(ref, Span(0, ref.size)) for _ in range(3)]
    for left in (2, 1, 0):
        await anext(readers[left])
        await readers[left].aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.02)
        assert box.far.running == (1 if left else 0)
    await box.settled()
    assert box.temps() == []
    assert box.copies() == set()
    box.far.go.set()
    assert len(await read(box.tier, ref)) == ref.size


@pytest.mark.parametrize("laps", [0, 1, 2, 3, 5, 8, 13])
async def test_cancelled_readers_disturb_nobody(box: Box, laps: int) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    tasks = [asyncio.create_task(read(box.tier, ref)) for _ in range(8)]
    for _ in range(laps):
        await asyncio.sleep(0.001)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert {task.result() for task in tasks[1::2]} == {body}
    assert len(box.far.gets) == 1


async def test_a_reader_that_leaves_before_anything_began(box: Box) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    opening = box.tier.open(ref, Span(0, ref.size))
    opening.send(None)  # up to its first wait: the transfer has not had a turn yet
    opening.close()
    await box.settled()
    assert (box.far.gets, box.temps()) == ([], [])
    assert await read(box.tier, ref) == body


@pytest.mark.parametrize("breaks", [0, 1, PIECE, MIB, 2 * MIB - 1])
async def test_a_remote_store_that_breaks_is_a_fault_and_never_a_short_body(box: Box, breaks: int) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    box.far.breaks = breaks
    ends = await asyncio.gather(*(read_until(box.tier, ref) for _ in range(5)))
    for got, error in ends:
        assert isinstance(error, StoreAway)
        assert got == body[: len(got)]
        assert len(got) <= max(0, ref.size - HELD)
    await box.settled()
    assert box.copies() == set()
    assert box.temps() == []
    box.far.breaks = None
    assert await read(box.tier, ref) == body


async def test_s09_away_before_the_first_byte_is_raised_by_open(box: Box) -> None:
    ref = await box.only_far(body_of(2 * MIB))
    box.far.breaks = 0
    with pytest.raises(StoreAway):
        await box.tier.open(ref, Span(0, ref.size))
    box.far.breaks, box.far.away = None, True
    with pytest.raises(StoreAway):
        await box.tier.open(ref, Span(0, ref.size))
    with pytest.raises(StoreAway):
        await box.tier.open(ref, Span(MIB, MIB + 1))


async def test_s07_wrong_bytes_never_become_a_whole_body(box: Box) -> None:
    body = body_of(2 * MIB)
    ref = await box.only_far(body)
    box.far.lies.add(ref.sha256)
    ends = await asyncio.gather(*(read_until(box.tier, ref) for _ in range(5)))
    for got, error in ends:
        assert isinstance(error, StoreUnavailable)
        assert len(got) <= ref.size - HELD
    assert await box.tier.size(ref.sha256) is None  # set aside
    with pytest.raises(BlobMissing):
        await box.tier.open(ref, Span(0, ref.size))
    assert box.copies() == set()
    assert box.heard.counts["integrity_failures"] == 1


async def test_s07_a_small_blob_is_judged_before_anything_of_it_leaves(box: Box) -> None:
    ref = await box.only_far(body_of(HELD))
    box.far.lies.add(ref.sha256)
    with pytest.raises(BlobMissing):
        await box.tier.open(ref, Span(0, ref.size))
    assert await box.tier.size(ref.sha256) is None


async def test_a_bound_on_what_runs_at_once(tmp_path: Path) -> None:
    async with standing(tmp_path, 64 * MIB, TierLimits(at_once=2, rest=0.0)) as box:
        bodies = [body_of(MIB, seed) for seed in range(6)]
        refs = [await box.only_far(body) for body in bodies]
        box.far.held = 1000
        opening = [asyncio.create_task(read(box.tier, ref)) for ref in refs]
        async with asyncio.timeout(60):
            while box.far.running < len(refs):
                await asyncio.sleep(0.001)
        assert len(box.temps()) <= 2
        box.far.go.set()
        assert await asyncio.gather(*opening) == bodies
        await box.settled()
        assert len(box.copies()) == 2


async def test_closing_ends_what_runs(tmp_path: Path) -> None:
    before = open_files()
    async with standing(tmp_path, 64 * MIB) as box:
        ref = await box.only_far(body_of(2 * MIB))
        box.far.held = MIB
        chunks = await box.tier.open(ref, Span(0, ref.size))
    with pytest.raises(StoreUnavailable):
        async for _ in chunks:
            pass
    assert box.far.running == 0
    assert box.temps() == []
    assert open_files() <= before


# --- a disk that fails while a copy arrives -------------------------------------------------


@pytest.mark.parametrize("passage", [1, 2, 3, 6])
@pytest.mark.parametrize("errno", ["ENOSPC", "EIO"])
async def test_a_disk_that_fails_fails_no_read(box: Box, passage: int, errno: str) -> None:
    body = body_of(6 * MIB)
    ref = await box.only_far(body)
    failpoints.arm(f"tier.write=raise:{errno}@{passage}")
    got = await asyncio.gather(
        *(read(box.tier, ref) for _ in range(4)), read(box.tier, ref, Span(7, 5 * MIB))
    )
    assert set(got) == {body, body[7 : 5 * MIB]}
    await box.settled()
    assert box.copies() == set()
    assert "tier_failed" in box.heard.warnings
    failpoints.arm("")
    gets = len(box.far.gets)
    assert await read(box.tier, ref) == body  # the disk is left alone for a while
    assert len(box.far.gets) == gets + 1
    await asyncio.sleep(2 * LIMITS.shun)
    assert await read(box.tier, ref) == body
    await box.settled()
    assert box.copies() == {ref.sha256}


async def test_s07_whoever_goes_on_alone_still_verifies(box: Box) -> None:
    ref = await box.only_far(body_of(6 * MIB))
    box.far.lies.add(ref.sha256)
    failpoints.arm("tier.write=raise:ENOSPC@3")
    got, error = await read_until(box.tier, ref)
    assert isinstance(error, StoreUnavailable)
    assert len(got) <= ref.size - HELD
    assert await box.tier.size(ref.sha256) is None


async def test_a_disk_that_is_gone_is_a_miss(box: Box) -> None:
    body = body_of(MIB)
    ref = ref_of(body)
    await box.tier.put_bytes(ref, body)
    (box.root / "near/blobs/sha256").rename(box.root / "near/elsewhere")
    assert await box.tier.locate(ref) is None
    assert await read(box.tier, ref) == body
    await box.settled()
    (box.root / "near/elsewhere").rename(box.root / "near/blobs/sha256")


# --- the budget -----------------------------------------------------------------------------


async def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    async with standing(tmp_path, MIB) as box:
        bodies = [body_of(100_000, seed) for seed in range(14)]
        refs = [ref_of(body) for body in bodies]
        for ref, body in zip(refs[:9], bodies, strict=False):
            await box.tier.put_bytes(ref, body)
            box.clock.now += 1000
        assert await read(box.tier, refs[0]) == bodies[0]  # the oldest is used
        held = await box.tier.locate(refs[1])
        assert isinstance(held, LocalFile)
        os.utime(held.fd, (1.0, 1.0))  # and this one is the coldest, but open
        for ref, body in zip(refs[9:], bodies[9:], strict=True):
            box.clock.now += 1000
            await box.tier.put_bytes(ref, body)
            await box.settled()
        assert box.tier._copies.held_bytes <= MIB
        assert refs[0].sha256 in box.copies()
        assert not {ref.sha256 for ref in refs[1:4]} & box.copies()
        assert {ref.sha256 for ref in refs[9:]} <= box.copies()
        assert os.pread(held.fd, 100_000, 0) == bodies[1]
        os.close(held.fd)
        assert box.heard.gauges["tier_bytes"] == len(box.copies()) * 100_000
        assert box.heard.counts["tier_evicted_bytes"] == (14 - len(box.copies())) * 100_000
        assert await read(box.tier, refs[1]) == bodies[1]


async def test_eviction_during_a_read(tmp_path: Path) -> None:
    async with standing(tmp_path, MIB) as box:
        body = body_of(900_000)
        await box.tier.put_bytes(ref_of(body), body)
        chunks = await box.tier.open(ref_of(body), Span(0, len(body)))
        got = await anext(chunks)
        box.clock.now += 1000
        await box.tier.put_bytes(ref_of(b"!" * 200_000), b"!" * 200_000)
        await box.settled()
        assert box.copies() == {ref_of(b"!" * 200_000).sha256}
        assert got + b"".join([chunk async for chunk in chunks]) == body


async def test_a_restart_finds_its_copies_and_their_order(tmp_path: Path) -> None:
    async with standing(tmp_path, 4 * MIB) as box:
        bodies = [body_of(MIB, seed) for seed in range(3)]
        for body in bodies:
            await box.tier.put_bytes(ref_of(body), body)
            box.clock.now += 1000
        assert await read(box.tier, ref_of(bodies[0])) == bodies[0]
        await box.settled()
    async with box.again(2 * MIB) as later:  # type: ignore[attr-defined]
        assert later.copies() == {ref_of(bodies[0]).sha256}
        assert later.tier._copies.held_bytes == MIB
        assert await read(later.tier, ref_of(bodies[0])) == bodies[0]
        assert later.far.gets == []


async def test_what_another_process_evicted_meanwhile_is_not_evicted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both count too much; while we list what to remove, the other has removed all that was needed."""
    async with standing(tmp_path, MIB) as box:
        for seed in range(20):
            body = body_of(30_000, seed)
            await box.tier.put_bytes(ref_of(body), body)
            box.clock.now += 1000
        await box.settled()
        copies = box.tier._copies
        copies._budget, walks, uses = 300_000, [], copies._disk.uses

        async def other_at_work() -> AsyncIterator[list[tuple[str, int, float]]]:
            walks.append(None)
            if len(walks) == 2:
                aged = sorted([row async for portion in uses() for row in portion], key=lambda row: row[2])
                for sha256, _, used in aged[:11]:
                    await copies._disk.evict(sha256, used)
            async for portion in uses():
                yield portion

        monkeypatch.setattr(copies._disk, "uses", other_at_work)
        copies._count_soon()
        await box.settled()
        assert len(box.copies()) == 9
        assert copies.held_bytes == 270_000


async def test_two_processes_share_a_folder(box: Box) -> None:
    async with box.again() as other:  # type: ignore[attr-defined]
        bodies = [body_of(30_000, seed) for seed in range(20)]
        refs = [await box.only_far(body) for body in bodies]
        pairs = [(tier, ref) for ref in refs for tier in (box.tier, other.tier)]
        got = await asyncio.gather(*(read(tier, ref) for tier, ref in pairs))
        assert got == [body for body in bodies for _ in range(2)]
        await box.settled()
        await other.settled()
        assert box.copies() == {ref.sha256 for ref in refs}
        box.tier._copies._budget = other.tier._copies._budget = 300_000
        box.clock.now += 1000
        last = body_of(1000, 99)
        await asyncio.gather(*(tier.put_bytes(ref_of(last), last) for tier in (box.tier, other.tier)))
        for each in (box, other):
            each.tier._copies._count_soon()
            await each.settled()
        left = box.copies()
        assert ref_of(last).sha256 in left
        assert 6 <= len(left) <= 11
        for ref, body in zip(refs, bodies, strict=True):
            assert await read(box.tier, ref) == body
            assert await read(other.tier, ref) == body


async def test_a_full_disk_makes_room(box: Box) -> None:
    bodies = [body_of(100_000, seed) for seed in range(20)]
    for body in bodies:
        await box.tier.put_bytes(ref_of(body), body)
        box.clock.now += 100
    box.tier._copies.suffer(StoreFull("no space is left for blobs"))
    await box.settled()
    assert len(box.copies()) == 18
    assert not {ref_of(body).sha256 for body in bodies[:2]} & box.copies()


async def test_a_backup_keeps_copies_where_they_are(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.tier._copies._disk, "pinned", lambda: True)
    body = body_of(MIB)
    await box.tier.put_bytes(ref_of(body), body)
    box.tier._copies._budget = 1000
    box.tier._copies._count_soon()
    await box.settled()
    assert len(box.copies()) == 1


async def test_what_is_larger_than_the_budget_passes_by(tmp_path: Path) -> None:
    async with standing(tmp_path, MIB) as box:
        body = body_of(2 * MIB)
        await box.tier.put(ref_of(body), box.temp(body))
        assert await read(box.tier, ref_of(body)) == body
        assert box.copies() == set()
        assert box.temps() == []


async def test_no_budget_no_copies(tmp_path: Path) -> None:
    async with standing(tmp_path, 0) as box:
        body = body_of(MIB)
        await box.tier.put(ref_of(body), box.temp(body))
        await box.tier.put_bytes(ref_of(b""), b"")
        assert await box.tier.locate(ref_of(body)) is None
        assert await read(box.tier, ref_of(body)) == body
        assert box.copies() == set()


async def test_a_use_is_noted_once_a_minute_and_a_put_stays_dated(box: Box) -> None:
    body = body_of(1000)
    ref = ref_of(body)
    await box.tier.put_bytes(ref, body)
    copy = box.root / "near/blobs/sha256" / ref.sha256[:2] / ref.sha256
    put = copy.stat().st_mtime
    for later, noted in ((59.0, 0.0), (61.0, 61.0), (100.0, 61.0), (122.0, 122.0)):
        box.clock.now = put + later
        located = await box.tier.locate(ref)
        assert located is not None
        os.close(located.fd)
        assert copy.stat().st_atime == pytest.approx(put + noted, abs=0.01)
    assert copy.stat().st_mtime == put


def test_the_coldest_are_as_many_as_needed() -> None:
    numbers = random.Random(3).sample(range(1, 1000), 200)
    coldest = Coldest(55)
    for used in numbers:
        coldest.offer(f"{used:03}", 10, used)
    coldest.offer("empty", 0, 0)
    assert [used for _, _, used in coldest.chosen()] == sorted(numbers)[:6]
    none = Coldest(0)
    none.offer("a", 1, 1)
    assert none.chosen() == []
