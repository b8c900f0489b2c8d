"""Bytes that land out of order: written in order, wherever they lie."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.engine.landing import Landing
from artifactproxy.engine.scattered import Scattered
from artifactproxy.errors import StoreFull
from artifactproxy.model import Span
from artifactproxy.rules.segments import Segment, SegmentMap, read_map
from tests.engine.test_spool import drink, space, spool

KIB = 1024


@pytest.mark.parametrize("threads", [0, 2], ids=["in the loop", "in threads"])
@pytest.mark.parametrize("seed", range(3))
async def test_r1_whatever_order_they_come_in_readers_get_them_in_order(
    tmp_path: Path, threads: int, seed: int
) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(3_000_000)
    executor = ThreadPoolExecutor(threads) if threads else None
    room = space(tmp_path)
    body = spool(room, len(content), executor=executor)
    scattered = Scattered(body, SegmentMap(len(content)))
    await scattered.begin()
    reader = asyncio.create_task(drink(body))
    follow = asyncio.create_task(scattered.follow())
    segments = []
    while (segment := scattered.board.claim(200 * KIB, 1)) is not None:
        segments.append((segment, Landing(scattered, segment)))
    chance.shuffle(segments)
    for segment, landing in segments:
        for at in range(segment.start, segment.stop, 60 * KIB):
            await landing.write(content[at : min(at + 60 * KIB, segment.stop)])
        await landing.flush()
        scattered.board.done(segment)
        assert body.written <= scattered.board.frontier
    await follow
    await scattered.end()
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.seal()
    assert await reader == content
    body.finish()
    assert (list(tmp_path.iterdir()), room.used) == ([], 0)


@pytest.mark.parametrize("threads", [0, 2], ids=["in the loop", "in threads"])
async def test_what_comes_in_order_is_not_read_again(
    tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(2_000_000)
    body = spool(space(tmp_path), len(content), executor=ThreadPoolExecutor(threads) if threads else None)
    scattered = Scattered(body, SegmentMap(len(content)))
    await scattered.begin()
    follow = asyncio.create_task(scattered.follow())
    segment = scattered.board.claim(len(content))
    assert segment is not None
    assert scattered.board.extend(segment, len(content))
    with monkeypatch.context() as patch:
        patch.delattr(os, "pread")
        landing = Landing(scattered, segment)
        while segment.left:
            await landing.write(content[segment.taken :][:60_000])
        await landing.flush()
        await follow
    await scattered.end()
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.finish()


async def test_r1_offsets_beyond_4_gib(tmp_path: Path) -> None:
    """In a sparse file: what has landed lies where it belongs, and nothing else is written."""
    length, start = 5 * 2**30, 5 * 2**30 - 300_000
    left = tmp_path / "left.part"
    left.touch(0o600)
    os.truncate(left, length)
    body = spool(space(tmp_path, quota=10**11), length)
    scattered = Scattered(body, SegmentMap(length, [Span(0, start)]))
    body.into_file(left)
    segment = scattered.board.claim(8 * 2**20)
    assert segment is not None
    content = os.urandom(300_000)
    landing = Landing(scattered, segment)
    await landing.write(content)
    await landing.flush()
    scattered.board.done(segment)
    assert scattered.board.whole
    assert os.stat(left).st_blocks * 512 < 2**20
    assert os.pread(body.fileno, 300_001, start) == content
    assert os.pread(body.fileno, 10, start - 10) == bytes(10)
    body.finish()


async def test_point_r10_a_full_disk_is_a_clean_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    room = space(tmp_path)
    body = spool(room, 100_000)
    with pytest.raises(StoreFull):
        await Scattered(body, SegmentMap(100_000)).begin()
    body.finish()
    assert (list(tmp_path.iterdir()), room.used) == ([], 0)


async def test_point_r10_a_disk_that_fails_later_is_one_too(tmp_path: Path) -> None:
    body = spool(space(tmp_path), 100_000, executor=ThreadPoolExecutor(2))
    scattered = Scattered(body, SegmentMap(100_000))
    await scattered.begin()
    scattered.board.claim(10_000)
    segment = scattered.board.claim(90_000)
    assert segment is not None
    landing = Landing(scattered, segment)
    failpoints.arm("segment.landed=raise:ENOSPC")
    try:
        await landing.write(bytes(1000))
        with pytest.raises(StoreFull):
            await landing.flush()
    finally:
        failpoints.arm("")
    assert isinstance(body.fault, StoreFull)
    await landing.drop()
    body.finish()
    assert list(tmp_path.iterdir()) == []


async def test_the_map_goes_with_its_file_and_stays_with_one_that_is_kept(tmp_path: Path) -> None:
    for kept in (False, True):
        body = spool(space(tmp_path), 100_000)
        scattered = Scattered(body, SegmentMap(100_000, [Span(0, 70_000)]))
        await scattered.begin()
        assert body.path is not None
        await scattered.save("", 100.0)
        assert len(list(tmp_path.iterdir())) == 1, "nothing could vouch for it"
        await scattered.save("a" * 64, 100.0)
        map_ = body.path.with_name(body.path.name + ".map")
        saved = read_map(map_.read_bytes())
        assert saved is not None
        assert (saved.sha256, saved.length, saved.spans) == ("a" * 64, 100_000, (Span(0, 70_000),))
        body.file.kept = kept
        body.finish()
        assert len(list(tmp_path.iterdir())) == (2 if kept else 0)


async def test_in_order_again_goes_on_after_the_last_byte_without_a_gap(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    body = spool(space(tmp_path), 100_000)
    await body.write(content[:10_000])
    board = SegmentMap(100_000, [Span(0, 10_000)])
    scattered = Scattered(body, board)
    await scattered.begin()
    follow = asyncio.create_task(scattered.follow())
    await scattered.land(50_000, [b"x" * 20_000])
    await asyncio.sleep(0.01)
    follow.cancel()
    await scattered.end()
    assert body.received == body.written == 10_000
    await body.write(content[10_000:])
    await body.drain()
    body.seal()
    assert await drink(body) == content
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.finish()


async def test_what_was_being_hashed_at_the_end_is_hashed_once(tmp_path: Path) -> None:
    """The hashing thread has begun when nobody waits for it any more: what it has done counts."""
    content = os.urandom(100_000)
    executor, gate = ThreadPoolExecutor(1), threading.Event()
    body = spool(space(tmp_path), 100_000, executor=executor)
    await body.write(content[:10_000])
    scattered = Scattered(body, SegmentMap(100_000, [Span(0, 10_000)]))
    await scattered.begin()
    segment = scattered.board.claim(40_000)
    assert segment is not None
    await scattered.land(segment.start, [content[10_000:30_000], content[30_000:50_000]])
    segment.landed = segment.taken = 50_000
    blocked = asyncio.get_running_loop().run_in_executor(executor, gate.wait)
    follow = asyncio.create_task(scattered.follow())
    await asyncio.sleep(0)  # it has handed its work over, and that waits in the queue
    scattered.landed()
    await asyncio.sleep(0)
    follow.cancel()
    await asyncio.wait((follow,))
    gate.set()
    await blocked
    scattered.board.done(segment)
    await scattered.end()
    await body.write(content[body.received :])
    await body.drain()
    body.seal()
    assert await drink(body) == content
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.finish()


# --- in order, until something else comes ---


class Disk:
    """The thread that hashes and writes, held while it is `busy`."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)
        self._gate = threading.Event()

    def __enter__(self) -> None:
        self.executor.submit(self._gate.wait)

    def __exit__(self, *_: object) -> None:
        self._gate.set()


