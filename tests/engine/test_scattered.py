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
from artifactproxy.rules.segments import SegmentMap, read_map
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
    segment = scattered.board.claim(100_000)
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
        body.kept = kept
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
