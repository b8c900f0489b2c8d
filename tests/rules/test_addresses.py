"""Addresses by which other products' clients come: a table, and laws over random ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BadPath, Fault, NotServed
from artifactproxy.rules.addresses import Address, address_of, written
from artifactproxy.rules.paths import RESERVED

READ = {
    "/": Address("", "", ""),
    "/pypi": Address("pypi", "", ""),
    "/pypi/simple/a/?x=1": Address("pypi", "simple/a/", "x=1"),
    "/npm/@s%2fn": Address("npm", "@s%2fn", ""),
    "http://h.example/repository/pypi/a": Address("pypi", "a", "", "/repository"),
    "/repository/pypi": Address("pypi", "", "", "/repository"),
    "/repository/pypi/": Address("pypi", "", "", "/repository"),
    "/repository/npm/@s%2fn?write=true": Address("npm", "@s%2fn", "write=true", "/repository"),
    "/repository/%70ypi/a": Address("pypi", "a", "", "/repository"),
    "/artifactory/pypi/simple/": Address("pypi", "simple/", "", "/artifactory"),
    "/artifactory/api/pypi/corp/simple/": Address("corp", "simple/", "", "/artifactory/api/pypi", "pypi"),
    "/artifactory/api/npm/npm/@s/n": Address("npm", "@s/n", "", "/artifactory/api/npm", "npm"),
    "/artifactory/api/go/go/x/@v/list": Address("go", "x/@v/list", "", "/artifactory/api/go", "go"),
    "/artifactory/api-x/a": Address("api-x", "a", "", "/artifactory"),
    "/api/v1/remote/pypi/simple/": Address("pypi", "simple/", "", "/api/v1/remote", kind="remote"),
    "/api/v1/local/images/v2/a/tags/list?n=1": Address(
        "images", "v2/a/tags/list", "n=1", "/api/v1/local", kind="local"
    ),
    # Pages of ours, which say themselves that they do not exist.
    "/api": Address("api", "", ""),
    "/api/v1": Address("api", "v1", ""),
    "/api/v2/remotes": Address("api", "v2/remotes", ""),
    "/repository": Address("repository", "", ""),
    "/artifactory": Address("artifactory", "", ""),
    "/setup/pip": Address("setup", "pip", ""),
}
ABSENT = [
    "/repository/",
    "/repository/UPPER/x",
    "/repository/.hidden/x",
    "/repository/a%20b/x",
    "/repository/livez",
    "/repository/api/v1/remote/pypi/x",
    "/repository/repository/pypi/x",
    "/artifactory/",
    "/artifactory/api",
    "/artifactory/api/",
    "/artifactory/api/pypi",
    "/artifactory/api/pypi/",
    "/artifactory/api/pypi/api/x",
    "/artifactory/api/PyPI/pypi/x",
    "/api/v1/remote/",
    "/api/v1/remote/v2/x",
    "/api/v1/local/",
    "/api/v1/local/v2/images/x",
    "/api/v1/virtual/pypi/x",
]
REFUSED = [
    "/%72epository/pypi/x",
    "/%61rtifactory/pypi/x",
    "/%61pi/v1/remote/pypi/x",
    "/%76%32/hub/a/tags/list",
    "/v%32/",
    "/repository/../pypi/x",
    "/repository/%2e%2e/pypi/x",
    "/repository//pypi/x",
    "/repository/pypi;x=1/a",
    "/repository/@a%2fb/x",
    "/repository%2fpypi/x",
    "/artifactory/api/pypi/%2e%2e/pypi",
    "/api/v1/remote/pypi/a%00",
]


@pytest.mark.parametrize("raw", READ)
def test_addresses(raw) -> None:
    assert address_of(raw) == READ[raw]


@pytest.mark.parametrize("raw", ABSENT)
def test_an_alias_without_a_possible_repository_is_absent(raw) -> None:
    with pytest.raises(NotServed):
        address_of(raw)


@pytest.mark.parametrize("raw", REFUSED)
def test_tricks_in_an_alias_are_refused(raw) -> None:
    with pytest.raises(BadPath):
        address_of(raw)


def test_a_kind_that_does_not_exist_yet_is_named() -> None:
    with pytest.raises(NotServed, match="no virtual repositories"):
        address_of("/api/v1/virtual/python/simple/")


@pytest.mark.parametrize("words", ["/repository/x", "/api/%761/remote/pypi/x", "/artifactory/%61pi/npm/n/x"])
def test_escapes_further_in_never_make_an_alias(words) -> None:
    """They stay what they are: a page that does not exist, or a repository with an odd name."""
    try:
        address = address_of(words)
    except Fault:
        return
    assert address.prefix in ("", "/repository")
    assert address.format == ""


PREFIXES = ["/repository", "/artifactory", "/artifactory/api/npm", "/api/v1/remote", "/api/v1/local"]
PARTS = st.sampled_from(
    "pypi npm api v1 remote repository artifactory livez setup @s%2fn %70ypi %61pi .. %2e%2e a;b %2f % "
    "A a%20b .x ?q=1 %00 ".split(" ")
)
TARGETS = st.lists(PARTS, min_size=1, max_size=5).map("/".join) | st.text(
    "ap/i.%2ef@;?&=-_A~\u00e4", max_size=20
)


def _read(raw: str) -> Address | type[Fault]:
    try:
        return address_of(raw)
    except Fault as fault:
        return type(fault)


@given(st.sampled_from(PREFIXES), TARGETS)
def test_an_alias_reads_as_the_plain_address_does(prefix, rest) -> None:
    plain, alias = _read(f"/{rest}"), _read(f"{prefix}/{rest}")
    if isinstance(alias, Address) and alias.prefix == prefix:
        assert isinstance(plain, Address)
        assert (alias.repo, alias.path, alias.query) == (plain.repo, plain.path, plain.query)
        assert not plain.prefix


@given(TARGETS)
def test_an_alias_never_reaches_a_page_nor_takes_what_is_refused_plainly(rest) -> None:
    for prefix in PREFIXES:
        alias = _read(f"{prefix}/{rest}")
        if isinstance(alias, Address) and alias.prefix:
            assert alias.repo not in RESERVED
        if _read(f"/{rest}") is BadPath:
            assert alias is BadPath or not isinstance(alias, Address)


@pytest.mark.parametrize(
    ("text", "public", "base", "path"),
    [
        ("/pypi/simple/", "", "http://localhost/pypi", "simple/"),
        ("repository/pypi/simple/", "", "http://localhost/repository/pypi", "simple/"),
        ("http://h:81/artifactory/pypi/a", "", "http://h:81/artifactory/pypi", "a"),
        ("https://p.example/x/pypi/a", "https://p.example/x", "https://p.example/x/pypi", "a"),
        (
            "https://p.example/x/repository/pypi/a",
            "https://p.example/x",
            "https://p.example/x/repository/pypi",
            "a",
        ),
        ("https://p.example/x", "https://p.example/x", "https://p.example/x/", ""),
    ],
)
def test_addresses_that_people_write(text, public, base, path) -> None:
    root, address = written(text, public)
    assert (address.base(root), address.path) == (base, path)
