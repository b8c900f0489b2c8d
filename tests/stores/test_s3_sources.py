"""Parts that lie in memory in the pieces in which they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.stores.s3.sources import SLICE, SMALL, MemorySource, SourceFailed

START = 11
SIZES = st.lists(st.sampled_from([1, 2, 700, SMALL - 1, SMALL, SMALL + 1, SLICE]), min_size=1, max_size=12)


def filled(sizes: list[int]) -> tuple[MemorySource, bytes]:
    source, whole = MemorySource(START), b""
    for number, size in enumerate(sizes):
        piece = bytes([number % 256]) * size
        source.add(memoryview(piece))
        whole += piece
    return source, whole


@given(SIZES, st.data())
def test_any_span_is_what_came(sizes: list[int], data: st.DataObject) -> None:
    source, whole = filled(sizes)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert source.size == len(whole)
    assert source.read(START + start, START + stop) == whole[start:stop]
    assert b"".join(source.views(START + start, START + stop)) == whole[start:stop]


def test_small_pieces_are_laid_together() -> None:
    source, whole = filled([100] * 20_000)
    assert len(source.views(START, START + len(whole))) <= len(whole) // SLICE + 1


def test_large_pieces_are_not_copied() -> None:
    piece = bytes(SLICE)
    source = MemorySource(0)
    source.add(memoryview(piece)[10:])
    (view,) = source.views(0, SLICE - 10)
    assert view.obj is piece


def test_more_than_is_there_is_an_error() -> None:
    source, whole = filled([SMALL, 5])
    with pytest.raises(SourceFailed):
        source.read(START, START + len(whole) + 1)
