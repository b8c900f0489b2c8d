"""What to do with a request, and with an upstream head: pure functions of what is known and `now`.

RFC 9111 (freshness), RFC 5861 (stale answers), RFC 8246 (immutable). The kind of a path beats
upstream's headers; every decision says why in a sentence that `explain` prints as it is.
Nothing here turns anything but upstream's own 404 or 410 into an absence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from artifactproxy.errors import OfflineMiss, TooLarge, UpstreamBroken, UpstreamBusy, UpstreamFault
from artifactproxy.limits import Policy
from artifactproxy.model import (
    Absent,
    Admission,
    Ask,
    Bypass,
    CacheEntry,
    Decision,
    Fetch,
    Found,
    Keep,
    Kind,
    Refresh,
    Refuse,
    Reject,
    Relay,
    Revalidate,
    Route,
    Serve,
    ServeAbsence,
    UpstreamHead,
)
from artifactproxy.rules.http import parse_cache_control, parse_retry_after

DEFAULT_TTL: Final = 300.0
DEFAULT_NEGATIVE_TTL: Final = 60.0
_PROMISED_NEGATIVE_TTL: Final = 10.0  # an index lists it: it will be there in a moment
_CLIENT_MAX_AGE: Final = 300.0
_DEFAULT_RETRY_AFTER: Final = 10.0
_AHEAD: Final = 300.0  # a row dated further ahead than this was written under another clock
_LONGEST_RETRY_AFTER: Final = 3600.0
_HTML: Final = ("text/html", "application/xhtml+xml")
_DECODABLE: Final = frozenset({"gzip", "x-gzip", "deflate"})
_EMPTY_SHA256: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_RETRIED: Final = frozenset({408, 502, 503, 504})


# --- requests -------------------------------------------------------------------------------


def decide(found: Found, route: Route, ask: Ask, policy: Policy, now: float) -> Decision:
    """What a request gets, from the one look-up of its key. `now` a little before the row was
    checked (a clock set back) counts as the moment it was checked; further back, how old the row is
    cannot be told, and it is due for a check."""
    if route.kind is Kind.PASS:
        if policy.offline:
            return _refuse("the remote is offline and this path is never stored")
        return Relay("this path is relayed and never stored")
    control = _control(ask.headers)
    entry = found.entry
    if entry is None:
        return _miss(control, policy, "nothing is held")
    if entry.ref is None:
        return _absence(entry, route, control, policy, now)
    if route.kind is Kind.ARTIFACT:
        return Serve(entry, "immutable and held; never revalidated")
    return _index(entry, route, control, policy, now)


def _refuse(why: str) -> Refuse:
    return Refuse(OfflineMiss(f"not cached: {why}"), why)


def _miss(control: Mapping[str, str | None], policy: Policy, why: str) -> Decision:
    if policy.offline:
        return _refuse(f"{why} and the remote is offline")
    if "only-if-cached" in control:
        return _refuse(f"{why} and the client asked only for what is cached")
    return Fetch(why)


def _absence(
    entry: CacheEntry, route: Route, control: Mapping[str, str | None], policy: Policy, now: float
) -> Decision:
    ttl = _negative_ttl(route, policy) if entry.ttl is None else entry.ttl
    age = _age(entry, now)
    said = f"upstream said {entry.status} {age:.0f} s ago"
    if _misdated(entry, now):
        return _miss(control, policy, f"upstream said {entry.status} at a time that is yet to come")
    if age >= ttl:
        return _miss(control, policy, f"{said}, remembered for {ttl:.0f} s only")
    cannot_ask = policy.offline or "only-if-cached" in control
    if _insists(control, age) and age > policy.min_revalidate and not cannot_ask:
        return Fetch(f"{said} and the client wants it checked")
    return ServeAbsence(entry, f"{said}, remembered for {ttl:.0f} s")


def _index(
    entry: CacheEntry, route: Route, control: Mapping[str, str | None], policy: Policy, now: float
) -> Decision:
    age, left = _age(entry, now), _left(entry, route, policy, now)
    fresh = left is None or left >= 0
    state = f"checked {age:.0f} s ago, {_described(left)}"
    if policy.offline:
        return Serve(entry, f"{state}; the remote is offline", stale=not fresh)
    insists = _insists(control, age)
    may_serve_stale = stale_allowed(entry, left, policy)
    if "only-if-cached" in control:
        if may_serve_stale:
            return Serve(entry, f"{state}; the client asked only for what is cached", stale=not fresh)
        return _refuse("what is held is too old and the client asked only for what is cached")
    if fresh:
        if insists and age > policy.min_revalidate:
            return Revalidate(entry, may_serve_stale, f"{state}; the client wants it checked")
        return Serve(entry, f"{state}; the client wants it checked, too soon" if insists else state)
    if insists:
        return Revalidate(entry, may_serve_stale, f"{state}; the client wants it checked")
    if _must_revalidate(entry):
        return Revalidate(entry, may_serve_stale, f"{state}; upstream forbids stale answers")
    if _stale_for(left) <= policy.stale_while_revalidate:
        return Serve(entry, f"{state}; refreshed behind the request", stale=True, refresh=True)
    return Revalidate(entry, may_serve_stale, state)


def _left(entry: CacheEntry, route: Route, policy: Policy, now: float) -> float | None:
    """As `fresh_for`, for a route that has become mutable since the row was written."""
    if entry.kind is Kind.ARTIFACT and entry.ttl is None:
        return (
            -1.0 if _misdated(entry, now) else ttl_of(route, policy, entry.cache_control) - _age(entry, now)
        )
    return fresh_for(entry, now)


def _described(left: float | None) -> str:
    if left is None:
        return "never stale"
    return f"fresh for {left:.0f} s" if left >= 0 else f"stale for {-left:.0f} s"


def _control(headers: Mapping[str, str]) -> dict[str, str | None]:
    text = headers.get("cache-control")
    if text is not None:
        return parse_cache_control(text)
    if "no-cache" in headers.get("pragma", "").lower():
        return {"no-cache": None}  # RFC 9111 5.4: only where there is no Cache-Control
    return {}


def _insists(control: Mapping[str, str | None], age: float) -> bool:
    """Whether the client refuses what is held because of its age."""
    if not control:
        return False
    if "no-cache" in control or "no-store" in control:
        return True
    most = _seconds(control.get("max-age"))
    return most is not None and (most == 0 or age > most)


# --- time -----------------------------------------------------------------------------------


def fresh_for(entry: CacheEntry, now: float) -> float | None:
    """Seconds of freshness left, negative when stale, None for ever."""
    if entry.ttl is None:
        return None
    return -1.0 if _misdated(entry, now) else entry.ttl - _age(entry, now)


def stale_allowed(entry: CacheEntry, left: float | None, policy: Policy) -> bool:
    """Whether this row may answer while upstream cannot, with `left` seconds of freshness: still
    fresh, or within `stale_if_error` past it unless upstream said must-revalidate (RFC 9111
    4.2.4)."""
    if left is None or left >= 0:
        return True
    return -left <= policy.stale_if_error and not _must_revalidate(entry)


def ttl_of(route: Route, policy: Policy, head_cache_control: str) -> float:
    """Seconds an index stays fresh: the administrator's word, else the provider's, shortened by
    upstream's s-maxage, max-age or no-cache, but not below `min_revalidate` by these."""
    if policy.ttl is not None:
        return policy.ttl
    usual = DEFAULT_TTL if route.ttl is None else route.ttl
    control = parse_cache_control(head_cache_control)
    said = _seconds(control.get("s-maxage"))
    if said is None:
        said = _seconds(control.get("max-age"))
    if "no-cache" in control or "no-store" in control:
        said = 0.0
    return usual if said is None else min(usual, max(said, policy.min_revalidate))


