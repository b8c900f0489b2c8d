"""What is read out of Go's documents, and what is not taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import UpstreamBroken
from artifactproxy.providers.go.documents import Info, check_tree, read_info, read_lookup

SUM = "A" * 43 + "="
TREE = f"go.sum database tree\n9\n{SUM}\n\n\u2014 sum.example AAAA+/==\n"
RECORD = f"7\nsoup.example/Pot v1.0.0 h1:{SUM}\nsoup.example/Pot v1.0.0/go.mod h1:{SUM}\n\n{TREE}"


def info(**facts: object) -> bytes:
    return json.dumps({"Version": "v1.0.0", **facts}).encode()


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T04:04:05+01:00", 1767323045.0),
        ("2026-01-02T03:04:05", 1767323045.0),
        ("2026-01-02T03:04:05.25Z", 1767323045.25),
        ("1969-12-31T23:59:59Z", -1.0),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", 253402387139.0),
        ("yesterday", None),
        ("2" * 100, None),
        ("", None),
        (None, None),
        (1767323045, None),
    ],
)
def test_times(time: object, seconds: float | None) -> None:
    assert read_info(info(Time=time)) == Info("v1.0.0", seconds)


def test_what_else_a_description_says_is_passed_over() -> None:
    assert read_info(info(Origin={"VCS": "git"}, Name="x")) == Info("v1.0.0", None)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.sampled_from(["Version", "Time", "x"]), s)))  # fmt: skip
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        found = read_info(json.dumps(value).encode())
    except UpstreamBroken:
        return
    assert isinstance(value, dict)
    assert found.version == value["Version"]


def test_a_record() -> None:
    sums = read_lookup(RECORD.encode(), "soup.example/Pot", "v1.0.0")
    assert (sums.zip, sums.mod) == ("00" * 32, "00" * 32)
    signed_twice = RECORD + "\u2014 other.example AAAA\n"
    assert read_lookup(signed_twice.encode(), "soup.example/Pot", "v1.0.0") == sums


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7\n", ""),
        ("7\n", "07\n"),
        ("7\n", "-7\n"),
        ("7\n", "7\r\n"),
        ("Pot v1.0.0 ", "pot v1.0.0 "),
        ("Pot v1.0.0 ", "Pot v1.0.0  "),
        ("/go.mod", ""),
        (" h1:", " H1:"),
        ("A=\n", "A\n"),
        ("A=\nsoup", "A=\nmore\nsoup"),
        ("\n\ngo.sum", "\ngo.sum"),
        ("go.sum database", "another"),
        ("\n9\n", "\nnine\n"),
        ("\u2014", "-"),
        ("\u2014 sum.example AAAA+/==\n", ""),
        ("AAAA+/==\n", "AAAA+/=="),
    ],
)
def test_what_is_no_record(old: str, new: str) -> None:
    body = RECORD.replace(old, new)
    assert body != RECORD
    with pytest.raises(UpstreamBroken):
        read_lookup(body.encode(), "soup.example/Pot", "v1.0.0")


@given(st.integers(0, len(RECORD.encode()) - 1), st.integers(0, 255))
def test_one_other_byte_is_read_or_refused_never_a_crash(at: int, byte: int) -> None:
    body = bytearray(RECORD.encode())
    body[at] = byte
    try:
        assert len(read_lookup(bytes(body), "soup.example/Pot", "v1.0.0").zip) == 64
    except UpstreamBroken as fault:
        assert fault.code == "bad_index"


def test_a_tree_head() -> None:
    check_tree(TREE.encode())
    check_tree(TREE.replace("=\n\n", "=\nan extension\n\n").encode())
    for bad in (TREE[:-1], TREE * 2, RECORD, "", TREE.replace("\n9\n", "\n\n")):
        with pytest.raises(UpstreamBroken):
            check_tree(bad.encode())
