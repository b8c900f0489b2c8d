"""How many connections: against upstreams that limit each connection, each client, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.crew import Crew, share, straggles, usual

MB = 1e6


def played(crew: Crew, rate: Callable[[int], float], windows: int = 40) -> list[Crew]:
    seen = [crew]
    for _ in range(windows):
        seen.append(seen[-1].judged(rate(seen[-1].size)))
    return seen


@pytest.mark.parametrize("most", [1, 2, 3, 4, 8, 11, 16, 64])
def test_a_limit_for_each_connection_is_met_with_all_that_are_allowed(most: int) -> None:
    seen = played(Crew(most), lambda size: 20 * MB * size)
    assert seen[-1].size == most
    assert all(crew.size == most for crew in seen[5:])


@pytest.mark.parametrize("most", [2, 4, 8, 16])
def test_a_limit_for_the_client_ends_with_few(most: int) -> None:
    seen = played(Crew(most), lambda _: 50 * MB)
    assert min(crew.size for crew in seen) == 1
    assert sum(crew.size for crew in seen[10:]) / len(seen[10:]) < 2, "most windows pass with one"


def test_a_limit_that_is_reached_on_the_way_is_found() -> None:
    seen = played(Crew(64), lambda size: 20 * MB * min(size, 8))
    assert sorted(crew.size for crew in seen[10:])[len(seen[10:]) // 2] == 8


def test_nothing_is_tried_while_upstream_waits_for_us() -> None:
    crew = Crew(16)
    for _ in range(20):
        crew = crew.judged(900 * MB, 0.1)
        assert crew.size == 1
    assert crew.judged(0.0, 1.0).size > 1, "what it had saved up is used up"


def test_fewer_do_where_upstream_waits_for_us() -> None:
    crew = Crew(16)
    while crew.size < 16:
        crew = crew.judged(20 * MB * crew.size, 0.95)
    for _ in range(200):
        crew = crew.judged(600 * MB, 0.2)
    assert crew.size == 1


def test_one_bad_moment_costs_little() -> None:
    """A machine that stood still in the middle of a trial has proved nothing."""
    seen = played(Crew(16), lambda size: 20 * MB * size, 2)
    crew = seen[-1].judged(0.0)
    again = played(crew, lambda size: 20 * MB * size, 12)
    assert again[-1].size == 16


def test_an_upstream_that_gets_slower_is_left_some() -> None:
    seen = played(Crew(16), lambda size: 100 * MB / size)
    assert seen[-1].size == 1


@given(
    st.integers(1, 64),
    st.lists(st.one_of(st.floats(0, 1e12), st.integers(1, 64).map(float)), max_size=100),
    st.data(),
)
def test_the_bound_holds_whatever_is_measured(most: int, rates: list[float], data: st.DataObject) -> None:
    crew = Crew(most)
    for rate in rates:
        crew = crew.capped(data.draw(st.integers(0, 70))) if data.draw(st.booleans()) else crew.judged(rate)
        assert 1 <= crew.size <= crew.most <= most


def test_what_is_usual() -> None:
    assert usual([]) == 0
    assert usual([5, 1, 3]) == 3
    assert usual(r for r in (20 * MB, 2 * MB, 20 * MB, 20 * MB)) == 20 * MB


@pytest.mark.parametrize(
    ("rate", "worked", "left", "expected"),
    [
        (2 * MB, 1.0, 8 * 2**20, True),
        (0.0, 1.0, 1, True),
        (2 * MB, 0.3, 8 * 2**20, False),  # too early to tell
        (10 * MB, 1.0, 8 * 2**20, False),  # slower, but not worth a handshake
        (2 * MB, 1.0, 500_000, False),  # it ends soon
    ],
)
def test_who_straggles(rate: float, worked: float, left: int, expected: bool) -> None:
    assert straggles(rate=rate, others=20 * MB, worked=worked, left=left) is expected


def test_nobody_straggles_alone() -> None:
    assert not straggles(rate=0.0, others=0.0, worked=100.0, left=10**9)


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_both_end_together(rate: float, others: float) -> None:
    part = share(rate=rate, others=others)
    assert 0 <= part <= 1
    if rate > 1e3 and others > 1e3:
        assert part / others == pytest.approx((1 - part) / rate, rel=1e-3)
