"""Reading one body over several connections: is it worth it, and is each part what was asked for?

RFC 9110: sections 8.8.2.2 (dates as strong validators), 13.1.5 (If-Range), 14.4 (Content-Range), 15.3.7
(206) and 15.5.17 (416). Nothing here is lenient: whatever is not exactly right leads to one connection.
"""

from __future__ import annotations

from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

from artifactproxy.errors import BrokenPromise, UpstreamBroken
from artifactproxy.limits import Download
from artifactproxy.model import Header, Keep, Kind, Promise, Route, Span, UpstreamHead
from artifactproxy.rules.http import parse_content_range, strong

STRONG_AFTER: Final = 60.0  # seconds between Last-Modified and Date

_DISLIKED: Final = frozenset({400, 405, 406, 412, 416, 417})
UNFIT: Final = frozenset({"bad_206", "ranges_ignored", "ranges_refused"})
"""Codes that say: over parallel ranges this is not to be had from there."""


def probe(start: int = 0) -> Header:
    """The first request: all of it, or all that is missing, as a range. A small body simply ends in it,
    and so does one whose upstream answers 200; a large one has shown by its 206 that it can be had in
    parts."""
    return ("range", f"bytes={start}-")


def probes(route: Route, download: Download, promise: Promise | None) -> bool:
    """Whether the first request should ask for a range: unless the body is known to be too small."""
    if route.kind is not Kind.ARTIFACT or download.connections < 2:
        return False
    size = promise.size if promise is not None else None
    return size is None or size >= download.from_bytes


def whole(head: UpstreamHead, start: int = 0, length: int | None = None) -> UpstreamHead | None:
    """The head of a 206 to `probe(start)` as the 200 of the whole that it stands for; other answers as they
    are. `length` is that of the whole, if it is known. None for a 206 that is not exactly this, for a 416
    (RFC 9110 15.5.17: an empty body has no range), and where the request itself was not liked."""
    if head.status in _DISLIKED:
        return None
    if head.status != 206:
        return head
    parsed = parse_content_range(head.headers.get("content-range", ""))
    if parsed is None or _multipart(head) or not head.framed:
        return None
    span, total = parsed
    if total is None or total != (total if length is None else length) or span != Span(start, total):
        return None
    if head.length not in (None, span.size) or (start and _coded(head)):
        return None
    part = ("content-range", "content-length")
    headers = {name: value for name, value in head.headers.items() if name not in part}
    return replace(head, status=200, headers=headers, length=total)


def large(length: int, download: Download) -> bool:
    """Whether a body of this length is read in parts."""
    return download.connections > 1 and length >= max(download.from_bytes, download.segment + 1)


def worth(head: UpstreamHead, admission: object, download: Download, *, promised: bool) -> bool:
    """Whether a body with this head (a 206 to `PROBE`, as `whole` gives it) is read in parallel."""
    if not isinstance(admission, Keep) or head.length is None or not large(head.length, download):
        return False
    return not _coded(head) and (promised or bool(validator(head)))


def validator(head: UpstreamHead) -> str:
    """What goes into If-Range: a strong entity tag, or a date that is old enough to be one; "" where
    nothing tells one representation from another."""
    tag = head.headers.get("etag", "")
    if tag:
        return tag if strong(tag) else ""
    modified, sent = _when(head, "last-modified"), _when(head, "date")
    if modified is None or sent is None or sent - modified < STRONG_AFTER:
        return ""
    return head.headers["last-modified"]


def judge_segment(
    head: UpstreamHead, span: Span, *, length: int, mark: str, promised: bool, same: bool
) -> None:
    """Whether this is the part `span` of the body of `length` bytes whose `validator` is `mark`.

    `promised`: the final digest is known, so that parts with other validators may be joined; `same`: it
    comes from where the first part came from. Raises `UpstreamBroken` (`bad_206`, `ranges_ignored`,
    `ranges_refused`, or `no_part` for any other status) or `BrokenPromise` (`changed_mid_range`).
    """
    if head.status == 200:
        if same and mark and head.headers.get("etag", mark) != mark and strong(mark):
            raise _changed()
        raise UpstreamBroken("upstream sent the whole instead of a part", code="ranges_ignored")
    if head.status == 416:
        raise UpstreamBroken("upstream says there is no such part", code="ranges_refused")
    if head.status != 206:
        raise UpstreamBroken(
            f"upstream answered {head.status} to a request for a part",
            code="no_part",
            upstream_status=head.status,
        )
    parsed = parse_content_range(head.headers.get("content-range", ""))
    if parsed is None or _multipart(head):
        raise UpstreamBroken("upstream sent a part without a usable Content-Range", code="bad_206")
    if parsed[1] is not None and parsed[1] != length:
        raise _changed() if same and not promised else _bad("a part of something else")
    if parsed != (span, length) or head.length not in (None, span.size) or not head.framed:
        raise _bad("another part than the one asked for")
    if _coded(head):
        raise _bad("a part with a content coding")
    if not promised:
        _judge_mark(head, mark)


def _judge_mark(head: UpstreamHead, mark: str) -> None:
    name = "etag" if strong(mark) else "last-modified"
    found = head.headers.get(name, "")
    if not found and name == "etag":  # RFC 9110 15.3.7: a 206 must carry it
        raise _bad("a part without its entity tag")
    if found != mark:
        raise _changed()


def _changed() -> BrokenPromise:
    return BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")


def _bad(what: str) -> UpstreamBroken:
    return UpstreamBroken(f"upstream sent {what}", code="bad_206")


def _multipart(head: UpstreamHead) -> bool:
    return head.headers.get("content-type", "").strip().lower().startswith("multipart/")


def _coded(head: UpstreamHead) -> bool:
    return head.headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def _when(head: UpstreamHead, name: str) -> float | None:
    try:
        return parsedate_to_datetime(head.headers.get(name, "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
