"""Checksums: their spellings, computing them while bytes pass, and judging a promise by them.

Spellings: OCI descriptors (`sha256:<hex>`), Subresource Integrity (`sha512-<base64>`), bare hex.
MD5 and SHA-1 can show that bytes are wrong but never that they are right. Go's checksums (`gosum`)
vouch as sha256 does: `h1` of a module zip needs the whole file once more, `h1mod` of a go.mod file
follows from its sha256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from artifactproxy.errors import BrokenPromise
from artifactproxy.model import Digest, Promise
from artifactproxy.rules.gosum import hash_of_mod

H1: Final = "h1"
H1_MOD: Final = "h1mod"

_HEX_LENGTH: Final = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_BY_LENGTH: Final = {length: name for name, length in _HEX_LENGTH.items()}
_STRENGTH: Final = tuple(_HEX_LENGTH)
_STREAMED: Final = frozenset({"sha256", "sha384", "sha512"})
_VOUCHING: Final = _STREAMED | {H1, H1_MOD}
_KNOWN: Final = _HEX_LENGTH.keys() | _VOUCHING
_HEX: Final = re.compile(r"\A[0-9a-f]+\Z")
_LABELLED: Final = re.compile(r"\A([a-z0-9]+)[:=]([0-9a-f]+)\Z")


def parse_digest(text: str) -> Digest | None:
    """Read one checksum in any of the spellings; of several (SRI lists) the strongest.

    None if it is not a digest or of an algorithm we do not know.
    """
    digests = [d for d in map(_parse_one, text.split()) if d is not None]
    return max(digests, key=lambda d: _STRENGTH.index(d.algorithm), default=None)


def _parse_one(token: str) -> Digest | None:
    lowered = token.lower()
    if _HEX.match(lowered):
        name = _BY_LENGTH.get(len(lowered))
        return Digest(name, lowered) if name else None
    labelled = _LABELLED.match(lowered)
    if labelled:
        name, value = labelled[1], labelled[2]
        return Digest(name, value) if _HEX_LENGTH.get(name) == len(value) else None
    name, dash, encoded = token.partition("-")
    if not dash or name.lower() not in _HEX_LENGTH:
        return None
    try:
        raw = base64.b64decode(encoded.partition("?")[0], validate=True)
    except (binascii.Error, ValueError):
        return None
    return Digest(name.lower(), raw.hex()) if len(raw) * 2 == _HEX_LENGTH[name.lower()] else None


class Hasher:
    """Several checksums over one pass of the bytes; sha256 is always among them."""

    __slots__ = ("_hashes",)

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        """Raises ValueError for an algorithm outside those that `parse_digest` returns."""
        names = dict.fromkeys(("sha256", *algorithms))
        unknown = names.keys() - _HEX_LENGTH.keys()
        if unknown:
            raise ValueError(f"unknown digest algorithm {sorted(unknown)}")
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, data: bytes | bytearray | memoryview) -> None:
        for running in self._hashes.values():
            running.update(data)

    def digests(self) -> tuple[Digest, ...]:
        return tuple(Digest(name, running.hexdigest()) for name, running in self._hashes.items())

    @property
    def sha256(self) -> str:
        return self._hashes["sha256"].hexdigest()


def vouching(promise: Promise | None) -> bool:
    """Whether complete bytes can be judged by this promise alone."""
    return promise is not None and any(d.algorithm in _VOUCHING for d in promise.digests)


def passing(promise: Promise | None) -> Promise | None:
    """What is left of a promise where bytes pass by and cannot be read again."""
    if promise is None or promise.digest(H1) is None:
        return promise
    return replace(promise, digests=tuple(d for d in promise.digests if d.algorithm != H1))


def algorithms(promise: Promise | None) -> frozenset[str]:
    """What must be computed while bytes pass to judge a promise. Weak checksums only where there is
    nothing better: beside a strong one they add cost and no certainty."""
    return _needed(promise) & _HEX_LENGTH.keys()


def _needed(promise: Promise | None) -> frozenset[str]:
    promised = {d.algorithm for d in promise.digests} & _KNOWN if promise else set()
    strong = promised & _VOUCHING
    return frozenset(strong - {H1} or strong or promised)


def missing(promise: Promise | None, digests: Sequence[Digest]) -> frozenset[str]:
    """Algorithms still to be computed over the bytes before `check` can judge a promise: those that
    need the whole, and all that became known only after hashing had begun."""
    needed = _needed(promise)
    computed = _computed(digests).keys()
    if needed & _VOUCHING & computed:
        return frozenset()
    return needed - computed


def _computed(digests: Sequence[Digest]) -> dict[str, str]:
    """Hex by algorithm, with what follows from the sha256."""
    computed = {d.algorithm: d.hex for d in digests}
    if "sha256" in computed:
        computed.setdefault(H1_MOD, hash_of_mod(computed["sha256"]))
    return computed


def check(promise: Promise | None, *, size: int, digests: Sequence[Digest]) -> str:
    """Judge complete bytes (`size`, computed `digests`) by what was promised.

    Returns what vouches for them: "digest", or "framing" where only their completeness does.
    Raises `BrokenPromise` if any promised size or computed checksum differs, ValueError if the
    promise cannot be judged because `missing` is not empty.
    """
    if promise is None:
        return "framing"
    if promise.size is not None and promise.size != size:
        raise BrokenPromise(f"upstream sent {size} bytes where {promise.size} were promised", code="size")
    if missing(promise, digests):
        raise ValueError(f"not computed: {sorted(missing(promise, digests))}")
    computed = _computed(digests)
    vouched = False
    for promised in promise.digests:
        found = computed.get(promised.algorithm)
        if found is None:
            continue
        if found != promised.hex.lower():
            raise BrokenPromise(f"upstream sent bytes whose {promised.algorithm} is not the promised one")
        vouched = vouched or promised.algorithm in _VOUCHING
    return "digest" if vouched else "framing"


def repr_digest(sha256_hex: str) -> str:
    """RFC 9530 `Repr-Digest` value of a sha256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode('ascii')}:"


def entity_tag(text: str) -> str:
    """A strong, quoted entity tag (RFC 9110 8.8.3) that stands for `text`."""
    return f'"{hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]}"'
