"""From what is known of a document to the status, headers and span of one answer. No I/O.

RFC 9110 (conditions, ranges), RFC 9111 (Age), RFC 9211 (Cache-Status), RFC 9530 (Repr-Digest).
"""

from __future__ import annotations

from dataclasses import dataclass

from artifactproxy.limits import Policy
from artifactproxy.model import (
    Ask,
    CacheEntry,
    Digest,
    Header,
    Kind,
    Route,
    Source,
    Span,
)
from artifactproxy.rules.coding import Coding
from artifactproxy.rules.digests import repr_digest
from artifactproxy.rules.freshness import client_cache_control, fresh_for
from artifactproxy.rules.http import NotModified, Part, content_disposition, evaluate
from artifactproxy.rules.links import next_link

NAME = "artifactproxy"
# Types a browser would run or render; they leave as attachments (the sandbox CSP is the web's).
ACTIVE_TYPES = ("text/html", "image/svg+xml", "application/xhtml+xml", "application/xml", "text/xml")


@dataclass(frozen=True, slots=True)
class Entity:
    """The document as it will be sent. `size` None: not known yet. `sha256` only when the bytes
    are verified or promised; both are of the bytes in their content coding. `answers` are what this kind
    of document always comes with."""

    media_type: str
    etag: str
    last_modified: str = ""
    size: int | None = None
    sha256: str = ""
    negotiated: bool = False
    filename: str = ""
    coding: Coding = ""
    answers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How this answer came about: header values, not decisions."""

    source: Source
    cache_status: str
    cache_control: str
    age: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer; `span` is what of the body to send (None: all of it)."""

    status: int
    headers: list[Header]
    span: Span | None
    empty: bool


def head_for(ask: Ask, entity: Entity, how: Provenance, extra: tuple[Header, ...] = ()) -> Head:
    """Judge the conditions and the range of `ask`. Raises `PreconditionFailed`, `BadRange`."""
    verdict = evaluate(
        ask.headers,
        etag=entity.etag,
        last_modified=entity.last_modified,
        size=entity.size,
        method=ask.method,
    )
    headers = [*_common(entity, how), *entity.answers]
    age = () if how.age is None else (("Age", str(how.age)),)  # last: it alone changes by itself
    if isinstance(verdict, NotModified):
        return Head(304, [*headers, *age], None, empty=True)
    headers.extend(extra)
    headers.append(("Content-Type", entity.media_type))
    if entity.coding:
        headers.append(("Content-Encoding", entity.coding))
    if entity.size is not None:
        headers.append(("Accept-Ranges", "bytes"))
    if entity.filename and entity.media_type.partition(";")[0] in ACTIVE_TYPES:
        headers.append(("Content-Disposition", content_disposition(entity.filename)))
    empty = ask.method == "HEAD"
    if isinstance(verdict, Part):
        span = verdict.span
        headers.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{entity.size}"))
        headers.append(("Content-Length", str(span.size)))
        return Head(206, [*headers, *age], span, empty)
    if entity.size is not None:
        headers.append(("Content-Length", str(entity.size)))
    if entity.sha256:
        headers.append(("X-Checksum-Sha256", entity.sha256))
        headers.append(("Repr-Digest", repr_digest(entity.sha256)))
    return Head(200, [*headers, *age], None, empty)


def _common(entity: Entity, how: Provenance) -> list[Header]:
    headers: list[Header] = [("Cache-Status", how.cache_status), ("Cache-Control", how.cache_control)]
    if how.source:
        headers.append(("X-Artifact-Source", how.source))
    if entity.etag:
        headers.append(("ETag", entity.etag))
    if entity.last_modified:
        headers.append(("Last-Modified", entity.last_modified))
    if entity.negotiated:
        headers.append(("Vary", "Accept, Accept-Encoding"))
    return headers


def entity_of(entry: CacheEntry, route: Route, size: int | None) -> Entity:
    """A stored document, or one that is arriving, sent as it is."""
    return Entity(
        media_type=entry.media_type if route.typed else route.media_type,
        etag=entry.etag,
        last_modified=entry.last_modified,
        size=size,
        sha256=entry.ref.sha256 if entry.ref else "",
        filename=route.filename,
        answers=answers_of(route, entry),
    )


def answers_of(route: Route, entry: CacheEntry) -> tuple[Header, ...]:
    """The headers that clients of this kind of document look for, whoever asks."""
    if not route.digest_header:
        return route.answers
    promised = route.promise.digests[0] if route.promise else None
    digest = promised or (Digest("sha256", entry.ref.sha256) if entry.ref else None)
    return (*route.answers, (route.digest_header, str(digest))) if digest else route.answers


def page_link(ask: Ask, route: Route, entry: CacheEntry) -> tuple[Header, ...]:
    """Where the page after this one lies for this client, if upstream named one."""
    following = entry.source.partition("#")[2] if route.paged else ""
    address = f"{ask.base}/{route.key.path.partition('?')[0]}"
    return (("Link", next_link(address, following)),) if following else ()


def hit(entry: CacheEntry, policy: Policy, now: float, detail: str = "") -> Provenance:
    """From the store: fresh, revalidated or stale."""
    left = fresh_for(entry, now)
    status = f"{NAME}; hit" if left is None else f"{NAME}; hit; ttl={int(left)}"
    if detail:
        status += f"; detail={detail}"
    return Provenance("cache", status, client_cache_control(entry, policy, now), _age(entry, now))


def revalidated(entry: CacheEntry, policy: Policy, now: float) -> Provenance:
    status = f"{NAME}; fwd=stale; fwd-status=304"
    return Provenance("cache", status, client_cache_control(entry, policy, now), _age(entry, now))


def elsewhere(how: Provenance, url: str) -> list[Header]:
    """The head of a 307 to where the store itself hands the body out, for as long as the address holds."""
    status = how.cache_status if "; detail=" in how.cache_status else f"{how.cache_status}; detail=redirect"
    headers: list[Header] = [("Cache-Status", status), ("Cache-Control", "no-store"), ("Location", url)]
    if how.source:
        headers.append(("X-Artifact-Source", how.source))
    return headers


def arriving(
    entry: CacheEntry, policy: Policy, now: float, *, began: bool, stored: bool, replaces: bool
) -> Provenance:
    """From upstream, while the body had not ended when the request attached."""
    status = f"{NAME}; fwd=stale; fwd-status=200" if replaces else f"{NAME}; fwd=miss"
    if not stored:
        status = f"{NAME}; fwd=bypass"
    elif began:
        status += "; stored"
    else:
        status += "; collapsed"
    control = client_cache_control(entry, policy, now) if stored else "no-store"
    return Provenance("remote", status, control, _age(entry, now) if entry.kind is Kind.INDEX else None)


def relayed(detail: str = "") -> Provenance:
    status = f"{NAME}; fwd=bypass" + (f"; detail={detail}" if detail else "")
    return Provenance("remote", status, "no-store")


def partial() -> Provenance:
    return Provenance("remote", f"{NAME}; fwd=partial; detail=unverified", "no-store")


def _age(entry: CacheEntry, now: float) -> int:
    return max(0, int(now - entry.checked_at))
