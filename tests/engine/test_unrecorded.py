"""Rows that an index which was away could not take: found meanwhile, recorded in order afterwards."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from artifactproxy.errors import BadRequest, IndexUnavailable, StoreAway
from artifactproxy.model import CacheEntry, Kind
from tests.engine.parts import Room, promised, row

NO_INDEX = IndexUnavailable("the index does not answer", code="index_away")


def stored(room: Room, path: str, **more: int) -> CacheEntry:
    """A row whose blob is there."""
    body = os.urandom(50)
    entry = row(body, path=path, **more)
    room.store.blobs[entry.ref.sha256] = body
    return entry


async def test_p01_it_is_found_while_the_index_is_away(tmp_path: Path) -> None:
    room = Room(tmp_path)
    entry = stored(room, "a")
    assert room.unrecorded.keep(entry)
    room.index.will("find", [NO_INDEX, NO_INDEX, None])
    found = await room.tools.index.find(entry.key)
    assert (found.entry, found.uncertain) == (entry, True)
    with pytest.raises(IndexUnavailable):
        await room.tools.index.find(replace(entry.key, path="b"))
    assert (await room.tools.index.find(entry.key)).uncertain is False


async def test_p01_they_are_recorded_in_order(tmp_path: Path) -> None:
    room = Room(tmp_path)
    entries = [stored(room, path) for path in "dacb"]
    for entry in entries:
        room.unrecorded.keep(entry)
    room.index.will("record", [None, None, NO_INDEX])
    await room.unrecorded.flush()
    assert list(room.index.rows) == [entry.key for entry in entries[:2]]
    assert len(room.unrecorded) == 2
    await room.unrecorded.flush()
    assert list(room.index.rows) == [entry.key for entry in entries]
    assert [e["rows"] for e in room.notes.events("recorded_late")] == [2, 2]


@pytest.mark.parametrize("step", ["bury", "record"])
async def test_p01_an_index_that_stays_away_keeps_them_waiting(tmp_path: Path, step: str) -> None:
    room = Room(tmp_path)
    room.unrecorded.keep(stored(room, "a"))
    room.index.will(step, [NO_INDEX])
    await room.unrecorded.flush()
    assert (len(room.unrecorded), room.index.rows) == (1, {})


async def test_p08_a_blob_that_went_meanwhile_gets_no_row(tmp_path: Path) -> None:
    """It may have been on its way out when it was put, which nobody could see."""
    room = Room(tmp_path)
    gone, kept = stored(room, "gone"), stored(room, "kept")
    for entry in (gone, kept):
        room.unrecorded.keep(entry)
    del room.store.blobs[gone.ref.sha256]
    await room.unrecorded.flush()
    assert list(room.index.rows) == [kept.key]
    assert len(room.unrecorded) == 0
    assert room.index.log.count("bury") == 2, "before it was looked for"


async def test_p08_a_store_that_cannot_tell_is_not_read_as_gone(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.unrecorded.keep(stored(room, "a"))
    room.store.will("size", [StoreAway("no answer")])
    await room.unrecorded.flush()
    assert (len(room.unrecorded), room.index.rows) == (1, {})


async def test_it_is_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    room = Room(tmp_path, unrecorded=3)
    entries = [stored(room, path) for path in "abcde"]
    for entry in entries:
        assert room.unrecorded.keep(entry)
    assert [room.unrecorded.of(entry.key) is not None for entry in entries] == [False] * 2 + [True] * 3
    assert room.notes.counts["unrecorded_dropped"] == 2


async def test_i03_an_older_generation_never_wins(tmp_path: Path) -> None:
    room = Room(tmp_path)
    old, new = stored(room, "a", generation=4), stored(room, "a", generation=7)
    room.unrecorded.keep(new)
    room.unrecorded.keep(old)
    assert room.unrecorded.of(new.key).entry == new
    room.index.rows[new.key] = replace(new, generation=9)
    assert (await room.tools.index.find(new.key)).entry.generation == 9, "another process was faster"
    await room.unrecorded.flush()
    assert room.index.rows[new.key].generation == 9


async def test_i03_a_row_without_a_generation_wins_over_a_memory_only(tmp_path: Path) -> None:
    room = Room(tmp_path)
    seen = replace(stored(room, "a", generation=5), kind=Kind.INDEX, checked_at=100.0)
    ours = replace(stored(room, "a", generation=0), kind=Kind.INDEX, checked_at=200.0)
    room.unrecorded.keep(ours)
    room.index.rows[seen.key] = seen
    assert (await room.tools.index.find(seen.key)).entry == seen
    certain = room.index.find

    async def remembered(key):
        return replace(await certain(key), uncertain=True)

    room.index.find = remembered
    assert (await room.tools.index.find(seen.key)).entry == ours
    room.index.rows[seen.key] = replace(seen, checked_at=300.0)
    assert (await room.tools.index.find(seen.key)).entry.checked_at == 300.0


async def test_a_newer_row_that_the_index_took_ends_the_wait(tmp_path: Path) -> None:
    room = Room(tmp_path)
    entry = stored(room, "a", generation=3)
    room.unrecorded.keep(entry)
    await room.tools.index.record(replace(entry, generation=2))
    assert len(room.unrecorded) == 1
    await room.tools.index.record(replace(entry, generation=8))
    assert len(room.unrecorded) == 0


async def test_bytes_that_are_lost_take_their_row_along(tmp_path: Path) -> None:
    room = Room(tmp_path)
    entry, other = stored(room, "a"), stored(room, "b")
    absence = replace(entry, key=replace(entry.key, path="c"), ref=None, status=404)
    for each in (entry, other, absence):
        room.unrecorded.keep(each)
    room.unrecorded.forget_blob(entry.ref.sha256)
    assert [room.unrecorded.of(each.key) is not None for each in (entry, other, absence)] == [
        False,
        True,
        True,
    ]
    await room.unrecorded.flush()
    assert room.index.rows[absence.key] == absence, "without a blob there is none to look for"


async def test_two_flushes_record_each_row_once(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for path in "abc":
        room.unrecorded.keep(stored(room, path))
    slow = asyncio.Event()
    room.index.will("record", [slow])
    both = [asyncio.create_task(room.unrecorded.flush()) for _ in range(2)]
    await asyncio.sleep(0.01)
    late = stored(room, "d")
    room.unrecorded.keep(late)
    slow.set()
    await asyncio.gather(*both)
    assert room.index.log.count("record") == 4
    assert late.key in room.index.rows


async def test_a_cancelled_flush_forgets_nothing(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.unrecorded.keep(stored(room, "a"))
    room.index.will("record", [asyncio.Event()])
    flushing = asyncio.create_task(room.unrecorded.flush())
    await asyncio.sleep(0.01)
    flushing.cancel()
    await asyncio.wait((flushing,))
    assert len(room.unrecorded) == 1
    await room.unrecorded.flush()
    assert len(room.index.rows) == 1


async def test_what_is_lost_at_the_end_is_told(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for path in "ab":
        room.unrecorded.keep(stored(room, path))
    room.index.will("bury", [None, NO_INDEX])
    await room.unrecorded.close()
    assert len(room.index.rows) == 1
    assert room.notes.events("unrecorded_lost") == [{"rows": 1}]


async def test_p01_what_documents_promise_waits_as_well(tmp_path: Path) -> None:
    room = Room(tmp_path, unrecorded=2)
    promises = [replace(promised(b"x"), key=row(b"x", path=f"p{n}").key) for n in range(12)]
    room.index.will("learn", [NO_INDEX])
    with pytest.raises(IndexUnavailable):
        await room.tools.index.learn(promises)
    room.index.will("find", [NO_INDEX])
    found = await room.tools.index.find(promises[-1].key)
    assert (found.entry, found.promise, found.uncertain) == (None, promises[-1], True)
    assert room.unrecorded.taught(promises[1].key) is None, "bounded: the oldest went"
    room.index.will("learn", [NO_INDEX])
    await room.unrecorded.flush()
    assert room.index.promises == {}
    await room.unrecorded.flush()
    assert list(room.index.promises) == [promise.key for promise in promises[2:]]
    assert room.unrecorded.taught(promises[-1].key) is None


async def test_p01_a_row_that_no_index_takes_does_not_stand_in_the_others_way(tmp_path: Path) -> None:
    room = Room(tmp_path)
    entries = [stored(room, path) for path in "ab"]
    for entry in entries:
        room.unrecorded.keep(entry)
    room.index.will("record", [BadRequest("a name is not Unicode text")])
    await room.unrecorded.flush()
    assert list(room.index.rows) == [entries[1].key]
    assert len(room.unrecorded) == 0
    assert [e["rows"] for e in room.notes.events("recorded_late")] == [1]
