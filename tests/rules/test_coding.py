"""Content codings: what Accept-Encoding means, and that nothing is lost on the way."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.coding import PIECE, compressible, encoded, pieces, plain, wanted


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, ""),
        ("", ""),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0.000", ""),
        ("gzip ; q=0.001", "gzip"),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("*;q=0, gzip", "gzip"),
        ("gzip;q=0, *", ""),
        ("identity", ""),
        ("identity;q=0", ""),
        ("identity;q=0, *", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0.5, identity", ""),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip;q=0.5, *", ""),
        ("deflate, br", ""),
        ("gzip;q=2", ""),
        ("gzip;q=-1", ""),
        ("gzip;q=abc", ""),
        ("gzip;q=1.0001", ""),
        ("gzip;q=", ""),
        ("gzip;level=9", ""),
        ("g zip", ""),
        (";;;,,=,gzip", "gzip"),
        ("gzip;q=0, gzip", ""),
        ("\u00e9, gzip", "gzip"),
        ("br, " * 500 + "gzip", "gzip"),
    ],
)
def test_what_accept_encoding_wants(accept: str | None, coding: str) -> None:
    assert wanted(accept) == coding


@given(st.text(max_size=700))
def test_any_text_is_read(accept: str) -> None:
    coding = wanted(accept)
    assert coding in ("", "gzip")
    assert coding == "" or "gzip" in accept.lower() or "*" in accept


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("text/html; charset=utf-8", True),
        ("Application/JSON", True),
        ("application/vnd.pypi.simple.v1+json", True),
        ("application/atom+xml", True),
        ("application/octet-stream", False),
        ("application/gzip", False),
        ("image/png", False),
        ("", False),
    ],
)
def test_what_is_worth_compressing(media_type: str, expected: bool) -> None:
    assert compressible(media_type) is expected


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_there_and_back(body: bytes, step: int) -> None:
    sent = b"".join(encoded(pieces(body), "gzip"))
    assert gzip.decompress(sent) == body
    cut = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert b"".join(plain(cut, "gzip")) == body
    assert b"".join(encoded(pieces(body), "")) == body
    assert b"".join(plain(pieces(body), "")) == body


def test_the_same_bytes_every_time_however_the_body_is_cut() -> None:
    body = b'{"name": "pkg"}' * 50_000
    sent = b"".join(encoded(pieces(body), "gzip"))
    assert sent == b"".join(encoded(pieces(body), "gzip"))
    assert sent[4:8] == bytes(4), "its header holds no time"
    assert len(body) > 2 * PIECE


def test_damage_is_seen() -> None:
    sent = b"".join(encoded(pieces(b"x" * 5000), "gzip"))
    for broken in (sent[:-1], sent[:10], b"", b"plain text", sent[:-6] + b"\0" + sent[-5:]):
        with pytest.raises(ValueError, match=r"damaged|ends early"):
            b"".join(plain([broken], "gzip"))
    assert zlib.decompress(sent, 31) == b"x" * 5000
