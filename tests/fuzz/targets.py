"""What is fuzzed: functions of bytes that fail only when a promise of the program is broken.

Everything that strangers write passes one of these: request targets and headers, documents and
archives from upstream, addresses that upstream names, the configuration; and what the other servers and
replicas of a cluster say (`cluster.py`), and what registries say (`oci.py`). The same targets run
under hypothesis in `make test` and under a coverage-guided fuzzer in `make fuzz`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from urllib.parse import SplitResult, urlsplit

from artifactproxy.config.strict import Refused, read
from artifactproxy.errors import (
    BadPath,
    BadRange,
    BadRequest,
    Blocked,
    BrokenPromise,
    MethodRefused,
    NotServed,
    PreconditionFailed,
    TooLarge,
    UpstreamBlocked,
    UpstreamBroken,
)
from artifactproxy.model import Ask, Operation, Reply, Right, Route, View
from artifactproxy.providers import PROVIDERS
from artifactproxy.rules import access, coding, credentials, digests, gosum, http, paths
from artifactproxy.rules.addresses import address_of
from artifactproxy.rules.decode import Decoder
from artifactproxy.upstream import guard
from artifactproxy.web.access import AccessRules, judge_host
from tests.fuzz import cluster, oci
from tests.providers.cases import SAMPLES
from tests.providers.test_providers import ALL_CASES, ALL_SAMPLES, provider, table

Target = Callable[[bytes], None]
BASE = "https://proxy.example/prefix/repo"
REFUSALS = (BadPath, NotServed, MethodRefused, Blocked)
_SIBLINGS = {"go": ".go.example"}
HOST = "https://upstream.example/a/b"


def request_target(data: bytes) -> None:
    """What is not refused has no dot segment, no separator inside a segment, and one spelling."""
    raw = data.decode("latin-1")
    try:
        path, query = paths.judge_target(raw)
    except BadPath:
        return
    assert path.isascii() and path.isprintable() and "\\" not in path
    assert query.isascii() and query.isprintable()
    for segment in path.split("/"):
        decoded = paths.decode_segment(segment)
        assert decoded not in (".", "..") and "\0" not in decoded and "\\" not in decoded
    canonical = paths.canonical_path(path)
    assert paths.canonical_path(canonical) == canonical
    with suppress(NotServed, BadPath):
        address = address_of(raw)
        assert raw.endswith(address.query)


def authorization(data: bytes) -> None:
    """Nothing that a stranger shows is a token of ours, or a ticket under our key."""
    secret = credentials.secret_in(data.decode("latin-1"))
    assert secret is None or secret
    for text in (secret or "", data.decode("latin-1"), data.decode("utf-8", "replace")):
        id_ = credentials.token_id(text)
        assert not id_ or (id_ in text and len(id_) == 11 and text.isascii())
        assert credentials.open_ticket(b"a key of ours", text, 1_700_000_000.0) is None
        credentials.fingerprint(text)


def scopes(data: bytes) -> None:
    """What is a scope is written as it was read, and covers nothing above it."""
    try:
        scope = access.parse_scope(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert access.parse_scope(access.scope_text(scope)) == scope
    repo, _, name = scope.pattern.replace("*", "x").partition("/")
    assert access.may([scope], Operation(scope.right, repo, name))
    above = [right for right in Right if right > scope.right]
    assert not any(access.may([scope], Operation(right, repo, name)) for right in above)


def ranges(data: bytes) -> None:
    """A range is inside the representation, or is refused, or is ignored."""
    size = data[0] * 257 if data else 0
    text = data[1:].decode("latin-1")
    with suppress(BadRange):
        span = http.parse_range(text, size)
        assert span is None or 0 <= span.start < span.stop <= size
    found = http.parse_content_range(text)
    if found is not None:
        span, total = found
        assert 0 <= span.start < span.stop
        assert total is None or span.stop <= total


def headers(data: bytes) -> None:
    """Header values never raise, and what is written from them is one line of ASCII."""
    name, _, text = data.decode("latin-1").partition("\n")
    fields = dict.fromkeys((name.lower(), "if-none-match", "if-range", "if-modified-since"), text)
    fields["range"] = name
    for method in ("GET", "HEAD"):
        with suppress(PreconditionFailed, BadRange):
            verdict = http.evaluate(fields, etag='"a"', last_modified=name, size=1000, method=method)
            assert isinstance(verdict, http.Whole | http.Part | http.NotModified)
    http.parse_cache_control(text)
    at = http.parse_http_date(text)
    assert at is None or http.parse_http_date(http.http_date(at)) is not None
    wait = http.parse_retry_after(text, 1e9)
    assert wait is None or wait >= 0
    offers = (("text/html", "h"), ("application/json", "j"))
    assert http.negotiate(text, offers) in (None, "h", "j", "text/html", "application/json")
    coding.wanted(text)
    digests.parse_digest(text)
    for line in (http.safe_header(text), http.content_disposition(text)):
        assert not set(line) & {"\r", "\n", "\0"}
    assert http.content_disposition(text).isascii()


def forwarded(data: bytes) -> None:
    """Headers of a trusted proxy are read or refused; what is believed is a plain origin."""
    host, _, rest = data.decode("latin-1").partition("\n")
    with suppress(BadRequest):
        judge_host(host)
        assert not set(host) & set(" \t\"'<>\\/?#,@") and host.isprintable()
    first, _, second = rest.partition("\n")
    rules = AccessRules("", ("10.0.0.0/8",), ())
    fields = {
        "forwarded": first,
        "x-forwarded-for": second,
        "x-forwarded-host": first,
        "x-forwarded-proto": second,
        "x-forwarded-prefix": first,
    }
    with suppress(BadRequest):
        visit = rules.visit("10.0.0.1", "proxy.example", fields, secure=False)
        parts = urlsplit(visit.root)
        assert parts.scheme in ("http", "https") and parts.netloc and not parts.query


def locations(data: bytes) -> None:
    """What passes the guard is plain http(s) to no internal literal, and never a downgrade."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(UpstreamBlocked):
        url = guard.next_hop(HOST, text)
        assert url.isascii() and urlsplit(url).scheme == "https"
        guard.judge_url(url, ())
        _, host, port = guard.split_origin(url)
        address = guard.literal(host)
        assert address is None or not guard.refused(address)
        assert "@" not in urlsplit(url).netloc and 0 < port < 65536


