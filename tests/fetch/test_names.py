"""What an address on the command line stands for."""

from __future__ import annotations

import pytest

from artifactproxy.config import load
from artifactproxy.errors import BadPath
from artifactproxy.fetch.names import Elsewhere, Ours, elsewhere, named
from artifactproxy.upstream.auth import Basic


def config(tmp_path, text: str = ""):
    path = tmp_path / "config.yaml"
    path.write_text(f"{text}\nremotes: {{tools: {{provider: generic, upstream: 'https://files.example/'}}}}")
    return load(path, env={}, flags={})


@pytest.mark.parametrize(
    ("text", "repo", "path", "filename"),
    [
        ("tools/a/b.tar.gz", "tools", "a/b.tar.gz", "b.tar.gz"),
        ("/tools/a/b%20c.zip", "tools", "a/b%20c.zip", "b c.zip"),
        ("/repository/tools/a/b", "tools", "a/b", "b"),
        ("/pypi/simple/x/", "pypi", "simple/x/", ""),
        ("http://127.0.0.1:8080/tools/a", "tools", "a", "a"),
        ("http://localhost:8080/tools/a", "tools", "a", "a"),
        ("https://proxy.example/cache/tools/a", "tools", "a", "a"),
    ],
)
def test_an_address_of_ours(tmp_path, text, repo, path, filename):
    found = named(text, config(tmp_path, "public_url: https://proxy.example/cache"))
    assert isinstance(found, Ours)
    assert (found.ask.repo, found.ask.path, found.filename) == (repo, path, filename)
    assert found.is_url == ("://" in text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8081/tools/a",
        "https://127.0.0.1:8080/tools/a",
        "http://user@127.0.0.1:8080/tools/a",
        "http://proxy.example/cache/tools/a",
        "https://proxy.example/cached/tools/a",
        "http://files.example:8080/tools/a",
    ],
)
def test_any_other_address_is_taken_as_it_stands(tmp_path, text):
    found = named(text, config(tmp_path, "public_url: https://proxy.example/cache"))
    assert isinstance(found, Elsewhere)
    assert found.url == text.replace("user@", "")


def test_a_listener_on_all_addresses_is_reached_by_loopback(tmp_path):
    assert isinstance(named("http://127.0.0.1:99/tools/a", config(tmp_path, "listen: 0.0.0.0:99")), Ours)
    assert isinstance(named("http://10.0.0.9:99/tools/a", config(tmp_path, "listen: 0.0.0.0:99")), Elsewhere)


@pytest.mark.parametrize(
    ("text", "url", "filename"),
    [
        ("HTTPS://Files.example", "https://files.example/", ""),
        ("https://files.example/a b.tgz?x=1 2#part", "https://files.example/a%20b.tgz?x=1%202", "a b.tgz"),
        ("https://files.example/a%2Fb%20c", "https://files.example/a%2Fb%20c", ""),
        ("https://files.example/über.zip", "https://files.example/%C3%BCber.zip", "über.zip"),
        ("https://bücher.example/x", "https://xn--bcher-kva.example/x", "x"),
        ("http://[::1]:80/x", "http://[::1]:80/x", "x"),
        (
            "https://files.example/x?sig=a%2Bb%3D&y=/+",
            "https://files.example/x?sig=a%2Bb%3D&y=/+",
            "x",
        ),
        ("https://files.example/..", "https://files.example/..", ""),
        ("https://files.example/a%0Ab", "https://files.example/a%0Ab", ""),
    ],
)
def test_what_a_browser_would_escape_is_escaped_and_the_rest_stays(text, url, filename):
    found = elsewhere(text)
    assert (found.url, found.filename, found.credential) == (url, filename, None)


def test_user_and_password_leave_the_address():
    found = elsewhere("https://me:p%40ss@files.example/x?signature=secret")
    assert (found.url, found.credential) == (
        "https://files.example/x?signature=secret",
        Basic("me", "p@ss"),
    )
    assert found.shown == "https://files.example/x"
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    "text", ["ftp://files.example/x", "file:///etc/passwd", "https:///x", "https://h:99999/x"]
)
def test_what_cannot_be_fetched_is_a_sentence(text):
    with pytest.raises(ValueError):
        elsewhere(text)


def test_a_malformed_address_of_ours_is_refused(tmp_path):
    with pytest.raises(BadPath):
        named("/tools/../x", config(tmp_path))
