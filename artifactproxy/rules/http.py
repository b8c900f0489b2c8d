"""HTTP as text: dates, directives, ranges, negotiation, preconditions. No sockets, no clock.

RFC 9110 (semantics), RFC 9111 (caching). What is malformed in a request is ignored where the RFC
says so, and never raises; only `BadRange` and `PreconditionFailed` leave this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from artifactproxy.errors import BadRange, PreconditionFailed
from artifactproxy.model import Span, UpstreamHead

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LAST_SECOND: Final = 253402300799.0  # the end of the year 9999
_TIME: Final = r"(?P<h>[0-9]{2}):(?P<m>[0-9]{2}):(?P<s>[0-9]{2})"
_DATES: Final = tuple(
    re.compile(rf"\A{form}\Z", re.IGNORECASE)
    for form in (
        rf"[a-z]{{3}}, (?P<day>[0-9]{{2}}) (?P<mon>[a-z]{{3}}) (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"[a-z]{{6,9}}, (?P<day>[0-9]{{2}})-(?P<mon>[a-z]{{3}})-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"[a-z]{{3}} (?P<mon>[a-z]{{3}}) (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # RFC 9110 5.6.2, no secret
_DIRECTIVE: Final = re.compile(rf"\A({_TOKEN})(?:[ \t]*=[ \t]*(?:\"(.*)\"|([^\s\"]*)))?\Z", re.DOTALL)
_MEDIA_RANGE: Final = re.compile(rf"\A({_TOKEN})/({_TOKEN})\Z")
_MEDIA_TYPE: Final = re.compile(rf"\A{_TOKEN}/{_TOKEN}(?:[ \t]*;[\t\x20-\x7e]*)?\Z")
_QUALITY: Final = re.compile(r"\A(?:0?\.[0-9]+|0\.?|1(?:\.0*)?)\Z")
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"')
_RANGE: Final = re.compile(r"\A([0-9]*)-([0-9]*)\Z")
_CONTENT_RANGE: Final = re.compile(r"\Abytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_DATED: Final = ("if-modified-since", "if-unmodified-since", "if-range")
_LONGEST_KEPT: Final = 1024
_MEMO_TEXT: Final = 512  # clients send few different Accept values; longer ones are no client's
_DIGITS: Final = 19  # more cannot be a size or a time


@dataclass(frozen=True, slots=True)
class Validators:
    """What is kept of an upstream head, in upstream's own spelling; "" where it gave none."""

    etag: str = ""
    last_modified: str = ""
    cache_control: str = ""
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """200: the whole representation."""


@dataclass(frozen=True, slots=True)
class Part:
    """206: one satisfiable range."""

    span: Span


@dataclass(frozen=True, slots=True)
class NotModified:
    """304: the client holds it already."""


Verdict = Whole | Part | NotModified


# --- dates and directives -------------------------------------------------------------------


def http_date(seconds: float) -> str:
    """POSIX seconds as IMF-fixdate (RFC 9110 5.6.7), cut to the years 1970 to 9999."""
    at = datetime.fromtimestamp(int(min(max(seconds, 0.0), _LAST_SECOND)), UTC)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"


