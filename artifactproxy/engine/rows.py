"""The row that an upstream head begins: pure bookkeeping shared by fills and cold HEADs."""

from __future__ import annotations

import re
from dataclasses import replace

from artifactproxy.model import BlobRef, CacheEntry, Kind, Promise, Route, UpstreamHead
from artifactproxy.rules.digests import entity_tag
from artifactproxy.rules.http import kept, strong
from artifactproxy.rules.links import next_query

_TYPE = re.compile(r"application/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")


def begin_row(
    route: Route,
    head: UpstreamHead,
    promise: Promise | None,
    *,
    ttl: float | None,
    now: float,
    first_seen: float | None = None,
    generation: int = 0,
) -> CacheEntry:
    """A row without its ref. Its entity tag is the promised sha256, else made from upstream's
    strong tag, else empty until the bytes are known: the first answer and all later ones agree."""
    seen = kept(head)
    promised = promise.digest("sha256") if promise else None
    etag = ""
    if promised is not None:
        etag = f'"{promised.hex}"'
    elif strong(seen.etag):
        etag = entity_tag(f"{head.url}\n{seen.etag}")
    return CacheEntry(
        key=route.key,
        kind=route.kind,
        ref=None,
        media_type=_type(route, head),
        etag=etag,
        last_modified=seen.last_modified,
        validator_etag=seen.etag,
        validator_modified=seen.last_modified,
        cache_control=seen.cache_control,
        source=_source(route, head),
        fetched_at=now,
        checked_at=now,
        ttl=ttl,
        taught_by=promise.taught_by if promise else "",
        released=promise.released if promise else None,
        released_from=promise.released_from if promise else "",
        purl=route.purl or (promise.purl if promise else ""),
        first_seen=now if first_seen is None else first_seen,
        last_used=now,
        generation=generation,
    )


def _type(route: Route, head: UpstreamHead) -> str:
    """The type of the document, without parameters; of upstream's word only what is no page."""
    given = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    runs = given.endswith(("/xml", "+xml", "javascript", "ecmascript"))
    return given if route.typed and _TYPE.fullmatch(given) and not runs else route.media_type


def _source(route: Route, head: UpstreamHead) -> str:
    """Where the body came from. A redirect may have been signed; that is not kept."""
    source = head.url.partition("?")[0]
    following = next_query(head.headers.get("link", "")) if route.paged else ""
    return f"{source}#{following}" if following else source


def verified_row(row: CacheEntry, ref: BlobRef, by: str, promise: Promise | None) -> CacheEntry:
    """The row of a body that is complete and right; `by` says what vouched for it."""
    return replace(
        row,
        ref=ref,
        verified_by=by,
        etag=row.etag or f'"{ref.sha256}"',
        taught_by=promise.taught_by if promise else row.taught_by,
        released=promise.released if promise else row.released,
        released_from=promise.released_from if promise else row.released_from,
    )


def refreshed_row(
    held: CacheEntry, head: UpstreamHead, *, ttl: float | None, now: float, generation: int
) -> CacheEntry:
    """What a 304 makes of the row that is held."""
    seen = kept(head)
    return replace(
        held,
        checked_at=now,
        ttl=ttl,
        validator_etag=seen.etag or held.validator_etag,
        cache_control=seen.cache_control or held.cache_control,
        generation=generation,
    )


def as_before(row: CacheEntry, lost: CacheEntry) -> CacheEntry:
    """The row of a body that is fetched again because ours was damaged: no use of it, and clients
    that hold the same bytes know them by the same tag."""
    etag = lost.etag if lost.kind is Kind.ARTIFACT else row.etag
    return replace(row, etag=etag, first_seen=lost.first_seen, last_used=lost.last_used)


def absent_row(
    route: Route, head: UpstreamHead, *, status: int, ttl: float, now: float, generation: int
) -> CacheEntry:
    """Upstream's own 404 or 410, to be remembered for `ttl` seconds."""
    return CacheEntry(
        key=route.key,
        kind=route.kind,
        ref=None,
        status=status,
        source=head.url.partition("?")[0],
        fetched_at=now,
        checked_at=now,
        ttl=ttl,
        purl=route.purl,
        first_seen=now,
        last_used=now,
        generation=generation,
    )
