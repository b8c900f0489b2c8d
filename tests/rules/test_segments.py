"""The map of a body in segments: nothing is lost, nothing is brought twice, whatever connections do."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import Span
from artifactproxy.rules.segments import (
    LEAST,
    WORTH_SPLITTING,
    SavedMap,
    SegmentMap,
    next_to_ask,
    read_map,
    resumable,
)

MIB = 2**20


def covered(board: SegmentMap) -> list[Span]:
    """Free, on its way and landed, in order."""
    running = [Span(s.landed, s.stop) for s in board.running if s.stop > s.landed]
    return sorted([*board.free(), *running, *board.spans()], key=lambda span: span.start)


@given(st.integers(1, 40 * MIB), st.integers(MIB, 8 * MIB), st.integers(1, 8), st.integers(0, 2**32))
def test_whatever_happens_the_whole_is_covered_once(length: int, size: int, crew: int, seed: int) -> None:
    """Claims, progress, breaks, splits and extensions in any order: every byte is in one place."""
    chance, board = random.Random(seed), SegmentMap(length)
    for _ in range(300):
        if board.whole:
            break
        step = chance.random()
        if (step < 0.3 or not board.running) and len(board.running) < crew:
            board.claim(size, crew)
        elif step < 0.4:
            board.split(chance.choice(board.running), chance.random())
        elif step < 0.5:
            segment = chance.choice(board.running)
            if segment.taken == segment.stop:
                board.extend(segment, size)
        elif step < 0.6:
            segment = chance.choice(board.running)
            segment.landed = chance.randint(segment.landed, segment.taken)
            board.done(segment)
        else:
            segment = chance.choice(board.running)
            segment.taken = chance.randint(segment.taken, segment.stop)
            segment.landed = chance.randint(segment.landed, segment.taken)
            if segment.landed == segment.stop:
                board.done(segment)
        at = 0
        for span in covered(board):
            assert span.start == at
            at = span.stop
        assert at == length
        assert board.size == length - sum(s.size for s in board.free()) - sum(
            s.stop - s.landed for s in board.running
        )
        assert board.frontier <= board.size
    for segment in list(board.running):
        segment.landed = segment.taken = segment.stop
        board.done(segment)
    while (segment := board.claim(size)) is not None:
        segment.landed = segment.taken = segment.stop
        board.done(segment)
    assert board.whole
    assert board.size == length


@given(st.integers(1, 10**12), st.integers(MIB, 64 * MIB), st.integers(1, 16))
def test_segments_are_claimed_in_order_and_get_smaller_towards_the_end(
    length: int, size: int, crew: int
) -> None:
    board, at, sizes = SegmentMap(length), 0, []
    for _ in range(200):
        segment = board.claim(size, crew)
        if segment is None:
            break
        assert segment.start == at
        at = segment.stop
        sizes.append(segment.left)
    assert all(0 < s <= size for s in sizes)
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert all(s >= min(LEAST, length) for s in sizes[:-1])


def test_offsets_beyond_4_gib_are_numbers_like_others() -> None:
    length = 6 * 2**30 + 1
    board = SegmentMap(length, [Span(0, length - 5 * MIB)])
    segment = board.claim(8 * MIB)
    assert segment is not None
    assert (segment.start, segment.stop) == (length - 5 * MIB, length - 5 * MIB // 2)


def test_tries_stay_with_the_bytes() -> None:
    board = SegmentMap(4 * MIB)
    segment = board.claim(MIB)
    assert segment is not None
    segment.taken = segment.landed = 1000
    segment.tries = 2
    board.done(segment)
    again = board.claim(MIB)
    assert again is not None
    assert (again.start, again.tries) == (1000, 2)


def test_little_is_not_split() -> None:
    board = SegmentMap(WORTH_SPLITTING - 1)
    segment = board.claim(MIB)
    assert segment is not None
    assert board.split(segment, 0.5) is None


def test_a_split_leaves_nothing_to_one_that_brings_nothing() -> None:
    board = SegmentMap(MIB)
    segment = board.claim(MIB)
    assert segment is not None
    other = board.split(segment, 1.0)
    assert other is not None
    assert (segment.left, other.left) == (0, MIB)


def test_what_lies_behind_a_gap_can_be_forgotten() -> None:
    board = SegmentMap(10, [Span(0, 3), Span(3, 4), Span(6, 8)])
    board.forget_ahead()
    assert (board.frontier, board.size, list(board.free())) == (4, 4, [Span(4, 10)])


# --- the map beside the file ---


@st.composite
def maps(draw: st.DrawFn) -> SavedMap:
    length = draw(st.integers(1, 2**40))
    ends = sorted(draw(st.sets(st.integers(0, length), max_size=20)))
    spans = [Span(a, b) for a, b in zip(ends[::2], ends[1::2], strict=False)]
    return SavedMap(draw(st.from_regex(r"\A[0-9a-f]{64}\Z")), length, tuple(spans))


@given(maps())
def test_a_map_is_read_as_it_was_written(saved: SavedMap) -> None:
    assert read_map(saved.text()) == saved


@given(maps())
def test_at_least_one_byte_is_asked_for_again(saved: SavedMap) -> None:
    assert 0 <= next_to_ask(saved) < saved.length
    assert all(span.stop < saved.length for span in resumable(saved))


def written(**changed: object) -> str:
    return json.dumps({"version": 1, "sha256": "0" * 64, "length": 9, "spans": [], **changed})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        written(version=2),
        written(sha256="../x"),
        written(spans=[[0, 10]]),
        written(spans=[[3, 2]]),
        written(spans=[[0, 5], [4, 9]]),
        written(spans=[[-1, 5]]),
        written(spans=7),
        written(spans=[[0]]),
        written(length=-9),
        written(length=float("inf")),
    ],
)
def test_what_is_no_map_is_none(text: str) -> None:
    assert read_map(text) is None


@given(st.binary())
def test_any_bytes_are_a_map_or_none(text: bytes) -> None:
    read_map(text)
