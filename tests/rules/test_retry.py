"""Back-off and breaker as values: no sleeping, no chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.limits import RemoteLimits
from artifactproxy.rules.retry import Breaker, backoff

LIMITS = RemoteLimits(breaker_failures=3, breaker_open=10.0, breaker_max=60.0)


def failed(times: int, now: float, breaker: Breaker | None = None) -> Breaker:
    breaker = breaker or Breaker()
    for _ in range(times):
        breaker = breaker.after_failure(now, LIMITS)
    return breaker


def test_backoff_doubles_and_jitter_scales_all_of_it() -> None:
    assert [backoff(n, 0.2, 1.0) for n in range(4)] == [0.2, 0.4, 0.8, 1.6]
    assert backoff(3, 0.2, 0.5) == 0.8
    assert backoff(5, 0.2, 0.0) == 0.0


@given(st.integers(-5, 10**9), st.floats(0, 100), st.floats(0, 1))
def test_backoff_is_bounded(attempt: int, base: float, jitter: float) -> None:
    assert 0 <= backoff(attempt, base, jitter) <= 60 * jitter


def test_it_opens_at_the_configured_number_of_failures_in_a_row() -> None:
    assert failed(2, 100.0).refuses(100.0) is None
    assert failed(3, 100.0).refuses(100.0) == 10.0
    assert failed(3, 100.0).refuses(109.0) == 1.0
    assert failed(2, 100.0).after_success().after_failure(100.0, LIMITS).refuses(100.0) is None


def test_a_failed_probe_doubles_the_time_up_to_the_limit() -> None:
    breaker, now, waits = failed(3, 0.0), 0.0, []
    for _ in range(6):
        wait = breaker.refuses(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        assert breaker.refuses(now) is None
        assert breaker.opened > 0
        breaker = breaker.after_failure(now, LIMITS)
    assert waits == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_a_successful_probe_closes_it_and_forgets() -> None:
    closed = failed(3, 0.0).after_success()
    assert closed == Breaker()
    assert failed(2, 50.0, closed).refuses(50.0) is None


def test_late_failures_of_requests_sent_before_it_opened_do_not_count() -> None:
    breaker = failed(3, 0.0)
    assert failed(20, 5.0, breaker) == breaker


def test_a_gate_is_kept_by_success_and_only_moves_on() -> None:
    gated = Breaker().gated(100.0)
    assert gated.refuses(40.0) == 60.0
    assert gated.gated(50.0).refuses(40.0) == 60.0
    assert gated.after_success().refuses(40.0) == 60.0
    assert gated.refuses(100.0) is None
    assert gated.opened == 0


@given(st.lists(st.tuples(st.sampled_from(["fail", "succeed", "gate"]), st.integers(0, 30)), max_size=40))
def test_nothing_refuses_for_longer_than_it_may(events: list[tuple[str, int]]) -> None:
    breaker, now, gate = Breaker(), 0.0, 0.0
    for event, passed in events:
        now += passed
        if event == "fail":
            breaker = breaker.after_failure(now, LIMITS)
        elif event == "succeed":
            breaker = breaker.after_success()
            assert breaker.refuses(now) == (gate - now if gate > now else None)
        else:
            gate = max(gate, now + 20)
            breaker = breaker.gated(now + 20)
        wait = breaker.refuses(now)
        assert wait is None or 0 < wait <= LIMITS.breaker_max
        assert wait is None or breaker.refuses(now + wait + 1e-6) is None


def test_values_do_not_change() -> None:
    breaker = Breaker()
    failed(5, 0.0, breaker)
    breaker.gated(9.0)
    with pytest.raises(AttributeError):
        breaker.failures = 3  # type: ignore[misc]
    assert breaker == Breaker()
