"""U7 and U8: whatever the size, S3 can take the parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.multipart import COUNT, LARGEST, LEAST, MIB, MOST, Part, Plan, plan

BASES = st.integers(1, 10 * 2**30)


@given(st.integers(0, LARGEST), BASES)
def test_u7_a_known_length_is_cut_into_legal_equal_parts(length: int, preferred: int) -> None:
    cut = plan(length, preferred)
    assert LEAST <= cut.size <= MOST
    assert max(1, -(-length // cut.size)) <= COUNT
    assert cut.part(COUNT).stop >= length


@given(st.integers(0, 3000 * MIB), st.integers(LEAST, 64 * MIB), st.booleans())
def test_u7_parts_cover_the_body_once_and_in_order(length: int, preferred: int, known: bool) -> None:
    cut = plan(length if known else None, preferred)
    parts = list(cut.parts(length))
    assert parts[0].start == 0
    assert parts[-1].stop == length
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert all(one.stop == two.start for one, two in pairwise(parts))
    assert all(LEAST <= part.size <= MOST for part in parts[:-1])
    assert all(cut.part(part.number).start == part.start for part in parts)


@given(BASES)
def test_u7_an_unknown_length_reaches_the_largest_object(preferred: int) -> None:
    cut = plan(None, preferred)
    assert cut.part(COUNT).stop >= LARGEST
    assert cut.part(COUNT).size <= MOST
    assert cut.part(1).size == min(max(preferred, LEAST), MOST)


def test_u7_an_empty_body_is_one_empty_part() -> None:
    assert list(plan(0, 8 * MIB).parts(0)) == [Part(1, 0, 0)]
    assert list(plan(None, 8 * MIB).parts(0)) == [Part(1, 0, 0)]


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (1, 8),
        (10 * 2**30, 8),
        (10 * 2**30 + 1, 16),
        (160_000 * MIB, 16),
        (160_000 * MIB + 1, 17),
        (LARGEST, 525),
    ],
)
def test_u8_parts_grow_with_the_object(length: int, size: int) -> None:
    assert plan(length, 8 * MIB) == Plan(size * MIB)


def test_u8_more_than_an_object_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="5 TiB"):
        plan(LARGEST + 1, 8 * MIB)
