"""What goes first, and how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import BlobRef
from artifactproxy.rules.eviction import budget, choose

candidates = st.lists(
    st.tuples(
        st.builds(BlobRef, st.integers(0, 2**20).map(lambda n: f"{n:064x}"), st.integers(0, 1000)),
        st.floats(0, 100),
    ),
    max_size=30,
    unique_by=lambda c: c[0].sha256,
)


def ref(n: int, size: int) -> BlobRef:
    return BlobRef(f"{n:064x}", size)


def test_coldest_first_until_enough() -> None:
    rows = [(ref(1, 10), 30.0), (ref(2, 10), 10.0), (ref(3, 10), 20.0)]
    assert choose(rows, 0) == []
    assert choose(rows, -5) == []
    assert choose(rows, 1) == [ref(2, 10)]
    assert choose(iter(rows), 11) == [ref(2, 10), ref(3, 10)]
    assert choose(rows, 1000) == [ref(2, 10), ref(3, 10), ref(1, 10)]


def test_twins_count_once_and_empty_blobs_stay() -> None:
    rows = [(ref(1, 10), 1.0), (ref(1, 10), 2.0), (ref(2, 0), 0.0), (ref(3, 10), 3.0)]
    assert choose(rows, 20) == [ref(1, 10), ref(3, 10)]


@given(candidates, st.integers(0, 5000))
def test_enough_is_freed_without_one_blob_too_many(rows: list[tuple[BlobRef, float]], need: int) -> None:
    chosen = choose(rows, need)
    freed = sum(r.size for r in chosen)
    assert freed >= min(need, sum(r.size for r, _ in rows))
    assert not chosen or freed - chosen[-1].size < need
    used = {r.sha256: at for r, at in rows}
    spared = [at for r, at in rows if r not in chosen and r.size]
    assert not spared or not chosen or max(used[r.sha256] for r in chosen) <= min(spared)


@pytest.mark.parametrize(
    ("limit", "used", "total", "free", "share", "to_free"),
    [
        (100, 50, 1000, 0, 0.1, 0),
        (100, 100, 1000, 0, 0.1, 0),
        (100, 120, 1000, 999, 0.1, 20),
        (0, 120, 1000, 999, 0.1, 120),
        (None, 500, 1000, 100, 0.1, 0),
        (None, 500, 1000, 40, 0.1, 60),
        (None, 30, 1000, 0, 0.1, 30),
        (None, 0, 1000, 0, 0.1, 0),
        (None, 500, 1000, 0, 0.0, 0),
        (None, 500, 1001, 100, 0.1, 1),
    ],
)
def test_budget(limit: int | None, used: int, total: int, free: int, share: float, to_free: int) -> None:
    assert budget(limit, used, total, free, share) == to_free
