"""`decide` as a table and as laws: what a request gets of what is held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from artifactproxy.errors import OfflineMiss
from artifactproxy.limits import Policy
from artifactproxy.model import (
    Ask,
    BlobRef,
    CacheEntry,
    Fetch,
    Found,
    Kind,
    Promise,
    Refuse,
    Relay,
    Revalidate,
    Route,
    Serve,
    ServeAbsence,
)
from artifactproxy.rules import freshness
from artifactproxy.rules.freshness import decide
from tests import strategies as words

NOW = words.NOON
REF = BlobRef("ab" * 32, 10)
POLICY = Policy(stale_if_error=1000.0, stale_while_revalidate=60.0, min_revalidate=10.0)
OFFLINE = replace(POLICY, offline=True)
INDEX = Route(Kind.INDEX, words.KEY, ("https://upstream.example/x",), ttl=100.0)
ARTIFACT = replace(INDEX, kind=Kind.ARTIFACT, ttl=None)
PASS = replace(INDEX, kind=Kind.PASS)


def index(age: float, ttl: float | None = 100.0, control: str = "") -> CacheEntry:
    return CacheEntry(words.KEY, Kind.INDEX, REF, checked_at=NOW - age, ttl=ttl, cache_control=control)


def absence(age: float, ttl: float | None = 60.0, status: int = 404) -> CacheEntry:
    return CacheEntry(words.KEY, Kind.INDEX, None, status, checked_at=NOW - age, ttl=ttl)


STORED = CacheEntry(words.KEY, Kind.ARTIFACT, REF, checked_at=NOW - 1e8)
PLAIN: dict[str, str] = {}
NO_CACHE = {"cache-control": "no-cache"}
MAX_AGE_0 = {"cache-control": "max-age=0"}
NO_STORE = {"cache-control": "No-Store"}
PRAGMA = {"pragma": "no-cache"}
ONLY = {"cache-control": "only-if-cached"}
MUST = "max-age=100, must-revalidate"

FRESH = {"stale": False, "refresh": False}
BEHIND = {"stale": True, "refresh": True}
AGED = {"stale": True, "refresh": False}
LENIENT = {"may_serve_stale": True}
HARD = {"may_serve_stale": False}

# what it is, route, what is held, request headers, policy, decision, its fields
TABLE: list[tuple[str, Route, CacheEntry | None, dict[str, str], Policy, type, dict[str, Any]]] = [
    ("pass", PASS, None, PLAIN, POLICY, Relay, {}),
    ("pass, whatever is held", PASS, STORED, ONLY, POLICY, Relay, {}),
    ("pass offline", PASS, None, PLAIN, OFFLINE, Refuse, {}),
    ("artifact miss", ARTIFACT, None, PLAIN, POLICY, Fetch, {}),
    ("artifact miss, no-cache", ARTIFACT, None, NO_CACHE, POLICY, Fetch, {}),
    ("artifact miss, only-if-cached", ARTIFACT, None, ONLY, POLICY, Refuse, {}),
    ("artifact miss offline", ARTIFACT, None, PLAIN, OFFLINE, Refuse, {}),
    ("artifact held", ARTIFACT, STORED, PLAIN, POLICY, Serve, FRESH),
    ("artifact held, no-cache", ARTIFACT, STORED, NO_CACHE, POLICY, Serve, FRESH),
    ("artifact held, max-age=0", ARTIFACT, STORED, MAX_AGE_0, POLICY, Serve, FRESH),
    ("artifact held, only-if-cached", ARTIFACT, STORED, ONLY, POLICY, Serve, FRESH),
    ("artifact held, offline", ARTIFACT, STORED, PLAIN, OFFLINE, Serve, FRESH),
    ("artifact held as an index before", ARTIFACT, index(1e6), PLAIN, POLICY, Serve, FRESH),
    ("index miss", INDEX, None, PLAIN, POLICY, Fetch, {}),
    ("index miss, only-if-cached", INDEX, None, ONLY, POLICY, Refuse, {}),
    ("index miss offline", INDEX, None, NO_CACHE, OFFLINE, Refuse, {}),
    ("index new", INDEX, index(0), PLAIN, POLICY, Serve, FRESH),
    ("index at the end of its freshness", INDEX, index(100), PLAIN, POLICY, Serve, FRESH),
    ("index just stale", INDEX, index(101), PLAIN, POLICY, Serve, BEHIND),
    ("index at the end of the refresh window", INDEX, index(160), PLAIN, POLICY, Serve, BEHIND),
    ("index past the refresh window", INDEX, index(161), PLAIN, POLICY, Revalidate, LENIENT),
    ("index at the end of its grace", INDEX, index(1100), PLAIN, POLICY, Revalidate, LENIENT),
    ("index past its grace", INDEX, index(1101), PLAIN, POLICY, Revalidate, HARD),
    ("index that never goes stale", INDEX, index(1e9, None), PLAIN, POLICY, Serve, FRESH),
    ("index that was an artifact", INDEX, STORED, PLAIN, POLICY, Revalidate, HARD),
    ("index fresh, must-revalidate", INDEX, index(50, control=MUST), PLAIN, POLICY, Serve, FRESH),
    ("index stale, must-revalidate", INDEX, index(101, control=MUST), PLAIN, POLICY, Revalidate, HARD),
    (
        "index stale, proxy-revalidate",
        INDEX,
        index(101, control="proxy-revalidate"),
        PLAIN,
        POLICY,
        Revalidate,
        HARD,
    ),
    ("index fresh, no-cache", INDEX, index(11), NO_CACHE, POLICY, Revalidate, LENIENT),
    ("index fresh, max-age=0", INDEX, index(11), MAX_AGE_0, POLICY, Revalidate, LENIENT),
    ("index fresh, no-store", INDEX, index(11), NO_STORE, POLICY, Revalidate, LENIENT),
    ("index fresh, pragma", INDEX, index(11), PRAGMA, POLICY, Revalidate, LENIENT),
    (
        "index fresh, pragma beside another word",
        INDEX,
        index(11),
        PRAGMA | {"cache-control": "x"},
        POLICY,
        Serve,
        FRESH,
    ),
    ("index just checked, no-cache", INDEX, index(10), NO_CACHE, POLICY, Serve, FRESH),
    ("index just checked, max-age=0", INDEX, index(10), MAX_AGE_0, POLICY, Serve, FRESH),
    ("index younger than max-age", INDEX, index(30), {"cache-control": "max-age=30"}, POLICY, Serve, FRESH),
    (
        "index older than max-age",
        INDEX,
        index(31),
        {"cache-control": "max-age=30"},
        POLICY,
        Revalidate,
        LENIENT,
    ),
    ("index, max-age is no number", INDEX, index(31), {"cache-control": "max-age=-1"}, POLICY, Serve, FRESH),
    (
        "index, max-age overlong",
        INDEX,
        index(31),
        {"cache-control": "max-age=" + "9" * 5000},
        POLICY,
        Serve,
        FRESH,
    ),
    ("index stale, no-cache", INDEX, index(101), NO_CACHE, POLICY, Revalidate, LENIENT),
    ("index stale but just checked, no-cache", INDEX, index(5, 1), NO_CACHE, POLICY, Revalidate, LENIENT),
    ("index stale, max-age=0", INDEX, index(5000), MAX_AGE_0, POLICY, Revalidate, HARD),
    ("index fresh, only-if-cached", INDEX, index(50), ONLY, POLICY, Serve, FRESH),
    ("index in its grace, only-if-cached", INDEX, index(1100), ONLY, POLICY, Serve, AGED),
    ("index past its grace, only-if-cached", INDEX, index(1101), ONLY, POLICY, Refuse, {}),
    (
        "index stale, must-revalidate, only-if-cached",
        INDEX,
        index(101, control=MUST),
        ONLY,
        POLICY,
        Refuse,
        {},
    ),
    ("index fresh, offline", INDEX, index(50), PLAIN, OFFLINE, Serve, FRESH),
    ("index very old, offline", INDEX, index(1e8), PLAIN, OFFLINE, Serve, AGED),
    ("index very old, offline, no-cache", INDEX, index(1e8), NO_CACHE, OFFLINE, Serve, AGED),
    (
        "index very old, offline, must-revalidate",
        INDEX,
        index(1e8, control=MUST),
        PLAIN,
        OFFLINE,
        Serve,
        AGED,
    ),
    ("index of tomorrow", INDEX, index(-86400), PLAIN, POLICY, Serve, BEHIND),
    ("index of tomorrow, no-cache", INDEX, index(-86400), NO_CACHE, POLICY, Revalidate, LENIENT),
    ("absence remembered", INDEX, absence(59), PLAIN, POLICY, ServeAbsence, {}),
    ("absence of an artifact remembered", ARTIFACT, absence(59), PLAIN, POLICY, ServeAbsence, {}),
    ("absence 410", ARTIFACT, absence(5, status=410), PLAIN, POLICY, ServeAbsence, {}),
    ("absence forgotten", INDEX, absence(60), PLAIN, POLICY, Fetch, {}),
    ("absence without memory", INDEX, absence(0, 0), PLAIN, POLICY, Fetch, {}),
    ("absence with the usual memory", INDEX, absence(59, None), PLAIN, POLICY, ServeAbsence, {}),
    ("absence past the usual memory", INDEX, absence(61, None), PLAIN, POLICY, Fetch, {}),
    ("absence, no-cache", INDEX, absence(11), NO_CACHE, POLICY, Fetch, {}),
    ("absence of an artifact, no-cache", ARTIFACT, absence(11), MAX_AGE_0, POLICY, Fetch, {}),
    ("absence just learned, no-cache", INDEX, absence(10), NO_CACHE, POLICY, ServeAbsence, {}),
    ("absence, only-if-cached", INDEX, absence(11), ONLY, POLICY, ServeAbsence, {}),
    ("absence forgotten, only-if-cached", INDEX, absence(60), ONLY, POLICY, Refuse, {}),
    ("absence, offline, no-cache", INDEX, absence(11), NO_CACHE, OFFLINE, ServeAbsence, {}),
    ("absence forgotten, offline", INDEX, absence(60), PLAIN, OFFLINE, Refuse, {}),
    ("absence of tomorrow", INDEX, absence(-500), PLAIN, POLICY, Fetch, {}),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_decisions(
    row: tuple[str, Route, CacheEntry | None, dict[str, str], Policy, type, dict[str, Any]],
) -> None:
    _, route, entry, headers, policy, expected, fields = row
    decision = decide(Found(entry), route, Ask("tools", "x", headers=headers), policy, NOW)
    assert type(decision) is expected, decision
    assert {name: getattr(decision, name) for name in fields} == fields
    assert getattr(decision, "entry", entry) is entry
    assert len(decision.reason) > 8
    if isinstance(decision, Refuse):
        assert isinstance(decision.fault, OfflineMiss)
        assert (decision.fault.status, decision.fault.code) == (504, "not_cached")
        assert ("the remote is offline" in decision.fault.detail) is policy.offline


def test_reasons_tell_age_and_freshness() -> None:
    ask = Ask("tools", "x")
    assert decide(Found(index(40)), INDEX, ask, POLICY, NOW).reason == "checked 40 s ago, fresh for 60 s"
    stale = decide(Found(index(130)), INDEX, ask, POLICY, NOW).reason
    assert "stale for 30 s" in stale
    assert "refreshed behind" in stale
    assert (
        "upstream said 410 7 s ago" in decide(Found(absence(7, status=410)), INDEX, ask, POLICY, NOW).reason
    )


# --- laws -----------------------------------------------------------------------------------

any_case = (words.founds, words.routes, words.asks, words.policies, words.times)


@given(*any_case)
def test_offline_never_asks_upstream(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    decision = decide(found, route, ask, replace(policy, offline=True), now)
    assert isinstance(decision, Serve | ServeAbsence | Refuse)
    assert not isinstance(decision, Serve) or not decision.refresh
    if isinstance(decision, Refuse):
        assert "offline" in decision.fault.detail


@given(*any_case)
def test_only_if_cached_never_asks_upstream(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    ask = replace(ask, headers={"cache-control": "only-if-cached, max-age=0"})
    decision = decide(found, replace(route, kind=Kind.INDEX), ask, policy, now)
    assert isinstance(decision, Serve | ServeAbsence | Refuse)
    assert not isinstance(decision, Serve) or not decision.refresh


@given(*any_case)
def test_an_absence_is_never_a_hit_and_a_hit_never_an_absence(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    decision = decide(found, route, ask, policy, now)
    if isinstance(decision, Serve | Revalidate):
        assert decision.entry is found.entry
        assert decision.entry.ref is not None
    if isinstance(decision, ServeAbsence):
        assert decision.entry is found.entry
        assert decision.entry.ref is None
        assert decision.entry.status in (404, 410)


@given(*any_case)
def test_a_held_artifact_is_served_and_never_revalidated(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    decision = decide(found, replace(route, kind=Kind.ARTIFACT), ask, policy, now)
    assert not isinstance(decision, Revalidate)
    if found.entry is not None and found.entry.ref is not None:
        assert decision == Serve(found.entry, decision.reason)


@given(*any_case)
def test_nothing_is_served_beyond_its_grace(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    policy = replace(policy, offline=False)
    decision = decide(found, replace(route, kind=Kind.INDEX), ask, policy, now)
    if isinstance(decision, Serve) and decision.entry.ttl is not None:
        age = max(0.0, now - decision.entry.checked_at)
        grace = policy.stale_while_revalidate if decision.refresh else policy.stale_if_error
        assert age <= decision.entry.ttl + (grace if decision.stale else 0) + 1e-3
        left = freshness.fresh_for(decision.entry, now)
        assert left is not None
        assert decision.stale is (left < 0)
        if decision.stale:
            assert "revalidate" not in decision.entry.cache_control
    if isinstance(decision, Revalidate) and decision.may_serve_stale:
        assert _stale_allowed(decision.entry, policy, now)


@given(*any_case, st.floats(0, 299))
def test_l07_time_a_little_before_the_row_was_checked_changes_nothing(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float, back: float
) -> None:
    checked = found.entry.checked_at if found.entry else now
    at_check = decide(found, route, ask, policy, checked)
    earlier = decide(found, route, ask, policy, checked - back)
    if isinstance(at_check, Refuse):
        assert isinstance(earlier, Refuse)
        assert earlier.reason == at_check.reason
    else:
        assert earlier == at_check


@given(*any_case, st.floats(301, 1e9))
def test_l07_time_long_before_the_row_was_checked_asks_again(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float, back: float
) -> None:
    """A row that a wrong clock dated ahead must not stay fresh, nor absent, until that date."""
    checked = found.entry.checked_at if found.entry else now
    decision = decide(found, route, ask, policy, checked - back)
    assert not isinstance(decision, ServeAbsence)
    entry = found.entry
    if isinstance(decision, Serve) and entry and entry.ttl is not None and route.kind is Kind.INDEX:
        assert decision.stale


@given(*any_case)
def test_no_policy_makes_an_absence_that_upstream_did_not_say(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    decision = decide(found, route, ask, policy, now)
    if isinstance(decision, ServeAbsence):
        assert found.entry is not None
        assert found.entry.ref is None
    if isinstance(decision, Refuse):
        assert decision.fault.status not in (404, 410)


@given(*any_case)
def test_promises_change_no_decision(
    found: Found, route: Route, ask: Ask, policy: Policy, now: float
) -> None:
    first = decide(found, route, ask, policy, now)
    second = decide(replace(found, promise=Promise(words.KEY)), route, ask, policy, now)
    assert type(first) is type(second)
    assert first.reason == second.reason


@given(words.held, words.policies, words.times, words.seconds)
def test_what_is_not_allowed_stale_now_is_not_allowed_later(
    entry: CacheEntry, policy: Policy, now: float, later: float
) -> None:
    assume(entry.checked_at <= now)  # one dated ahead is not believed until its time has come
    if _stale_allowed(entry, policy, now + later):
        assert _stale_allowed(entry, policy, now)


# --- time -----------------------------------------------------------------------------------


def test_fresh_for() -> None:
    assert freshness.fresh_for(index(40), NOW) == 60
    assert freshness.fresh_for(index(140), NOW) == -40
    assert freshness.fresh_for(index(-200), NOW) == 100
    assert freshness.fresh_for(index(-500), NOW) == -1
    assert freshness.fresh_for(STORED, NOW) is None


@pytest.mark.parametrize(
    ("entry", "allowed"),
    [
        (STORED, True),
        (index(100), True),
        (index(1100), True),
        (index(1101), False),
        (index(50, control=MUST), True),
        (index(101, control=MUST), False),
        (index(101, control='private="x, must-revalidate"'), True),
    ],
)
def test_stale_allowed(entry: CacheEntry, allowed: bool) -> None:
    assert _stale_allowed(entry, POLICY, NOW) is allowed


def _stale_allowed(entry: CacheEntry, policy: Policy, now: float) -> bool:
    return freshness.stale_allowed(entry, freshness.fresh_for(entry, now), policy)


@pytest.mark.parametrize(
    ("admin", "usual", "said", "ttl"),
    [
        (None, 120.0, "", 120),
        (None, None, "", 300),
        (None, 120.0, "max-age=60", 60),
        (None, 120.0, "max-age=600", 120),
        (None, 120.0, "max-age=600, s-maxage=30", 30),
        (None, 120.0, "max-age=0", 10),
        (None, 120.0, "no-cache", 10),
        (None, 120.0, "no-store, max-age=60", 10),
        (None, 5.0, "max-age=0", 5),
        (None, 120.0, "max-age=soon", 120),
        (None, 120.0, 'max-age="60"', 60),
        (None, 0.0, "max-age=60", 0),
        (7.0, 120.0, "max-age=60", 7),
        (0.0, 120.0, "max-age=60", 0),
        (900.0, 120.0, "no-store", 900),
    ],
)
def test_ttl_of(admin: float | None, usual: float | None, said: str, ttl: float) -> None:
    assert freshness.ttl_of(replace(INDEX, ttl=usual), replace(POLICY, ttl=admin), said) == ttl


@pytest.mark.parametrize(
    ("entry", "private", "sent"),
    [
        (STORED, False, "public, max-age=31536000, immutable"),
        (STORED, True, "private, max-age=31536000, immutable"),
        (replace(STORED, ref=None), False, "public, max-age=31536000, immutable"),
        (replace(STORED, ref=None, status=404), False, "max-age=0"),
        (index(40), False, "max-age=60"),
        (index(40), True, "private, max-age=60"),
        (index(39.5), False, "max-age=60"),
        (index(0, 9000), False, "max-age=300"),
        (index(0, None), False, "max-age=300"),
        (index(140), False, "max-age=0"),
        (index(-200), False, "max-age=100"),
        (index(-900), False, "max-age=0"),
        (absence(1), False, "max-age=0"),
        (replace(STORED, ref=None, status=410), False, "max-age=0"),
    ],
)
def test_client_cache_control(entry: CacheEntry, private: bool, sent: str) -> None:
    assert freshness.client_cache_control(entry, replace(POLICY, private=private), NOW) == sent
