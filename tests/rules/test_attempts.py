"""Failed logins of one address: so many a minute, evenly, and nobody else's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.attempts import REMEMBERED, Attempts


def test_so_many_at_once_and_then_one_for_each_share_of_a_minute() -> None:
    attempts = Attempts(6)
    assert [attempts.failed("192.0.2.1", 0.0) for _ in range(6)] == [0.0] * 6
    assert attempts.failed("192.0.2.1", 0.0) == attempts.wait("192.0.2.1", 0.0) == pytest.approx(10.0)
    assert attempts.wait("192.0.2.1", 4.0) == pytest.approx(6.0)
    assert attempts.failed("192.0.2.1", 10.0) == 0.0
    assert attempts.failed("192.0.2.1", 10.0) > 0.0
    assert [attempts.failed("192.0.2.1", 80.0) for _ in range(7)][5:] == [0.0, pytest.approx(10.0)]


def test_others_are_not_held_back() -> None:
    attempts = Attempts(1)
    assert attempts.failed("192.0.2.1", 0.0) == 0.0
    assert attempts.wait("192.0.2.1", 0.0) > 0.0
    assert attempts.wait("192.0.2.2", 0.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "", True),
        ("not an address", "another", False),
    ],
)
def test_whose_an_address_is(one: str, other: str, same: bool) -> None:
    attempts = Attempts(1)
    attempts.failed(one, 0.0)
    assert (attempts.wait(other, 0.0) > 0.0) is same


def test_none_is_no_bound() -> None:
    attempts = Attempts(0)
    assert [attempts.failed("192.0.2.1", 0.0) for _ in range(100)] == [0.0] * 100


def test_only_so_many_addresses_are_remembered() -> None:
    attempts = Attempts(1)
    for number in range(REMEMBERED + 5):
        attempts.failed(f"host-{number}", 0.0)
    assert len(attempts._left) == REMEMBERED
    assert attempts.wait("host-4", 0.0) == 0.0
    assert attempts.wait("host-5", 0.0) > 0.0


@given(st.lists(st.floats(0, 600), max_size=60), st.integers(1, 20))
def test_never_more_than_twice_the_bound_in_a_minute(moments: list[float], most: int) -> None:
    attempts, taken = Attempts(most), []
    for now in sorted(moments):
        if attempts.failed("a", now) == 0.0:
            taken.append(now)
        assert attempts.wait("a", now) <= 60.0
    for start in taken:
        assert sum(start <= now < start + 60 for now in taken) <= 2 * most
