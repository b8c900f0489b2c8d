"""One body on its way into the store: before it is verified, after, and while the store is away."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from artifactproxy.engine import waiting
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.storing import Kept
from artifactproxy.errors import IndexUnavailable, StoreAway, StoreFull, StoreUnavailable, UpstreamBroken
from tests.engine.parts import BIG, Room, promised, row

AWAY = StoreAway("the store does not answer")
NO_INDEX = IndexUnavailable("the index does not answer", code="index_away")


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def arrived(room: Room, body: bytes, *, promise: bool = True, length: int | None = BIG) -> Spool:
    """A whole body in a temp file, with what a fill does meanwhile."""
    spool = room.spool(length)
    if promise:
        room.storing.begin(spool, promised(body))
    for at in range(0, len(body), 70_000):
        await spool.write(body[at : at + 70_000])
        await turns()
    await spool.drain()
    spool.seal()
    return spool


# --- while it arrives ---


async def test_a_promised_body_is_taken_in_while_it_arrives(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    spool = room.spool(BIG)
    room.storing.begin(spool, promised(body))
    await spool.write(body[:200_000])
    await turns()
    [intake] = room.store.intakes
    assert intake.got == body[:200_000]
    assert (intake.sha256, intake.body.length) == (row(body).ref.sha256, BIG)
    await spool.write(body[200_000:])
    await spool.drain()
    spool.seal()
    assert await room.storing.finish(spool, row(body)) == Kept(stored=True)
    assert room.store.blobs == {row(body).ref.sha256: body}
    assert room.store.log == ["begin", "finish"]
    assert room.index.log == ["bury", "record"]
    reader = spool.reader()
    assert (await reader.read())[:1000] == body[:1000], "our descriptor serves on"
    reader.close()
    await room.clean()


async def test_it_begins_when_the_promise_is_learnt(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    spool = room.spool()
    room.storing.begin(spool, None)
    await spool.write(body[:200_000])
    await turns()
    assert room.store.log == []
    room.storing.begin(spool, promised(body))
    room.storing.begin(spool, promised(body))
    await turns()
    assert [intake.got for intake in room.store.intakes] == [body[:200_000]], "once, from its first byte"
    room.storing.abandon()
    await room.clean()


async def test_a_body_in_memory_has_no_need_of_it(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True), os.urandom(500)
    spool = room.spool(500)
    room.storing.begin(spool, promised(body))
    await spool.write(body)
    spool.seal()
    assert (await room.storing.finish(spool, row(body))).stored
    assert room.store.log == ["put_bytes"]
    await room.clean()


@pytest.mark.parametrize("fault", [AWAY, NO_INDEX, StoreFull("no room"), None])
async def test_a_store_that_takes_nothing_in_gets_it_whole(tmp_path: Path, fault: Exception | None) -> None:
    room, body = Room(tmp_path), os.urandom(BIG)
    room.store.will("begin", [fault])
    spool = await arrived(room, body)
    assert await room.storing.finish(spool, row(body)) == Kept(stored=True)
    assert room.store.log == ["begin", "put"]
    assert room.store.blobs[row(body).ref.sha256] == body
    await room.clean()


async def test_a_beginning_that_hangs_delays_nothing(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    room.store.will("begin", [asyncio.Event()])
    spool = await arrived(room, body)
    async with asyncio.timeout(60):
        assert await room.storing.finish(spool, row(body)) == Kept(stored=True)
    assert room.store.log == ["begin", "put"]
    await room.clean()


async def test_a_body_that_starts_over_is_taken_in_anew(tmp_path: Path) -> None:
    room, wrong, body = Room(tmp_path, takes_in=True), os.urandom(BIG), os.urandom(BIG)
    spool = room.spool(BIG)
    room.storing.begin(spool, promised(body))
    await spool.write(wrong[:100_000])
    await spool.drain()
    await turns()
    [first] = room.store.intakes
    spool.restart(BIG)
    assert (first.body.fault is not None, first.body.written) == (True, 0)
    with pytest.raises(OSError, match="not what it was"):
        first.body.peek(0, 10)
    room.storing.begin(spool, promised(body))
    await spool.write(body)
    await spool.drain()
    await turns()
    spool.seal()
    assert (await room.storing.finish(spool, row(body))).stored
    assert [intake.abandoned for intake in room.store.intakes] == [1, 0]
    assert room.store.intakes[1].got == body[: len(room.store.intakes[1].got)]
    assert room.store.blobs[row(body).ref.sha256] == body
    await room.clean()


async def test_other_bytes_than_promised_are_never_finished(tmp_path: Path) -> None:
    """The promise that was known first was that of another file."""
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    spool = room.spool(BIG)
    room.storing.begin(spool, promised(b"another"))
    await spool.write(body)
    await spool.drain()
    await turns()
    spool.seal()
    assert (await room.storing.finish(spool, row(body))).stored
    await turns()
    assert room.store.intakes[0].abandoned == 1
    assert room.store.log.count("finish") == 0
    assert list(room.store.blobs) == [row(body).ref.sha256]
    await room.clean()


async def test_a_failed_body_is_abandoned_once_and_nobody_waits(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    spool = room.spool(BIG)
    room.storing.begin(spool, promised(body))
    await spool.write(body[:200_000])
    await turns()
    hangs = asyncio.Event()
    room.store.will("abandon", [hangs])
    spool.fail(UpstreamBroken("it broke"))
    room.storing.abandon()
    room.storing.abandon()
    await turns()
    assert [intake.abandoned for intake in room.store.intakes] == [1]
    hangs.set()
    await room.clean()


async def test_an_abandon_that_hangs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ASIDE_SECONDS", 0.02)
    room, body = Room(tmp_path, takes_in=True), os.urandom(BIG)
    await arrived(room, body)
    room.store.will("abandon", [asyncio.Event()])
    room.storing.abandon()
    async with asyncio.timeout(60):
        while not room.notes.events("not_abandoned"):
            await asyncio.sleep(0.01)
    await room.clean()


# --- a store that is away ---


@pytest.mark.parametrize("size", [500, BIG], ids=["in memory", "in a file"])
async def test_s01_a_store_that_is_away_is_tried_again(tmp_path: Path, size: int) -> None:
    room, body = Room(tmp_path, store_retry=20.0), os.urandom(size)
    name = "put" if size == BIG else "put_bytes"
    room.store.will(name, [AWAY, AWAY, AWAY])
    spool = await arrived(room, body, promise=False, length=size)
    storing = asyncio.create_task(room.storing.finish(spool, row(body)))
    async with asyncio.timeout(15):
        while room.store.log.count(name) < 2:
            assert not storing.done()
            await asyncio.sleep(0.01)
        assert len(room.waiting) == 1
        assert await storing == Kept(stored=True)
    assert room.store.log.count(name) == 4
    assert room.store.blobs == {row(body).ref.sha256: body}
    assert (len(room.notes.events("store_waits")), room.notes.counts["store_errors"]) == (1, 3)
    assert room.index.rows[row(body).key] == row(body)
    await room.clean()


async def test_s04_an_intake_that_is_away_is_finished_later(tmp_path: Path) -> None:
    room, body = Room(tmp_path, takes_in=True, store_retry=20.0), os.urandom(BIG)
    room.store.will("finish", [AWAY, AWAY])
    spool = await arrived(room, body)
    async with asyncio.timeout(15):
        assert await room.storing.finish(spool, row(body)) == Kept(stored=True)
    assert room.store.log == ["begin", "finish", "finish", "finish"]
    assert room.store.intakes[0].abandoned == 0
    await room.clean()


@pytest.mark.parametrize("takes_in", [False, True])
async def test_s09_after_its_time_it_is_given_up(tmp_path: Path, takes_in: bool) -> None:
    room, body = Room(tmp_path, takes_in=takes_in, store_retry=0.05), os.urandom(BIG)
    for name in ("put", "finish"):
        room.store.will(name, [AWAY] * 1000)
    spool = await arrived(room, body)
    async with asyncio.timeout(15):
        assert await room.storing.finish(spool, row(body)) == Kept(stored=False, error="store_away")
    await turns()
    assert [intake.abandoned for intake in room.store.intakes] == [1] * takes_in
    assert (room.index.rows, len(room.unrecorded)) == ({}, 0)
    [failed] = room.notes.events("store_failed")
    assert failed["error"] == "store_away"
    await room.clean()


async def test_without_a_time_for_it_nothing_waits(tmp_path: Path) -> None:
    room, body = Room(tmp_path, store_retry=0.0), os.urandom(BIG)
    room.store.will("put", [AWAY])
    spool = await arrived(room, body)
    assert await room.storing.finish(spool, row(body)) == Kept(stored=False, error="store_away")
    assert room.store.log.count("put") == 1
    await room.clean()


async def test_another_fault_ends_the_waiting(tmp_path: Path) -> None:
    room, body = Room(tmp_path, store_retry=20.0), os.urandom(BIG)
    room.store.will("put", [AWAY, StoreUnavailable("a broken bucket")])
    spool = await arrived(room, body)
    async with asyncio.timeout(15):
        assert (await room.storing.finish(spool, row(body))).error == "store_unavailable"
    await room.clean()


async def test_the_oldest_gives_its_room_to_a_new_body(tmp_path: Path) -> None:
    room, body = Room(tmp_path, store_retry=600.0, quota=BIG + 1000), os.urandom(BIG)
    room.store.will("put", [AWAY] * 1000)
    spool = await arrived(room, body)
    storing = asyncio.create_task(room.storing.finish(spool, row(body)))
    await turns()
    assert len(room.waiting) == 1
    room.readers = 1
    with pytest.raises(StoreFull):
        room.space.expect(BIG)
    assert len(room.waiting) == 1, "giving up would free nothing while somebody reads it"
    room.readers = 0
    room.space.expect(BIG)
    assert (room.files(), room.space.used) == ([], 0), "at once"
    room.space.take(BIG)
    room.space.give_back(BIG)
    async with asyncio.timeout(60):
        assert await storing == Kept(stored=False, error="store_away")
    [failed] = room.notes.events("store_failed")
    assert "AWAY" in failed["cause"].upper()
    assert room.notes.counts["stores_given_up"] == 1
    await room.clean()


async def test_an_attempt_under_way_is_given_up_too(tmp_path: Path) -> None:
    room, body = Room(tmp_path, store_retry=600.0, quota=BIG + 1000), os.urandom(BIG)
    room.store.will("put", [AWAY, asyncio.Event()])
    spool = await arrived(room, body)
    storing = asyncio.create_task(room.storing.finish(spool, row(body)))
    async with asyncio.timeout(60):
        while room.store.log.count("put") < 2:
            await asyncio.sleep(0.01)
        room.space.expect(BIG)
        assert (await storing).error == "store_away"
    await room.clean()


async def test_bodies_in_memory_wait_within_a_bound(tmp_path: Path) -> None:
    bound = waiting.Waiting(Room(tmp_path).notes, most=10, memory_bytes=1000)
    room, places = Room(tmp_path), []
    for _ in range(5):
        spool = room.spool(400)
        await spool.write(bytes(400))
        places.append(bound.enter(spool, lambda: True))
    assert [place.given_up.done() for place in places] == [True, True, True, False, False]
    for _ in range(20):
        places.append(bound.enter(room.spool(0), lambda: True))
    assert len(bound) == 10
    assert all(place.given_up.done() for place in places[:5])
    room.spools = []
    await room.clean()


# --- the index ---


async def test_p01_a_row_waits_for_its_index(tmp_path: Path) -> None:
    room, body = Room(tmp_path), os.urandom(BIG)
    for name in ("bury", "record"):
        room.index.will(name, [NO_INDEX])
    spool = await arrived(room, body)
    assert await room.storing.finish(spool, row(body)) == Kept(stored=True, error="index_away")
    assert room.store.blobs == {row(body).ref.sha256: body}
    found = await room.tools.index.find(row(body).key)
    assert (found.entry, found.uncertain) == (row(body), False)
    assert room.index.rows == {}
    await room.unrecorded.flush()
    assert room.index.rows == {row(body).key: row(body)}
    await room.clean()


async def test_p01_what_first_sight_promises_waits_too(tmp_path: Path) -> None:
    room, body = Room(tmp_path), os.urandom(BIG)
    room.index.will("learn", [NO_INDEX])
    spool = await arrived(room, body)
    entry = row(body, by="framing")
    assert await room.storing.finish(spool, entry) == Kept(stored=True, error="index_away")
    assert (await room.tools.index.find(entry.key)).promise is not None
    await room.unrecorded.flush()
    assert room.index.promises[entry.key].digest("sha256") is not None
    await room.clean()


async def test_p01_where_no_row_is_kept_it_is_lost(tmp_path: Path) -> None:
    room, body = Room(tmp_path, unrecorded=0), os.urandom(BIG)
    room.index.will("record", [NO_INDEX])
    spool = await arrived(room, body)
    assert await room.storing.finish(spool, row(body)) == Kept(stored=False, error="index_away")
    assert len(room.notes.events("record_failed")) == 1
    await room.clean()


# --- cancelled at each step ---


@pytest.mark.parametrize(
    ("step", "takes_in", "promise"),
    [
        ("begin", True, True),
        ("finish", True, True),
        ("put", False, False),
        ("bury", False, False),
        ("bury", True, True),
        ("record", True, True),
        ("rest", False, False),
        ("rest", True, True),
        ("again", False, False),
    ],
)
async def test_b11_cancelled_at_each_step(tmp_path: Path, step: str, takes_in: bool, promise: bool) -> None:
    room, body = Room(tmp_path, takes_in=takes_in, store_retry=600.0), os.urandom(BIG)
    hangs = asyncio.Event()
    for scripted in (room.store, room.index):
        scripted.will(step, [hangs])
    if step in ("rest", "again"):
        for name in ("put", "finish"):
            room.store.will(name, [AWAY, hangs])
    spool = await arrived(room, body, promise=promise)
    if step == "begin":
        room.storing.abandon()
    else:
        storing = asyncio.create_task(room.storing.finish(spool, row(body)))
        wanted = {"rest": 1, "again": 2}.get(step)
        async with asyncio.timeout(60):
            while wanted and len([s for s in room.store.log if s in ("put", "finish")]) < wanted:
                await asyncio.sleep(0.01)
        await turns()
        assert not storing.done()
        storing.cancel()
        await asyncio.wait((storing,))
        assert storing.cancelled()
        room.storing.abandon()
    await turns()
    given = {"begin": 0, "finish": 0, "record": 0, "put": 0, "again": 0}.get(step, int(takes_in))
    assert sum(intake.abandoned for intake in room.store.intakes) == given
    assert room.index.rows == {}
    for intake in room.store.intakes:
        intake._task.cancel()
    await turns()
    await room.clean()
