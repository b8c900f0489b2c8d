"""Values of the model to rows and back; both engines give and take rows as tuples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Found, Kind, Promise

CHUNK = 500  # rows a bulk write puts into one item, so that others get their turn in between

_T = TypeVar("_T")
_ENTRY_WIDTH = 22
_KINDS = {kind.value: kind for kind in Kind}


def key_row(key: ArtifactKey) -> tuple[str, str, str]:
    return key.repo, key.path, key.variant


def entry_row(entry: CacheEntry) -> tuple[Any, ...]:
    ref = entry.ref
    return (
        *key_row(entry.key),
        entry.kind.value,
        ref.sha256 if ref else None,
        ref.size if ref else None,
        entry.status,
        entry.media_type,
        entry.etag,
        entry.last_modified,
        entry.validator_etag,
        entry.validator_modified,
        entry.cache_control,
        entry.source,
        entry.fetched_at,
        entry.checked_at,
        entry.ttl,
        entry.verified_by,
        entry.taught_by,
        entry.released,
        entry.released_from,
        entry.purl,
        entry.first_seen,
        entry.last_used,
        entry.generation,
    )


def entry_of(key: ArtifactKey, row: Sequence[Any]) -> CacheEntry:
    """`row` holds the columns after the key, in the order of the dataclass."""
    kind, sha256, size, *rest = row[:_ENTRY_WIDTH]
    return CacheEntry(key, _KINDS[kind], None if sha256 is None else BlobRef(sha256, size), *rest)


def promise_row(promise: Promise) -> tuple[Any, ...]:
    return (
        *key_row(promise.key),
        " ".join(map(str, promise.digests)),
        promise.size,
        promise.url,
        promise.taught_by,
        promise.released,
        promise.released_from,
        promise.purl,
    )


def promise_of(key: ArtifactKey, row: Sequence[Any]) -> Promise:
    digests = tuple(Digest(*text.split(":", 1)) for text in row[0].split())
    return Promise(key, digests, *row[1:])


def found_of(key: ArtifactKey, row: Sequence[Any]) -> Found:
    return Found(
        None if row[0] is None else entry_of(key, row),
        None if row[_ENTRY_WIDTH] is None else promise_of(key, row[_ENTRY_WIDTH:]),
    )


def after(prefix: str) -> str | None:
    """The least text greater than every text that begins with `prefix`; None: there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if last == 0xD800 else last)


def package_bounds(purl: str) -> tuple[str, ...]:
    """A package URL and the bounds of its versions: a version follows "@", qualifiers "?" and a
    subpath "#"; "?" and "@" are neighbours."""
    return purl, purl + "?", purl + "A", purl + "#", purl + "$"


def chunks(values: Iterable[_T]) -> Iterable[list[_T]]:
    supply = iter(values)
    while chunk := list(islice(supply, CHUNK)):
        yield chunk
