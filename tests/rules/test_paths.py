"""Request targets: the corpus of refusals, what must work, and laws over random targets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BadPath
from artifactproxy.rules import paths

REFUSED = {
    "dot segments": "/pypi/simple/../../admin/config",
    "one dot": "/v2/name/./manifests/x",
    "dots at the end": "/pypi/simple/..",
    "a dot at the end": "/pypi/simple/.",
    "encoded dot segments": "/pypi/simple/%2e%2e/%2e%2e/etc/passwd",
    "half encoded dots": "/pypi/.%2E/x",
    "encoded slashes": "/pypi/simple/..%2f..%2fetc%2fpasswd",
    "encoded slashes first": "/%2F%2F%2F..%2F..%2Fetc%2Fpasswd",
    "encoded backslash": "/npm/..%5c..%5cwindows",
    "raw backslash": "/npm/a\\..\\b",
    "NUL": "/go/x%00.zip",
    "CR LF": "/pypi/files/a%0d%0aSet-Cookie:%20x=1",
    "DEL": "/pypi/a%7fb",
    "C1 control": "/pypi/a%c2%85b",
    "double encoding": "/pypi/%252e%252e%252fadmin",
    "double encoding of a percent": "/pypi/%25%32%65",
    "any escaped escape": "/pypi/%2541",
    "overlong UTF-8": "/pypi/%c0%ae%c0%ae/x",
    "UTF-8 of a surrogate": "/pypi/%ed%a0%80",
    "not UTF-8": "/pypi/%ff",
    "bad escape": "/pypi/%zz",
    "cut escape": "/pypi/%",
    "cut escape of one digit": "/pypi/%4",
    "raw non-ASCII": "/pypi/\u00e4",
    "raw byte 0xFF": "/pypi/\udcff",
    "authority in the path": "//evil.example/x",
    "empty segment": "/v2//name/blobs/x",
    "empty segments at the end": "/pypi/simple//",
    "matrix parameter on a repository": "/admin;x=1/config",
    "encoded matrix parameter": "/admin%3bx=1/config",
    "dots with a matrix parameter": "/pypi/..;x=1/config",
    "encoded dots with a matrix parameter": "/pypi/%2e%2e;/config",
    "digest with slashes": "/v2/a/blobs/sha256:..%2f..%2fx",
    "scope that climbs": "/npm/@scope%2f..%2fname",
    "scope and dots": "/npm/@scope%2f..",
    "scope and nothing": "/npm/@scope%2f",
    "no scope": "/npm/@%2fname",
    "two slashes in a scope": "/npm/@scope%2fa%2fb",
    "slash without a scope": "/npm/scope%2fname",
    "slash in the repository": "/@npm%2fx/name",
    "zero-width space": "/pypi/a%e2%80%8bb",
    "RTL override": "/pypi/a%e2%80%aeb",
    "soft hyphen": "/pypi/a%c2%adb",
    "full-width dots": "/pypi/%EF%BC%8E%EF%BC%8E/x",
    "full-width slash": "/pypi/a%EF%BC%8Fb",
    "byte order mark": "/pypi/%ef%bb%bfa",
    "NFD twin": "/pypi/a%cc%88",
    "fragment": "/pypi/x#y",
    "blank": "/pypi/a b",
    "tab": "/pypi/a\tb",
    "quote": '/pypi/a"b',
    "angle": "/pypi/<script>",
    "asterisk form": "*",
    "authority form": "upstream.example:443",
    "nothing": "",
    "no leading slash": "pypi/simple",
    "another scheme": "ftp://upstream.example/x",
    "absolute form without a host": "http:///x",
    "absolute form with dots": "http://proxy.example/a/../b",
    "climbing query": "/pypi/x?path=../../x",
    "climbing query, encoded": "/pypi/x?path=%2e%2e%2fx",
    "climbing query, backslash": "/pypi/x?path=..%5cx",
    "climbing query at the end": "/pypi/x?path=a/..",
    "NUL in a query name": "/pypi/x?%00=1",
    "NUL in a query value": "/pypi/x?a=%00",
    "not UTF-8 in a query": "/pypi/x?a=%ff",
    "bad escape in a query": "/pypi/x?a=%",
    "fragment in a query": "/pypi/x?a=1#b",
    "blank in a query": "/pypi/x?a= b",
    "many parameters": "/pypi/x?" + "a=1&" * 1000,
    "long target": "/pypi/" + "a" * 9000,
    "many segments": "/pypi" + "/a" * 512,
}

SPLIT = {
    "/": ("", "", ""),
    "/pypi": ("pypi", "", ""),
    "/pypi/": ("pypi", "", ""),
    "/pypi/simple/": ("pypi", "simple/", ""),
    "/pypi/simple/a?x=1&y": ("pypi", "simple/a", "x=1&y"),
    "/pypi?x=1": ("pypi", "", "x=1"),
    "/pypi/a?": ("pypi", "a", ""),
    "/pypi/a?b=/c?d": ("pypi", "a", "b=/c?d"),
    "/npm/@scope%2fname": ("npm", "@scope%2fname", ""),
    "/npm/%40scope%2Fname": ("npm", "%40scope%2Fname", ""),
    "/npm/@scope/name": ("npm", "@scope/name", ""),
    "/deb/pool/g++_1%3a2.0~rc1+b1_amd64.deb": ("deb", "pool/g++_1%3a2.0~rc1+b1_amd64.deb", ""),
    "/x/a!b$c&d'e(f)g*h,i;j:k=l@m": ("x", "a!b$c&d'e(f)g*h,i;j:k=l@m", ""),
    "/x/a%20b": ("x", "a%20b", ""),
    "/x/%c3%a4": ("x", "%c3%a4", ""),
    "/x/...": ("x", "...", ""),
    "/x/..a": ("x", "..a", ""),
    "/x/100%25": ("x", "100%25", ""),
    "/%70ypi/simple/a": ("pypi", "simple/a", ""),
    "http://proxy.example/pypi/a?b": ("pypi", "a", "b"),
    "HTTPS://proxy.example:8443/pypi/a": ("pypi", "a", ""),
    "http://proxy.example": ("", "", ""),
    "http://proxy.example?q": ("", "", "q"),
    "/x/a?q=1..2": ("x", "a", "q=1..2"),
    "/x/a?q=%25%41": ("x", "a", "q=%25%41"),
    "/x/a?q=gr%c3%bcn+x": ("x", "a", "q=gr%c3%bcn+x"),
}


@pytest.mark.parametrize("target", REFUSED.values(), ids=REFUSED.keys())
def test_refused(target: str) -> None:
    with pytest.raises(BadPath) as caught:
        split_target(target)
    assert (caught.value.status, caught.value.code) == (400, "bad_path")
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize(("target", "expected"), SPLIT.items())
def test_split(target: str, expected: tuple[str, str, str]) -> None:
    assert split_target(target) == expected


def test_limits_are_exact() -> None:
    assert (paths.MAX_TARGET_BYTES, paths.MAX_SEGMENTS, paths.MAX_PARAMETERS) == (8190, 256, 256)
    longest = "/" + "a" * (paths.MAX_TARGET_BYTES - 1)
    assert split_target(longest)[0] == longest[1:]
    with pytest.raises(BadPath):
        split_target(longest + "a")
    for judge in (paths.judge_path, paths.judge_query):
        judge("a" * paths.MAX_TARGET_BYTES)
        with pytest.raises(BadPath):
            judge("a" * (paths.MAX_TARGET_BYTES + 1))
    paths.judge_path("/".join("a" * paths.MAX_SEGMENTS))
    with pytest.raises(BadPath):
        paths.judge_path("/".join("a" * (paths.MAX_SEGMENTS + 1)))
    paths.judge_query("&".join("a" * paths.MAX_PARAMETERS))
    with pytest.raises(BadPath):
        paths.judge_query("&".join("a" * (paths.MAX_PARAMETERS + 1)))


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("a%7Eb", "a~b"),
        ("a%7eb", "a~b"),
        ("v1%2Blocal", "v1+local"),
        ("v1+local", "v1+local"),
        ("%40scope%2fname", "@scope%2Fname"),
        ("%41/%62/", "A/b/"),
        ("a%20b/%c3%a4", "a%20b/%C3%A4"),
        ("g%2b%2b_1%3a2", "g++_1:2"),
        ("a%25", "a%25"),
        ("a[1]", "a%5B1%5D"),
        ("", ""),
    ],
)
def test_canonical(path: str, canonical: str) -> None:
    assert paths.canonical_path(path) == canonical


def test_names() -> None:
    accepted = ["a", "pypi", "corp-npm.v2_x", "0", "a" * 64]
    refused = ["", "-a", ".a", "A", "a" * 65, "a/b", "a\n", "\u0430"]
    assert all(paths.REPO_NAME.match(name) for name in accepted)
    assert not any(paths.REPO_NAME.match(name) for name in refused)
    assert {"v2", "api", "livez", ".well-known", "robots.txt"} <= paths.RESERVED
    assert len(paths.RESERVED) == 16


def test_blob_path_is_only_for_digests() -> None:
    sha256 = "ab" * 32
    assert paths.blob_path(sha256) == f"blobs/sha256/ab/{sha256}"
    for bad in ("", "../x", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "zz" * 32):
        with pytest.raises(ValueError, match="not a sha256"):
            paths.blob_path(bad)


segments = st.text(min_size=1, max_size=12).filter(lambda s: not any(0xD800 <= ord(c) <= 0xDFFF for c in s))
fragments = st.sampled_from(
    [
        "..",
        ".",
        "%2e",
        "%2F",
        "%5c",
        "%00",
        "%",
        "%25",
        "2e",
        "/",
        "//",
        "\\",
        "@s",
        "%40s",
        ";",
        "a",
        "?",
        "#",
        "%c3%a4",
    ]
)
targets = st.lists(fragments, max_size=10).map("".join) | st.text(max_size=40)


@given(segments)
def test_encoding_is_undone_by_decoding(text: str) -> None:
    encoded = paths.encode_segment(text)
    assert paths.decode_segment(encoded) == text
    assert re.fullmatch(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})*", encoded)
    assert paths.canonical_path(encoded) == encoded


@given(targets)
def test_whatever_passes_cannot_climb_or_hide(target: str) -> None:
    """The judge against a second, plain reading of what passed it."""
    try:
        repo, path, _ = split_target("/" + target)
    except BadPath:
        return
    assert "/" not in repo
    assert path.isascii()
    for text in [repo, *map(paths.decode_segment, path.split("/"))]:
        assert text not in (".", "..")
        assert not set(text) & set("\\\x00\r\n")
        assert "/" not in text or text.startswith("@")
        assert ".." not in text.split("/")
    assert "//" not in f"/{path}"


@given(targets)
def test_canonical_spelling_is_stable_and_passes_again(target: str) -> None:
    try:
        paths.judge_path(target)
    except BadPath:
        return
    canonical = paths.canonical_path(target)
    paths.judge_path(canonical)
    assert paths.canonical_path(canonical) == canonical
    assert paths.decode_segment(canonical) == paths.decode_segment(target)


@given(st.text(max_size=60))
def test_absolute_form_is_judged_like_its_path(target: str) -> None:
    def outcome(text: str) -> object:
        try:
            return split_target(text)
        except BadPath:
            return BadPath

    assert outcome("http://proxy.example/" + target) == outcome("/" + target)


def split_target(raw: str) -> tuple[str, str, str]:
    """Repository, path and query of a whole target."""
    whole, query = paths.judge_target(raw)
    return *paths.split_repository(whole), query
