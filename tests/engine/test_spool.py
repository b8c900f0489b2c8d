"""The growing body: what may leave when, to how many, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.engine import spool as spool_module
from artifactproxy.engine.spool import FLUSH_BYTES, Spool
from artifactproxy.engine.temps import TempSpace
from artifactproxy.errors import BrokenPromise, Fault, StoreFull
from artifactproxy.model import Span
from artifactproxy.rules.digests import Hasher

HOLD = 1000


def space(folder: Path, quota: int = 10**9, free: Callable[[], int] = lambda: 10**9) -> TempSpace:
    names = (folder / f"{n}.part" for n in itertools.count())
    return TempSpace(lambda: next(names), free, quota)


def spool(
    room: TempSpace, length: int | None, *, memory: int = 5000, executor: ThreadPoolExecutor | None = None
) -> Spool:
    return Spool(
        length=length,
        hold_back=HOLD,
        memory_bytes=memory,
        space=room,
        executor=executor,
        new_hasher=lambda: Hasher(()),
    )


async def drink(body: Spool, span: Span | None = None) -> bytes:
    reader = body.reader(span)
    try:
        got = b""
        while piece := await reader.read():
            got += piece
        return got
    finally:
        reader.close()


@pytest.mark.parametrize("threads", [0, 2], ids=["in the loop", "in threads"])
@pytest.mark.parametrize("memory", [0, 5000, 10**7])
@pytest.mark.parametrize("size", [0, 1, HOLD, HOLD + 1, 4999, 5000, 5001, 1_000_003])
async def test_every_reader_gets_every_byte(tmp_path: Path, threads: int, memory: int, size: int) -> None:
    content = os.urandom(size)
    executor = ThreadPoolExecutor(threads) if threads else None
    room = space(tmp_path)
    body = spool(room, size, memory=memory, executor=executor)
    readers = [asyncio.create_task(drink(body)) for _ in range(20)]
    for at in range(0, size, 70_000):
        await body.write(content[at : at + 70_000])
        await asyncio.sleep(0)
    await body.drain()
    assert body.digests[0].hex == hashlib.sha256(content).hexdigest()
    body.seal()
    assert await asyncio.gather(*readers) == [content] * 20
    assert await drink(body) == content
    body.finish()
    assert (list(tmp_path.iterdir()), room.used) == ([], 0)


async def test_the_tail_waits_for_the_verdict(tmp_path: Path) -> None:
    body = spool(space(tmp_path), 10_000)
    await body.write(bytes(10_000))
    await body.drain()
    reader = body.reader()
    assert len(await reader.read()) == 10_000 - HOLD
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    body.seal()
    assert len(await waiting) == HOLD
    assert await reader.read() == b""
    reader.close()
    body.finish()


async def test_without_a_length_the_last_bytes_received_are_held(tmp_path: Path) -> None:
    body = spool(space(tmp_path), None)
    await body.write(bytes(HOLD))
    assert body.released == 0
    await body.write(bytes(10))
    assert body.released == 10
    body.finish()


async def test_a_failure_reaches_every_reader_and_nobody_ends_cleanly(tmp_path: Path) -> None:
    body = spool(space(tmp_path), 10_000)
    readers = [asyncio.create_task(drink(body)) for _ in range(20)]
    await body.write(bytes(10_000))
    await asyncio.sleep(0.01)
    body.fail(BrokenPromise("wrong"))
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert {type(result) for result in results} == {BrokenPromise}
    body.finish()
    assert list(tmp_path.iterdir()) == []


async def test_a_body_once_begun_cannot_start_over(tmp_path: Path) -> None:
    body = spool(space(tmp_path), 10_000)
    await body.write(bytes(6000))
    await body.drain()
    body.restart(10_000)
    assert (body.received, body.written) == (0, 0)
    reader = body.reader()
    with pytest.raises(RuntimeError):
        body.restart(10_000)
    reader.close()
    body.finish()
    assert list(tmp_path.iterdir()) == []


async def test_the_quota_of_temp_space(tmp_path: Path) -> None:
    room = space(tmp_path, quota=20_000)
    body = spool(room, None)
    with pytest.raises(StoreFull):
        for _ in range(10):
            await body.write(bytes(6000))
    body.fail(StoreFull("full"))
    body.finish()
    assert (room.used, list(tmp_path.iterdir())) == (0, [])
    with pytest.raises(StoreFull):
        room.expect(30_000)


async def test_announced_bodies_have_their_room_from_the_start(tmp_path: Path) -> None:
    room = space(tmp_path, quota=25_000)
    first = spool(room, 20_000)
    with pytest.raises(StoreFull):
        spool(room, 20_000)
    small = spool(room, 4000)
    assert room.used == 20_000, "a body in memory claims nothing"
    await first.write(bytes(20_000))
    await first.drain()
    first.restart(10_000)
    assert room.used == 10_000
    first.finish()
    small.finish()
    assert room.used == 0


async def test_what_cannot_fit_on_the_disk_is_known_before(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="disk"):
        space(tmp_path, free=lambda: 100).expect(101)


async def test_the_file_stays_as_long_as_somebody_reads(tmp_path: Path) -> None:
    body = spool(space(tmp_path), 10_000)
    await body.write(bytes(10_000))
    await body.drain()
    body.seal()
    reader = body.reader(Span(9000, 9010))
    body.finish()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(await reader.read()) == 10
    reader.close()
    reader.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_temp_folder_is_a_clear_fault(tmp_path: Path) -> None:
    body = spool(space(tmp_path / "gone"), 10_000)
    with pytest.raises(Fault, match="temporary files"):
        await body.write(bytes(6000))
    body.finish()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=4000), max_size=20), st.integers(0, 9000), st.booleans())
def test_released_never_runs_ahead(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], memory: int, known: bool
) -> None:
    async def play() -> None:
        total = sum(map(len, pieces))
        body = spool(space(tmp_path_factory.mktemp("s")), total if known else None, memory=memory)
        for piece in pieces:
            await body.write(piece)
            assert body.released <= max(0, body.written - (0 if known else HOLD))
            assert body.released <= max(0, total - HOLD)
        await body.drain()
        body.seal()
        assert await drink(body) == b"".join(pieces)
        body.finish()

    asyncio.run(play())


async def test_what_somebody_waits_for_is_handed_to_the_disk_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of it once, in order, and nothing of a body that nobody waits for."""
    spans: list[tuple[int, int]] = []
    monkeypatch.setattr(spool_module, "begin_flush", lambda _fd, start, stop: spans.append((start, stop)))
    for awaited in (False, True):
        body = spool(space(tmp_path), 3 * FLUSH_BYTES, executor=None)
        body.awaited = awaited
        for _ in range(24):
            await body.write(bytes(FLUSH_BYTES // 8))
        await body.drain()
        body.fail(Fault("over"))
        body.finish()
        assert bool(spans) == awaited
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert all(stop - start >= FLUSH_BYTES for start, stop in spans)