def client_cache_control(entry: CacheEntry, policy: Policy, now: float) -> str:
    """The `Cache-Control` we send with a row, or with one whose body still arrives: for ever, or
    what is left of its freshness, up to five minutes. Absences are not remembered further down."""
    absent = entry.status in (404, 410)
    private = policy.private or policy.closed
    if entry.kind is Kind.ARTIFACT and not absent:
        return f"{'private' if private else 'public'}, max-age=31536000, immutable"
    left = 0.0 if absent else fresh_for(entry, now)
    seconds = int(_CLIENT_MAX_AGE if left is None else min(max(left, 0.0), _CLIENT_MAX_AGE))
    return f"private, max-age={seconds}" if private else f"max-age={seconds}"


def _age(entry: CacheEntry, now: float) -> float:
    return max(0.0, now - entry.checked_at)


def _misdated(entry: CacheEntry, now: float) -> bool:
    """Whether the clock was set far back since the row was checked. Its age counts from a time that
    has not come, so without this it would stay fresh for as long as the clock was ahead."""
    return entry.checked_at - now > _AHEAD


def _stale_for(left: float | None) -> float:
    return 0.0 if left is None else max(0.0, -left)


def _must_revalidate(entry: CacheEntry) -> bool:
    if not entry.cache_control:
        return False
    control = parse_cache_control(entry.cache_control)
    return "must-revalidate" in control or "proxy-revalidate" in control


