"""Which address is ours, and whose word counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BadRequest, Misdirected
from artifactproxy.web.access import AccessRules, judge_host, loopback

PROXY = "10.0.0.1"


def visit(
    rules: AccessRules,
    headers: dict[str, str],
    peer: str = PROXY,
    host: str = "inner:8080",
    secure: bool = False,
):
    return rules.visit(peer, host, headers, secure=secure)


TRUSTING = AccessRules(trusted_proxies=["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("headers", "root", "caller"),
    [
        ({}, "http://inner:8080", PROXY),
        ({"x-forwarded-proto": "https"}, "https://inner:8080", PROXY),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "Cache.Example"}, "https://cache.example", PROXY),
        (
            {"x-forwarded-host": "c.example", "x-forwarded-port": "8443", "x-forwarded-proto": "https"},
            "https://c.example:8443",
            PROXY,
        ),
        (
            {"x-forwarded-host": "c.example", "x-forwarded-port": "443", "x-forwarded-proto": "https"},
            "https://c.example",
            PROXY,
        ),
        ({"x-forwarded-host": "c.example", "x-forwarded-prefix": "/cache/"}, "http://c.example/cache", PROXY),
        ({"x-forwarded-for": "6.6.6.6, 192.0.2.7"}, "http://inner:8080", "192.0.2.7"),
        ({"x-forwarded-for": "6.6.6.6, 192.0.2.7, 10.2.3.4"}, "http://inner:8080", "192.0.2.7"),
        (
            {"x-forwarded-for": "127.0.0.1, 192.0.2.7", "x-forwarded-host": "evil.example, c.example"},
            "http://c.example",
            "192.0.2.7",
        ),
        (
            {"forwarded": 'for=192.0.2.7;proto=https;host="c.example:444"'},
            "https://c.example:444",
            "192.0.2.7",
        ),
        (
            {"forwarded": 'for=6.6.6.6;host=evil.example, for="[2001:db8::1]:99";host=c.example'},
            "http://c.example",
            "2001:db8::1",
        ),
        (
            {"forwarded": "for=192.0.2.7;host=outer.example;proto=https, for=10.9.9.9;host=mid"},
            "https://outer.example",
            "192.0.2.7",
        ),
        (
            {"forwarded": "for=unknown;proto=https", "x-forwarded-host": "evil.example"},
            "https://inner:8080",
            PROXY,
        ),
        ({"forwarded": "For=192.0.2.7, ,"}, "http://inner:8080", PROXY),
    ],
)
def test_forwarded_by_a_trusted_proxy(headers, root, caller) -> None:
    seen = visit(TRUSTING, headers)
    assert (seen.root, seen.caller) == (root, caller)


@pytest.mark.parametrize(
    "headers", [{"x-forwarded-host": "evil.example"}, {"forwarded": "host=evil.example;for=1.1.1.1"}]
)
def test_forwarded_by_anyone_else_is_ignored(headers) -> None:
    for rules, peer in ((TRUSTING, "192.0.2.1"), (AccessRules(), PROXY), (TRUSTING, "")):
        seen = visit(rules, headers, peer)
        assert (seen.root, seen.caller) == ("http://inner:8080", peer)


def test_a_mapped_address_of_a_trusted_proxy_is_trusted() -> None:
    assert visit(TRUSTING, {"x-forwarded-proto": "https"}, "::ffff:10.0.0.1").root == "https://inner:8080"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-host": "a b"},
        {"x-forwarded-host": "a/b"},
        {"x-forwarded-proto": "javascript"},
        {"x-forwarded-prefix": "/a/../b"},
        {"x-forwarded-prefix": "//evil.example"},
        {"forwarded": 'host="a'},
        {"forwarded": "host=a=b c"},
    ],
)
def test_malformed_forwarded_headers_are_refused(headers) -> None:
    with pytest.raises(BadRequest):
        visit(TRUSTING, headers)


def test_the_public_url_wins() -> None:
    rules = AccessRules("https://cache.example/art/", ["10.0.0.0/8"], [])
    assert visit(rules, {"x-forwarded-host": "other.example"}).root == "https://cache.example/art"


@pytest.mark.parametrize(
    "url", ["cache.example", "ftp://cache.example", "https://", "https://u:p@cache.example"]
)
def test_a_public_url_must_be_one(url) -> None:
    with pytest.raises(ValueError, match="public URL"):
        AccessRules(url)


def test_a_network_must_be_one() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        AccessRules(trusted_proxies=["10.0.0.0/99"])


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("a.example", True),
        ("a.example:99", True),
        ("b.example:80", True),
        ("b.example", False),
        ("evil.example", False),
        ("pub.example", True),
    ],
)
def test_allowed_hosts(host, welcome) -> None:
    rules = AccessRules("https://pub.example", (), ["A.example", "b.example:80"])
    seen = visit(rules, {}, host=host)
    if welcome:
        rules.judge(seen)
        rules.judge_admin(seen)
    else:
        with pytest.raises(Misdirected):
            rules.judge(seen)


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("127.0.0.1:80", True),
        ("[::1]", True),
        ("10.1.2.3", True),
        ("proxy:8080", True),
        ("pub.example", True),
        ("rebound.example", False),
    ],
)
def test_pages_about_us_are_not_for_foreign_names(host, welcome) -> None:
    rules = AccessRules("https://pub.example")
    seen = visit(rules, {}, host=host)
    rules.judge(seen)
    if welcome:
        rules.judge_admin(seen)
    else:
        with pytest.raises(Misdirected):
            rules.judge_admin(seen)


@given(st.text(max_size=30))
def test_what_passes_as_a_host_is_safe_in_a_url(host) -> None:
    try:
        judge_host(host)
    except BadRequest:
        return
    assert host.isascii()
    assert not set(host) & set(" /\\@?#\"'<>,;%\r\n\t")


@given(
    st.dictionaries(
        st.sampled_from(
            ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"]
        ),
        st.text(max_size=60),
    )
)
def test_no_forwarded_header_breaks_the_reader(headers) -> None:
    try:
        seen = visit(TRUSTING, headers)
    except BadRequest:
        return
    judge_host(seen.host)
    assert seen.root.startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("root", "inside"),
    [
        ("http://localhost:1", True),
        ("http://127.8.0.1", True),
        ("http://[::1]:2/x", True),
        ("http://a.localhost", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
    ],
)
def test_loopback(root, inside) -> None:
    assert loopback(root) is inside
