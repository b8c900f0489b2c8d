"""What processes tell each other, written and read; whatever else is read is no message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import ArtifactKey
from artifactproxy.rules.bulletin import EVERYTHING, KEYS_MAX, changed, heard, keys_of, told
from artifactproxy.rules.retry import Breaker

TEXT = st.text(st.characters(), max_size=50)
KEYS = st.builds(ArtifactKey, TEXT, TEXT, TEXT)


@given(st.lists(KEYS, max_size=20))
def test_keys_come_back_as_they_were(keys: list[ArtifactKey]) -> None:
    written = changed(keys)
    assert written.isascii()
    assert keys_of(written) == keys


def test_many_keys_are_everything() -> None:
    keys = [ArtifactKey("r", str(n)) for n in range(KEYS_MAX + 1)]
    assert changed(keys) == EVERYTHING == changed([])
    assert len(keys_of(changed(keys[1:]))) == KEYS_MAX
    assert keys_of(json.dumps([["r", "p", ""]] * (KEYS_MAX + 1))) == []


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "null", "{}", "1", "[1]", '[["r"]]', '[["r", "p", null]]', '[["r", "p", "", ""]]', "[[[[",
        "[" * 100_000, '[["r", "p", ""], 1]', json.dumps([["r", "p" * 20_000, ""]]),
    ],
)  # fmt: skip
def test_what_is_no_list_of_keys(text: str) -> None:
    assert keys_of(text) is None


@given(st.floats(0.1, 3600), st.floats(-10, 4000), st.floats(0, 2e9))
def test_what_is_heard_late_lasts_no_longer(seconds: float, late: float, now: float) -> None:
    """Whatever the difference of the clocks, never longer than was told."""
    found = heard(told("http://h:80", seconds, now), now + late)
    if found is None:
        assert now + late >= now + seconds
    else:
        origin, left = found
        assert origin == "http://h:80"
        assert 0 < left <= seconds
        assert left <= seconds - late + 1e-5


def test_a_recovery_is_heard_however_late() -> None:
    assert heard(told("http://h:80", 0.0, 100.0), 1e9) == ("http://h:80", 0.0)
    assert heard(told("http://h:80", 5.0, 100.0), 1e9) is None
    assert heard(told("http://h:80", 1e12, 100.0), 100.0) == ("http://h:80", 86_400.0)


ODD = [
    {"origin": 1}, {"origin": ""}, {"origin": "h" * 301}, {"origin": "\u00fc"}, {"origin": None},
    {"seconds": -1}, {"seconds": "5"}, {"seconds": True}, {"seconds": None}, {"seconds": float("nan")},
    {"seconds": float("inf")}, {"seconds": 10**400}, {"until": float("inf")}, {"until": []},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_is_no_such_message(odd: dict[str, object]) -> None:
    said = {"origin": "http://h:80", "seconds": 5, "until": 105}
    assert heard(json.dumps(said), 100.0) == ("http://h:80", 5.0)
    assert heard(json.dumps(said | odd), 100.0) is None
    for text in ("", "[]", "null", "{}", "[" * 100_000, '"' + "x" * 1000):
        assert heard(text, 100.0) is None


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_reading_never_raises(text: str) -> None:
    keys_of(text)
    heard(text, 100.0)


def test_hearsay_makes_a_probe_and_nothing_else() -> None:
    closed = Breaker(failures=2)
    suspect = closed.suspected(50.0)
    assert (suspect.refuses(50.0), suspect.opened) == (None, 1)
    assert suspect.suspected(60.0) == suspect
    opened = Breaker(failures=5, open_until=90.0, opened=2)
    assert opened.suspected(50.0) == opened
    assert opened.refuses(50.0) == 40.0
    assert opened.vindicated(50.0).refuses(50.0) is None
    assert opened.vindicated(50.0).opened == 2
    assert Breaker(gated_until=90.0).vindicated(50.0).refuses(50.0) == 40.0
    assert (opened.earned, suspect.earned, Breaker().suspected(1.0).earned) == (True, True, False)