def _negative_ttl(route: Route, policy: Policy) -> float:
    if route.negative_ttl == 0:
        return 0.0  # absence of this is a passing state, whatever is set for the rest
    if policy.negative_ttl is not None:
        return policy.negative_ttl
    return DEFAULT_NEGATIVE_TTL if route.negative_ttl is None else route.negative_ttl


def _seconds(value: str | None) -> float | None:
    """Delta-seconds of RFC 9111 1.2.2; overlong ones count as 2^31."""
    if not value or not (value.isascii() and value.isdigit()):
        return None
    return float(min(int(value[:20]), 2**31))


# --- upstream heads -------------------------------------------------------------------------


def admit(
    route: Route,
    head: UpstreamHead,
    policy: Policy,
    now: float,
    *,
    held: CacheEntry | None,
    promised: bool,
) -> Admission:
    """What to do with an upstream answer, judged by its head alone.

    `held` is the row whose validators were sent, `promised` says that a sha256 or stronger is
    known, so that the bytes will be judged by themselves.
    """
    status = head.status
    if status == 200:
        return _admit_body(route, head, policy, promised=promised)
    if status == 304:
        return _admit_unchanged(route, head, policy, held)
    busy = _busy(head, now)
    if busy is not None:
        return Reject(busy)
    if status in (404, 410):
        ttl = _negative_ttl(route, policy)
        if promised and policy.negative_ttl is None:
            ttl = min(ttl, _PROMISED_NEGATIVE_TTL)
        return Absent(status, ttl)
    return _refusal(status, policy)


def depends_on_promise(head: UpstreamHead) -> bool:
    """Whether this head is judged differently where a digest is promised."""
    coded = bool(_codings(head.headers.get("content-encoding", "")))
    doubtful = not head.framed or coded or head.length == 0 or _media_type(head) in _HTML
    return head.status == 200 and doubtful


def _busy(head: UpstreamHead, now: float) -> UpstreamFault | None:
    """Throttling in all its disguises: some answer 403 or 404 with a Retry-After."""
    wait = parse_retry_after(head.headers.get("retry-after", ""), now)
    if head.status != 429 and (wait is None or head.status not in (403, 404, 503)):
        return None
    wait = min(max(_DEFAULT_RETRY_AFTER if wait is None else wait, 1.0), _LONGEST_RETRY_AFTER)
    fault = UpstreamBusy(
        f"upstream asks to be left alone for {wait:.0f} s", retry_after=wait, upstream_status=head.status
    )
    fault.status = 429 if head.status == 429 else 503
    return fault


def _refusal(status: int, policy: Policy) -> Reject:
    said = f"upstream answered {status}"
    if status in (401, 403):
        if policy.private:
            return Reject(
                UpstreamFault(f"{said} to our credentials", code="upstream_denied", upstream_status=status)
            )
        return Reject(_with_status(403, said, "upstream_forbidden", status))
    if status == 451:
        return Reject(_with_status(451, f"{said}: unavailable for legal reasons", "upstream_legal", status))
    if status == 408 or status >= 500:
        return Reject(
            UpstreamBroken(said, code="upstream_5xx", upstream_status=status), retry=status in _RETRIED
        )
    if status == 206:
        return _broken("upstream sent a part where the whole was asked", "bad_206", status)
    if 400 <= status < 500:
        return Reject(UpstreamFault(said, code="upstream_4xx", upstream_status=status))
    return _broken(f"{said}, which means nothing here", "upstream_status", status)


