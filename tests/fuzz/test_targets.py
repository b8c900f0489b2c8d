"""The fuzz targets under hypothesis: random bytes, and what works with bytes changed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds


@st.composite
def damaged(draw: st.DrawFn, bodies: list[bytes]) -> bytes:
    """A seed with a few bytes replaced, removed, or repeated."""
    body = draw(st.sampled_from(bodies))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        width = draw(st.integers(0, 40))
        body = body[:at] + draw(st.binary(max_size=12)) * draw(st.integers(1, 3)) + body[at + width :]
    return body


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_come_through(name: str) -> None:
    assert seeds(name)
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_promise(name: str) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300) | damaged(seeds(name)))
    def law(data: bytes) -> None:
        TARGETS[name](data)

    law()
