"""Parts that continue a body, bodies nobody vouches for, and indexes that shrink."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BrokenPromise, UpstreamBroken
from artifactproxy.model import ArtifactKey, Kind, Route, UpstreamHead
from artifactproxy.rules.parts import judge_part, judge_unvouched, looks_like_html
from artifactproxy.rules.shrink import shrank, went_back

TAG = '"a"'


def head(content_range: str, length: int | None = None, **headers: str) -> UpstreamHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"etag": TAG, "content-range": content_range} | named
    return UpstreamHead(206, fields, length, True, "http://x.example/f")


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.booleans(), st.booleans())
def test_the_part_that_was_asked_for_fits(start, rest, known, promised):
    size = start + rest
    part = head(f"bytes {start}-{size - 1}/{size}", rest)
    length = size if known else None
    assert judge_part(part, start=start, length=length, etag=TAG, promised=promised) == size


@given(
    st.integers(0, 99), st.integers(0, 120), st.integers(0, 120), st.one_of(st.none(), st.integers(1, 120))
)
def test_any_other_part_never_makes_a_body_of_another_size(start, first, last, total):
    part = head(f"bytes {first}-{last}/{'*' if total is None else total}")
    try:
        stop = judge_part(part, start=start, length=100, etag=TAG, promised=False)
    except UpstreamBroken as fault:
        assert fault.code == "bad_206"
    else:
        assert (first, last, stop) == (start, 99, 100)
        assert total in (None, 100)


@pytest.mark.parametrize(
    ("part", "promised", "code"),
    [
        (head("bytes 5-9/10", etag='"b"'), False, "changed_mid_range"),
        (head("bytes 5-9/10", etag='W/"a"'), False, "changed_mid_range"),
        (head("bytes 5-9/10", etag=""), False, "bad_206"),
        (head("bytes 5-9/10", 4), True, "bad_206"),
        (head("bytes 5-9/10", content_encoding="gzip"), True, "bad_206"),
        (head("bytes 5-9/10", content_type="Multipart/byteranges; boundary=x"), True, "bad_206"),
    ],
)
def test_parts_that_do_not_fit(part, promised, code):
    with pytest.raises((UpstreamBroken, BrokenPromise)) as caught:
        judge_part(part, start=5, length=10, etag=TAG, promised=promised)
    assert caught.value.code == code


def test_without_any_length_only_a_digest_can_tell_the_end():
    assert judge_part(head("bytes 5-9/*"), start=5, length=None, etag=TAG, promised=True) == 10
    with pytest.raises(UpstreamBroken):
        judge_part(head("bytes 5-9/*"), start=5, length=None, etag=TAG, promised=False)
    assert judge_part(head("bytes 5-9/10", etag='"b"'), start=5, length=10, etag=TAG, promised=True) == 10


def test_bodies_that_nobody_vouches_for():
    key = ArtifactKey("r", "p")
    file, index = Route(Kind.ARTIFACT, key, ()), Route(Kind.INDEX, key, (), expects_html=False)
    judge_unvouched(file, size=5, start=b"<html")
    judge_unvouched(index, size=0, start=b"")
    for route, size, start, code in ((file, 0, b"", "empty"), (index, 9, b"<HTML><p>", "unexpected_html")):
        with pytest.raises(BrokenPromise) as caught:
            judge_unvouched(route, size=size, start=start)
        assert caught.value.code == code


@pytest.mark.parametrize("text", [b"<!DOCTYPE html>", b"\xef\xbb\xbf\r\n <!doctype HTML", b"<html lang=x>"])
def test_web_pages(text):
    assert looks_like_html(text)


@pytest.mark.parametrize("text", [b"", b"<?xml ?><html>", b"{}", b"PK\x03\x04", b" " * 600 + b"<html>"])
def test_other_documents(text):
    assert not looks_like_html(text)


def test_shrinking():
    assert [shrank(10, now) for now in (0, 7, 8, 10, 30)] == [True, True, False, False, False]
    assert not shrank(0, 0)


def test_going_back():
    old, new = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
    assert went_back(new, old)
    assert not went_back(old, new)
    assert not went_back(new, new)
    assert not went_back("", old)
    assert not went_back(new, "yesterday")