def _with_status(status: int, detail: str, code: str, upstream_status: int) -> UpstreamFault:
    fault = UpstreamFault(detail, code=code, upstream_status=upstream_status)
    fault.status = status
    return fault


def _broken(detail: str, code: str, status: int, *, retry: bool = False) -> Reject:
    return Reject(UpstreamBroken(detail, code=code, upstream_status=status), retry=retry)


def _admit_unchanged(route: Route, head: UpstreamHead, policy: Policy, held: CacheEntry | None) -> Admission:
    if held is None or held.ref is None or not (held.validator_etag or held.validator_modified):
        return _broken("upstream said unchanged of what was not held", "unexpected_304", 304, retry=True)
    named = head.headers.get("etag", "").removeprefix("W/")
    if named and held.validator_etag and named != held.validator_etag.removeprefix("W/"):
        # RFC 9111 4.3.4: it speaks of a representation that we do not hold.
        return _broken("upstream said unchanged of something else", "unexpected_304", 304, retry=True)
    if route.kind is Kind.ARTIFACT:
        return Refresh(None)
    return Refresh(ttl_of(route, policy, head.headers.get("cache-control", held.cache_control)))


def _admit_body(route: Route, head: UpstreamHead, policy: Policy, *, promised: bool) -> Admission:
    is_index = route.kind is Kind.INDEX
    limit = policy.max_index_bytes if is_index else policy.max_artifact_bytes
    if route.max_bytes is not None:
        limit = min(limit, route.max_bytes)
    if head.length is not None and head.length > limit:
        return Reject(
            TooLarge(f"upstream announces {head.length} bytes, the limit is {limit}", upstream_status=200)
        )
    if route.kind is Kind.PASS:
        return Bypass("relay")
    trusted = promised and not is_index
    if not route.expects_html and not trusted and _media_type(head) in _HTML:
        return _broken("upstream sent a web page instead of the document", "unexpected_html", 200, retry=True)
    if head.length == 0 and not is_index and not _may_be_empty(route, promised=promised):
        return _broken("upstream sent an empty body", "empty", 200)
    if not head.framed and not promised and not policy.accept_unframed:
        return _broken("upstream sent a body without a length", "unframed_body", 200)
    codings = _codings(head.headers.get("content-encoding", ""))
    if codings and is_index and (len(codings) > 1 or codings[0] not in _asked_codings(route)):
        return _broken("upstream encoded the body though this was not asked", "unasked_encoding", 200)
    if codings and not is_index and not promised:
        return Bypass("unasked_encoding")
    if not head.framed and not promised:
        return Bypass("unframed")
    return Keep(ttl_of(route, policy, head.headers.get("cache-control", "")) if is_index else None)


def _may_be_empty(route: Route, *, promised: bool) -> bool:
    if route.promise is None:
        return promised  # the digest will tell
    digest = route.promise.digest("sha256")
    if digest is not None:
        return digest.hex == _EMPTY_SHA256
    return promised or route.promise.size == 0


def _media_type(head: UpstreamHead) -> str:
    return head.headers.get("content-type", "").partition(";")[0].strip().lower()


def _codings(text: str) -> list[str]:
    return [c for c in (part.strip().lower() for part in text.split(",")) if c not in ("", "identity")]


def _asked_codings(route: Route) -> frozenset[str]:
    """Content codings that this route asks for and that the engine can undo."""
    asked = ",".join(value for name, value in route.headers if name.lower() == "accept-encoding")
    wanted = {c.partition(";")[0].strip() for c in _codings(asked)}
    if "gzip" in wanted:
        wanted.add("x-gzip")
    return frozenset(wanted) & _DECODABLE
