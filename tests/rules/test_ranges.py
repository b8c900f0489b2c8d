"""Whether a body is read in parts, and whether a part is the one that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BrokenPromise, UpstreamBroken
from artifactproxy.limits import Download
from artifactproxy.model import (
    ArtifactKey,
    Bypass,
    Digest,
    Keep,
    Kind,
    Promise,
    Route,
    Span,
    UpstreamHead,
)
from artifactproxy.rules.ranges import (
    UNFIT,
    judge_segment,
    large,
    probe,
    probes,
    validator,
    whole,
    worth,
)

MIB = 2**20
KEY = ArtifactKey("files", "f.bin")
ROUTE = Route(Kind.ARTIFACT, KEY, ("https://files.example/f.bin",))
TAG = '"v1"'
DATES = {"last-modified": "Mon, 01 Jan 2024 00:00:00 GMT", "date": "Mon, 01 Jan 2024 00:01:00 GMT"}


def head(status: int = 206, length: int | None = None, framed: bool = True, **headers: str) -> UpstreamHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamHead(status, named, length, framed, "https://files.example/f.bin")


def promise(size: int | None) -> Promise:
    return Promise(KEY, (Digest("sha256", "0" * 64),), size=size)


# --- the first request ---


@pytest.mark.parametrize(
    ("size", "expected"), [(None, True), (32 * MIB, True), (32 * MIB - 1, False), (0, False)]
)
def test_the_first_request_is_a_range_unless_it_is_known_to_be_small(
    size: int | None, expected: bool
) -> None:
    assert probes(ROUTE, Download(), promise(size)) is expected
    assert probes(ROUTE, Download(), None)
    assert not probes(replace(ROUTE, kind=Kind.INDEX), Download(), promise(size))
    assert not probes(ROUTE, Download(connections=1), promise(size))
    assert probe() == ("range", "bytes=0-")
    assert probe(7) == ("range", "bytes=7-")


def test_a_206_of_all_stands_for_the_whole() -> None:
    found = whole(head(206, 10, content_range="bytes 0-9/10", etag=TAG))
    assert found == head(200, 10, etag=TAG)
    assert whole(head(206, None, content_range="bytes 0-9/10")) == head(200, 10)
    assert whole(head(206, 7, content_range="bytes 3-9/10"), 3, 10) == head(200, 10)
    for other in (head(200, 10), head(404, 0), head(304), head(500, 3)):
        assert whole(other) == other


@pytest.mark.parametrize(
    "answer",
    [
        head(416, 0, content_range="bytes */0"),
        head(400, 3),
        head(206, 10),
        head(206, 10, content_range="bytes 0-9/*"),
        head(206, 9, content_range="bytes 0-8/10"),
        head(206, 9, content_range="bytes 1-9/10"),
        head(206, 9, content_range="bytes 0-9/10"),
        head(206, 10, content_range="items 0-9/10"),
        head(206, 10, content_range="bytes 0-9/10, bytes 0-9/10"),
        head(206, 10, content_range="bytes 0-9/10", content_type="multipart/byteranges; boundary=x"),
        head(206, None, framed=False, content_range="bytes 0-9/10"),
    ],
)
def test_what_is_not_exactly_the_whole_is_asked_for_again(answer: UpstreamHead) -> None:
    assert whole(answer) is None


@pytest.mark.parametrize(
    ("text", "length", "headers"),
    [
        ("bytes 3-9/10", 11, {}),
        ("bytes 2-9/10", 10, {}),
        ("bytes 3-9/10", 10, {"content_encoding": "gzip"}),
    ],
)
def test_the_rest_must_be_of_the_same_whole(text: str, length: int, headers: dict[str, str]) -> None:
    assert whole(head(206, None, content_range=text, **headers), 3, length) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": TAG}, TAG),
        ({"etag": 'W/"v1"'}, ""),
        ({"etag": 'W/"v1"', **{k.replace("-", "_"): v for k, v in DATES.items()}}, ""),
        ({"etag": "v1"}, ""),
        ({k.replace("-", "_"): v for k, v in DATES.items()}, DATES["last-modified"]),
        ({"last_modified": DATES["last-modified"], "date": "Mon, 01 Jan 2024 00:00:59 GMT"}, ""),
        ({"last_modified": DATES["last-modified"]}, ""),
        ({"last_modified": "yesterday", "date": DATES["date"]}, ""),
        ({}, ""),
    ],
)
def test_what_tells_one_representation_from_another(headers: dict[str, str], expected: str) -> None:
    assert validator(head(200, **headers)) == expected


def test_what_is_worth_it() -> None:
    good = head(200, 32 * MIB, etag=TAG)
    assert worth(good, Keep(None), Download(), promised=False)
    assert worth(replace(good, headers={}), Keep(None), Download(), promised=True)
    assert not worth(replace(good, headers={}), Keep(None), Download(), promised=False)
    assert not worth(replace(good, length=32 * MIB - 1), Keep(None), Download(), promised=True)
    assert not worth(replace(good, length=None), Keep(None), Download(), promised=True)
    assert not worth(good, Bypass("unframed"), Download(), promised=True)
    assert not worth(good, Keep(None), Download(connections=1), promised=True)
    coded = replace(good, headers={"etag": TAG, "content-encoding": "gzip"})
    assert not worth(coded, Keep(None), Download(), promised=True)
    assert not large(MIB, Download(segment=MIB, from_bytes=10)), "one segment is no work for two"


# --- the parts ---

SPAN, LENGTH = Span(10, 20), 100
GOOD = {"content_range": "bytes 10-19/100", "etag": TAG}


def judged(answer: UpstreamHead, *, mark: str = TAG, promised: bool = False, same: bool = True) -> str:
    try:
        judge_segment(answer, SPAN, length=LENGTH, mark=mark, promised=promised, same=same)
    except (UpstreamBroken, BrokenPromise) as fault:
        return fault.code
    return ""


def test_the_part_that_was_asked_for_is_taken() -> None:
    assert judged(head(206, 10, **GOOD)) == ""
    assert judged(head(206, None, **GOOD)) == "", "chunked"
    assert judged(head(206, 10, content_range="bytes 10-19/100"), mark="", promised=True) == ""
    assert judged(head(206, 10, **{**GOOD, "etag": '"another"'}), promised=True) == "", "a mirror's own tag"
    dated = {"content_range": GOOD["content_range"], "last_modified": DATES["last-modified"]}
    assert judged(head(206, 10, **dated), mark=DATES["last-modified"]) == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (head(200, 100, etag=TAG), "ranges_ignored"),
        (head(200, 100), "ranges_ignored"),
        (head(200, 100, etag='"v2"'), "changed_mid_range"),
        (head(416, 0, content_range="bytes */100"), "ranges_refused"),
        (head(404, 0), "no_part"),
        (head(204), "no_part"),
        (head(500, 0), "no_part"),
        (head(206, 10, etag=TAG), "bad_206"),
        (head(206, 10, **{**GOOD, "content_range": "bytes 10-19/*"}), "bad_206"),
        (head(206, 10, **{**GOOD, "content_range": "bytes 9-18/100"}), "bad_206"),
        (head(206, 11, **{**GOOD, "content_range": "bytes 10-20/100"}), "bad_206"),
        (head(206, 9, **{**GOOD, "content_range": "bytes 10-18/100"}), "bad_206"),
        (head(206, 10, **{**GOOD, "content_range": "bytes 10-19/101"}), "changed_mid_range"),
        (head(206, 10, **{**GOOD, "content_range": "octets 10-19/100"}), "bad_206"),
        (head(206, 11, **GOOD), "bad_206"),
        (head(206, 9, **GOOD), "bad_206"),
        (head(206, None, framed=False, **GOOD), "bad_206"),
        (head(206, 10, **GOOD, content_encoding="br"), "bad_206"),
        (head(206, 10, **GOOD, content_type="Multipart/ByteRanges; boundary=x"), "bad_206"),
        (head(206, 10, content_range="bytes 10-19/100"), "bad_206"),
        (head(206, 10, **{**GOOD, "etag": '"v2"'}), "changed_mid_range"),
        (head(206, 10, **{**GOOD, "etag": 'W/"v1"'}), "changed_mid_range"),
    ],
)
def test_every_other_answer_is_refused(answer: UpstreamHead, code: str) -> None:
    assert judged(answer) == code
    assert code in UNFIT | {"changed_mid_range", "no_part"}


def test_another_total_of_a_mirror_or_under_a_promise_is_just_unfit() -> None:
    other = head(206, 10, **{**GOOD, "content_range": "bytes 10-19/101"})
    assert judged(other, same=False, promised=True) == "bad_206"
    assert judged(other, promised=True) == "bad_206"


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 300), st.none() | st.integers(0, 300))
def test_only_the_very_span_passes(first: int, last: int, total: int, length: int | None) -> None:
    answer = head(206, length, content_range=f"bytes {first}-{last}/{total}", etag=TAG)
    exact = (first, last, total) == (10, 19, 100) and length in (None, 10)
    assert (judged(answer) == "") is exact