def configuration(data: bytes) -> None:
    """A configuration is read or refused with a sentence."""
    with suppress(Refused):
        read(data.decode("utf-8", "replace"))


def compressed(data: bytes) -> None:
    """What comes out obeys the caps and is what zlib itself makes of it."""
    for name in ("gzip", "deflate"):
        out = bytearray()
        try:
            decoder = Decoder(name, max_bytes=1 << 16, max_ratio=50)
            for start in range(0, len(data), 97):
                for piece in decoder.feed(data[start : start + 97]):
                    out += piece
            out += decoder.finish()
        except (UpstreamBroken, TooLarge):
            continue
        assert len(out) <= 1 << 16
        whole = zlib.decompressobj(zlib.MAX_WBITS | 32)
        assert bytes(out).startswith(whole.decompress(data))


def module_zip(data: bytes) -> None:
    with suppress(BrokenPromise):
        assert len(gosum.hash_of_zip(io.BytesIO(data), len(data))) == 64


def classify(name: str) -> Target:
    """Routes stay on the configured hosts, and a key is its own canonical path."""

    def target(data: bytes) -> None:
        path, _, rest = data.decode("latin-1").partition("?")
        query, _, accept = rest.partition("\n")
        try:
            paths.judge_path(path)
            paths.judge_query(query)
            got = provider(name).classify(_ask(name, path, query, accept))
        except REFUSALS:
            return
        if isinstance(got, Reply):
            assert 200 <= got.status < 600
            return
        for source in got.sources:
            parts = urlsplit(source)
            assert got.foreign or _is_ours(name, parts)
            assert source.isascii() and source.isprintable() and " " not in source
            assert not {".", ".."} & set(parts.path.split("/"))
        key_path, _, key_query = got.key.path.partition("?")
        again = provider(name).classify(_ask(name, key_path, key_query, accept))
        assert isinstance(again, Route) and again.key.path == got.key.path

    return target


