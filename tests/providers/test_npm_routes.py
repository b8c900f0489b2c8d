"""Names, versions, what is relayed with a body, what goes upstream, and how refusals read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from artifactproxy.errors import BadPath, Blocked, Fault, MethodRefused, NotServed
from artifactproxy.model import Ask, Kind, Route
from artifactproxy.providers._base import PublicOrigins, Site
from artifactproxy.providers.npm import ABBREVIATED, Npm, names
from artifactproxy.rules.paths import canonical_path

UP = "https://registry.example/npm/"
NPM = Npm(Site("js", (UP, "https://mirror.example/")))
BULK = "-/npm/v1/security/advisories/bulk"


def route(path: str, method: str = "GET", **headers: str) -> Route:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    found = NPM.classify(Ask("js", path, method=method, headers=spelled, body=b"{}"))
    assert isinstance(found, Route)
    return found


# --- relayed with a body --------------------------------------------------------------------


@pytest.mark.parametrize("path", [BULK, "-/npm/v1/security/audits", "-/npm/v1/security/audits/quick"])
def test_an_audit_is_relayed_with_the_headers_that_its_body_needs(path: str) -> None:
    found = route(
        path,
        "POST",
        content_type="application/json",
        content_encoding="gzip",
        accept="*/*",
        npm_command="audit",
        npm_session="0123",
        npm_otp="123456",
        npm_auth_type="web",
        authorization="Bearer s3cret",
        cookie="s3cret",
        host="proxy.example",
        content_length="2",
        user_agent="npm/11",
    )
    assert found.kind is Kind.PASS
    assert found.sources == (UP + path, f"https://mirror.example/{path}")
    assert dict(found.headers) == {
        "content-type": "application/json",
        "content-encoding": "gzip",
        "accept": "*/*",
        "npm-command": "audit",
    }


@pytest.mark.parametrize(
    "path", ["pot", "pot/1.0.0", "-/v1/search", "-/v1/login", "-/ping", "-/npm/v1/keys", ""]
)
def test_nothing_else_takes_a_body(path: str) -> None:
    with pytest.raises(MethodRefused, match="only read"):
        NPM.classify(Ask("js", path, method="POST"))


def test_only_reading_and_asking_is_offered() -> None:
    assert Npm.methods == {"GET", "HEAD", "POST"}


# --- upstream -------------------------------------------------------------------------------


def test_upstream_is_always_allowed_to_answer_in_full() -> None:
    """Some registries answer 406 to the abbreviated type alone."""
    for accept in (ABBREVIATED, f"{ABBREVIATED}; q=1.0, application/json; q=0.8, */*"):
        wanted = dict(route("pot", accept=accept).headers)["accept"]
        assert wanted.startswith(f"{ABBREVIATED};")
        assert "application/json; q=0.8" in wanted
    assert dict(route("pot").headers) == {
        "accept": "application/json",
        "accept-encoding": "gzip, identity;q=0.5",
    }


def test_a_tarball_is_asked_for_without_any_coding() -> None:
    assert route("pot/-/pot-1.0.0.tgz").headers == ()


def test_a_teacher_is_the_smaller_document() -> None:
    (teacher,) = route("@pots/soup/-/soup-1.0.0.tgz").teachers
    taught = NPM.classify(teacher)
    assert isinstance(taught, Route)
    assert (taught.key.path, taught.key.variant) == ("@pots/soup", "abbreviated")
    assert taught.teaches


def test_the_public_registry_is_where_the_package_url_library_downloads_from() -> None:
    class Origins(PublicOrigins):
        def download(self, purl: str) -> str:
            return f"https://packages.example/npm/base/npm/-/{purl.rpartition('/')[2].replace('@', '-')}.tgz"

    assert Npm.public_upstream(Origins()) == "https://packages.example/npm/base/"

    class Nothing(PublicOrigins):
        def download(self, purl: str) -> str:
            return ""

    assert Npm.public_upstream(Nothing()) is None
    real = Npm.public_upstream(PublicOrigins()) or ""
    assert real.startswith("https://")
    assert real.endswith("/")


# --- names ----------------------------------------------------------------------------------

_names = st.from_regex(r"[A-Za-z0-9~-][A-Za-z0-9._~-]{0,8}", fullmatch=True).filter(lambda n: n != "-")
_packages = _names | st.tuples(_names, _names).map(lambda pair: f"@{pair[0]}/{pair[1]}")
_numbers = st.integers(0, 30)


@given(_packages, st.sampled_from(["/", "%2f", "%2F"]), st.sampled_from(["@", "%40"]))
def test_a_package_has_one_key_however_it_is_escaped(package: str, slash: str, at: str) -> None:
    spelled = package.replace("/", slash).replace("@", at)
    for rest in ("", "/1.0.0", "/-/a-1.0.0.tgz"):
        one, other = route(package + rest), route(spelled + rest)
        assert (one.key, one.sources, one.teachers) == (other.key, other.sources, other.teachers)
        assert one.key.path == package + rest
    assert names.take(canonical_path(spelled)) == (package, None)
    assert route(package).sources[0] == UP + package.replace("/", "%2f")


@pytest.mark.parametrize(
    "name",
    ["", ".a", "_a", "@a", "@/a", "@a/", "@.a/b", "@a/.b", "a b", "a:b", "ä", "@@a/b", "@a@b/c", "a" * 215],
)
def test_a_name_that_no_package_can_have(name: str) -> None:
    with pytest.raises(NotServed):
        names.take(name)


@given(_packages, st.sampled_from(["", "1.0.0", "1.0.0-rc.1+b", "2.0.0~x"]))
def test_a_package_url_is_that_of_the_library(package: str, version: str) -> None:
    scope, _, name = package.rpartition("/")
    library = PackageURL("npm", namespace=scope or None, name=name, version=version or None)
    assert names.purl(package, version) == library.to_string()


@pytest.mark.parametrize(
    ("package", "filename", "version"),
    [
        ("pot", "pot-1.0.0.tgz", "1.0.0"),
        ("@pots/soup", "soup-1.0.0-rc.1.tgz", "1.0.0-rc.1"),
        ("pot", "pots-1.0.0.tgz", ""),
        ("pot", "pot-1.0.0.zip", ""),
        ("pot", "pot-.tgz", ""),
        ("pot", "pot-ü.tgz", ""),
    ],
)
def test_the_version_in_a_file_name(package: str, filename: str, version: str) -> None:
    assert names.version_of(package, filename) == version


# --- versions -------------------------------------------------------------------------------


def test_precedence_is_that_of_the_specification() -> None:
    """Section 11 of Semantic Versioning 2.0.0, and what old packages had."""
    ordered = [
        "0.9.9", "1.0.0-1", "1.0.0-9", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta",
        "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1beta", "1.0.1",
        "1.2.0", "1.10.0", "2.0.0-dev.20250130", "2.0.0", "10.0.0",
    ]  # fmt: skip
    keys = [names.order(version) for version in ordered]
    assert None not in keys
    assert sorted(ordered, key=lambda v: names.order(v) or names.order("0.0.0-0")) == ordered  # type: ignore[arg-type,return-value]
    assert names.order("v1.0.0+build") == names.order("=1.0.0")


@pytest.mark.parametrize("text", ["", "1", "1.0", "latest", "1.0.0.0", "x.y.z", "1.0.0 ", "1" * 20 + ".0.0"])
def test_what_is_no_version(text: str) -> None:
    assert names.order(text) is None
    assert not names.is_stable(text)
    assert names.channel(text) == ""


@given(_numbers, _numbers, _numbers, st.sampled_from(["", "-a", "-a.1", "-1.a", "beta"]))
def test_a_prerelease_comes_before_its_release(major: int, minor: int, patch: int, tail: str) -> None:
    core = f"{major}.{minor}.{patch}"
    one, release = names.order(core + tail), names.order(core)
    assert one is not None
    assert release is not None
    assert one <= release
    assert names.is_stable(core + tail) is (tail == "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-12-13T09:07:24.887Z", 1734080844.887),
        ("2024-12-13T09:07:24.887000+00:00", 1734080844.887),
        ("2024-12-13T10:07:24.887+01:00", 1734080844.887),
        ("2024-12-13T09:07:24.887", 1734080844.887),
        ("soon", None),
        ("", None),
        (1734080844, None),
        (None, None),
        ("2" * 100, None),
    ],
)
def test_times(text: object, seconds: float | None) -> None:
    assert names.posix(text) == seconds


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [NotServed('it\'s "gone"'), Blocked("withheld by policy"), BadPath("bad ü\n")]
)
def test_a_problem_is_npms_json_and_pnpms_reason(fault: Fault) -> None:
    page = NPM.problem(fault, Ask("js", "pot"))
    assert json.loads(page.body) == {"error": fault.detail}
    assert page.media_type == "application/json"
    assert page.reason.isascii()
    assert page.reason.split()[0] == fault.detail.split()[0]


@pytest.mark.parametrize(
    "path", ["-/whoami", "-/v1/login", "-/user/org.couchdb.user:cook", "-/npm/v1/tokens/token/1", "-/org/x"]
)
def test_accounts_are_refused_with_the_reason(path: str) -> None:
    with pytest.raises(NotServed, match="only read"):
        route(path)
