"""HTTP as text: tables from the RFCs, and parsers against second, slower readings."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BadRange, PreconditionFailed
from artifactproxy.model import Span, UpstreamHead
from artifactproxy.rules import http

RFC_DATE = 784111777.0  # the example of RFC 9110 5.6.7


# --- dates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", RFC_DATE),
        ("Sunday, 06-Nov-94 08:49:37 GMT", RFC_DATE),
        ("Sun Nov  6 08:49:37 1994", RFC_DATE),
        (" Sun, 06 Nov 1994 08:49:37 GMT ", RFC_DATE),
        ("sun, 06 nov 1994 08:49:37 gmt", RFC_DATE),
        ("Thu, 01-Jan-70 00:00:00 GMT", None),
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0.0),
        ("Friday, 01-Jan-00 00:00:00 GMT", 946684800.0),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800.0),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 1994 08:49:37 +0100", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("784111777", None),
        ("0", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_dates_are_read(text: str, seconds: float | None) -> None:
    assert http.parse_http_date(text) == seconds


@given(st.integers(0, 253402300799), st.floats(0, 0.999))
def test_dates_written_are_read_back_without_the_fraction(second: int, fraction: float) -> None:
    text = http.http_date(second + (fraction if second < 2**40 else 0))
    assert http.parse_http_date(text) == second
    assert text == datetime.fromtimestamp(second, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert len(text) == 29


def test_dates_out_of_bounds_are_cut() -> None:
    assert http.http_date(-5.0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert http.http_date(1e30) == "Fri, 31 Dec 9999 23:59:59 GMT"


@given(st.text(max_size=50))
def test_reading_dates_never_raises(text: str) -> None:
    found = http.parse_http_date(text)
    assert found is None or http.parse_http_date(http.http_date(found)) == found


# --- directives -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("", {}),
        ("no-cache", {"no-cache": None}),
        ("Max-Age=60, Public", {"max-age": "60", "public": None}),
        ('max-age="60"', {"max-age": "60"}),
        ("max-age = 60", {"max-age": "60"}),
        ("max-age=1, max-age=2", {"max-age": "1"}),
        ('private="a, no-store", no-cache', {"private": "a, no-store", "no-cache": None}),
        ('x="a\\"b,c", y', {"x": 'a"b,c', "y": None}),
        (",, no-cache ,,", {"no-cache": None}),
        ("max-age=", {"max-age": ""}),
        ("a b, no-store", {"no-store": None}),
        ("=5, no-store", {"no-store": None}),
        ('x="open, no-store', {}),
        ("\u00e4=1, no-store", {"no-store": None}),
    ],
)
def test_cache_control(text: str, directives: dict[str, str | None]) -> None:
    assert http.parse_cache_control(text) == directives


@given(st.dictionaries(st.from_regex(r"\A[a-z-]{1,8}\Z"), st.none() | st.from_regex(r"\A[0-9a-z]{0,5}\Z")))
def test_directives_written_are_read_back(directives: dict[str, str | None]) -> None:
    text = " , ".join(name if value is None else f"{name}={value}" for name, value in directives.items())
    assert http.parse_cache_control(text) == directives


@given(st.text(alphabet='ab=",\\ \t;\u00e4\x00', max_size=40))
def test_reading_directives_never_raises(text: str) -> None:
    assert all(name == name.lower() for name in http.parse_cache_control(text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 5000, 1e19),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert http.parse_retry_after(text, RFC_DATE - 37) == seconds


# --- ranges ---------------------------------------------------------------------------------

RANGES: list[tuple[str, int, Span | str | None]] = [
    ("bytes=0-0", 10, Span(0, 1)),
    ("bytes=0-9", 10, Span(0, 10)),
    ("bytes=0-10", 10, Span(0, 10)),
    ("bytes=3-", 10, Span(3, 10)),
    ("bytes=9-", 10, Span(9, 10)),
    ("bytes=-1", 10, Span(9, 10)),
    ("bytes=-10", 10, Span(0, 10)),
    ("bytes=-11", 10, Span(0, 10)),
    ("BYTES=1-2", 10, Span(1, 3)),
    ("  bytes=1-2\t", 10, Span(1, 3)),
    ("bytes=,1-2", 10, Span(1, 3)),
    ("bytes=1-2 ,\t,", 10, Span(1, 3)),
    ("bytes= ,1-2", 10, Span(1, 3)),
    ("bytes=007-008", 10, Span(7, 9)),
    ("bytes=0-" + "9" * 5000, 10, Span(0, 10)),
    ("bytes=" + "0" * 5000 + "1-2", 10, Span(1, 3)),
    ("bytes=-" + "9" * 5000, 10, Span(0, 10)),
    ("bytes=" + "9" * 5000 + "-", 10, "416"),
    ("bytes=10-", 10, "416"),
    ("bytes=10-20", 10, "416"),
    ("bytes=-0", 10, "416"),
    ("bytes=-000", 10, "416"),
    ("bytes=0-", 0, "416"),
    ("bytes=0-0", 0, "416"),
    ("bytes=-0", 0, "416"),
    ("bytes=-5", 0, None),
    ("bytes=5-4", 10, None),
    ("bytes=50-40", 10, None),
    ("bytes=0-1,3-4", 10, None),
    ("bytes=0-1,99-", 10, None),
    ("bytes=0-0," * 500, 10, None),
    ("bytes=", 10, None),
    ("bytes=,", 10, None),
    ("bytes=-", 10, None),
    ("bytes", 10, None),
    ("bytes 0-1", 10, None),
    ("bytes =0-1", 10, None),
    ("bytes= 0-1", 10, None),
    ("bytes= 0-1,", 10, None),
    ("bytes=\t,\t0-1", 10, Span(0, 2)),
    ("bytes=" + " " * 8000 + "x", 10, None),
    ("bytes=0 -1", 10, None),
    ("bytes=0- 1", 10, None),
    ("bytes=+0-1", 10, None),
    ("bytes=0x0-1", 10, None),
    ("bytes=a-b", 10, None),
    ("bytes=0--1", 10, None),
    ("bytes=--1", 10, None),
    ("bytes=1", 10, None),
    ("bytes=\u0660-\u0661", 10, None),
    ("items=0-1", 10, None),
    ("", 10, None),
]


@pytest.mark.parametrize(("text", "size", "expected"), RANGES, ids=[r[0][:30] or "-" for r in RANGES])
def test_ranges(text: str, size: int, expected: Span | str | None) -> None:
    if expected == "416":
        with pytest.raises(BadRange) as caught:
            http.parse_range(text, size)
        assert caught.value.size == size
    else:
        assert http.parse_range(text, size) == expected


_SPEC = r"(?:[0-9]+-[0-9]*|-[0-9]+)"
_RANGE_SET = re.compile(rf"(?:{_SPEC})?(?:[ \t]*,[ \t]*(?:{_SPEC})?)*")


def range_model(text: str, size: int) -> list[int] | str | None:
    """RFC 9110 14.1 and 14.2 as a set of byte positions: whole (None), "416" or the positions."""
    if not text.strip(" \t").lower().startswith("bytes="):
        return None
    range_set = text.strip(" \t")[6:]
    if not _RANGE_SET.fullmatch(range_set):
        return None
    specs = re.findall(_SPEC, range_set)
    if len(specs) != 1:
        return None
    low, high = specs[0].split("-")
    if low and high and int(low) > int(high):
        return None
    if low:
        positions = [n for n in range(size) if int(low) <= n and (not high or n <= int(high))]
        return positions or "416"
    if int(high) == 0:
        return "416"
    return [n for n in range(size) if n >= size - int(high)] or None


range_texts = st.one_of(
    st.builds("bytes={}-{}".format, st.integers(0, 40) | st.just(""), st.integers(0, 40) | st.just("")),
    st.lists(
        st.sampled_from(
            ["bytes=", "Bytes=", "items=", "0", "7", "12", "-", "-", ",", " ", "\t", "1-3", "-4", "9-", "x"]
        ),
        max_size=7,
    ).map("".join),
    st.lists(st.sampled_from(["0", "7", "12", "-", ",", " ", "2-3", "-4", "9-"]), max_size=6).map(
        lambda parts: "bytes=" + "".join(parts)
    ),
)


@given(range_texts, st.integers(0, 15))
def test_ranges_against_the_model(text: str, size: int) -> None:
    try:
        span = http.parse_range(text, size)
        found: object = None if span is None else list(range(span.start, span.stop))
    except BadRange:
        found = "416"
    assert found == range_model(text, size)


@given(st.text(max_size=30), st.integers(0, 2**63))
def test_a_range_is_never_empty_or_outside(text: str, size: int) -> None:
    try:
        span = http.parse_range("bytes=" + text, size)
    except BadRange:
        return
    assert span is None or 0 <= span.start < span.stop <= size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", (Span(0, 10), 100)),
        ("Bytes 99-99/100", (Span(99, 100), 100)),
        ("bytes 5-6/*", (Span(5, 7), None)),
        ("bytes */100", None),
        ("bytes 0-100/100", None),
        ("bytes 9-8/100", None),
        ("bytes 0-9", None),
        ("bytes=0-9/100", None),
        ("bytes 0-9/100, bytes 20-29/100", None),
        ("bytes -9/100", None),
        ("bytes 0-/100", None),
        ("items 0-9/100", None),
        ("bytes 0-" + "9" * 5000 + "/*", None),
        ("", None),
    ],
)
def test_content_range(text: str, expected: object) -> None:
    assert http.parse_content_range(text) == expected


# --- negotiation ----------------------------------------------------------------------------

HTML = ("text/html", "html")
V1_HTML = ("application/vnd.example.simple.v1+html", "v1html")
V1_JSON = ("application/vnd.example.simple.v1+json", "v1json")
OFFERS = [HTML, V1_HTML, V1_JSON]


@pytest.mark.parametrize(
    ("accept", "variant"),
    [
        ("", "html"),
        (" , ", "html"),
        ("*/*", "html"),
        ("text/*", "html"),
        ("application/*", "v1html"),
        ("application/vnd.example.simple.v1+json", "v1json"),
        ("APPLICATION/vnd.Example.simple.v1+JSON", "v1json"),
        (
            "application/vnd.example.simple.v1+json, application/vnd.example.simple.v1+html;q=0.1, text/html;q=0.01",
            "v1json",
        ),
        ("text/html;q=0.5, application/vnd.example.simple.v1+json;q=0.9, */*;q=0.1", "v1json"),
        ("text/html;q=0.2, */*;q=0.8", "v1html"),
        ("*/*;q=0.8, text/html;q=0", "v1html"),
        ("text/html;q=0", None),
        ("image/png", None),
        ("image/png, unknown/*;q=1, text/html;q=0.001", "html"),
        ("text/html ; charset=utf-8 ; q=0.3", "html"),
        ("text/html;level=1", None),
        ("text/html;level=1, text/html;q=0.1", "html"),
        ("text/html, image/gif, *; q=.2, */*; q=.2", "html"),
        ("image/gif, *; q=.2", "html"),
        ("text/html;q=2, application/*;q=0.1", "v1html"),
        ("text/html;q=abc", "html"),
        ("nonsense", "html"),
        ("*/html", "html"),
        ("text/html;q=1.000, application/*;q=1.0", "html"),
        ("text/html;q=0.1;ext=1, application/*;q=0.2", "v1html"),
    ],
)
def test_negotiation(accept: str, variant: str | None) -> None:
    assert http.negotiate(accept, OFFERS) == variant


def test_negotiation_of_parameters_and_of_nothing() -> None:
    assert http.negotiate("a/b;v=2, a/b;v=1;q=0.5", [("a/b;v=1", "one"), ("a/b;v=2", "two")]) == "two"
    assert http.negotiate("a/b;v=1;q=0, a/b", [("a/b;v=1", "one"), ("a/b", "plain")]) == "plain"
    assert http.negotiate("a/b", [("a/b;v=1", "one")]) == "one"
    assert http.negotiate("", []) is None
    assert http.negotiate("*/*", []) is None


media_ranges = st.sampled_from(["*/*", "text/*", "text/html", "application/*", V1_JSON[0], "image/png"])
weights = st.integers(0, 1000)


@given(st.dictionaries(media_ranges, weights, min_size=1, max_size=5))
def test_negotiation_against_the_rfc(wanted: dict[str, int]) -> None:
    def quality(media_type: str) -> int:
        main = media_type.partition("/")[0]
        return next((wanted[r] for r in (media_type, f"{main}/*", "*/*") if r in wanted), 0)

    accept = ", ".join(f"{r};q={w / 1000:.3f}" for r, w in wanted.items())
    top = max(quality(media_type) for media_type, _ in OFFERS)
    expected = next((v for media_type, v in OFFERS if quality(media_type) == top), None) if top else None
    assert http.negotiate(accept, OFFERS) == expected


def test_long_accept_values_are_read_too() -> None:
    assert http.negotiate("image/png, " * 500 + "text/html;q=0.1", OFFERS) == "html"


@given(st.text(max_size=60))
def test_negotiation_never_raises(accept: str) -> None:
    assert http.negotiate(accept, OFFERS) in {None, "html", "v1html", "v1json"}


# --- preconditions --------------------------------------------------------------------------

TAG = '"abc"'
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
PART = http.Part(Span(2, 5))
CASES: list[tuple[str, dict[str, str], http.Verdict | int]] = [
    ("nothing asked", {}, http.Whole()),
    ("same tag", {"if-none-match": TAG}, http.NotModified()),
    ("weak spelling of the same tag", {"if-none-match": 'W/"abc"'}, http.NotModified()),
    ("tag in a list", {"if-none-match": '"x", W/"y" ,"abc"'}, http.NotModified()),
    ("tag with a comma in a list", {"if-none-match": '"x,", "abc"'}, http.NotModified()),
    ("any", {"if-none-match": "*"}, http.NotModified()),
    ("other tag", {"if-none-match": '"abcd"'}, http.Whole()),
    ("tag without quotes", {"if-none-match": "abc"}, http.Whole()),
    ("part of a tag", {"if-none-match": '"ab", "c"'}, http.Whole()),
    ("empty list", {"if-none-match": ""}, http.Whole()),
    ("tag decides over date", {"if-none-match": '"x"', "if-modified-since": AFTER}, http.Whole()),
    ("not modified since", {"if-modified-since": MODIFIED}, http.NotModified()),
    ("not modified since later", {"if-modified-since": AFTER}, http.NotModified()),
    ("modified since", {"if-modified-since": BEFORE}, http.Whole()),
    ("bad date", {"if-modified-since": "yesterday"}, http.Whole()),
    ("match", {"if-match": TAG}, http.Whole()),
    ("match any", {"if-match": "*"}, http.Whole()),
    ("match in a list", {"if-match": '"x", "abc"'}, http.Whole()),
    ("no match", {"if-match": '"x"'}, 412),
    ("weak match is none", {"if-match": 'W/"abc"'}, 412),
    ("match of nothing", {"if-match": ""}, 412),
    ("match decides over date", {"if-match": TAG, "if-unmodified-since": BEFORE}, http.Whole()),
    ("unmodified since", {"if-unmodified-since": MODIFIED}, http.Whole()),
    ("modified after all", {"if-unmodified-since": BEFORE}, 412),
    ("bad unmodified date", {"if-unmodified-since": "x"}, http.Whole()),
    ("match, then none match", {"if-match": TAG, "if-none-match": TAG}, http.NotModified()),
    ("no match wins over none match", {"if-match": '"x"', "if-none-match": TAG}, 412),
    ("range", {"range": "bytes=2-4"}, PART),
    ("range past the end", {"range": "bytes=10-"}, 416),
    ("bad range", {"range": "bytes=x"}, http.Whole()),
    ("304 wins over a range", {"range": "bytes=2-4", "if-none-match": TAG}, http.NotModified()),
    ("304 wins over a bad range", {"range": "bytes=10-", "if-none-match": TAG}, http.NotModified()),
    ("412 wins over a range", {"range": "bytes=2-4", "if-match": '"x"'}, 412),
    ("range if same", {"range": "bytes=2-4", "if-range": TAG}, PART),
    ("range if weakly same", {"range": "bytes=2-4", "if-range": 'W/"abc"'}, http.Whole()),
    ("range if other", {"range": "bytes=2-4", "if-range": '"x"'}, http.Whole()),
    ("bad range if other", {"range": "bytes=10-", "if-range": '"x"'}, http.Whole()),
    ("range if of this date", {"range": "bytes=2-4", "if-range": MODIFIED}, PART),
    ("range if of a later date", {"range": "bytes=2-4", "if-range": AFTER}, http.Whole()),
    ("range if of nonsense", {"range": "bytes=2-4", "if-range": "abc"}, http.Whole()),
    ("if-range without a range", {"if-range": TAG}, http.Whole()),
]


@pytest.mark.parametrize(("headers", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_preconditions(headers: dict[str, str], expected: http.Verdict | int) -> None:
    def judge() -> http.Verdict:
        return http.evaluate(headers, etag=TAG, last_modified=MODIFIED, size=10, method="GET")

    if isinstance(expected, int):
        with pytest.raises(PreconditionFailed if expected == 412 else BadRange) as caught:
            judge()
        assert caught.value.status == expected
    else:
        assert judge() == expected


def evaluate(headers: dict[str, str], **changed: object) -> http.Verdict:
    known: dict[str, object] = {"etag": TAG, "last_modified": MODIFIED, "size": 10, "method": "GET"}
    return http.evaluate(headers, **(known | changed))  # type: ignore[arg-type]


def test_what_depends_on_the_method_and_on_what_is_known() -> None:
    assert evaluate({"range": "bytes=2-4"}, method="HEAD") == http.Whole()
    assert evaluate({"range": "bytes=10-"}, method="HEAD") == http.Whole()
    assert evaluate({"range": "bytes=10-"}, size=None) == http.Whole()
    assert evaluate({"if-none-match": TAG}, method="HEAD") == http.NotModified()
    assert evaluate({"if-modified-since": AFTER}, method="PUT") == http.Whole()
    with pytest.raises(PreconditionFailed):
        evaluate({"if-none-match": "*"}, method="PUT")
    assert evaluate({"if-modified-since": AFTER}, last_modified="") == http.Whole()
    assert evaluate({"if-unmodified-since": BEFORE}, last_modified="") == http.Whole()
    assert evaluate({"range": "bytes=2-4", "if-range": AFTER}, last_modified="") == http.Whole()


def test_a_weak_tag_of_ours_matches_weakly_only() -> None:
    weak = 'W/"abc"'
    assert evaluate({"if-none-match": TAG}, etag=weak) == http.NotModified()
    assert evaluate({"range": "bytes=2-4", "if-range": weak}, etag=weak) == http.Whole()
    with pytest.raises(PreconditionFailed):
        evaluate({"if-match": weak}, etag=weak)


def test_without_a_tag_of_ours_only_the_star_matches() -> None:
    assert evaluate({"if-none-match": '""'}, etag="") == http.Whole()
    assert evaluate({"if-none-match": "*"}, etag="") == http.NotModified()
    with pytest.raises(PreconditionFailed):
        evaluate({"if-match": '""'}, etag="")


@pytest.mark.parametrize(
    ("tag", "is_strong"),
    [
        ('"a"', True),
        ('""', True),
        ('W/"a"', False),
        ("a", False),
        ('"a', False),
        ("", False),
        ('"a b"', False),
        ('"a"\n', False),
    ],
)
def test_strong(tag: str, is_strong: bool) -> None:
    assert http.strong(tag) is is_strong


@given(
    st.dictionaries(
        st.sampled_from(
            ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"]
        ),
        st.text(max_size=20) | st.sampled_from([TAG, 'W/"abc"', "*", BEFORE, MODIFIED, AFTER, "bytes=2-4"]),
    ),
    st.sampled_from(["GET", "HEAD", "PUT"]),
)
def test_a_part_is_only_ever_for_a_get_with_a_range(headers: dict[str, str], method: str) -> None:
    try:
        verdict = evaluate(headers, method=method)
    except (PreconditionFailed, BadRange):
        return
    if isinstance(verdict, http.Part):
        assert method == "GET"
        assert "range" in headers
    if isinstance(verdict, http.NotModified):
        assert method != "PUT"
        assert headers.keys() & {"if-none-match", "if-modified-since"}


# --- what came from outside -----------------------------------------------------------------


def head(**headers: str) -> UpstreamHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamHead(200, named, None, framed=True, url="https://upstream.example/x")


def test_kept_is_upstreams_own_spelling() -> None:
    validators = http.kept(
        head(
            etag='W/"A-gzip"',
            last_modified=MODIFIED,
            cache_control="Max-Age=5",
            content_type="Text/Html; a=b",
        )
    )
    assert validators == http.Validators('W/"A-gzip"', MODIFIED, "Max-Age=5", "Text/Html; a=b")
    assert http.kept(head(set_cookie="secret", refresh="0", link="<x>")) == http.Validators()


def test_kept_drops_what_would_mean_something_else() -> None:
    longest = '"' + "a" * 1022 + '"'
    assert http.kept(head(etag=longest)).etag == longest
    assert http.kept(head(etag='"a' + longest[1:])).etag == ""
    assert http.kept(head(last_modified="yesterday")).last_modified == ""
    long = "a, " * 338 + "max-age=1000000, no-store"
    assert http.kept(head(cache_control=long)).cache_control == ("a, " * 338).rstrip(", ")
    for bad in (
        "html",
        "text/",
        "text/html\r\nx: y",
        "text/html, text/plain",
        "a/b;" + "x" * 2000,
        "te xt/html",
    ):
        assert http.kept(head(content_type=bad)).media_type == "", bad


@given(st.text(), st.text())
def test_what_is_kept_is_safe_to_send(etag: str, media_type: str) -> None:
    validators = http.kept(head(etag=etag, content_type=media_type, cache_control=etag, last_modified=etag))
    for text in (validators.etag, validators.media_type, validators.cache_control, validators.last_modified):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
        text.encode("latin-1")


@given(st.text())
def test_safe_header(text: str) -> None:
    safe = http.safe_header(text)
    assert not set(safe) & {"\r", "\n", "\0"}
    safe.encode("latin-1")
    assert http.safe_header(safe) == safe


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("a-1.0.tar.gz", "attachment; filename*=UTF-8''a-1.0.tar.gz"),
        ("../../etc/passwd", "attachment; filename*=UTF-8''passwd"),
        ("c:\\x\\y.exe", "attachment; filename*=UTF-8''y.exe"),
        ('a"b;c.txt', "attachment; filename*=UTF-8''a%22b%3Bc.txt"),
        ("a\r\nSet-Cookie: x", "attachment; filename*=UTF-8''aSet-Cookie%3A%20x"),
        ("\u00e4\u202e.txt", "attachment; filename*=UTF-8''%C3%A4.txt"),
        ("\U0001f600", "attachment; filename*=UTF-8''%F0%9F%98%80"),
        ("g++_1%3a2.deb", "attachment; filename*=UTF-8''g++_1%253a2.deb"),
        ("a*b'c", "attachment; filename*=UTF-8''a%2Ab%27c"),
        ("", "attachment"),
        ("a/", "attachment"),
        ("..", "attachment"),
    ],
)
def test_content_disposition(filename: str, header: str) -> None:
    assert http.content_disposition(filename) == header