def document(name: str, path: str, accept: str, url: str) -> Target:
    """An index is refused as broken, or it is learnt, rendered, and its promises can be asked for."""

    def target(data: bytes) -> None:
        of = provider(name)
        route = of.classify(_ask(name, *path.partition("?")[::2], accept))
        assert isinstance(route, Route)
        try:
            promises = list(of.learn(route, data, url))
        except UpstreamBroken:
            return
        rendered = of.render(route, data, BASE, View(), url)
        assert isinstance(rendered.body, bytes)
        assert rendered.body == of.render(route, data, BASE, View(), url).body
        for promise in promises[:20]:
            asked = of.classify(_ask(name, *promise.key.path.partition("?")[::2]))
            assert isinstance(asked, Route) and asked.key == promise.key

    return target


def _is_ours(name: str, parts: SplitResult) -> bool:
    """Of the go upstream's siblings any may be the checksum database that a path names."""
    siblings = _SIBLINGS.get(name)
    return f"{parts.scheme}://{parts.netloc}" in _origins(name) or (
        siblings is not None and parts.scheme == "https" and parts.netloc.endswith(siblings)
    )


def _ask(name: str, path: str, query: str = "", accept: str = "") -> Ask:
    given = {"accept": accept} if accept else {}
    return Ask(table(name).SITE.repo, path, query=query, headers=given, base=BASE)


@cache
def _origins(name: str) -> frozenset[str]:
    also = getattr(table(name), "ALSO_ALLOWED", ())
    urls = [*table(name).SITE.upstreams, *table(name).SITE.file_hosts, *also]
    split = [urlsplit(url if "://" in url else f"https://{url}") for url in urls]
    return frozenset(f"{parts.scheme}://{parts.netloc}" for parts in split)


def _documents() -> Iterator[tuple[str, Target, bytes]]:
    for name, sample in ALL_SAMPLES:
        body = (SAMPLES / name / f"{sample.name}.in").read_bytes()
        yield f"{name}_{sample.rendered}", document(name, sample.path, sample.accept, sample.url), body


TARGETS: dict[str, Target] = {
    "request_target": request_target,
    "authorization": authorization,
    "scopes": scopes,
    "ranges": ranges,
    "headers": headers,
    "forwarded": forwarded,
    "locations": locations,
    "configuration": configuration,
    "compressed": compressed,
    "module_zip": module_zip,
    **cluster.TARGETS,
    **oci.TARGETS,
    **{f"classify_{name}": classify(name) for name in PROVIDERS},
    **{f"document_{label}": target for label, target, _ in _documents()},
}


def seeds(name: str) -> list[bytes]:
    """What a fuzzer starts from: inputs that come far."""
    if name.startswith("classify_"):
        of = name.removeprefix("classify_")
        return [f"{case.path}?{case.query}".encode() for owner, case in ALL_CASES if owner == of]
    if name.startswith("document_"):
        return [body for label, _, body in _documents() if name == f"document_{label}"]
    return _SEEDS.get(name, [b""])


_SEEDS = {
    "request_target": [b"/pypi/simple/a%2Fb/?x=y", b"http://h/npm/@s%2fn", b"/artifactory/api/npm/npm/x"],
    "authorization": [
        b"Bearer " + credentials.mint(b"n" * credentials.NOISE_BYTES).encode(),
        b"Basic bWU6YXB4XzEyMw==",
        b"apxt_-_1_1700000000_" + b"0" * 64,
    ],
    "scopes": [b"read", b"push:images/team/*", b"admin:corp-*"],
    "ranges": [b"\x10bytes=0-5", b"\x01bytes=-5", b"\x01bytes 0-9/100", b"\x05bytes=5-,7-8"],
    "headers": [b'bytes=0-1\n"a", W/"b"', b"x\nTue, 14 Nov 2023 22:13:20 GMT", b'x\nmax-age=5, no-cache="a"'],
    "forwarded": [b"h:80\nfor=10.0.0.2;host=a.example;proto=https\n10.0.0.3, 192.0.2.1"],
    "locations": [b"https://x.example:443/a?b#c", b"//127.0.0.1/", b"../..", b"https://[::ffff:127.0.0.1]/"],
    "configuration": [b"remotes:\n  a: {provider: generic, upstream: 'https://x.example/', ttl: 5m}\n"],
    "compressed": [zlib.compress(b"abc" * 100)],
    **cluster.SEEDS,
    **oci.SEEDS,
}
