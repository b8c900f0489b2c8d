"""The scrub in the background: when a round begins, where it goes on, what it must not disturb."""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy import failpoints
from artifactproxy.checkup.pace import Pace
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.reading import PIECE, sha256_of
from artifactproxy.ports import LocalFile
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.checkup.scrubbing import Bench, bench, flip, until


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def several(it: Bench, chaos: Chaos, count: int, size: int = 70_000) -> list[Path]:
    """Blobs in the order in which they are read."""
    for number in range(count):
        chaos.script(f"/f{number}.bin", ok(), size=size)
    return sorted([await it.hold(f"/files/f{number}.bin") for number in range(count)])


# --- rounds ---


async def test_a_round_heals_and_the_next_one_waits(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        first, *_ = await several(it, chaos, 3)
        good = first.read_bytes()
        flip(0.5)(first)
        rounds = it.rounds()
        rounds.start()
        await until(lambda: it.position.finished_at is not None, "a round has ended")
        assert first.read_bytes() == good
        assert await it.metric("scrub_bad_total", kind="digest") == 1
        assert await it.metric("scrub_blobs_total") == 3
        assert await it.metric("scrub_bytes_total") == 3 * 70_000 + 70_000, "the damaged one was read twice"
        assert await it.metric("scrub_finished") == it.position.finished_at
        await until(lambda: any(line["event"] == "scrubbed" for line in it.proxy.log_lines()), "it is told")
        await asyncio.sleep(0.1)
        assert await it.metric("scrub_blobs_total") == 3
        await rounds.close()
        await it.proxy.check()


async def test_one_round_after_another(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 1)
        rounds = it.rounds(every=0.01)
        rounds.start()
        ended: set[float | None] = set()

        def again() -> bool:
            ended.add(it.position.finished_at)
            return len(ended) > 3

        await until(again, "several rounds have ended")
        await rounds.close()


async def test_it_can_be_turned_off(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 1)
        rounds = it.rounds(every=0)
        rounds.start()
        await asyncio.sleep(0.1)
        await rounds.close()
        assert await it.metric("scrub_blobs_total") == 0


async def test_a_round_goes_on_where_it_was_stopped(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        blobs = await several(it, chaos, 6, size=200_000)
        rounds = it.rounds(rate=300_000)
        rounds.start()
        await until(lambda: bool(it.position.after), "a part of it is done")
        await rounds.close()
        kept = Position(tmp_path / "scrub.json")
        assert blobs[0].name <= kept.after < blobs[5].name
        assert kept.finished_at is None
        seen = await it.metric("scrub_blobs_total")
        left = sum(blob.name > kept.after for blob in blobs)
        assert kept.begun
        again = it.rounds()
        again.start()
        await until(lambda: it.position.finished_at is not None, "the rest is done")
        await again.close()
        assert await it.metric("scrub_blobs_total") == seen + left


async def test_a_broken_round_is_told_and_tried_again(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 2)
        blobs = it.proxy.data / "blobs"
        blobs.rename(tmp_path / "unmounted")
        rounds = it.rounds()
        rounds.start()
        await until(lambda: bool(it.warnings("scrub_failed")), "it is told")
        assert it.position.finished_at is None
        (tmp_path / "unmounted").rename(blobs)
        await until(lambda: it.position.finished_at is not None, "the next one ends well")
        assert it.warnings("damaged_blob") == it.warnings("missing_blob") == []
        await rounds.close()
        await it.proxy.check()


async def test_an_unreadable_blob_does_not_end_the_round(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 3)
        await chaos.stop()
        failpoints.arm("scrub.read=raise:EIO")
        rounds = it.rounds()
        rounds.start()
        await until(lambda: it.position.finished_at is not None, "the round has ended")
        await rounds.close()
        assert await it.metric("scrub_bad_total", kind="unreadable") == 3


async def test_it_stands_still_while_one_by_hand_runs(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 4, size=500_000)
        by_hand = it.scrub.scrub(rate=1_000_000)
        await anext(by_hand)
        rounds = it.rounds()
        rounds.start()
        await asyncio.sleep(0.1)
        assert (it.position.after, it.position.finished_at) == ("", None)
        await by_hand.aclose()
        await until(lambda: it.position.finished_at is not None, "then it goes on")
        await rounds.close()


async def test_one_by_hand_counts(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 1)
        await it.run()
        rounds = it.rounds()
        rounds.start()
        await asyncio.sleep(0.1)
        await rounds.close()
        assert await it.metric("scrub_blobs_total") == 1


async def test_it_ends_at_once_when_the_process_does(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 1, size=3_000_000)
        rounds = it.rounds(rate=1000)
        rounds.start()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            await rounds.close()
        await it.proxy.check()


# --- several processes of one index ---


async def test_of_many_processes_one_does_the_round(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 4)
        positions = [Position(tmp_path / f"scrub-{n}.json") for n in range(4)]
        many = [it.rounds(position=position) for position in positions]
        for rounds in many:
            rounds.start()
        await until(lambda: any(p.finished_at is not None for p in positions), "a round has ended")
        await asyncio.sleep(0.2)
        for rounds in many:
            await rounds.close()
        assert sum(p.finished_at is not None for p in positions) == 1
        assert await it.metric("scrub_blobs_total") == 4


async def test_n06_who_shares_the_folder_goes_on_for_the_dead(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 6, size=200_000)
        first = it.rounds(rate=300_000, position=Position(tmp_path / "scrub.json"))
        first.start()
        sibling, stranger = Position(tmp_path / "scrub.json"), Position(tmp_path / "elsewhere.json")
        others = [it.rounds(position=sibling), it.rounds(position=stranger)]
        await until(lambda: bool(Position(tmp_path / "scrub.json").after), "a part of it is done")
        for rounds in others:
            rounds.start()
        await asyncio.sleep(0.1)
        assert (sibling.finished_at, stranger.finished_at) == (None, None), "the first one lives"
        await first.close()
        seen = await it.metric("scrub_blobs_total")
        await until(lambda: sibling.finished_at is not None, "the rest is done")
        assert stranger.finished_at is None
        assert await it.metric("scrub_blobs_total") - seen < 6
        for rounds in others:
            await rounds.close()


# --- the position ---


@given(st.binary(max_size=200))
def test_any_file_reads_as_a_position_or_as_nothing(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("position") / "scrub.json"
    path.write_bytes(content)
    kept = Position(path)
    assert kept.after == "" or len(kept.after) == 64


@pytest.mark.parametrize(
    "written",
    [
        "[]",
        '{"after": "../x", "finished_at": 1}',
        '{"after": "", "finished_at": "soon"}',
        '{"after": 1}',
        "nul",
    ],
)
def test_what_no_scrub_wrote_begins_anew(tmp_path: Path, written: str) -> None:
    (tmp_path / "scrub.json").write_text(written)
    kept = Position(tmp_path / "scrub.json")
    assert (kept.after, kept.finished_at) == ("", None)


async def test_a_position_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "scrub.json"
    kept = Position(path)
    await kept.finished(1.5e9)
    await kept.passed("a" * 64)
    again = Position(path)
    assert (again.after, again.finished_at) == ("a" * 64, 1.5e9)
    assert json.loads(path.read_text())["finished_at"] == 1.5e9
    assert os.listdir(tmp_path) == ["scrub.json"]


async def test_a_round_stays_begun_until_it_has_finished(tmp_path: Path) -> None:
    path = tmp_path / "scrub.json"
    await Position(path).begins()
    again = Position(path)
    assert (again.begun, again.after) == (True, "")
    await again.finished(1.5e9)
    assert not Position(path).begun
    path.write_text('{"after": "' + "a" * 64 + '", "finished_at": null}')
    assert Position(path).begun, "as it was written before"


async def test_a_position_is_claimed_by_one_and_freed_by_its_end(tmp_path: Path) -> None:
    mine, other = Position(tmp_path / "scrub.json"), Position(tmp_path / "scrub.json")
    with mine.claimed() as first:
        with other.claimed() as second:
            assert (first, second) == (True, False)
        with Position(tmp_path / "elsewhere.json").claimed() as third:
            assert third
    with other.claimed() as again:
        assert again
    with Position(tmp_path / "no folder" / "scrub.json").claimed() as anyway:
        assert anyway, "nothing can be claimed there"


async def test_positions_written_at_once_do_not_meet(tmp_path: Path) -> None:
    kept = Position(tmp_path / "scrub.json")
    written = [kept.passed(f"{number:064x}") if number % 2 else kept.finished(number) for number in range(50)]
    assert all(await asyncio.gather(*written))
    assert Position(tmp_path / "scrub.json").finished_at == 48
    assert os.listdir(tmp_path) == ["scrub.json"]


async def test_a_position_that_is_being_written_when_the_process_stops(tmp_path: Path) -> None:
    kept = Position(tmp_path / "scrub.json")
    for number in range(20):
        saving = asyncio.create_task(kept.passed(f"{number:064x}"))
        await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert Position(tmp_path / "scrub.json").after in ("", kept.after)
        assert "scrub.new" not in os.listdir(tmp_path)


async def test_a_position_that_cannot_be_kept_costs_nothing_else(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        first, *_ = await several(it, chaos, 2)
        flip(0.5)(first)
        (tmp_path / "scrub.new").mkdir()
        assert (await it.run())[1]["repaired"] == 1
        await until(lambda: bool(it.warnings("scrub_position_lost")), "it is told")
        rounds = it.rounds(every=0.01)
        rounds.start()
        await asyncio.sleep(0.1)
        await rounds.close()
        assert it.warnings("scrub_failed") == []
        await it.proxy.check()


# --- the pace ---


async def test_the_rate_is_kept_whatever_the_sizes(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        await several(it, chaos, 5, size=100_000)
        started = time.monotonic()
        await it.run(rate=2_000_000)
        assert time.monotonic() - started >= 0.2, "400,000 bytes after the first piece"


async def test_what_a_pause_left_unused_is_not_caught_up() -> None:
    pace = Pace(1_000_000)
    await pace.take(1)
    await asyncio.sleep(0.3)
    started = time.monotonic()
    for _ in range(3):
        await pace.take(100_000)
    assert time.monotonic() - started >= 0.19


async def test_it_rests_while_the_loop_is_late() -> None:
    pace = Pace(None, late=0.05, rest=0.01, longest=5.0)
    taking = asyncio.create_task(pace.take(1))
    await asyncio.sleep(0)
    for _ in range(3):
        time.sleep(0.1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await taking
    assert pace.rested > 0


async def test_it_reads_on_in_the_end_on_a_machine_that_is_always_busy() -> None:
    pace = Pace(None, late=-1.0, rest=0.01, longest=0.05)
    async with asyncio.timeout(20):
        await pace.take(1)
    assert pace.rested == pytest.approx(0.05, abs=0.011)


# --- the page cache ---


def resident(fd: int, size: int) -> list[bool]:
    """Which of the pieces memory holds any page of (mincore(2))."""
    pages = PIECE // mmap.PAGESIZE
    seen = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    with mmap.mmap(fd, size, access=mmap.ACCESS_COPY) as mapped:
        window = (ctypes.c_char * size).from_buffer(mapped)
        told = ctypes.CDLL(None).mincore(ctypes.byref(window), ctypes.c_size_t(size), seen)
        del window
    assert told == 0
    return [any(page & 1 for page in seen[at : at + pages]) for at in range(0, len(seen), pages)]


async def nothing(_size: int) -> None:
    return


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: what is in memory is not told elsewhere")
async def test_what_was_not_in_memory_does_not_come_to_stay(tmp_path: Path) -> None:
    path, size = tmp_path / "blob", 4 * PIECE
    path.write_bytes(os.urandom(size))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if any(resident(fd, size)):
            pytest.skip("needs a file system that is not memory itself")
        await sha256_of(LocalFile(fd, size), nothing)
        assert resident(fd, size) == [False] * 4
        os.pread(fd, PIECE, PIECE)
        assert resident(fd, size) == [False, True, False, False]
        await sha256_of(LocalFile(fd, size), nothing)
        assert resident(fd, size) == [False, True, False, False], "what clients use stays"
    finally:
        os.close(fd)


async def test_a_cancelled_reading_leaves_nobody_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"x" * PIECE)
    failpoints.arm("scrub.read=sleep:0.3")
    fd = os.open(path, os.O_RDONLY)
    reading = asyncio.create_task(sha256_of(LocalFile(fd, PIECE), nothing))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert time.monotonic() - started > 0.1, "the read has ended before the file may be closed"
    os.close(fd)
