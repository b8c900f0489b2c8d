"""The walker over large JSON objects reads what the standard library reads, whatever its window."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.errors import UpstreamBroken
from artifactproxy.providers.npm.scan import Scanner, parse

_texts = st.text(max_size=12) | st.sampled_from(["", "a", "\ud800", "\U0001f96b", '"', "\\", "\x00", "é"])
_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
)
values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(_texts, values, max_size=6)
windows = st.sampled_from([1, 2, 3, 5, 17, 64, 4096])
indents = st.sampled_from([None, 0, 1, 3])


def spelled(value: object, indent: int | None, ascii_only: bool) -> bytes:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        return json.dumps(value, indent=indent).encode()


def whole(body: bytes, window: int = 8) -> Any:
    """The top-level object by its members, as the scanner hands them out."""
    scanner, found = Scanner(body, window=window), {}
    for name in scanner.members():
        value, text = scanner.value()
        assert _loads(text.encode()) == value
        found[name] = value
    scanner.end()
    return found


def _loads(body: bytes) -> Any:
    """As the scanner wants it: strict UTF-8, no `NaN`."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    def finite(text: str) -> float | None:
        return float(text) if math.isfinite(float(text)) else None

    return json.loads(body.decode("utf-8-sig"), parse_constant=refuse, parse_float=finite)


def outcome(read: Any, body: bytes, *more: Any) -> Any:
    try:
        return read(body, *more)
    except (UpstreamBroken, ValueError):
        return "refused"


@given(objects, indents, st.booleans(), windows)
@settings(max_examples=150, deadline=None)
def test_any_object_is_read_as_the_standard_library_reads_it(
    document: dict[str, Any], indent: int | None, ascii_only: bool, window: int
) -> None:
    body = spelled(document, indent, ascii_only)
    assert whole(body, window) == json.loads(body)


@given(values, windows)
@settings(max_examples=120, deadline=None)
def test_nested_objects_are_walked_by_members_too(value: Any, window: int) -> None:
    scanner = Scanner(spelled({"a": {"b": value, "c": 1}, "d": 2}, 1, False), window=window)
    walked = [(outer, inner, scanner.value()[0]) for outer in ["a"] for inner in _inner(scanner)]
    assert walked == [("a", "b", value), ("a", "c", 1)]


def _inner(scanner: Scanner) -> Any:
    members = scanner.members()
    assert next(members) == "a"
    yield from scanner.members()
    assert next(members) == "d"
    scanner.value()
    assert list(members) == []
    scanner.end()


@given(objects, st.data(), windows)
@settings(max_examples=120, deadline=None)
def test_a_cut_document_is_refused(document: dict[str, Any], data: st.DataObject, window: int) -> None:
    body = spelled(document, None, True)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(UpstreamBroken):
        whole(body[:cut], window)


@given(objects, st.data(), windows)
@settings(max_examples=250, deadline=None)
def test_a_damaged_document_is_refused_exactly_where_it_is_no_json(
    document: dict[str, Any], data: st.DataObject, window: int
) -> None:
    body = bytearray(spelled(document, data.draw(indents), data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + 1] = data.draw(
            st.sampled_from(
                [b"", b'"', b"\\", b"{", b"}", b",", b"1", b"e", b".", b" ", b"\xff", b"-", b"\x01"]
            )
        )
        if not body:
            return
    expected = outcome(_loads, bytes(body))
    got = outcome(whole, bytes(body), window)
    assert got == (expected if isinstance(expected, dict) else "refused")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b"null",
        b'"{}"',
        b"{",
        b"{}{}",
        b"{} x",
        b'{"a":1,}',
        b'{"a" 1}',
        b'{"a":}',
        b"{a:1}",
        b'{"a":NaN}',
        b'{"a":[Infinity]}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":"\n"}',
        b'{"a":"\\x"}',
        b'{"a":"\\ud8"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":1}\x00',
        '{"a":1}'.encode("utf-16"),
        b"<html></html>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("window", [1, 7, 4096])
def test_what_is_no_json_object_is_refused(body: bytes, window: int) -> None:
    with pytest.raises(UpstreamBroken) as caught:
        whole(body, window)
    assert caught.value.code == "bad_index"


@pytest.mark.parametrize("bomb", [b'{"a":' * 200_000, b'{"a":' + b"[" * 200_000, b'{"a":' + b'{"b":' * 5000])
def test_a_depth_bomb_is_refused(bomb: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        whole(bomb)
    with pytest.raises(UpstreamBroken):
        parse(bomb)


@pytest.mark.parametrize("window", [1, 3, 4096])
def test_a_byte_order_mark_is_passed_over(window: int) -> None:
    assert whole(b'\xef\xbb\xbf {"a": 1}', window) == {"a": 1}


@pytest.mark.parametrize("window", [1, 3, 4096])
def test_of_equal_names_both_are_handed_out_and_within_a_value_the_last_counts(window: int) -> None:
    scanner = Scanner(b'{"a":1,"\\u0061":{"b":1,"b":2}}', window=window)
    assert [(name, scanner.value()[0]) for name in scanner.members()] == [("a", 1), ("a", {"b": 2})]


@pytest.mark.parametrize("number", ["1" * 5000, "1e400", "-1e999"])
def test_a_number_that_nothing_holds_keeps_its_spelling(number: str) -> None:
    scanner = Scanner(f'{{"a":{number},"b":[{number}]}}'.encode(), window=16)
    assert [(name, *scanner.value()) for name in scanner.members()] == [
        ("a", None, number),
        ("b", [None], f"[{number}]"),
    ]


@pytest.mark.parametrize("number", ["12345", "-0.5", "1.25e-7", "1E+05"])
@pytest.mark.parametrize("window", range(1, 12))
def test_a_number_is_never_cut_by_the_window(number: str, window: int) -> None:
    assert whole(f'{{"a":{number}}}'.encode(), window) == {"a": json.loads(number)}


def test_a_value_much_longer_than_the_window_is_scanned_a_few_times_only() -> None:
    scans, body = 0, json.dumps({"a": ["x" * 50] * 20_000}).encode()

    class Counting(Scanner):
        def _more(self) -> bool:
            nonlocal scans
            scans += 1
            return super()._more()

    scanner = Counting(body, window=64)
    assert [len(scanner.value()[0]) for _ in scanner.members()] == [20_000]
    assert scans < 24
