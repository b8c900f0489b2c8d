"""Names, tags, digests: tables of what is and what is not one."""

from __future__ import annotations

import pytest

from artifactproxy.model import Digest
from artifactproxy.rules.oci import names

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "name",
    [
        "alpine",
        "library/alpine",
        "a",
        "0",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a---b",
        "a.b/c_d/e--f",
        "manifests/blobs/tags/list",
        "a" * 255,
    ],
)
def test_names(name: str) -> None:
    assert names.is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "Alpine",
        "a.",
        ".a",
        "-a",
        "a-",
        "a..b",
        "a._b",
        "a___b",
        "a b",
        "a:b",
        "a@b",
        "a%2Fb",
        "ä",
        "a\n",
        "_catalog",
        "a" * 256,
    ],
)
def test_no_names(name: str) -> None:
    assert not names.is_name(name)


@pytest.mark.parametrize("tag", ["latest", "1.0", "_", "A-b.c_D", "sha256-" + HEX, "a" * 128])
def test_tags(tag: str) -> None:
    assert names.is_tag(tag)


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a:b", "a/b", "a b", "ä", "a\n", "a" * 129])
def test_no_tags(tag: str) -> None:
    assert not names.is_tag(tag)


def test_e12_digests_have_one_spelling() -> None:
    assert names.digest_of(f"sha256:{HEX}") == Digest("sha256", HEX)
    assert names.digest_of(f"sha512:{HEX}{HEX}") == Digest("sha512", HEX + HEX)
    assert str(names.digest_of(f"sha256:{HEX}")) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"sha384:{HEX}{HEX[:32]}",
        f"sha256={HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"md5:{HEX[:32]}",
        f"sha256:{'g' * 64}",
    ],
)
def test_e12_no_digests(text: str) -> None:
    assert names.digest_of(text) is None


def test_tags_that_stand_for_digests() -> None:
    tag = names.fallback_tag(Digest("sha256", HEX))
    assert tag == f"sha256-{HEX}"
    assert names.is_tag(tag)
    assert names.is_fallback_tag(tag)
    assert names.is_fallback_tag(f"{tag}.sig")
    assert not names.is_fallback_tag("latest")
    assert not names.is_fallback_tag(f"sha256-{HEX[:-1]}")


@pytest.mark.parametrize("text", ["a", "0-_Z", "x" * 128])
def test_sessions(text: str) -> None:
    assert names.is_session(text)


@pytest.mark.parametrize("text", ["", "a.b", "a/b", "a%20", "x" * 129])
def test_no_sessions(text: str) -> None:
    assert not names.is_session(text)
