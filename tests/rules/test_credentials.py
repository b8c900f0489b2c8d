"""Tokens, tickets and the Authorization field: only what is exactly right is anything at all."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import Right
from artifactproxy.rules.credentials import (
    HEADER_MAX,
    NOISE_BYTES,
    TICKET_SECONDS,
    Ticket,
    fingerprint,
    is_ticket,
    masked,
    mint,
    open_ticket,
    seal_ticket,
    secret_in,
    token_id,
)

NOW = 1_700_000_000.0
KEY = b"k" * 32
noise = st.binary(min_size=NOISE_BYTES, max_size=NOISE_BYTES)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@given(noise)
def test_a_token_is_one_plain_word_that_names_itself(raw: bytes) -> None:
    token = mint(raw)
    assert re.fullmatch(r"apx_[0-9A-Za-z]{50}", token)
    assert token_id(token) == token[4:15]
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(token))
    assert not is_ticket(token)


@given(noise, noise)
def test_other_noise_is_another_token(one: bytes, two: bytes) -> None:
    assert (mint(one) == mint(two)) is (one == two)
    assert (fingerprint(mint(one)) == fingerprint(mint(two))) is (one == two)


@given(noise, st.integers(0, 53), st.sampled_from("0aZ_-\0 é"))
def test_a_token_with_a_mistake_names_nothing(raw: bytes, at: int, wrong: str) -> None:
    token = mint(raw)
    broken = token[:at] + wrong + token[at + 1 :]
    assert token_id(broken) == ("" if broken != token else token_id(token))


@pytest.mark.parametrize("text", ["", "apx_", "null", "apx_" + "0" * 50, "a" * 9000, "apx_\0" + "a" * 49])
def test_what_is_no_token_names_nothing(text: str) -> None:
    assert token_id(text) == ""
    assert fingerprint(text) != "0" * 64


@pytest.mark.parametrize("size", [0, NOISE_BYTES - 1, NOISE_BYTES + 1])
def test_a_token_needs_all_its_noise(size: int) -> None:
    with pytest.raises(ValueError, match="random"):
        mint(b"x" * size)


@pytest.mark.parametrize(
    ("field", "secret"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        (basic("user:abc"), "abc"),
        (basic(":abc"), "abc"),
        (basic("user:a:b"), "a:b"),
        (basic("user:abc").replace("Basic", "bAsIc"), "abc"),
        ("", None), ("Bearer", None), ("Bearer ", None), ("Basic", None), ("Basic :", None), (basic(":"), None),
        (basic("user"), None), (basic("user:"), None), ("Basic !!!", None), ("Basic YQ", None), ("abc", None),
        ("Digest username=x", None), ("Basic " + base64.b64encode(b"u:\xff").decode(), None),
        ("Bearer " + "a" * HEADER_MAX, None), (basic("u:" + "a" * HEADER_MAX), None),
    ],
)  # fmt: skip
def test_what_an_authorization_field_holds(field: str, secret: str | None) -> None:
    assert secret_in(field) == secret


@given(st.text(max_size=200))
def test_any_field_is_read_or_not(field: str) -> None:
    found = secret_in(field)
    assert found is None or found


held = st.builds(Ticket, st.sampled_from(["", "abcDEF01234"]), st.sampled_from(list(Right)))


@given(held, st.integers(0, TICKET_SECONDS))
def test_a_ticket_holds_until_it_is_over(ticket: Ticket, later: int) -> None:
    text = seal_ticket(KEY, ticket, NOW + TICKET_SECONDS)
    assert is_ticket(text)
    assert open_ticket(KEY, text, NOW + later) == ticket
    assert open_ticket(KEY, text, NOW + TICKET_SECONDS + 1) is None
    assert open_ticket(KEY, text, NOW - TICKET_SECONDS - 1) is None
    assert open_ticket(b"x" * 32, text, NOW) is None
    assert token_id(text) == ""


@given(held, st.data())
def test_a_ticket_with_a_change_holds_for_nothing(ticket: Ticket, data: st.DataObject) -> None:
    text = seal_ticket(KEY, ticket, NOW + TICKET_SECONDS)
    at = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from("0123456789abcdef_-Z"))
    changed = text[:at] + wrong + text[at + 1 :]
    assert changed == text or open_ticket(KEY, changed, NOW) is None


@pytest.mark.parametrize(
    "text",
    ["", "apxt_", "apxt_-_1_9999999999_" + "0" * 64, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
     "eyJhbGciOiJIUzI1NiIsImtpZCI6Ii4uLy4uL3gifQ.e30.x", "null"],
)  # fmt: skip
def test_what_nobody_sealed_is_no_ticket(text: str) -> None:
    assert open_ticket(KEY, text, NOW) is None
    assert open_ticket(b"", text, NOW) is None


def test_what_is_secret_is_left_out_of_a_text() -> None:
    token, ticket = mint(bytes(32)), seal_ticket(b"key", Ticket(token_id(mint(bytes(32))), Right.READ), 10.0)
    text = masked(f"a {token}b {ticket} apx_short apxt_- c")
    assert text == f"a apx_{token_id(token)}...b apxt_{token_id(token)}_1_10_... apx_short apxt_- c"
    assert masked("nothing of ours") == "nothing of ours"
