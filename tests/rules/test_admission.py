"""`admit` as a table and as laws: what becomes of an upstream head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import TooLarge, UpstreamBroken, UpstreamBusy, UpstreamFault
from artifactproxy.limits import Policy
from artifactproxy.model import (
    Absent,
    Admission,
    BlobRef,
    Bypass,
    CacheEntry,
    Digest,
    Keep,
    Kind,
    Promise,
    Refresh,
    Reject,
    Route,
    UpstreamHead,
)
from artifactproxy.rules.freshness import admit
from tests import strategies as words

NOW = words.NOON
POLICY = Policy(max_artifact_bytes=1000, max_index_bytes=500)
PRIVATE = replace(POLICY, private=True)
LENIENT = replace(POLICY, accept_unframed=True)
ARTIFACT = Route(Kind.ARTIFACT, words.KEY, ("https://upstream.example/x",))
INDEX = replace(ARTIFACT, kind=Kind.INDEX, ttl=120.0)
ZIPPED = replace(INDEX, headers=(("Accept-Encoding", "gzip, deflate;q=0.5"),))
NO_PAGES = replace(ARTIFACT, expects_html=False)
EMPTY = Digest("sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
OTHER = Digest("sha256", "ab" * 32)
HELD = CacheEntry(
    words.KEY, Kind.INDEX, BlobRef("ab" * 32, 10), validator_etag='"a"', cache_control="max-age=50"
)


def head(status: int = 200, *, length: int | None = 100, framed: bool = True, **headers: str) -> UpstreamHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamHead(status, named, length, framed, "https://upstream.example/x")


def judge(
    route: Route,
    answer: UpstreamHead,
    policy: Policy = POLICY,
    *,
    held: CacheEntry | None = None,
    promised: bool = False,
) -> Admission:
    return admit(route, answer, policy, NOW, held=held, promised=promised)


def with_promise(digest: Digest | None, size: int | None = None) -> Route:
    return replace(ARTIFACT, promise=Promise(words.KEY, (digest,) if digest else (), size))


ACCEPTED: list[tuple[str, Admission, Admission]] = [
    ("artifact", judge(ARTIFACT, head()), Keep(None)),
    (
        "artifact, whatever upstream says of time",
        judge(ARTIFACT, head(cache_control="max-age=1")),
        Keep(None),
    ),
    ("artifact of unknown length, chunked", judge(ARTIFACT, head(length=None)), Keep(None)),
    ("artifact at the limit", judge(ARTIFACT, head(length=1000)), Keep(None)),
    ("index", judge(INDEX, head()), Keep(120.0)),
    ("index with max-age", judge(INDEX, head(cache_control="max-age=60")), Keep(60.0)),
    ("empty index", judge(INDEX, head(length=0)), Keep(120.0)),
    ("promised empty artifact", judge(with_promise(EMPTY), head(length=0), promised=True), Keep(None)),
    ("empty artifact with a promise elsewhere", judge(ARTIFACT, head(length=0), promised=True), Keep(None)),
    ("empty artifact of promised size 0", judge(with_promise(None, 0), head(length=0)), Keep(None)),
    ("unframed, promised", judge(ARTIFACT, head(length=None, framed=False), promised=True), Keep(None)),
    ("unframed, accepted", judge(ARTIFACT, head(length=None, framed=False), LENIENT), Bypass("unframed")),
    ("unframed index, accepted", judge(INDEX, head(length=None, framed=False), LENIENT), Bypass("unframed")),
    ("encoded, promised", judge(ARTIFACT, head(content_encoding="gzip"), promised=True), Keep(None)),
    ("encoded artifact", judge(ARTIFACT, head(content_encoding="gzip")), Bypass("unasked_encoding")),
    ("identity is no encoding", judge(ARTIFACT, head(content_encoding="Identity")), Keep(None)),
    ("empty encoding", judge(INDEX, head(content_encoding=" ")), Keep(120.0)),
    ("index encoded as asked", judge(ZIPPED, head(content_encoding="GZIP")), Keep(120.0)),
    ("index encoded as asked, old name", judge(ZIPPED, head(content_encoding="x-gzip")), Keep(120.0)),
    ("index deflated as asked", judge(ZIPPED, head(content_encoding="deflate")), Keep(120.0)),
    ("page where pages may be", judge(ARTIFACT, head(content_type="text/html")), Keep(None)),
    ("page, promised", judge(NO_PAGES, head(content_type="text/html"), promised=True), Keep(None)),
    ("relay", judge(replace(ARTIFACT, kind=Kind.PASS), head()), Bypass("relay")),
    ("unchanged index", judge(INDEX, head(304), held=HELD), Refresh(50.0)),
    ("unchanged, new time", judge(INDEX, head(304, cache_control="max-age=70"), held=HELD), Refresh(70.0)),
    ("unchanged, same tag weakly", judge(INDEX, head(304, etag='W/"a"'), held=HELD), Refresh(50.0)),
    ("unchanged artifact", judge(ARTIFACT, head(304), held=HELD), Refresh(None)),
    (
        "unchanged by date",
        judge(INDEX, head(304, etag='"x"'), held=replace(HELD, validator_etag="", validator_modified="d")),
        Refresh(50.0),
    ),
    ("404", judge(INDEX, head(404)), Absent(404, 60.0)),
    ("410", judge(ARTIFACT, head(410)), Absent(410, 60.0)),
    ("404 where something is held", judge(INDEX, head(404), held=HELD), Absent(404, 60.0)),
    ("404, the route's time", judge(replace(INDEX, negative_ttl=5.0), head(404)), Absent(404, 5.0)),
    ("404 not remembered", judge(replace(INDEX, negative_ttl=0.0), head(404)), Absent(404, 0.0)),
    (
        "404 not remembered, whatever is set",
        judge(replace(INDEX, negative_ttl=0.0), head(404), replace(POLICY, negative_ttl=9.0)),
        Absent(404, 0.0),
    ),
    (
        "404, the administrator's time",
        judge(replace(INDEX, negative_ttl=5.0), head(404), replace(POLICY, negative_ttl=9.0)),
        Absent(404, 9.0),
    ),
    ("404 of what an index lists", judge(ARTIFACT, head(404), promised=True), Absent(404, 10.0)),
    ("404 with an unreadable Retry-After", judge(INDEX, head(404, retry_after="soon")), Absent(404, 60.0)),
]


@pytest.mark.parametrize(
    ("found", "expected"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED]
)
def test_accepted(found: Admission, expected: Admission) -> None:
    assert found == expected


def fault(
    status: int, code: str, kind: type = UpstreamBroken, *, retry: bool = False, after: float | None = None
) -> Any:
    return kind, status, code, retry, after


UNFRAMED = head(length=None, framed=False)
PAGE = head(content_type="Text/HTML; charset=utf-8")
REJECTED: list[tuple[str, Admission, Any]] = [
    ("too large", judge(ARTIFACT, head(length=1001)), fault(502, "too_large", TooLarge)),
    (
        "too large, promised",
        judge(ARTIFACT, head(length=1001), promised=True),
        fault(502, "too_large", TooLarge),
    ),
    ("index too large", judge(INDEX, head(length=501)), fault(502, "too_large", TooLarge)),
    (
        "route's limit",
        judge(replace(INDEX, max_bytes=50), head(length=51)),
        fault(502, "too_large", TooLarge),
    ),
    (
        "route's limit is no excuse",
        judge(replace(INDEX, max_bytes=900), head(length=501)),
        fault(502, "too_large", TooLarge),
    ),
    ("empty artifact", judge(ARTIFACT, head(length=0)), fault(502, "empty")),
    (
        "empty, other digest promised",
        judge(with_promise(OTHER), head(length=0), promised=True),
        fault(502, "empty"),
    ),
    ("empty, other size promised", judge(with_promise(None, 5), head(length=0)), fault(502, "empty")),
    ("unframed", judge(ARTIFACT, UNFRAMED), fault(502, "unframed_body")),
    (
        "unframed and encoded",
        judge(ARTIFACT, replace(UNFRAMED, headers={"content-encoding": "gzip"})),
        fault(502, "unframed_body"),
    ),
    ("unframed index", judge(INDEX, UNFRAMED), fault(502, "unframed_body")),
    ("page for an artifact", judge(NO_PAGES, PAGE), fault(502, "unexpected_html", retry=True)),
    (
        "page for an index",
        judge(replace(INDEX, expects_html=False), PAGE),
        fault(502, "unexpected_html", retry=True),
    ),
    (
        "page for a promised index",
        judge(replace(INDEX, expects_html=False), PAGE, promised=True),
        fault(502, "unexpected_html", retry=True),
    ),
    (
        "xhtml for an index",
        judge(replace(INDEX, expects_html=False), head(content_type="application/xhtml+xml")),
        fault(502, "unexpected_html", retry=True),
    ),
    ("index encoded, not asked", judge(INDEX, head(content_encoding="gzip")), fault(502, "unasked_encoding")),
    ("index encoded otherwise", judge(ZIPPED, head(content_encoding="br")), fault(502, "unasked_encoding")),
    (
        "index encoded twice",
        judge(ZIPPED, head(content_encoding="gzip, gzip")),
        fault(502, "unasked_encoding"),
    ),
    ("part of an artifact", judge(ARTIFACT, head(206), promised=True), fault(502, "bad_206")),
    ("unchanged, nothing held", judge(INDEX, head(304)), fault(502, "unexpected_304", retry=True)),
    (
        "unchanged absence",
        judge(INDEX, head(304), held=replace(HELD, ref=None)),
        fault(502, "unexpected_304", retry=True),
    ),
    (
        "unchanged, no validators sent",
        judge(INDEX, head(304), held=replace(HELD, validator_etag="")),
        fault(502, "unexpected_304", retry=True),
    ),
    (
        "something else unchanged",
        judge(INDEX, head(304, etag='"b"'), held=HELD),
        fault(502, "unexpected_304", retry=True),
    ),
    ("401", judge(INDEX, head(401)), fault(403, "upstream_forbidden", UpstreamFault)),
    ("403", judge(INDEX, head(403)), fault(403, "upstream_forbidden", UpstreamFault)),
    (
        "401 to our credentials",
        judge(INDEX, head(401), PRIVATE),
        fault(502, "upstream_denied", UpstreamFault),
    ),
    (
        "403 to our credentials",
        judge(INDEX, head(403), PRIVATE),
        fault(502, "upstream_denied", UpstreamFault),
    ),
    ("429", judge(INDEX, head(429)), fault(429, "upstream_busy", UpstreamBusy, after=10.0)),
    (
        "429, wait",
        judge(INDEX, head(429, retry_after="30")),
        fault(429, "upstream_busy", UpstreamBusy, after=30.0),
    ),
    (
        "429, no wait",
        judge(INDEX, head(429, retry_after="0")),
        fault(429, "upstream_busy", UpstreamBusy, after=1.0),
    ),
    (
        "429, a day",
        judge(INDEX, head(429, retry_after="86400")),
        fault(429, "upstream_busy", UpstreamBusy, after=3600.0),
    ),
    (
        "429, until a date",
        judge(INDEX, head(429, retry_after="Tue, 14 Nov 2023 22:15:20 GMT")),
        fault(429, "upstream_busy", UpstreamBusy, after=120.0),
    ),
    (
        "503, wait",
        judge(INDEX, head(503, retry_after="30")),
        fault(503, "upstream_busy", UpstreamBusy, after=30.0),
    ),
    (
        "403 that is throttling",
        judge(INDEX, head(403, retry_after="30")),
        fault(503, "upstream_busy", UpstreamBusy, after=30.0),
    ),
    (
        "404 that is throttling",
        judge(INDEX, head(404, retry_after="30")),
        fault(503, "upstream_busy", UpstreamBusy, after=30.0),
    ),
    ("408", judge(INDEX, head(408)), fault(502, "upstream_5xx", retry=True)),
    ("500", judge(INDEX, head(500)), fault(502, "upstream_5xx")),
    ("500, wait", judge(INDEX, head(500, retry_after="30")), fault(502, "upstream_5xx")),
    ("502", judge(INDEX, head(502)), fault(502, "upstream_5xx", retry=True)),
    ("503", judge(INDEX, head(503)), fault(502, "upstream_5xx", retry=True)),
    (
        "503, unreadable wait",
        judge(INDEX, head(503, retry_after="x")),
        fault(502, "upstream_5xx", retry=True),
    ),
    ("504", judge(INDEX, head(504)), fault(502, "upstream_5xx", retry=True)),
    ("507", judge(INDEX, head(507)), fault(502, "upstream_5xx")),
    ("451", judge(INDEX, head(451)), fault(451, "upstream_legal", UpstreamFault)),
    ("400", judge(INDEX, head(400)), fault(502, "upstream_4xx", UpstreamFault)),
    ("418", judge(INDEX, head(418)), fault(502, "upstream_4xx", UpstreamFault)),
    ("302 left over", judge(INDEX, head(302, location="/x")), fault(502, "upstream_status")),
    ("204", judge(ARTIFACT, head(204)), fault(502, "upstream_status")),
    ("203", judge(ARTIFACT, head(203)), fault(502, "upstream_status")),
]


@pytest.mark.parametrize(
    ("found", "expected"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED]
)
def test_rejected(found: Admission, expected: Any) -> None:
    assert isinstance(found, Reject)
    kind, status, code, retry, after = expected
    assert type(found.fault) is kind
    assert (found.fault.status, found.fault.code, found.retry, found.fault.retry_after) == (
        status,
        code,
        retry,
        after,
    )


def test_upstreams_status_travels_with_the_fault_and_stays_on_the_instance() -> None:
    answers = [head(status) for status in (206, 302, 304, 400, 401, 403, 408, 429, 451, 500, 503)]
    for answer in [*answers, UNFRAMED, head(length=501), head(content_encoding="br")]:
        rejected = judge(INDEX, answer)
        assert isinstance(rejected, Reject)
        assert isinstance(rejected.fault, UpstreamFault)
        assert rejected.fault.upstream_status == answer.status
    assert (UpstreamFault.status, UpstreamBusy.status) == (502, 503)


# --- laws -----------------------------------------------------------------------------------

any_case = (words.routes, words.heads, words.policies, st.none() | words.entries, st.booleans())


@given(*any_case)
def test_only_a_200_is_stored_and_only_404_and_410_are_absence(
    route: Route, answer: UpstreamHead, policy: Policy, held: CacheEntry | None, promised: bool
) -> None:
    admission = admit(route, answer, policy, NOW, held=held, promised=promised)
    if isinstance(admission, Keep | Bypass):
        assert answer.status == 200
    if isinstance(admission, Absent):
        assert admission.status == answer.status
        assert answer.status in (404, 410)
        assert admission.ttl >= 0
    if isinstance(admission, Refresh):
        assert answer.status == 304
        assert held is not None
        assert held.ref is not None
    if isinstance(admission, Reject):
        assert admission.fault.status not in (404, 410)
        assert 400 <= admission.fault.status < 600
        wait = admission.fault.retry_after
        assert wait is None or 1 <= wait <= 3600


@given(*any_case)
def test_what_is_kept_is_framed_or_promised_and_within_bounds(
    route: Route, answer: UpstreamHead, policy: Policy, held: CacheEntry | None, promised: bool
) -> None:
    admission = admit(route, answer, policy, NOW, held=held, promised=promised)
    if not isinstance(admission, Keep):
        return
    assert answer.framed or promised
    assert route.kind is not Kind.PASS
    assert (admission.ttl is None) is (route.kind is Kind.ARTIFACT)
    limit = policy.max_artifact_bytes if route.kind is Kind.ARTIFACT else policy.max_index_bytes
    assert answer.length is None or answer.length <= limit
    encoded = answer.headers.get("content-encoding") in ("gzip", "br")
    assert not encoded or promised or (route.kind is Kind.INDEX and route.headers != ())


@given(*any_case)
def test_a_digest_never_makes_a_200_less_welcome(
    route: Route, answer: UpstreamHead, policy: Policy, held: CacheEntry | None, promised: bool
) -> None:
    del promised
    answer = replace(answer, status=200)
    without = admit(route, answer, policy, NOW, held=held, promised=False)
    known = admit(route, answer, policy, NOW, held=held, promised=True)
    if isinstance(without, Keep):
        assert known == without