def parse_http_date(text: str) -> float | None:
    """POSIX seconds of any of the three forms of RFC 9110 5.6.7, else None.

    Two-digit years from 70 are of the last century; the day's name is not compared.
    """
    match = next((m for m in (form.match(text.strip(" \t")) for form in _DATES) if m), None)
    if match is None or match["mon"].title() not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    leap = match["s"] == "60"
    try:
        at = datetime(
            year,
            _MONTHS.index(match["mon"].title()) + 1,
            int(match["day"]),
            int(match["h"]),
            int(match["m"]),
            59 if leap else int(match["s"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return at.timestamp() + leap


def parse_cache_control(text: str) -> dict[str, str | None]:
    """Directives with lower-case names; None for those without a value. Of twins the first counts
    (RFC 9111 4.2.1); what is malformed is skipped."""
    directives: dict[str, str | None] = {}
    for element in _elements(text):
        match = _DIRECTIVE.match(element)
        if match:
            value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
            directives.setdefault(match[1].lower(), value)
    return directives


def parse_retry_after(text: str, now: float) -> float | None:
    """Seconds from `now`, never negative, from either form of RFC 9110 10.2.3; None if neither."""
    text = text.strip(" \t")
    if re.fullmatch(r"[0-9]+", text):
        return float(_number(text))
    at = parse_http_date(text)
    return None if at is None else max(0.0, at - now)


def _elements(text: str) -> Iterator[str]:
    """Members of a comma-separated list (RFC 9110 5.6.1), stripped, without the empty ones.
    Commas within quotes do not separate."""
    if '"' not in text:
        yield from filter(None, (part.strip(" \t") for part in text.split(",")))
        return
    start, quoted, escaped = 0, False, False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            if part := text[start:at].strip(" \t"):
                yield part
            start = at + 1
    if part := text[start:].strip(" \t"):
        yield part


def _number(digits: str) -> int:
    """Digits of any length as a number; what is too long for a size becomes just too large."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS


# --- ranges ---------------------------------------------------------------------------------


def parse_range(text: str, size: int) -> Span | None:
    """The one byte range that `text` asks of a representation of `size` bytes (RFC 9110 14.1.2).

    None where the whole is the answer: malformed, another unit, more than one range, or a suffix
    of nothing. Raises `BadRange` if the one range is well-formed and not satisfiable.
    """
    unit, equals, listed = text.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    # The list rule allows blanks at commas only, so not between `=` and the first range.
    first_spec, *more = listed.split(",")
    if first_spec[:1] in (" ", "\t") and first_spec.strip(" \t"):
        return None
    specs = [spec for spec in (part.strip(" \t") for part in (first_spec, *more)) if spec]
    match = _RANGE.match(specs[0]) if len(specs) == 1 else None
    if match is None or match[0] == "-":
        return None
    if not match[1]:
        suffix = _number(match[2])
        if suffix == 0:
            raise BadRange("a suffix of no bytes", size=size)
        return Span(max(0, size - suffix), size) if size else None
    first = _number(match[1])
    if match[2] and _number(match[2]) < first:
        return None
    if first >= size:
        raise BadRange("the range starts past the end", size=size)
    return Span(first, min(_number(match[2]) + 1, size) if match[2] else size)


def parse_content_range(text: str) -> tuple[Span, int | None] | None:
    """Span and total (None: unknown) of a 206 (RFC 9110 14.4); None if it is not one range."""
    match = _CONTENT_RANGE.match(text.strip(" \t"))
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return Span(first, last + 1), total


# --- negotiation ----------------------------------------------------------------------------


def negotiate(accept: str, offers: Sequence[tuple[str, str]]) -> str | None:
    """The variant of the best offer for an `Accept` value (RFC 9110 12.5.1).

    `offers` are (media type, variant) in our order of preference, which breaks ties. An empty
    `accept`, or one with nothing readable in it, takes the first offer. None: nothing matches.
    """
    read = _media_ranges if len(accept) <= _MEMO_TEXT else _media_ranges.__wrapped__
    ranges = read(accept)
    if not ranges:
        return offers[0][1] if offers else None
    best, best_quality = None, 0.0
    for media_type, variant in offers:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = variant, quality
    return best


@dataclass(frozen=True, slots=True)
class _MediaRange:
    main: str
    sub: str
    parameters: frozenset[tuple[str, str]]
    quality: float

    def specificity(self) -> tuple[bool, bool, int]:
        return self.main != "*", self.sub != "*", len(self.parameters)


@lru_cache(maxsize=128)
def _media_ranges(accept: str) -> tuple[_MediaRange, ...]:
    return tuple(r for r in map(_media_range, _elements(accept)) if r is not None)


def _media_range(element: str) -> _MediaRange | None:
    name, *rest = (part.strip(" \t") for part in element.split(";"))
    # Java's default Accept ends in `*; q=.2`.
    match = _MEDIA_RANGE.match("*/*" if name == "*" else name.lower())
    if match is None or (match[1] == "*" and match[2] != "*"):
        return None
    quality = 1.0
    parameters = set()
    for part in rest:
        key, _, value = (side.strip(" \t") for side in part.partition("="))
        if key.lower() == "q":
            if not _QUALITY.match(value):
                return None
            quality = float(value)
            break  # what follows was an extension that RFC 9110 no longer has
        if key and key.lower() != "charset":
            parameters.add((key.lower(), value.strip('"').lower()))
    return _MediaRange(match[1], match[2], frozenset(parameters), quality)


def _quality(media_type: str, ranges: Sequence[_MediaRange]) -> float:
    """The quality that the most specific matching range gives to an offer; 0: not acceptable."""
    offer = next(iter(_media_ranges(media_type)), None)
    if offer is None:
        return 0.0
    matching = [
        r
        for r in ranges
        if r.main in ("*", offer.main) and r.sub in ("*", offer.sub) and r.parameters <= offer.parameters
    ]
    if not matching:
        return 0.0
    top = max(r.specificity() for r in matching)
    return max(r.quality for r in matching if r.specificity() == top)


# --- preconditions --------------------------------------------------------------------------


def evaluate(
    headers: Mapping[str, str], *, etag: str, last_modified: str, size: int | None, method: str
) -> Verdict:
    """What a conditional or ranged request gets of an existing representation, in the order of
    RFC 9110 13.2.2. Header names are lower-case; `size` None (not yet known): never a part.

    Raises `PreconditionFailed` and `BadRange`.
    """
    dated = last_modified and any(name in headers for name in _DATED)
    modified = parse_http_date(last_modified) if dated else None
    _require_match(headers, etag, modified)
    reads = method in ("GET", "HEAD")
    none_match = headers.get("if-none-match")
    if none_match is not None:
        if _listed(none_match, etag, weak=True):
            if reads:
                return NotModified()
            raise PreconditionFailed("the representation is the one that If-None-Match excludes")
    elif reads and modified is not None:
        since = parse_http_date(headers.get("if-modified-since", ""))
        if since is not None and modified <= since:
            return NotModified()
    wanted = headers.get("range")
    if wanted is None or method != "GET" or size is None or not _same(headers, etag, modified):
        return Whole()
    span = parse_range(wanted, size)
    return Whole() if span is None else Part(span)


def _require_match(headers: Mapping[str, str], etag: str, modified: float | None) -> None:
    match = headers.get("if-match")
    if match is not None:
        if not _listed(match, etag, weak=False):
            raise PreconditionFailed("the representation is none of those in If-Match")
    elif modified is not None:
        since = parse_http_date(headers.get("if-unmodified-since", ""))
        if since is not None and modified > since:
            raise PreconditionFailed("the representation was modified since")


def _listed(text: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags, or `*`, holds ours (RFC 9110 8.8.3.2)."""
    if text.strip(" \t") == "*":
        return True
    if not etag or not (weak or strong(etag)):
        return False
    tags: Iterator[str] = (m[0] for m in _ENTITY_TAG.finditer(text))
    if weak:
        return etag.removeprefix("W/") in (tag.removeprefix("W/") for tag in tags)
    return etag in tags


def _same(headers: Mapping[str, str], etag: str, modified: float | None) -> bool:
    """If-Range: the client's part is of exactly this representation (RFC 9110 13.1.5)."""
    text = headers.get("if-range")
    if text is None:
        return True
    text = text.strip(" \t")
    if text.endswith('"'):
        return strong(text) and text == etag
    since = parse_http_date(text)
    return since is not None and since == modified


def strong(etag: str) -> bool:
    """Whether this is a well-formed strong entity tag."""
    return not etag.startswith("W/") and _ENTITY_TAG.fullmatch(etag) is not None


# --- what came from outside -----------------------------------------------------------------


def kept(head: UpstreamHead) -> Validators:
    """The few headers of an upstream answer that are remembered, each safe to send again.

    A value that cutting to 1 KiB would change into another meaning (a tag, a date, a type) is
    dropped instead; a Last-Modified that is no date is dropped too.
    """
    etag, modified, control, media_type = (
        safe_header(head.headers.get(name, ""))
        for name in ("etag", "last-modified", "cache-control", "content-type")
    )
    return Validators(
        etag=etag if len(etag) <= _LONGEST_KEPT else "",
        last_modified=modified if parse_http_date(modified) is not None else "",
        cache_control=control if len(control) <= _LONGEST_KEPT else _cut(control),
        media_type=media_type if len(media_type) <= _LONGEST_KEPT and _MEDIA_TYPE.match(media_type) else "",
    )


def _cut(listed: str) -> str:
    """As many whole members of a list as fit: half a number would be another number."""
    return listed[:_LONGEST_KEPT].rpartition(",")[0].rstrip(", ")


def safe_header(text: str) -> str:
    """Text from outside as a header value: controls become one blank, what Latin-1 lacks `?`."""
    latin = text.encode("latin-1", "replace").decode("latin-1")
    return _CONTROL.sub(" ", latin).strip()


def content_disposition(filename: str) -> str:
    """`attachment` under the last component of `filename` (RFC 6266, RFC 8187)."""
    name = re.split(r"[/\\]", filename)[-1]
    name = "".join(c for c in name if c.isprintable()).strip()
    if name in ("", ".", ".."):
        return "attachment"
    return "attachment; filename*=UTF-8''" + quote(name, safe="!#$&+-.^_`|~")