def gone_on(landing: Landing, chunk: bytes) -> asyncio.Task[None]:
    return asyncio.create_task(landing.write(chunk))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def begun(folder: Path, content: bytes, executor: ThreadPoolExecutor) -> Scattered:
    """The first bytes are there, as after the first chunk of an answer."""
    body = spool(space(folder), len(content), executor=executor)
    await body.write(content[:10_000])
    scattered = Scattered(body, SegmentMap(len(content), [Span(0, 10_000)]))
    await scattered.begin()
    return scattered


async def is_whole(scattered: Scattered, content: bytes) -> None:
    await scattered.end()
    body = scattered.spool
    assert (body.received, body.written) == (len(content), len(content))
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.seal()
    assert await drink(body) == content
    body.finish()


async def test_one_connection_writes_no_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3_000_000)
    scattered = await begun(tmp_path, content, ThreadPoolExecutor(1))
    follow = asyncio.create_task(scattered.follow())
    with monkeypatch.context() as patch:
        patch.delattr(os, "pwrite")
        while (segment := scattered.board.claim(10**6)) is not None:  # each goes on where one broke off
            landing = Landing(scattered, segment)
            while segment.left:
                await landing.write(content[segment.taken : segment.stop][:100_000])
            await landing.flush()
            assert scattered.board.frontier == segment.stop
            scattered.board.done(segment)
        await follow
    assert scattered.in_order
    await is_whole(scattered, content)


