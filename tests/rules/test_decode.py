"""Undoing a content coding: whole or refused, never short, never a bomb."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import TooLarge, UpstreamBroken
from artifactproxy.rules.decode import MEMBERS_MAX, Decoder


def decoder(coding: str = "gzip", *, max_bytes: int = 10_000_000, max_ratio: int = 200) -> Decoder:
    return Decoder(coding, max_bytes=max_bytes, max_ratio=max_ratio)


def through(one: Decoder, body: bytes, step: int) -> bytes:
    out = b"".join(piece for at in range(0, len(body), step) for piece in one.feed(body[at : at + step]))
    return out + one.finish()


@given(st.binary(max_size=100_000), st.integers(1, 70_000), st.sampled_from(["gzip", "x-gzip", "deflate"]))
def test_what_was_encoded_comes_back_whatever_the_pieces(body: bytes, step: int, coding: str) -> None:
    encoded = zlib.compress(body) if coding == "deflate" else gzip.compress(body)
    assert through(decoder(coding), encoded, step) == body


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_cut_stream_is_refused(body: bytes, data: st.DataObject) -> None:
    encoded = gzip.compress(body)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(UpstreamBroken):
        through(decoder(), encoded[:cut], 64)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_our_faults(body: bytes) -> None:
    for coding in ("gzip", "deflate"):
        try:
            through(decoder(coding), body, 7)
        except UpstreamBroken:
            continue


def test_several_members_are_one_body() -> None:
    assert through(decoder(), gzip.compress(b"a") + gzip.compress(b"b"), 3) == b"ab"


def test_too_many_members() -> None:
    with pytest.raises(TooLarge, match="members"):
        through(decoder(), gzip.compress(b"a") * (MEMBERS_MAX + 1), 1000)


def test_trailing_garbage_is_refused() -> None:
    with pytest.raises(UpstreamBroken):
        through(decoder(), gzip.compress(b"a") + b"garbage", 1000)


def test_a_bomb_is_refused_by_its_ratio() -> None:
    with pytest.raises(TooLarge, match="expands"):
        through(decoder(max_bytes=10**9), gzip.compress(bytes(400_000_000 // 8)), 65536)


def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge, match="limit"):
        through(decoder(max_bytes=1000), gzip.compress(bytes(range(256)) * 8), 65536)


def test_pieces_are_bounded() -> None:
    assert max(map(len, decoder(max_ratio=5000).feed(gzip.compress(bytes(3_000_000))))) <= 256 * 1024


def test_an_unknown_coding() -> None:
    with pytest.raises(UpstreamBroken) as refused:
        decoder("br")
    assert refused.value.code == "unasked_encoding"
