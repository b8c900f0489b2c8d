"""Package documents: what they promise, how each form is written, and what is no such document."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.errors import Blocked, UpstreamBroken
from artifactproxy.model import Ask, Digest, Promise, Route, View
from artifactproxy.providers._base import Site
from artifactproxy.providers.npm import ABBREVIATED, Npm
from artifactproxy.providers.npm.packument import readdressed
from tests.providers.test_npm_scan import indents, spelled, values

UP = "https://registry.example/npm/"
BASE = "http://127.0.0.1:8080/npm"
NPM = Npm(Site("js", (UP,)))
Json = dict[str, Any]


def route(path: str = "pot", accept: str = "") -> Route:
    found = NPM.classify(Ask("js", path, headers={"accept": accept}))
    assert isinstance(found, Route)
    return found


def learn(body: bytes, path: str = "pot") -> dict[str, Promise]:
    return {p.key.path: p for p in NPM.learn(route(path), body, UP + path)}


def rendered(body: bytes, path: str = "pot", accept: str = "", hidden: frozenset[str] = frozenset()) -> Json:
    document: Json = json.loads(NPM.render(route(path, accept), body, BASE, View(hidden), UP + path).body)
    return document


def manifest(version: str, url: str = "", /, **more: Any) -> Json:
    dist = {"tarball": url or f"{UP}pot/-/pot-{version}.tgz", "shasum": "a" * 40}
    return {"name": "pot", "version": version, "dist": dist, **more}


def packument(*manifests: Json, **more: Any) -> Json:
    versions = {m["version"]: m for m in manifests}
    last = manifests[-1]["version"] if manifests else "1.0.0"
    return {"name": "pot", "dist-tags": {"latest": last}, "versions": versions, **more}


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


# --- what is no package document ------------------------------------------------------------

_NO_PACKUMENTS = {
    "empty": b"",
    "html": b"<html>sign in</html>",
    "a list": b"[]",
    "a string": b'"pot"',
    "cut": as_json(packument(manifest("1.0.0")))[:-1],
    "garbage behind": as_json(packument(manifest("1.0.0"))) + b"x",
    "nobody's": as_json({"dist-tags": {}, "versions": {}}),
    "another's": as_json({"name": "pan", "dist-tags": {}, "versions": {}}),
    "another's, by id": as_json({"_id": "pan", "versions": {}}),
    "of a name that is no text": as_json({"name": ["pot"], "versions": {}}),
    "in capitals": as_json({"name": "Pot", "versions": {}}),
    "no versions": as_json({"name": "pot"}),
    "an error with status 200": as_json({"error": "not_found"}),
    "versions that are a list": as_json({"name": "pot", "versions": []}),
    "versions that are null": as_json({"name": "pot", "versions": None}),
    "versions twice": b'{"name":"pot","versions":{},"versions":{}}',
    "a name twice": b'{"name":"pan","name":"pot","versions":{}}',
    "tags twice": b'{"name":"pot","versions":{},"dist-tags":{},"dist-t\\u0061gs":{}}',
    "a version twice": b'{"name":"pot","versions":{"1.0.0":{},"1.0.0":{}}}',
    "a number that JSON lacks": b'{"name":"pot","versions":{"1.0.0":{"x":NaN}}}',
    "a depth bomb": b'{"name":"pot","versions":{"1.0.0":' + b'{"a":' * 100_000,
    "a closed depth bomb": b'{"name":"pot","x":' + b"[" * 5000 + b"]" * 5000 + b',"versions":{}}',
    "not UTF-8": b'{"name":"pot","versions":{},"x":"\xff"}',
}


@pytest.mark.parametrize("accept", ["", ABBREVIATED])
@pytest.mark.parametrize("body", _NO_PACKUMENTS.values(), ids=_NO_PACKUMENTS)
def test_what_is_no_package_document_is_refused(body: bytes, accept: str) -> None:
    with pytest.raises(UpstreamBroken) as caught:
        list(NPM.learn(route(accept=accept), body, UP))
    assert caught.value.code == "bad_index"
    with pytest.raises(UpstreamBroken):
        rendered(body, accept=accept)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        as_json({"name": "pan", "version": "1.0.0"}),
        as_json({"name": "pot"}),
        as_json({"name": "pot", "version": 1}),
        as_json({"name": "pot", "version": "1.0\n"}),
        as_json(packument(manifest("1.0.0"))),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        list(NPM.learn(route("pot/latest"), body, UP))
    with pytest.raises(UpstreamBroken):
        rendered(body, "pot/latest")


def test_a_manifest_whose_tarball_cannot_be_fetched_is_refused() -> None:
    body = as_json(manifest("1.0.0", "file:///etc/passwd"))
    with pytest.raises(UpstreamBroken):
        learn(body, "pot/1.0.0")
    with pytest.raises(UpstreamBroken):
        rendered(body, "pot/1.0.0")


def test_a_name_may_stand_in_the_id_alone() -> None:
    assert rendered(as_json({"_id": "pot", "versions": {}})) == {"_id": "pot", "versions": {}}


# --- promises -------------------------------------------------------------------------------


def _sri(text: str, algorithm: str = "sha512") -> str:
    digest = hashlib.new(algorithm, text.encode(), usedforsecurity=False).digest()
    return f"{algorithm}-{base64.b64encode(digest).decode()}"


def _digest(text: str, algorithm: str = "sha512") -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest())


_WEAK = Digest("sha1", "a" * 40)


@pytest.mark.parametrize(
    ("dist", "expected"),
    [
        ({"integrity": _sri("a"), "shasum": "a" * 40}, (_digest("a"), _WEAK)),
        ({"integrity": _sri("a")}, (_digest("a"),)),
        ({"shasum": "A" * 40}, (_WEAK,)),
        ({"integrity": f"{_sri('a', 'sha256')} {_sri('b')}"}, (_digest("b"),)),
        ({"integrity": f"{_sri('b')}?opt {_sri('b')}"}, (_digest("b"),)),
        ({"integrity": f"{_sri('a')} {_sri('b')}", "shasum": "a" * 40}, (_WEAK,)),
        ({"integrity": _sri("a", "sha1"), "shasum": "a" * 40}, (_digest("a", "sha1"),)),
        ({"integrity": "sha512-nonsense", "shasum": "a" * 40}, (_WEAK,)),
        ({"integrity": ["sha512-x"], "shasum": 7}, ()),
        ({"integrity": "", "shasum": "a" * 64}, ()),
        ({"integrity": "md6-abc"}, ()),
    ],
)
def test_digests(dist: Json, expected: tuple[Digest, ...]) -> None:
    body = as_json(packument(manifest("1.0.0") | {"dist": {"tarball": f"{UP}pot/-/pot-1.0.0.tgz"} | dist}))
    assert learn(body)["pot/-/pot-1.0.0.tgz"].digests == expected


def test_a_promise_says_when_and_of_what_but_no_size() -> None:
    body = as_json(packument(manifest("1.0.0"), time={"1.0.0": "2024-12-13T09:07:24.887000+00:00"}))
    promise = learn(body)["pot/-/pot-1.0.0.tgz"]
    assert promise.released == 1734080844.887
    assert promise.released_from == "time"
    assert promise.purl == "pkg:npm/pot@1.0.0"
    assert promise.taught_by == "pot"
    assert promise.size is None


@pytest.mark.parametrize("time", [None, {}, {"1.0.0": 5}, {"1.0.0": "soon"}, {"1.0.0": "9" * 80}, []])
def test_a_date_that_is_none_is_left_out(time: object) -> None:
    promise = learn(as_json(packument(manifest("1.0.0"), time=time)))["pot/-/pot-1.0.0.tgz"]
    assert (promise.released, promise.released_from) == (None, "")


@pytest.mark.parametrize("liar_first", [True, False])
def test_no_version_can_speak_for_the_file_of_another(liar_first: bool) -> None:
    honest = manifest("1.0.0")
    liar = manifest("0.9.0", f"{UP}pot/-/pot-1.0.0.tgz")
    liar["dist"]["shasum"] = "b" * 40
    body = as_json(packument(*((liar, honest) if liar_first else (honest, liar))))
    assert learn(body)["pot/-/pot-1.0.0.tgz"].digests == (_WEAK,)


_URLS = st.sampled_from(
    [
        f"{UP}pan/-/pan-1.0.0.tgz",
        f"{UP}pot/-/../../pan/-/pan-1.0.0.tgz",
        f"{UP}@pan/pot/-/pot-1.0.0.tgz",
        f"{UP}pan%2f-%2fpan-1.0.0.tgz",
        f"{UP}pot/-/%2e%2e/pan.tgz",
        "file:///x.tgz",
        "javascript:alert(1)",
        "https://u:p@registry.example/npm/pot/-/pot-1.0.0.tgz",
        "HTTPS://REGISTRY.example/npm/pot/-/pot-1.0.0.tgz",
        "http://[::1]:80/x.tgz",
        "http://10.0.0.1/x.tgz",
        "https://files.example:0/x.tgz",
        "https://files.example/" + "x" * 2100,
        f"{UP}pot/-/{'x' * 2100}.tgz",
        f"http://registry.example/npm/pot/-/{'x' * 2045}.tgz",
        "https://files.example/x?" + "x" * 9000,
        "https://files.example/\ud800.tgz",
        "https://files.example/x.tgz?\ud800",
        "https://files.example/x?a\n b=c",
        "https://files.example/ü.tgz?ß#é",
        "https://files.example",
        "//files.example/x.tgz",
        "x.tgz",
        "",
    ]
) | st.text(max_size=40).map(lambda t: f"https://files.example/{t}") | st.text(max_size=20)  # fmt: skip


@given(_URLS, st.sampled_from(["1.0.0", "1.0.0+b", "", "ü", "a b", "%3F", "../x"]))
@settings(max_examples=200, deadline=None)
def test_a_document_promises_within_its_own_package_only(url: str, version: str) -> None:
    body = as_json(packument(manifest(version, url) | {"dist": {"tarball": url, "shasum": "a" * 40}}))
    promised = learn(body)
    shown = rendered(body)["versions"]
    for path, promise in promised.items():
        assert path.startswith("pot/-/")
        assert promise.url.startswith(("https://", "http://"))
        assert promise.url.isascii()
        assert route(path).key == promise.key
    assert {m["dist"]["tarball"] for m in shown.values()} == {f"{BASE}/{path}" for path in promised}


# --- both forms -----------------------------------------------------------------------------


@given(values, values, indents, st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_full_form_is_what_upstream_sent_but_for_the_addresses(
    one: Any, two: Any, indent: int | None, ascii_only: bool
) -> None:
    document = packument(manifest("1.0.0", x=one), manifest("2.0.0", _id=two), other=one, time=two)
    expected = json.loads(json.dumps(document))
    for version, entry in expected["versions"].items():
        entry["dist"]["tarball"] = f"{BASE}/pot/-/pot-{version}.tgz"
    body = spelled(document, indent, ascii_only)
    assert rendered(body) == expected
    assert NPM.render(route(), body, BASE, View(), UP) == NPM.render(route(), body, BASE, View(), UP)


@given(values, indents, st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_abbreviated_form_has_of_a_full_one_what_installing_needs(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    full = manifest("1.0.0", _id="pot@1.0.0", readme=value, dependencies=value, deprecated="old")
    document = packument(full, _rev="1", readme=value, maintainers=value, time={"modified": "2024-01-01"})
    shown = rendered(spelled(document, indent, ascii_only), accept=ABBREVIATED)
    assert list(shown) == ["name", "versions", "dist-tags", "time", "modified"]
    assert shown["modified"] == "2024-01-01"
    entry = shown["versions"]["1.0.0"]
    assert set(entry) == {"name", "version", "dependencies", "deprecated", "dist"}
    assert entry["dependencies"] == value
    assert entry["dist"] == {"tarball": f"{BASE}/pot/-/pot-1.0.0.tgz", "shasum": "a" * 40}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"scripts": {"install": "node x"}}, True),
        ({"scripts": {"preinstall": "node x"}}, True),
        ({"scripts": {"postinstall": "node x"}}, True),
        ({"scripts": {"install": ""}}, None),
        ({"scripts": {"test": "x", "prepare": "y"}}, None),
        ({"scripts": ["install"]}, None),
        ({"_id": "x", "hasInstallScript": True}, True),
        ({"hasInstallScript": True}, True),
        ({}, None),
    ],
)
def test_install_scripts_are_told(more: Json, expected: bool | None) -> None:
    shown = rendered(as_json(packument(manifest("1.0.0", **more))), accept=ABBREVIATED)
    assert shown["versions"]["1.0.0"].get("hasInstallScript") is expected


def test_what_is_abbreviated_already_keeps_what_we_do_not_know() -> None:
    body = as_json(packument(manifest("1.0.0", invented=1), modified="2024-01-01", coming="soon"))
    shown = rendered(body, accept=ABBREVIATED)
    assert shown["versions"]["1.0.0"]["invented"] == 1
    assert shown["coming"] == "soon"
    assert shown == rendered(body)


def test_signatures_and_attestations_are_left_alone() -> None:
    entry = manifest("1.0.0")
    attested = {"url": f"{UP}-/npm/v1/attestations/pot@1.0.0", "provenance": {"predicateType": "x"}}
    entry["dist"] |= {
        "integrity": _sri("a"),
        "signatures": [{"keyid": "k", "sig": "s"}],
        "attestations": attested,
    }
    for accept in ("", ABBREVIATED):
        shown = rendered(as_json(packument(entry)), accept=accept)["versions"]["1.0.0"]["dist"]
        assert shown == {**entry["dist"], "tarball": f"{BASE}/pot/-/pot-1.0.0.tgz"}


@pytest.mark.parametrize(
    "text",
    [
        '{"dist":{"tarball":"old"}}',
        '{ "dist" : { "tarball" : "o\\"ld" } }',
        '{"tarball":"no","dist":{"tarball":"old"}}',
        '{"x":{"tarball":"no"},"dist":{"\\u0074arball":"old"}}',
        '{"x":{"tarball":"no"},"dist":{"t\\u0061rball":"old"}}',
        '{"x":"\\"tarball\\":\\"no\\"","dist":{"tarball":"old"}}',
        '{"\\"tarball":"no","dist":{"tarball":"old"}}',
        '{"dist":{"tarball":"no"},"dist":{"tarball":"old"}}',
        '{"dist":{"tarball":"no","tarball":"old"}}',
        '{"x":["tarball"],"dist":{"tarball":"old"}}',
        '{"x":"tarball","dist":{"tarball":"old","size":1e400,"\\ud800":"é"}}',
    ],
)
def test_only_the_address_of_the_tarball_changes(text: str) -> None:
    before = json.loads(text)
    after = json.loads(readdressed(before, text, "new").replace("1e400", "null"))
    expected = json.loads(text.replace("1e400", "null"))
    expected["dist"]["tarball"] = "new"
    assert after == expected or "1e400" in text
    assert after["dist"]["tarball"] == "new"


@pytest.mark.parametrize("version", [None, "1.0.0", [], 5])
def test_a_version_that_is_no_object_is_left_out_with_its_tags(version: object) -> None:
    document = packument(manifest("1.0.0"))
    document["versions"]["2.0.0"] = version
    document["dist-tags"] = {"latest": "2.0.0", "next": "2.0.0"}
    assert learn(as_json(document)).keys() == {"pot/-/pot-1.0.0.tgz"}
    for accept in ("", ABBREVIATED):
        shown = rendered(as_json(document), accept=accept)
        assert list(shown["versions"]) == ["1.0.0"]
        assert shown["dist-tags"] == {"latest": "1.0.0"}


@pytest.mark.parametrize("dist", [None, {}, "x", {"tarball": 5}, {"tarball": None}])
def test_a_version_without_an_address_is_passed_on_and_promises_nothing(dist: object) -> None:
    body = as_json(packument(manifest("1.0.0") | {"dist": dist}))
    assert learn(body) == {}
    assert rendered(body)["versions"]["1.0.0"]["dist"] == dist
    assert rendered(as_json(manifest("1.0.0") | {"dist": dist}), "pot/1.0.0")["dist"] == dist


@pytest.mark.parametrize("tags", [None, [], "latest", {"latest": 5}, {"latest": ["1.0.0"]}])
def test_tags_that_are_none_harm_nobody(tags: object) -> None:
    body = as_json(packument(manifest("1.0.0"), manifest("2.0.0")) | {"dist-tags": tags})
    assert rendered(body)["dist-tags"] == tags
    assert rendered(body, "-/package/pot/dist-tags") == tags
    left = rendered(body, hidden=frozenset({"2.0.0"}))["dist-tags"]
    assert left == (tags if isinstance(tags, dict) else {})


def test_a_document_without_tags_has_none() -> None:
    document = packument(manifest("1.0.0"))
    del document["dist-tags"]
    assert rendered(as_json(document), "-/package/pot/dist-tags") == {}


# --- hidden versions ------------------------------------------------------------------------

_versions = st.sampled_from(
    ["0.9.0", "1.0.0", "1.2.0", "2.0.0-beta.1", "2.0.0-beta.2", "2.0.0-rc.1", "2.0.0", "2.1.0", "10.0.0"]
)


@given(
    st.sets(_versions, min_size=1),
    st.frozensets(_versions),
    st.dictionaries(st.sampled_from(["latest", "beta", "x"]), _versions),
)
@settings(max_examples=200, deadline=None)
def test_nothing_leads_to_a_hidden_version(
    versions: set[str], hidden: frozenset[str], tags: dict[str, str]
) -> None:
    times = {v: f"2024-01-{n + 1:02d}T00:00:00.000Z" for n, v in enumerate(sorted(versions))}
    document = packument(*map(manifest, sorted(versions))) | {"dist-tags": tags}
    document["time"] = times | {"modified": "2024-02-01T00:00:00.000Z"}
    body = as_json(document)
    if versions <= hidden:
        with pytest.raises(Blocked):
            rendered(body, hidden=hidden)
        return
    for accept in ("", ABBREVIATED):
        shown = rendered(body, accept=accept, hidden=hidden)
        assert set(shown["versions"]) == versions - hidden
        assert set(shown["time"]) - {"modified"} == versions - hidden
        for tag, version in shown["dist-tags"].items():
            assert version not in hidden
            assert version in versions or tags[tag] == version
        if tags.get("latest") in versions:
            assert shown["dist-tags"]["latest"] in versions
        if versions & hidden:
            newest = max(at for v, at in times.items() if v not in hidden)
            assert shown["time"]["modified"] == newest
        assert rendered(body, "-/package/pot/dist-tags", hidden=hidden) == shown["dist-tags"]


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        ({"3.0.0"}, "2.0.0"),
        ({"3.0.0", "2.0.0"}, "1.10.0"),
        ({"3.0.0", "2.0.0", "1.10.0"}, "1.9.0"),
        ({"3.0.0", "2.0.0", "1.10.0", "1.9.0"}, "2.5.0"),
        ({"3.0.0", "2.0.0", "1.10.0", "1.9.0", "2.5.0"}, "4.0.0-rc.1"),
    ],
)
def test_latest_goes_back_to_the_highest_stable_version_that_is_not_deprecated(
    hidden: set[str], expected: str
) -> None:
    document = packument(
        manifest("1.9.0"),
        manifest("1.10.0"),
        manifest("2.0.0"),
        manifest("2.5.0", deprecated="broken"),
        manifest("4.0.0-rc.1"),
        manifest("3.0.0"),
        time={"2.5.0": "2024-03-01", "4.0.0-rc.1": "2024-01-01"},
    )
    assert rendered(as_json(document), hidden=frozenset(hidden))["dist-tags"] == {"latest": expected}


def test_another_tag_goes_to_the_highest_prerelease_of_its_channel_or_goes_away() -> None:
    document = packument(
        *map(manifest, ["1.0.0", "2.0.0-beta.2", "2.0.0-beta.10", "2.0.0-beta.11", "3.0.0-0"])
    )
    document["dist-tags"] = {
        "beta": "2.0.0-beta.11",
        "next": "3.0.0-0",
        "old": "1.0.0",
        "lost": "0.1.0",
    }
    shown = rendered(as_json(document), hidden=frozenset({"2.0.0-beta.11", "3.0.0-0"}))
    assert shown["dist-tags"] == {"beta": "2.0.0-beta.10", "old": "1.0.0", "lost": "0.1.0"}


def test_a_hidden_manifest_is_refused_with_the_reason() -> None:
    with pytest.raises(Blocked, match=r"1\.0\.0 is withheld"):
        rendered(as_json(manifest("1.0.0")), "pot/latest", hidden=frozenset({"1.0.0"}))
    assert (
        rendered(as_json(manifest("1.0.1")), "pot/latest", hidden=frozenset({"1.0.0"}))["version"] == "1.0.1"
    )
