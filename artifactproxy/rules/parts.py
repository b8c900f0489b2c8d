"""Whether an upstream answer is what it must be: the rest of a body that broke off, or a whole body
that nobody vouches for.
"""

from __future__ import annotations

from artifactproxy.errors import BrokenPromise, UpstreamBroken
from artifactproxy.model import Kind, Route, UpstreamHead
from artifactproxy.rules.http import parse_content_range, strong

SNIFFED = 512  # bytes of a body that tell whether it is a web page


def judge_part(head: UpstreamHead, *, start: int, length: int | None, etag: str, promised: bool) -> int:
    """Where the body ends once the part of this 206 is appended at `start` (RFC 9110 15.3.7).

    `length` is that of the whole (None: not announced) and `etag` its tag; `promised` says that the
    final digest is known, so that parts of mirrors with other tags may be joined. Raises
    `UpstreamBroken` (`bad_206`) for a part that does not fit, `BrokenPromise` (`changed_mid_range`)
    for one of another representation.
    """
    parsed = parse_content_range(head.headers.get("content-range", ""))
    if parsed is None or head.headers.get("content-type", "").lower().startswith("multipart/"):
        raise UpstreamBroken("upstream sent a part without a usable Content-Range", code="bad_206")
    span, total = parsed
    size = total if length is None else length
    if span.start != start or span.stop != (span.stop if size is None else size) or total not in (None, size):
        raise UpstreamBroken("upstream sent another part than the one asked for", code="bad_206")
    if size is None and not promised:
        raise UpstreamBroken("upstream does not say how long the whole is", code="bad_206")
    if head.length is not None and head.length != span.size:
        raise UpstreamBroken("upstream sent a part whose two lengths differ", code="bad_206")
    if head.headers.get("content-encoding"):
        raise UpstreamBroken("upstream encoded a part", code="bad_206")
    if not promised:
        _same_representation(head, etag)
    return span.stop


def _same_representation(head: UpstreamHead, etag: str) -> None:
    tag = head.headers.get("etag", "")
    if not tag:  # RFC 9110 15.3.7: a 206 must carry it
        raise UpstreamBroken("upstream sent a part without its entity tag", code="bad_206")
    if tag != etag or not strong(tag):
        raise BrokenPromise("upstream changed the file while it was read", code="changed_mid_range")


def judge_unvouched(route: Route, *, size: int, start: bytes) -> None:
    """A complete body that no digest vouches for must at least not be one of the usual wrong ones;
    `start` are its first bytes. Raises `BrokenPromise`: `empty`, `unexpected_html`."""
    if size == 0 and route.kind is Kind.ARTIFACT:
        raise BrokenPromise("upstream sent an empty body", code="empty")
    if not route.expects_html and looks_like_html(start):
        raise BrokenPromise("upstream sent a web page instead of the document", code="unexpected_html")


def looks_like_html(start: bytes) -> bool:
    """Whether these first bytes open a web page, whatever its media type says."""
    text = start[:SNIFFED].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\f").lower()
    return text.startswith((b"<!doctype html", b"<html"))
