"""Challenges as registries send them, and the tokens that token servers give."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.rules.challenges import Challenge, challenges, grant_of, may_give, token_url

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/alpine:pull,push"'
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/alpine:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="a, b", Bearer realm=x', [("basic", {"realm": "a, b"}), ("bearer", {"realm": "x"})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate abc==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('BEARER Realm = "a\\"b"', [("bearer", {"realm": 'a"b'})]),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
        ("Basic", [("basic", {})]),
        ("", []),
        ("=,=", []),
        ('Bearer realm="open', [("bearer", {})]),
    ],
)
def test_challenges(text: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert challenges(text) == [Challenge(scheme, parameters) for scheme, parameters in found]


def test_the_address_of_a_token() -> None:
    assert token_url(challenges(HUB)[0]) == (
        "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/alpine:pull,push"
    )


@pytest.mark.parametrize(
    ("realm", "scope", "url"),
    [
        ("https://a.example/t?x=1", "", "https://a.example/t?x=1"),
        ("https://a.example", "r:b:pull r:c:pull", "https://a.example/?scope=r:b:pull&scope=r:c:pull"),
        ("https://a.example/t", "r:b c&x=y#z:pull", "https://a.example/t?scope=r:b&scope=c%26x%3Dy%23z:pull"),
        ("http://a.example/t", "", "http://a.example/t"),
        ("ftp://a.example/t", "", ""),
        ("/token", "", ""),
        ("", "", ""),
        ("https://user:pw@a.example/t", "", ""),
        ("https://a.example/a b", "", ""),
        ("https://[/", "", ""),
    ],
)
def test_addresses_of_tokens(realm: str, scope: str, url: str) -> None:
    assert token_url(Challenge("bearer", {"realm": realm, "scope": scope})) == url


@pytest.mark.parametrize(
    ("said", "token", "seconds"),
    [
        ({"token": "t"}, "t", 51.0),
        ({"access_token": "a", "expires_in": 300}, "a", 255.0),
        ({"token": "t", "access_token": "a", "expires_in": 1}, "t", 51.0),
        ({"token": "t", "expires_in": "300"}, "t", 51.0),
        ({"token": "t", "expires_in": 10**12}, "t", 73_440.0),
    ],
)
def test_grants(said: dict[str, object], token: str, seconds: float) -> None:
    grant = grant_of(json.dumps(said).encode())
    assert grant is not None
    assert grant.token == token
    assert grant.seconds == pytest.approx(seconds)
    assert token not in repr(grant).replace("Grant", "").replace("seconds", "").split("=")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}'],
)
def test_no_grants(body: bytes) -> None:
    assert grant_of(body) is None


@pytest.mark.parametrize(
    ("realm", "upstream", "may"),
    [
        ("https://auth.docker.io:443", "https://registry-1.docker.io:443", True),
        ("https://gitlab.example.com:443", "https://registry.gitlab.example.com:443", True),
        ("https://docker.io:443", "https://registry-1.docker.io:443", True),
        ("https://evil.example:443", "https://registry-1.docker.io:443", False),
        ("https://evildocker.io:443", "https://registry-1.docker.io:443", False),
        ("https://auth.docker.io.evil.example:443", "https://registry-1.docker.io:443", False),
        ("http://auth.docker.io:80", "https://registry-1.docker.io:443", False),
        ("https://auth.docker.io:8443", "https://registry-1.docker.io:443", False),
        ("https://auth.corp.example:443", "http://registry.corp.example:80", False),
        ("https://other.io:443", "https://ghcr.io:443", False),
        ("https://10.0.0.2:443", "https://1.0.0.2:443", False),
        ("https://[::2]:443", "https://[::1]:443", False),
    ],
)
def test_whose_tokens_may_be_asked_for(realm: str, upstream: str, may: bool) -> None:
    assert may_give(realm, upstream) is may


@given(st.text(max_size=120) | st.text(alphabet='Bearbasicltm="\\, x', max_size=80))
def test_any_text_is_read(text: str) -> None:
    for found in challenges(text):
        assert found.scheme == found.scheme.lower()
        url = token_url(found)
        assert url == "" or (url.isascii() and url.isprintable() and " " not in url)