async def test_a_second_connection_ends_the_order_while_a_batch_is_on_its_way(tmp_path: Path) -> None:
    content, disk = os.urandom(1_000_000), Disk()
    scattered = await begun(tmp_path, content, disk.executor)
    follow = asyncio.create_task(scattered.follow())
    first, second = scattered.board.claim(500_000), scattered.board.claim(500_000)
    assert first is not None
    assert second is not None
    one, other = Landing(scattered, first), Landing(scattered, second)
    with disk:
        await one.write(content[10_000:60_000])
        there = gone_on(other, content[second.start : second.stop])
        await turns()
        further = gone_on(one, content[60_000 : first.stop])
        await turns()
        assert scattered.spool.received == 60_000, "whoever comes waits for the order"
        assert (first.left, second.left) == (0, 0)
        assert scattered.board.split(first, 0.5) is None, "what waits is not given to others as well"
    await asyncio.gather(there, further)
    assert not scattered.in_order
    await asyncio.gather(one.flush(), other.flush())
    for segment in (first, second):
        scattered.board.done(segment)
    rest = scattered.board.claim(10**6)
    if rest is not None:
        last = Landing(scattered, rest)
        await last.write(content[rest.start :])
        await last.flush()
        scattered.board.done(rest)
    await follow
    await is_whole(scattered, content)


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "flushed"])
async def test_who_is_cancelled_in_order_leaves_what_it_has_written(tmp_path: Path, dropped: bool) -> None:
    content, disk = os.urandom(2_000_000), Disk()
    scattered = await begun(tmp_path, content, disk.executor)
    follow = asyncio.create_task(scattered.follow())
    segment = scattered.board.claim(len(content))
    assert segment is not None
    landing = Landing(scattered, segment)
    with disk:
        await landing.write(content[10_000:20_000])  # this is on its way
        writing = gone_on(landing, content[20_000 : segment.stop])  # and this more than may wait
        await turns()
        assert not writing.done()
        writing.cancel()
        await asyncio.wait((writing,))
    await (landing.drop() if dropped else landing.flush())
    assert segment.landed == segment.stop, "its bytes were on their way"
    scattered.board.done(segment)
    rest = scattered.board.claim(len(content))
    while rest is not None:
        landing = Landing(scattered, rest)
        await landing.write(content[rest.start : rest.stop])
        await landing.flush()
        scattered.board.done(rest)
        rest = scattered.board.claim(len(content))
    assert scattered.in_order
    await follow
    await is_whole(scattered, content)


async def test_point_r10_a_disk_that_fails_in_order_is_a_clean_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    scattered = await begun(tmp_path, bytes(200_000), ThreadPoolExecutor(1))
    segment = scattered.board.claim(200_000)
    assert segment is not None
    landing = Landing(scattered, segment)
    monkeypatch.setattr(os, "write", full)
    await landing.write(bytes(50_000))
    with pytest.raises(StoreFull):
        await landing.flush()
    with pytest.raises(StoreFull):
        await landing.write(bytes(50_000))
    await landing.drop()
    assert isinstance(scattered.spool.fault, StoreFull)
    assert segment.landed == 10_000
    monkeypatch.undo()
    scattered.spool.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(20))
async def test_r4_whoever_comes_breaks_off_or_is_cancelled_the_bytes_are_right(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(2_000_000)
    scattered = await begun(tmp_path, content, ThreadPoolExecutor(1))
    follow = asyncio.create_task(scattered.follow())
    board, crew = scattered.board, 1

    def stolen() -> Segment | None:
        most = max(board.running, key=lambda segment: segment.left, default=None)
        return board.split(most, 0.5) if most is not None else None

    async def connection() -> None:
        while (segment := board.claim(chance.choice((70_000, 400_000)), crew) or stolen()) is not None:
            landing = Landing(scattered, segment)
            bringing = asyncio.create_task(brings(landing, segment))
            if chance.random() < 0.3:
                await turns(chance.randrange(30))
                bringing.cancel()
            await asyncio.wait((bringing,))
            await (landing.drop() if chance.random() < 0.3 else landing.flush())
            board.done(segment)

    async def brings(landing: Landing, segment: Segment) -> None:
        while segment.left:
            await turns(chance.randrange(4))
            await landing.write(content[segment.taken : segment.stop][: chance.choice((300, 9000, 300_000))])

    async with asyncio.timeout(60):
        alone = asyncio.create_task(connection())
        await asyncio.sleep(chance.random() / 100)
        crew = chance.choice((1, 2, 4))
        await asyncio.gather(alone, *(connection() for _ in range(crew - 1)))
        while not board.whole:  # whoever was last may have been cancelled
            await connection()
        scattered.landed()
        await follow
    await is_whole(scattered, content)
