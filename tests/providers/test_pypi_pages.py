"""Index documents as upstreams send them: honest, hostile, damaged, and some that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.errors import UpstreamBroken
from artifactproxy.model import Ask, Rendered, Route, View
from artifactproxy.providers.pypi import HTML, JSON, PyPI
from artifactproxy.providers.pypi.addresses import Addresses, Places
from artifactproxy.providers.pypi.page import posix
from tests.providers.tables.pypi import SITE

PYPI = PyPI(SITE)
URL = "https://index.example/simple/pot/"
HERE = Path(__file__).parent / "samples" / "pypi"
BODIES = [path.read_bytes() for path in sorted(HERE.glob("*.in"))]
PATHS = ["simple/pot/", "simple/", "pypi/pot/json"]


def route(path: str = "simple/pot/", accept: str = "") -> Route:
    got = PYPI.classify(Ask("py", path, headers={"accept": accept}))
    assert isinstance(got, Route)
    return got


def render(body: bytes, accept: str, *, path: str = "simple/pot/", base: str = "", hidden: str = "") -> bytes:
    view = View(hidden=frozenset(filter(None, [hidden])))
    return PYPI.render(route(path, accept), body, base, view, URL).body


def page(*links: str) -> bytes:
    return "<title>Links for pot</title>{}".format("\n".join(links)).encode()


def files(**more: object) -> dict[str, object]:
    entry = {"filename": "pot-1.zip", "url": "https://files.example/pot-1.zip", "hashes": {}} | more
    return json.loads(render(json.dumps({"files": [entry]}).encode(), JSON))["files"][0]


# --- documents that are none ------------------------------------------------------------------

PORTAL = b"""<!DOCTYPE html><html><head><title>Welcome to Hotel Wifi</title></head><body><h1>Please log in</h1>
<a href="/login">Login</a> <a href="/terms/">terms</a> <a href="https://hotel.example/brochure.pdf">x</a></body></html>"""


@pytest.mark.parametrize("path", ["simple/pot/", "simple/"])
def test_a_captive_portal_is_refused(path: str) -> None:
    with pytest.raises(UpstreamBroken) as caught:
        PYPI.learn(route(path), PORTAL, URL)
    assert caught.value.code == "unexpected_html"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>Links for pot</title></head><body></body></html>",
        b'<meta name="pypi:repository-version" content="1.0">',
        b"<h1>Links for pot</h1>",
        b"<TITLE>root/dev: links for pot</TITLE>",
        b"<html><title>Index of /simple/pot/</title></html>",
        b'{"files": []}',
        b'\xef\xbb\xbf \n {"files": []}',
    ],
)
def test_an_honest_empty_project_passes(body: bytes) -> None:
    assert PYPI.learn(route(), body, URL) == []
    assert json.loads(render(body, JSON))["files"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Service Unavailable",
        b"[]",
        b"{",
        b'{"projects": []}',
        b'{"files": {}}',
        b'{"files": null}',
        b'{"message": "no"}',
        b"{" + b'"a":[' * 100_000,
        b'{"files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"files": [], "n": ' + b"9" * 10_000 + b"}",
        b'{"files": [], "t": "\xff"}',
    ],
    ids=range(12),
)
def test_what_is_no_index_is_bad_index(body: bytes) -> None:
    for act in (
        lambda: PYPI.learn(route(), body, URL),
        lambda: render(body, JSON),
        lambda: render(body, HTML),
    ):
        with pytest.raises(UpstreamBroken) as caught:
            act()
        assert caught.value.code == "bad_index"


@pytest.mark.parametrize("body", [b'{"files": []}', b'{"projects": 1}', b"<", b"{}"])
def test_a_list_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        PYPI.learn(route("simple/"), body, "https://index.example/simple/")


def test_an_older_document_needs_its_info() -> None:
    for body in (b"{}", b'{"info": []}', b"<html>"):
        with pytest.raises(UpstreamBroken):
            PYPI.learn(route("pypi/pot/json"), body, URL)


def _survives(body: bytes) -> None:
    for path in PATHS:
        for accept in (JSON, HTML):
            try:
                list(PYPI.learn(route(path, accept), body, URL))
                got = PYPI.render(route(path, accept), body, "https://p.example/r", View(), URL)
            except UpstreamBroken:
                continue
            assert isinstance(got, Rendered)
            got.body.decode()


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_or_read(body: bytes) -> None:
    _survives(body)
    _survives(b"<a href=x-1.zip " + body)
    _survives(b'{"files": [' + body)


@given(st.sampled_from(BODIES), st.integers(0, 5000), st.integers(0, 40), st.binary(max_size=12))
@settings(max_examples=200, deadline=None)
def test_damaged_pages_are_refused_or_read(body: bytes, start: int, length: int, other: bytes) -> None:
    start %= len(body)
    _survives(body[:start] + other + body[start + length :])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_keys = [
    "filename",
    "url",
    "hashes",
    "size",
    "yanked",
    "core-metadata",
    "upload-time",
    "provenance",
    "gpg-sig",
]
_entry = st.dictionaries(st.sampled_from(_keys), _json | st.just("https://files.example/pot-1.zip"))
_top = [
    "files",
    "meta",
    "versions",
    "projects",
    "project-status",
    "info",
    "urls",
    "releases",
    "alternate-locations",
]


@given(st.dictionaries(st.sampled_from(_top), _json | st.lists(_entry, max_size=2)))
@settings(max_examples=200, deadline=None)
def test_json_of_any_shape_is_refused_or_read(document: dict[str, object]) -> None:
    _survives(json.dumps(document).encode())


# --- entries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)//pot-1.zip",
        "file:///etc/pot-1.zip",
        "ftp://files.example/pot-1.zip",
        "data:text/html,pot-1.zip",
        "https://user@files.example/pot-1.zip",
        "https://user:secret@files.example/pot-1.zip",
        "https://good.example\\@127.0.0.1/pot-1.zip",
        "https://files.example/a/%2e%2e/pot-1.zip",
        "https://files.example/a%2Fpot-1.zip",
        "https://files.example/a//pot-1.zip",
        "https://files.example/a%00/pot-1.zip",
        "https://files.example/a%0d%0ab/pot-1.zip",
        "https://files.example/%25%32%65/pot-1.zip",
        "https://files.example/%ff/pot-1.zip",
        "https://files.example:0/pot-1.zip",
        "https://files.example:99999/pot-1.zip",
        "https://[::1/pot-1.zip",
        "https://-/pot-1.zip",
        "https://föö.example/pot-1.zip",
        "https://files.example",
        "https://files.example/",
        "https://files.example/pot-1.zip/",
        "https://files.example/" + "a" * 2100 + "/pot-1.zip",
        "\ud800/pot-1.zip",
        "",
    ],
)
def test_a_link_that_cannot_be_followed_is_dropped(link: str) -> None:
    good = {"filename": "pot-2.zip", "url": "pot-2.zip", "hashes": {}}
    body = json.dumps({"files": [{"filename": "pot-1.zip", "url": link, "hashes": {}}, good]}).encode()
    assert [f["filename"] for f in json.loads(render(body, JSON))["files"]] == ["pot-2.zip"]
    assert len(list(PYPI.learn(route(), body, URL))) == 1


def test_addresses_are_judged_as_our_own_paths_are() -> None:
    read = Addresses(URL).read
    got = read("HTTP://Files.Example:80/a b/%7Epot-1.zip?x=1#sha256=aa")
    assert got is not None
    assert got.path == "packages/files.example/a%20b/~pot-1.zip"
    assert got.url == "http://Files.Example:80/a%20b/%7Epot-1.zip?x=1"
    assert got.fragment == "sha256=aa"


@given(
    st.sampled_from(
        [
            "http://nexus",
            "http://nexus:8081",
            "https://a.example",
            "http://127.0.0.1:9",
            "http://[::1]:9",
            "https://py2.py3",
        ]
    ),
    st.lists(st.text("ab~+!é %:@;=&'", min_size=1, max_size=5), max_size=3),
    st.sampled_from(["", "?sig=a%2Bb&c"]),
)
@settings(max_examples=300, deadline=None)
def test_p6_every_kept_address_leads_back(origin: str, folders: list[str], query: str) -> None:
    url = "/".join([origin, *folders, "pot-1.zip"]) + query
    address = Addresses(URL).read(url)
    if address is None:
        return
    path, source, foreign = Places([f"{origin}/simple/"], []).find(address.path)
    assert path == address.path
    assert not foreign
    assert source == address.url.partition("?")[0].replace("+", "%2B") or "%" in source


def test_hashes_that_are_none_are_dropped() -> None:
    hashes = {
        "sha256": "a" * 63,
        "md5": "B" * 32,
        "Sha1": "c" * 40,
        "sha512": 5,
        "x y": "d" * 20,
        "sha384": "-" * 96,
    }
    assert files(hashes=hashes)["hashes"] == {"md5": "b" * 32, "sha1": "c" * 40}


def test_a_hash_in_the_fragment_counts_where_json_has_none() -> None:
    assert files(url=f"https://files.example/pot-1.zip#sha256={'a' * 64}")["hashes"] == {"sha256": "a" * 64}


@pytest.mark.parametrize("size", ["1", 1.5, True, -1, 2**63, None, [1]])
def test_sizes_are_counts(size: object) -> None:
    assert "size" not in files(size=size)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "1e999999"])
def test_numbers_that_are_none_leave_no_trace(raw: str) -> None:
    entry = f'{{"filename":"pot-1.zip","url":"https://files.example/pot-1.zip","hashes":{{}},"size":{raw}}}'
    assert b"size" not in render(f'{{"files":[{entry}]}}'.encode(), JSON)
    legacy = f'{{"info":{{"n":{raw}}},"urls":[]}}'.encode()
    assert json.loads(render(legacy, "", path="pypi/pot/json"))["info"] == {"n": None}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
    ],
)
def test_upload_times_are_kept_as_spelled(text: str, seconds: float) -> None:
    assert posix(text) == seconds
    assert files(**{"upload-time": text})["upload-time"] == text


@pytest.mark.parametrize(
    "text",
    ["soon", "", "9" * 100, "2024-13-01T00:00:00Z", "2024-01-01", "20240101T000000Z", "2024-W01-1", 5, None],
)
def test_upload_times_that_are_none_are_dropped(text: object) -> None:
    assert "upload-time" not in files(**{"upload-time": text})


def test_an_upload_time_without_a_zone_is_utc() -> None:
    assert files(**{"upload-time": "2024-01-02T03:04:05"})["upload-time"] == "2024-01-02T03:04:05Z"


def test_of_two_entries_for_one_path_the_first_is_promised() -> None:
    links = [f"https://files.example/pot-1.zip?{i}#sha256={str(i) * 64}" for i in range(2)]
    body = page(*(f'<a href="{link}">x</a>' for link in links))
    (promise,) = PYPI.learn(route(), body, URL)
    assert promise.digests[0].hex == "0" * 64


def test_metadata_that_is_not_advertised_is_not_promised() -> None:
    entry = {"filename": "pot-1-py3-none-any.whl", "url": "pot-1-py3-none-any.whl", "hashes": {}}
    for advertised, count in ((None, 1), (False, 1), (True, 2), ({}, 2), ({"sha256": "a" * 64}, 2)):
        body = json.dumps({"files": [entry | {"core-metadata": advertised}]}).encode()
        assert len(list(PYPI.learn(route(), body, URL))) == count


def test_the_hash_of_a_wheel_is_never_given_to_its_metadata() -> None:
    body = page(f'<a href="pot-1-py3-none-any.whl#sha256={"a" * 64}" data-core-metadata="true">x</a>')
    wheel, sidecar = PYPI.learn(route(), body, URL)
    assert wheel.digests
    assert sidecar.digests == ()


def test_provenance_is_ours_only_where_it_can_be_https() -> None:
    theirs = "https://index.example/integrity/pot/1/pot-1.zip/provenance"
    body = json.dumps(
        {"files": [{"filename": "pot-1.zip", "url": "pot-1.zip", "hashes": {}, "provenance": theirs}]}
    ).encode()
    at = {
        base: json.loads(render(body, JSON, base=base))["files"][0]["provenance"]
        for base in ("http://p/r", "https://p/r")
    }
    assert at == {"http://p/r": theirs, "https://p/r": "https://p/r/integrity/pot/1/pot-1.zip/provenance"}


def test_versions_of_an_html_page_come_from_its_files_in_order() -> None:
    names = [
        "pot-10.0.zip",
        "pot-9.0-py3-none-any.whl",
        "pot-2.0rc1.tar.gz",
        "pot-1.0-1.tar.gz",
        "pot-1.0-1.noarch.rpm",
        "pot-bad.zip",
        "other-7.zip",
    ]
    body = page(*(f'<a href="{name}">{name}</a>' for name in names))
    document = json.loads(render(body, JSON))
    assert document["versions"] == ["1.0.post1", "2.0rc1", "9.0", "10.0"]
    assert document["meta"] == {"api-version": "1.0"}


def test_an_empty_view_hides_nothing_and_a_hidden_file_takes_its_version_along() -> None:
    body = page('<a href="pot-1.zip">x</a>', '<a href="pot-2.zip">x</a>')
    assert json.loads(render(body, JSON))["versions"] == ["1", "2"]
    assert json.loads(render(body, JSON, hidden="pot-2.zip"))["versions"] == ["1"]
    assert b"pot-2.zip" not in render(body, HTML, hidden="pot-2.zip")


def test_sizes_decide_the_version_of_the_api() -> None:
    def version(*entries: dict[str, object]) -> str:
        made = [{"filename": "pot-1.zip", "url": "pot-1.zip", "hashes": {}} | e for e in entries]
        body = json.dumps({"meta": {"api-version": "1.4"}, "files": made}).encode()
        return json.loads(render(body, JSON))["meta"]["api-version"]

    assert version({"size": 1}) == "1.4"
    assert version({"size": 1}, {}) == "1.0"
