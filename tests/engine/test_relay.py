"""Relayed requests against the scripted upstream: asked once, kept nowhere, whole or not at all."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from artifactproxy.errors import Fault, NotServed
from artifactproxy.model import ArtifactKey, Ask, Kind, Route
from artifactproxy.providers._base import Page, Provider
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, ok, raw, redirect, silence, slam, slow, stall, status, unframed
from tests.house_proxy import Got, Proxy, proxied

ASKED = b'{"left-pad": ["1.0.0"]}'
SAID = b'{"advisories": []}'


class Audit(Provider):
    """Relays every path below `-/`; anything else can only be read."""

    name = "audit"
    methods = frozenset({"GET", "HEAD", "POST"})

    def classify(self, ask: Ask) -> Route:
        key, source = ArtifactKey(self.site.repo, ask.path), f"{self.site.upstreams[0]}{ask.path}"
        if ask.query:
            source += f"?{ask.query}"
        if not ask.path.startswith("-/"):
            return Route(Kind.ARTIFACT, key, (source,))
        if ask.path == "-/posted" and ask.method != "POST":
            raise NotServed("this can only be posted to")
        named = ("content-type", "content-encoding")
        sent = tuple((name, ask.headers[name]) for name in named if name in ask.headers)
        return Route(Kind.PASS, key, (source,), "application/json", headers=sent, max_bytes=1_000_000)

    def problem(self, fault: Fault, ask: Ask) -> Page:
        del ask
        return Page(json.dumps({"error": fault.detail}).encode(), "application/json")


@pytest.fixture
async def chaos() -> AsyncIterator[Chaos]:
    async with Chaos() as chaos:
        yield chaos


@pytest.fixture
async def proxy(tmp_path, chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin, extra="first_byte: 3s\nidle: 3s") as proxy:
        mounts = proxy.engine._parts.mounts
        mounts["files"] = replace(mounts["files"], provider=Audit(mounts["files"].provider.site))
        yield proxy
        await proxy.check()
        assert proxy.blobs() == []


async def post(proxy: Proxy, path: str, body: bytes = ASKED, **headers: str) -> Got:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Type", "application/json")
    async with proxy.client.post(proxy.base + path, data=body, headers=named) as answer:
        try:
            got: bytes | None = await answer.read()
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            got = None
        return Got(answer.status, answer.headers.copy(), got, answer.reason or "")


def _json(status_code: int, body: bytes, **headers: str):
    return status(status_code, body, Content_Type="application/json", **headers)


async def test_the_body_goes_up_and_the_answer_comes_back(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID))
    got = await post(proxy, "/files/-/audit?a=b%20c")
    assert (got.status, got.body) == (200, SAID)
    assert got.source == "remote"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Cache-Status"] == "artifactproxy; fwd=bypass"
    assert got.headers["Cache-Control"] == "no-store"
    assert "Accept-Ranges" not in got.headers
    seen = chaos.last("/-/audit")
    assert (seen.method, seen.target, seen.body) == ("POST", "/-/audit?a=b%20c", ASKED)
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["content-length"] == str(len(ASKED))


async def test_only_what_the_route_names_goes_up(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID))
    await post(proxy, "/files/-/audit", Authorization="Bearer secret", Cookie="a=b", X_Other="c")
    assert {"authorization", "cookie", "x-other"}.isdisjoint(chaos.last("/-/audit").headers)


async def test_a_compressed_body_goes_up_unchanged(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID))
    packed = gzip.compress(ASKED * 1000)
    assert (await post(proxy, "/files/-/audit", packed, Content_Encoding="gzip")).status == 200
    seen = chaos.last("/-/audit")
    assert (seen.body, seen.headers["content-encoding"]) == (packed, "gzip")


async def test_an_empty_body_is_one(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID))
    assert (await post(proxy, "/files/-/audit", b"")).status == 200
    assert chaos.last("/-/audit").headers["content-length"] == "0"


async def test_nothing_is_remembered_between_posts(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID), _json(200, b"{}"), _json(404, b"{}"), _json(200, SAID))
    bodies = [(await post(proxy, "/files/-/audit")).body for _ in range(4)]
    assert bodies[:2] == [SAID, b"{}"]
    assert bodies[3] == SAID
    assert chaos.hits("/-/audit", "POST") == 4


async def test_reading_and_posting_never_share_a_route(chaos, proxy) -> None:
    chaos.script("/-/posted", _json(200, SAID))
    for _ in range(2):
        assert (await post(proxy, "/files/-/posted")).body == SAID
        assert (await proxy.get("/files/-/posted")).status == 404
    assert chaos.hits("/-/posted", "GET") == 0


async def test_what_would_be_stored_cannot_be_posted_to(chaos, proxy) -> None:
    chaos.script("/a.bin", ok())
    got = await post(proxy, "/files/a.bin")
    assert (got.status, got.error) == (405, "method_not_allowed")
    assert got.headers["Allow"] == "GET, HEAD"
    assert chaos.hits("/a.bin") == 0


async def test_a_provider_that_only_reads_takes_no_post(chaos, proxy) -> None:
    got = await post(proxy, "/pypi/simple/a/")
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")


REFUSED = [
    (400, {}, 502, "upstream_4xx"),
    (401, {}, 403, "upstream_forbidden"),
    (404, {}, 404, "upstream_absent"),
    (405, {}, 502, "upstream_4xx"),
    (410, {}, 410, "upstream_absent"),
    (429, {"Retry_After": "7"}, 429, "upstream_busy"),
    (500, {}, 502, "upstream_5xx"),
    (503, {"Retry_After": "7"}, 503, "upstream_busy"),
    (204, {}, 502, "upstream_status"),
    (304, {}, 502, "unexpected_304"),
]


@pytest.mark.parametrize(("said", "headers", "answered", "code"), REFUSED)
async def test_refusals_are_told_in_the_clients_language(chaos, proxy, said, headers, answered, code) -> None:
    chaos.script("/-/audit", _json(said, b"" if said in (204, 304) else b"<secret>", **headers))
    got = await post(proxy, "/files/-/audit")
    assert (got.status, got.error) == (answered, code)
    assert "error" in json.loads(got.body)
    assert b"secret" not in got.body
    assert got.headers.get("Retry-After") == headers.get("Retry_After")
    assert chaos.hits("/-/audit") == 1


async def test_a_post_follows_no_redirect(chaos, proxy) -> None:
    chaos.script("/-/audit", redirect("/-/elsewhere", 307))
    assert (await post(proxy, "/files/-/audit")).status == 502
    assert chaos.hits("/-/elsewhere") == 0


@pytest.mark.parametrize(
    ("behaviour", "answered"),
    [
        (cut(0.5), 502),
        (cut(0.5, rst=True), 502),
        (cut(0.5, chunked=True), 502),
        (stall(0.5), 504),
        (silence(), 504),
        (slam(), 502),
        (slam(rst=True), 502),
        (unframed(0.5), 502),
        (unframed(), 502),
        (raw(b"HTTP/1.1 banana\r\n\r\n"), 502),
    ],
)
async def test_a_short_answer_that_breaks_is_an_error_and_asked_once(
    chaos, proxy, behaviour, answered
) -> None:
    chaos.script("/-/audit", behaviour, ok(), size=5_000)
    got = await post(proxy, "/files/-/audit")
    assert got.status == answered
    assert "error" in json.loads(got.body)
    assert chaos.hits("/-/audit") == 1


@pytest.mark.parametrize("behaviour", [cut(0.9), cut(0.9, rst=True), cut(-10, chunked=True), stall(0.9)])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_long_answer_that_breaks_is_never_whole(chaos, proxy, behaviour, method) -> None:
    chaos.script("/-/audit", behaviour, ok(), size=900_000)
    got = await (post(proxy, "/files/-/audit") if method == "POST" else proxy.get("/files/-/audit"))
    assert (got.status, got.body) == (200, None)
    assert chaos.hits("/-/audit") == 1


@pytest.mark.parametrize("behaviour", [ok(), ok(chunked=True), slow(2_000_000)])
async def test_a_long_answer_arrives_whole(chaos, proxy, behaviour) -> None:
    body = chaos.script("/-/audit", behaviour, size=600_000)
    assert (await post(proxy, "/files/-/audit")).body == b"".join(body)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_above_its_limit_is_not_sent_whole(chaos, proxy, chunked) -> None:
    chaos.script("/-/audit", ok(chunked=chunked), size=1_000_001)
    got = await post(proxy, "/files/-/audit")
    assert got.status == 502 or got.body is None


async def test_an_upstream_that_is_not_there(chaos, proxy) -> None:
    await chaos.stop()
    got = await post(proxy, "/files/-/audit")
    assert (got.status, got.error) == (502, "upstream_refused")
    assert "error" in json.loads(got.body)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_coding_is_carried_to_who_takes_it_and_undone_for_others(chaos, proxy, method) -> None:
    packed = gzip.compress(SAID * 1000)
    chaos.script("/-/audit", _json(200, packed, Content_Encoding="gzip"))

    async def ask(**headers: str) -> Got:
        if method == "POST":
            return await post(proxy, "/files/-/audit", **headers)
        return await proxy.get("/files/-/audit", **headers)

    got = await ask(Accept_Encoding="br, gzip;q=0.5")
    assert (got.headers["Content-Encoding"], got.body) == ("gzip", packed)
    assert got.headers["Content-Length"] == str(len(packed))
    for refusing in ("identity", "gzip;q=0, deflate", "br", "identity, gzip;q=0.5"):
        got = await ask(Accept_Encoding=refusing)
        assert "Content-Encoding" not in got.headers
        assert got.body == SAID * 1000


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(SAID * 99)[:-9], "gzip"),
        (b"no gzip", "gzip"),
        (b"x", "br"),
        (gzip.compress(bytes(9_000_000)), "gzip"),
    ],
    ids=["cut", "another thing", "unknown", "bomb"],
)
async def test_a_coding_that_cannot_be_undone_is_an_error(chaos, proxy, body, coding) -> None:
    chaos.script("/-/audit", _json(200, body, Content_Encoding=coding))
    got = await post(proxy, "/files/-/audit", Accept_Encoding="identity")
    assert got.status == 502 or got.body is None


async def test_head_of_a_relayed_path_has_no_body(chaos, proxy) -> None:
    chaos.script("/-/audit", _json(200, SAID))
    got = await proxy.get("/files/-/audit", "HEAD")
    assert (got.status, got.body) == (200, b"")
    assert [seen.method for seen in chaos.requests] == ["HEAD"]


@pytest.mark.parametrize("behaviour", [silence(), stall(0.5)])
async def test_a_client_that_leaves_frees_upstream(chaos, proxy, behaviour) -> None:
    chaos.script("/-/audit", behaviour, size=900_000)
    asking = asyncio.create_task(post(proxy, "/files/-/audit"))
    for _ in range(2_000):
        if chaos.hits("/-/audit"):
            break
        await asyncio.sleep(0.01)
    asking.cancel()
    await proxy.upstream_idle()
    assert chaos.hits("/-/audit") == 1


async def test_offline_relays_nothing(tmp_path, chaos) -> None:
    async with proxied(tmp_path, chaos.origin, remote="offline: true") as proxy:
        mounts = proxy.engine._parts.mounts
        mounts["files"] = replace(mounts["files"], provider=Audit(mounts["files"].provider.site))
        got = await post(proxy, "/files/-/audit")
        assert (got.status, got.error) == (504, "not_cached")
    assert chaos.requests == []
