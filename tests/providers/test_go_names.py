"""Go's names beyond the table: laws of the spelling, and which checksum databases are spoken to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from artifactproxy.errors import NotServed
from artifactproxy.model import Ask, Kind, Route
from artifactproxy.providers._base import PublicOrigins, Site
from artifactproxy.providers.go import Go, names
from artifactproxy.providers.go.databases import Databases

ELEMENT = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,8}", fullmatch=True)
MODULES = st.builds(
    lambda host, rest: "/".join([f"{host}.example", *rest]),
    st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True),
    st.lists(ELEMENT, max_size=3),
).filter(names.is_module)
VERSIONS = st.from_regex(
    r"v(0|[1-9][0-9]{0,3})\.0\.[1-9](-[A-Za-z]{1,5}(\.[1-9]{1,3})?)?(\+incompatible)?", fullmatch=True
)


@given(MODULES | VERSIONS)
def test_an_escaped_name_is_lower_case_and_comes_back(name: str) -> None:
    spelled = names.escaped(name)
    assert spelled == spelled.lower()
    assert names.unescaped(spelled) == name


@given(st.text("aB!1", max_size=8))
def test_what_comes_back_was_spelled_in_the_one_way(spelled: str) -> None:
    name = names.unescaped(spelled)
    assert name is None or (names.escaped(name) == spelled and "!" not in name)


@given(MODULES, VERSIONS)
def test_package_urls_are_those_of_the_library(module: str, version: str) -> None:
    namespace, _, name = module.rpartition("/")
    library = PackageURL("golang", namespace.lower() or None, name.lower(), version).to_string()
    assert names.purl(module, version) == library


@given(MODULES, VERSIONS)
def test_every_module_and_version_has_its_files(module: str, version: str) -> None:
    assert names.is_canonical(version)
    stem = f"{names.escaped(module)}/@v/{names.escaped(version)}"
    go = Go(Site("mods", ("https://proxy.go.example/",)))
    for kind in ("mod", "zip"):
        route = go.classify(Ask("mods", f"{stem}.{kind}"))
        assert isinstance(route, Route)
        assert (route.kind, route.key.path) == (Kind.ARTIFACT, f"{stem}.{kind}")
        (teacher,) = route.teachers
        lookup = go.classify(teacher)
        assert isinstance(lookup, Route)
        assert (lookup.kind, lookup.key.path) == (Kind.INDEX, teacher.path)


BELONGING = [
    ("v1.2.3", "soup.example/pot"),
    ("v0.1.0", "soup.example/pot"),
    ("v2.0.0+incompatible", "soup.example/pot"),
    ("v2.0.0", "soup.example/pot/v2"),
    ("v10.1.0-rc.1", "soup.example/pot/v10"),
    ("v3.0.0", "gopkg.in/pot.v3"),
    ("v3.0.0", "gopkg.in/corp/pot.v3-unstable"),
    ("v0.0.0-20200101000000-abcdef123456", "gopkg.in/pot.v1"),
]
STRANGE = [
    ("v2.0.0", "soup.example/pot"),
    ("v1.0.0", "soup.example/pot/v2"),
    ("v2.0.0", "gopkg.in/pot.v3"),
    ("v0.0.0-20200101000000-abcdef123456", "gopkg.in/pot.v2"),
    ("v2.0.0", "soup.example/potv2"),
    ("v1.2", "soup.example/pot"),
    ("main", "soup.example/pot"),
]


@pytest.mark.parametrize(("version", "module"), BELONGING)
def test_versions_of_a_major(version: str, module: str) -> None:
    assert names.belongs(version, module)


@pytest.mark.parametrize(("version", "module"), STRANGE)
def test_versions_of_another_major(version: str, module: str) -> None:
    assert not names.belongs(version, module)


# --- checksum databases ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upstream", "listed", "teacher"),
    [
        ("https://proxy.go.example/", [], "sum.go.example"),
        ("https://PROXY.Go.Example:8443/base/", [], "sum.go.example"),
        ("https://proxy.go.example/", ["files.corp.example"], "sum.go.example"),
        ("https://proxy.go.example/", ["sum.corp.example"], "sum.corp.example"),
        ("http://127.0.0.1:3000/", ["https://sum.corp.example"], "sum.corp.example"),
        ("http://127.0.0.1:3000/", [], ""),
        ("http://[::1]:3000/", [], ""),
        ("http://localhost:3000/", [], ""),
        ("http://athens/", [], ""),
        ("https://goproxy.example/", [], ""),
        ("https://goproxy.co.uk/", [], ""),
        ("https://go.proxy.co.uk/", [], "sum.proxy.co.uk"),
    ],
)
def test_the_database_that_teaches(upstream: str, listed: list[str], teacher: str) -> None:
    assert Databases([upstream], listed).teacher == teacher
    route = Go(Site("mods", (upstream,), tuple(listed))).classify(Ask("mods", "a.example/b/@v/v1.0.0.zip"))
    assert isinstance(route, Route)
    assert [ask.path for ask in route.teachers] == (
        [f"sumdb/{teacher}/lookup/a.example/b@v1.0.0"] if teacher else []
    )


@pytest.mark.parametrize(
    "name",
    ["sum.evil.example", "example", "go.example", "a.sum.go.example", "127.0.0.1", "[::1]", "", "sum.co.uk"],
)
def test_databases_of_others_are_not_asked(name: str) -> None:
    databases = Databases(["https://proxy.go.example/", "https://goproxy.co.uk/", "http://127.0.0.1/"], [])
    with pytest.raises(NotServed):
        databases.address(name)


def test_only_the_database_that_speaks_for_the_repository_promises() -> None:
    go = Go(Site("mods", ("https://proxy.go.example/",)))
    body = (
        "7\na.example/b v1.0.0 h1:{0}\na.example/b v1.0.0/go.mod h1:{0}\n\n"
        "go.sum database tree\n9\n{0}\n\n\u2014 x.example AAAA\n"
    ).format("A" * 43 + "=")
    for name, count in (("sum", 2), ("other", 0)):
        route = go.classify(Ask("mods", f"sumdb/{name}.go.example/lookup/a.example/b@v1.0.0"))
        assert isinstance(route, Route)
        assert len(list(go.learn(route, body.encode(), ""))) == count


class _Library(PublicOrigins):
    def __init__(self, url: str) -> None:
        self.url = url

    def download(self, purl: str) -> str:
        return self.url


def test_the_public_proxy_is_the_beginning_of_a_download_url() -> None:
    public = PublicOrigins()
    found = Go.public_upstream(public)
    assert found is not None
    assert found.startswith("https://")
    assert found + "a.example/b/@v/v1.0.0.zip" == public.download("pkg:golang/a.example/b@v1.0.0")
    strange = "https://mirror.example/base/example.com/module/@v/v1.0.0.zip"
    assert Go.public_upstream(_Library(strange)) == "https://mirror.example/base/"
    for nothing in ("", "https://mirror.example/other", "example.com/module/@v/v1.0.0.zip"):
        assert Go.public_upstream(_Library(nothing)) is None
