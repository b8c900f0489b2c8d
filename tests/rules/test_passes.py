"""Passes hold for what they were made for, for a while, under one secret; nothing else holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.passes import LIFE, holds, seal

NOW = 1_700_000_000.0
line = st.text(st.characters(blacklist_characters="\n"), min_size=1, max_size=40)


@given(line, line, line, st.floats(-LIFE + 1, LIFE - 1))
def test_what_was_sealed_holds_meanwhile(secret: str, method: str, subject: str, later: float) -> None:
    assert holds(secret, seal(secret, method, subject, NOW), method, subject, NOW + later)


@given(line, line, line, line, line, line)
def test_nothing_else_holds(
    secret: str, method: str, subject: str, other: str, verb: str, thing: str
) -> None:
    same = (secret, method, subject) == (other, verb, thing)
    assert holds(other, seal(secret, method, subject, NOW), verb, thing, NOW) is same


@pytest.mark.parametrize("later", [-LIFE - 2, LIFE + 2, -1e9, 1e9])
def test_it_ends(later: float) -> None:
    assert not holds("s", seal("s", "GET", "x", NOW), "GET", "x", NOW + later)


@given(st.text(max_size=200))
def test_hostile_text_is_no_pass(text: str) -> None:
    assert not holds("s", text, "GET", "x", NOW)


@pytest.mark.parametrize("text", ["{}\n", " {}", "{} ", "V1{}", "v2{}"])
def test_it_is_read_to_the_letter(text: str) -> None:
    made = seal("s", "GET", "x", NOW)
    assert not holds("s", text.format(made.removeprefix("v1") if text[0] in "vV" else made), "GET", "x", NOW)


def test_a_moment_is_written_in_one_way() -> None:
    """Its zeros count: what is not what was made is no pass."""
    version, expires, digest = seal("s", "GET", "x", NOW).split(" ")
    assert not holds("s", f"{version} 0{expires} {digest}", "GET", "x", NOW)


def test_an_empty_secret_opens_nothing() -> None:
    assert not holds("", seal("", "GET", "x", NOW), "GET", "x", NOW)
