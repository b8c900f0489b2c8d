"""Hypothesis strategies for the words of the program; a new word joins here."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import strategies as st

from artifactproxy.limits import Policy
from artifactproxy.model import (
    ArtifactKey,
    Ask,
    BlobRef,
    CacheEntry,
    Digest,
    Found,
    Kind,
    Promise,
    Route,
    UpstreamHead,
)

KEY = ArtifactKey("tools", "a/b.bin")
NOON = 1_700_000_000.0

seconds = st.one_of(
    st.sampled_from([0.0, 1.0, 9.0, 10.0, 11.0, 59.0, 60.0, 61.0, 300.0, 86400.0, 7 * 86400.0]),
    st.floats(0, 1e8, allow_nan=False),
)
times = st.floats(NOON - 1e6, NOON + 1e8)
sha256s = st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest())
refs = st.builds(BlobRef, sha256s, st.integers(0, 2**40))
directives = st.sampled_from(
    ["", "public", "must-revalidate", "max-age=30, proxy-revalidate", "no-cache", "max-age=0", "s-maxage=5"]
)
entity_tags = st.sampled_from(["", '"a"', 'W/"a"', '"b"', '"x-gzip"'])

_held = st.builds(
    CacheEntry,
    key=st.just(KEY),
    kind=st.sampled_from([Kind.ARTIFACT, Kind.INDEX]),
    ref=refs,
    validator_etag=entity_tags,
    validator_modified=st.sampled_from(["", "Tue, 14 Nov 2023 22:13:20 GMT"]),
    cache_control=directives,
    checked_at=times,
    ttl=st.none() | seconds,
)
held = _held.map(lambda e: replace(e, ttl=None) if e.kind is Kind.ARTIFACT else e)
absences = st.builds(
    CacheEntry,
    key=st.just(KEY),
    kind=st.sampled_from([Kind.ARTIFACT, Kind.INDEX]),
    ref=st.none(),
    status=st.sampled_from([404, 410]),
    checked_at=times,
    ttl=st.none() | seconds,
)
entries = held | absences

promises = st.builds(
    Promise,
    key=st.just(KEY),
    digests=st.lists(st.builds(Digest, st.just("sha256"), sha256s), max_size=1).map(tuple),
    size=st.none() | st.integers(0, 2**40),
)
founds = st.builds(Found, entry=st.none() | entries, promise=st.none() | promises)
routes = st.builds(
    Route,
    kind=st.sampled_from(Kind),
    key=st.just(KEY),
    sources=st.just(("https://upstream.example/a/b.bin",)),
    headers=st.sampled_from([(), (("Accept-Encoding", "gzip"),)]),
    promise=st.none() | promises,
    ttl=st.none() | seconds,
    negative_ttl=st.none() | seconds,
    expects_html=st.booleans(),
    max_bytes=st.none() | st.integers(0, 2**31),
)
asks = st.builds(
    Ask,
    repo=st.just("tools"),
    path=st.just("a/b.bin"),
    method=st.sampled_from(["GET", "HEAD"]),
    headers=st.dictionaries(
        st.sampled_from(["cache-control", "pragma"]),
        st.sampled_from(
            [
                "",
                "no-cache",
                "max-age=0",
                "no-store",
                "max-age=100",
                "only-if-cached",
                "only-if-cached, no-cache",
            ]
        ),
        max_size=2,
    ),
)
policies = st.builds(
    Policy,
    ttl=st.none() | seconds,
    negative_ttl=st.none() | seconds,
    stale_if_error=seconds,
    stale_while_revalidate=seconds,
    min_revalidate=st.sampled_from([0.0, 10.0, 60.0]),
    offline=st.booleans(),
    accept_unframed=st.booleans(),
    private=st.booleans(),
)
heads = st.builds(
    UpstreamHead,
    status=st.sampled_from([200, 206, 304, 404, 410, 401, 403, 429, 451, 500, 503]) | st.integers(100, 599),
    headers=st.dictionaries(
        st.sampled_from(["etag", "content-type", "content-encoding", "cache-control", "retry-after"]),
        st.sampled_from(["", '"a"', "text/html", "gzip", "br", "max-age=7", "120", "soon"]),
    ),
    length=st.none() | st.integers(0, 2**41),
    framed=st.booleans(),
    url=st.just("https://upstream.example/a/b.bin"),
)
