"""Spellings of checksums, and what a promise makes of the bytes."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BrokenPromise
from artifactproxy.model import ArtifactKey, Digest, Promise
from artifactproxy.rules.digests import (
    Hasher,
    algorithms,
    check,
    entity_tag,
    missing,
    parse_digest,
    passing,
    repr_digest,
    vouching,
)
from artifactproxy.rules.gosum import hash_of_mod

BODY = b"the body"
NAMES = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"]


def of(name: str, body: bytes = BODY) -> Digest:
    return Digest(name, hashlib.new(name, body).hexdigest())


def promise(*digests: Digest, size: int | None = None) -> Promise:
    return Promise(ArtifactKey("r", "p"), digests, size)


def sri(digest: Digest) -> str:
    return f"{digest.algorithm}-{base64.b64encode(bytes.fromhex(digest.hex)).decode()}"


@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_is_read(name: str) -> None:
    digest = of(name)
    spellings = [
        str(digest),
        str(digest).upper(),
        f"{name}={digest.hex}",
        digest.hex,
        digest.hex.upper(),
        f" {digest.hex} ",
        sri(digest),
        sri(digest) + "?option",
    ]
    assert [parse_digest(s) for s in spellings] == [digest] * len(spellings)


def test_of_several_the_strongest_is_read() -> None:
    assert parse_digest(f"{sri(of('sha1'))} nonsense {sri(of('sha512'))} {sri(of('sha256'))}") == of("sha512")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256",
        "sha256-",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "g" * 64,
        "sha256:+" + "a" * 63,
        "sha256:../" + "a" * 61,
        "a" * 63,
        "\uff11" * 64,
        "whirlpool:" + "a" * 128,
        "sha512-not base64",
        "sha512-AAAA",
        "sha256-" + "A" * 43 + "\u00e4",
        "md4-" + base64.b64encode(b"a" * 16).decode(),
    ],
)
def test_what_is_no_digest(text: str) -> None:
    assert parse_digest(text) is None


@given(st.text(max_size=80))
def test_parsing_never_raises_and_gives_whole_digests(text: str) -> None:
    digest = parse_digest(text)
    assert digest is None or len(digest.hex) * 4 == hashlib.new(digest.algorithm).digest_size * 8


@given(st.lists(st.binary(max_size=20)), st.sets(st.sampled_from(NAMES)))
def test_hashing_in_pieces_is_hashing_the_whole(pieces: list[bytes], names: set[str]) -> None:
    hasher = Hasher(names)
    for piece in pieces:
        hasher.update(memoryview(piece))
    whole = b"".join(pieces)
    assert set(hasher.digests()) == {of(name, whole) for name in names | {"sha256"}}
    assert hasher.sha256 == hashlib.sha256(whole).hexdigest()


def test_unknown_algorithms_are_refused_by_the_hasher() -> None:
    with pytest.raises(ValueError, match="whirlpool"):
        Hasher(["whirlpool"])


def test_algorithms_asks_for_weak_ones_only_where_nothing_is_better() -> None:
    assert algorithms(None) == frozenset()
    assert algorithms(promise()) == frozenset()
    assert algorithms(promise(of("md5"), of("sha1"))) == {"md5", "sha1"}
    assert algorithms(promise(of("md5"), of("sha512"))) == {"sha512"}
    assert algorithms(promise(Digest("whirlpool", "00"))) == frozenset()


COMPUTED = tuple(of(name) for name in ("sha256", "sha512", "md5", "sha1"))
WRONG = b"other body"


@pytest.mark.parametrize(
    ("made", "vouches"),
    [
        (None, "framing"),
        (promise(), "framing"),
        (promise(size=len(BODY)), "framing"),
        (promise(of("md5")), "framing"),
        (promise(of("md5"), of("sha1"), size=len(BODY)), "framing"),
        (promise(Digest("whirlpool", "00")), "framing"),
        (promise(of("sha256")), "digest"),
        (promise(Digest("sha256", of("sha256").hex.upper())), "digest"),
        (promise(of("sha512")), "digest"),
        (promise(of("md5"), of("sha256"), size=len(BODY)), "digest"),
        (promise(of("sha256"), of("sha384")), "digest"),
    ],
)
def test_kept_promises(made: Promise | None, vouches: str) -> None:
    assert check(made, size=len(BODY), digests=COMPUTED) == vouches


@pytest.mark.parametrize(
    "made",
    [
        promise(size=len(BODY) + 1),
        promise(of("sha256"), size=0),
        promise(of("sha256", WRONG)),
        promise(of("sha512", WRONG)),
        promise(of("md5", WRONG)),
        promise(of("sha1", WRONG)),
        promise(of("sha256"), of("md5", WRONG)),
        promise(of("md5"), of("sha256", WRONG)),
        promise(of("sha256"), of("sha256", WRONG)),
    ],
)
def test_broken_promises(made: Promise) -> None:
    with pytest.raises(BrokenPromise) as caught:
        check(made, size=len(BODY), digests=COMPUTED)
    assert caught.value.status == 502
    assert caught.value.code in ("digest", "size")


def test_a_promise_that_cannot_be_judged_is_not_taken_as_kept() -> None:
    late = promise(of("sha512"))
    computed = (of("sha256"),)
    assert missing(late, computed) == {"sha512"}
    with pytest.raises(ValueError, match="sha512"):
        check(late, size=len(BODY), digests=computed)
    assert missing(promise(of("sha256"), of("sha512")), computed) == frozenset()
    assert missing(None, ()) == frozenset()


@given(st.binary(max_size=30), st.binary(max_size=30), st.sets(st.sampled_from(NAMES), min_size=1))
def test_only_the_promised_bytes_pass(promised: bytes, sent: bytes, names: set[str]) -> None:
    made = promise(*(of(name, promised) for name in sorted(names)))
    hasher = Hasher(algorithms(made))
    hasher.update(sent)
    if promised == sent:
        vouches = "digest" if names & {"sha256", "sha384", "sha512"} else "framing"
        assert check(made, size=len(sent), digests=hasher.digests()) == vouches
    else:
        with pytest.raises(BrokenPromise):
            check(made, size=len(sent), digests=hasher.digests())


def test_headers_made_of_digests() -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert repr_digest(empty) == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    tag = entity_tag('any "text" \u00e4')
    assert tag == entity_tag('any "text" \u00e4') != entity_tag("other")
    assert tag.startswith('"')
    assert tag.endswith('"')
    assert tag[1:-1].isalnum()


# --- checksums of Go modules ----------------------------------------------------------------

H1, H1_MOD = Digest("h1", "1" * 64), Digest("h1mod", hash_of_mod(of("sha256").hex))


def test_h1_cannot_be_computed_while_bytes_pass() -> None:
    assert algorithms(promise(H1)) == frozenset()
    assert missing(promise(H1), [of("sha256")]) == {"h1"}
    with pytest.raises(ValueError, match="h1"):
        check(promise(H1), size=8, digests=[of("sha256")])


def test_h1_vouches_like_sha256() -> None:
    assert vouching(promise(H1))
    assert check(promise(H1), size=8, digests=[of("sha256"), H1]) == "digest"
    with pytest.raises(BrokenPromise, match="h1"):
        check(promise(H1), size=8, digests=[of("sha256"), Digest("h1", "2" * 64)])
    assert algorithms(promise(H1, of("md5"))) == frozenset()
    assert missing(promise(H1, of("md5")), [of("sha256")]) == {"h1"}


def test_beside_a_sha256_the_zip_is_not_read_again() -> None:
    assert algorithms(promise(H1, of("sha256"))) == {"sha256"}
    assert missing(promise(H1, of("sha256")), [of("sha256")]) == frozenset()
    assert check(promise(H1, of("sha256")), size=8, digests=[of("sha256")]) == "digest"


def test_the_sum_of_a_go_mod_follows_from_its_sha256() -> None:
    assert vouching(promise(H1_MOD))
    assert missing(promise(H1_MOD), [of("sha256")]) == frozenset()
    assert check(promise(H1_MOD), size=8, digests=[of("sha256")]) == "digest"
    with pytest.raises(BrokenPromise, match="h1mod"):
        check(promise(H1_MOD), size=8, digests=[of("sha256", b"another")])


def test_what_is_left_of_a_promise_for_bytes_that_pass_by() -> None:
    assert passing(None) is None
    assert passing(promise(H1_MOD, of("md5"))) == promise(H1_MOD, of("md5"))
    assert passing(promise(H1, size=8)) == promise(size=8)
    assert check(passing(promise(H1, size=8)), size=8, digests=[of("sha256")]) == "framing"
    assert not vouching(passing(promise(H1)))
    assert not vouching(promise(of("md5"), of("sha1")))
    assert not vouching(None)
