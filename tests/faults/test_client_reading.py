"""HEAD, ranges and conditions: what a client may ask of a file, and what its odd questions get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactproxy.rules.http import http_date
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import cut, ok, stall, status
from tests.house_proxy import Proxy, promise, proxied
from tests.web.scripted import Client

from .clients import counted, dial, held, logged, target, until, waits, well
from .range_model import expected

SIZE = 150_001
MODIFIED = datetime(2024, 1, 1, tzinfo=UTC)  # of every first version of the scripted upstream
FIXDATE = http_date(MODIFIED.timestamp())
LATER, EARLIER = http_date(MODIFIED.timestamp() + 1), http_date(MODIFIED.timestamp() - 1)
RFC850, ASCTIME = "Monday, 01-Jan-24 00:00:00 GMT", "Mon Jan  1 00:00:00 2024"


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin) as running:
        yield running
        await running.check()


async def _stored(proxy: Proxy, chaos: Chaos, size: int = SIZE, path: str = "/f.bin") -> Oracle:
    body = chaos.script(path, ok(), size=size)
    assert (await proxy.get(f"/files{path}")).status == 200
    await proxy.settled()
    return body


async def _tag(proxy: Proxy, body: Oracle) -> str:
    """Our own tag of a stored file, which is strong."""
    return (await proxy.get(f"/files{body.name}", "HEAD")).headers["ETag"]


# --- HEAD ---


async def test_c07_head_then_get_on_one_connection(proxy: Proxy, chaos: Chaos) -> None:
    small = await _stored(proxy, chaos, 2000, "/small.bin")
    large = await _stored(proxy, chaos)
    client = await dial(proxy.base)
    asked = [("HEAD", large), ("GET", small), ("HEAD", small), ("HEAD", large), ("GET", large)]
    await client.send(b"".join(target(f"/files{body.name}", method=method) for method, body in asked))
    seen: dict[str, dict[str, str]] = {}
    for method, body in asked:
        reply = await client.reply(method)
        assert (reply.status, reply.headers["content-length"]) == (200, str(body.size))
        assert reply.body == (b"" if method == "HEAD" else body.bytes())
        own = {name: value for name, value in reply.headers.items() if name not in ("age", "x-request-id")}
        assert seen.setdefault(body.name, own).items() - own.items() <= {("date", own["date"])}
    assert client.buffer == b""
    client.close()
    lines = [line for line in proxy.log_lines() if line.get("method") == "HEAD"]
    await until(lambda: all("bytes" not in line for line in lines))
    await well(proxy, chaos)


async def test_c07_cold_heads_transfer_no_body(proxy: Proxy, chaos: Chaos) -> None:
    # Content that looks like an answer: one byte of it too many would be read as the next one.
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison" * 9000
    chaos.script("/p.bin", status(200, poison, ETag='"p"'))
    body = chaos.script("/f.bin", ok(), size=SIZE)
    chaos.script("/none.bin", status(404))
    client = await dial(proxy.base)
    for path, code, length in (("p", 200, len(poison)), ("f", 200, SIZE), ("none", 404, None)):
        await client.send(target(f"/files/{path}.bin", method="HEAD"))
        reply = await client.reply("HEAD")
        assert reply.status == code
        assert length is None or reply.headers["content-length"] == str(length)
    assert {seen.method for seen in chaos.requests} == {"HEAD"}
    assert proxy.blobs() == []
    assert held(proxy) == set()
    await client.send(target("/files/p.bin", method="HEAD") + target("/files/f.bin"))
    await client.reply("HEAD")
    assert (await client.reply()).body == body.bytes()
    assert client.buffer == b""
    client.close()
    assert chaos.hits("/f.bin", "GET") == 1
    assert await counted(proxy, "requests", repo="files", result="absent") == 1
    await well(proxy, chaos)


async def test_c07_a_head_where_upstream_knows_only_get_takes_no_body(proxy: Proxy, chaos: Chaos) -> None:
    word = asyncio.Event()
    body = chaos.script("/f.bin", status(405), waits(word, 100_000), ok(), size=5_000_000)
    got = await proxy.get("/files/f.bin", "HEAD")
    assert (got.status, got.headers["Content-Length"], got.body) == (200, str(body.size), b"")
    assert not word.is_set(), "it waited for the body"
    word.set()
    await proxy.settled()
    assert held(proxy) == set()
    await well(proxy, chaos)


# --- ranges ---

S = SIZE
RANGES: list[tuple[str, int, int, int]] = [
    ("bytes=0-0", 206, 0, 1),
    ("bytes=0-9", 206, 0, 10),
    ("bytes=10-", 206, 10, S),
    (f"bytes={S - 1}-", 206, S - 1, S),
    (f"bytes=0-{S - 1}", 206, 0, S),
    (f"bytes=0-{S}", 206, 0, S),
    ("bytes=5-99999999999999999999999999", 206, 5, S),
    ("bytes=00000000000000000000000000005-0006", 206, 5, 7),
    ("bytes=-1", 206, S - 1, S),
    (f"bytes=-{S}", 206, 0, S),
    (f"bytes=-{S + 1}", 206, 0, S),
    ("bytes=-99999999999999999999999999", 206, 0, S),
    ("BYTES=1-2", 206, 1, 3),
    ("bytes=1-2,", 206, 1, 3),
    ("bytes=,1-2", 206, 1, 3),
    ("bytes=1-2 , ,", 206, 1, 3),
    (f"bytes={S}-", 416, 0, 0),
    (f"bytes={S}-{S + 5}", 416, 0, 0),
    ("bytes=99999999999999999999999999-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=-000", 416, 0, 0),
    ("bytes=2-1", 200, 0, S),
    ("bytes=0-1,5-6", 200, 0, S),
    ("bytes=0-1,-1", 200, 0, S),
    ("bytes=0-,0-,0-,0-,0-,0-,0-,0-", 200, 0, S),
    (f"bytes={S}-,0-1", 200, 0, S),
    ("bytes=", 200, 0, S),
    ("bytes=-", 200, 0, S),
    ("bytes=--1", 200, 0, S),
    ("bytes=a-b", 200, 0, S),
    ("bytes=0x1-2", 200, 0, S),
    ("bytes=+1-2", 200, 0, S),
    ("bytes=1.5-2", 200, 0, S),
    ("bytes= 0-1", 200, 0, S),
    ("bytes =0-1", 200, 0, S),
    ("bytes:0-1", 200, 0, S),
    ("bytes", 200, 0, S),
    ("0-1", 200, 0, S),
    ("lines=0-1", 200, 0, S),
    ("none=", 200, 0, S),
    ("bytes=\u0661-\u0662", 200, 0, S),
]


async def _ranged(
    client: Client, path: str, body: Oracle, ranged: str | None, if_range: str | None
) -> tuple[int, int, int]:
    """What was sent, after it was compared with the true bytes; the connection goes on."""
    lines = [] if ranged is None else [f"Range: {ranged}"]
    await client.send(
        "\r\n".join(
            [
                *(f"GET {path} HTTP/1.1", "Host: x", *lines),
                *([] if if_range is None else [f"If-Range: {if_range}"]),
                *("", ""),
            ]
        ).encode()
    )
    reply = await client.reply()
    assert reply.names.count("content-length") == 1
    if reply.status == 416:
        assert reply.headers["content-range"] == f"bytes */{body.size}"
        return (416, 0, 0)
    start, stop = 0, body.size
    if reply.status == 206:
        unit, _, told = reply.headers["content-range"].partition(" ")
        assert unit == "bytes"
        span, _, total = told.partition("/")
        start, stop = int(span.partition("-")[0]), int(span.partition("-")[2]) + 1
        assert int(total) == body.size
        assert "x-checksum-sha256" not in reply.headers, "a digest of the whole beside a part"
    else:
        assert "content-range" not in reply.headers
    assert reply.body == body.slice(start, stop)
    assert not reply.headers.get("content-type", "").startswith("multipart/")
    return (reply.status, start, stop)


async def test_c08_a_table_of_ranges(proxy: Proxy, chaos: Chaos) -> None:
    body = await _stored(proxy, chaos)
    client = await dial(proxy.base)
    for ranged, *wanted in RANGES:
        assert await _ranged(client, "/files/f.bin", body, ranged, None) == tuple(wanted), ranged
        if ranged.isascii():
            seen = expected(ranged, None, size=SIZE, etag="", modified=MODIFIED)
            assert seen == tuple(wanted), f"the model says something else about {ranged}"
    client.close()
    await logged(proxy, event="request", status=416, error="bad_range")
    assert await counted(proxy, "requests", repo="files", result="error", status="4xx") == 5
    assert chaos.hits("/f.bin") == 1
    assert len(proxy.blobs()) == 1
    await well(proxy, chaos)


async def test_c08_if_range(proxy: Proxy, chaos: Chaos) -> None:
    body = await _stored(proxy, chaos)
    part, whole, tag = (206, 5, 10), (200, 0, SIZE), await _tag(proxy, body)
    table = [
        (tag, part),
        (f" {tag} ", part),
        (f"W/{tag}", whole),
        ('"other"', whole),
        (tag.strip('"'), whole),
        (f'{tag}, "other"', whole),
        ("*", whole),
        (FIXDATE, part),
        (LATER, whole),
        (EARLIER, whole),
        ("Mon, 32 Jan 2024 00:00:00 GMT", whole),
        ("yesterday", whole),
        ("", whole),
    ]
    client = await dial(proxy.base)
    for validator, wanted in table:
        got = await _ranged(client, "/files/f.bin", body, "bytes=5-9", validator)
        assert got == wanted, validator
        assert await _ranged(client, "/files/f.bin", body, None, validator) == whole
    client.close()
    await well(proxy, chaos)


_number = st.one_of(
    st.integers(0, SIZE + 2).map(str), st.sampled_from(["", "0", "007", str(SIZE - 1), str(SIZE), "9" * 30])
)
_spec = st.one_of(st.tuples(_number, _number).map("-".join), st.sampled_from(["", "x", "1-2-3", "-", "+1-2"]))
_glue = st.sampled_from([",", " ,", ", ", "\t,\t", ",,"])
_range = st.tuples(
    st.sampled_from(["bytes=", "Bytes=", "bytes= ", "bytes", "octets=", ""]),
    st.lists(st.tuples(_spec, _glue), min_size=1, max_size=3).map(
        lambda pairs: "".join(f"{spec}{glue}" for spec, glue in pairs).rstrip(", \t")
    ),
).map("".join)
_validator = st.sampled_from(["tag", "weak", "other", FIXDATE, LATER, "garbage", None, None, None])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_range, _validator), min_size=1, max_size=12), st.sampled_from([SIZE, 1]))
async def test_c08_against_the_model(
    proxy: Proxy, chaos: Chaos, asks: list[tuple[str, str | None]], size: int
) -> None:
    path = f"/{size}.bin"
    body = Oracle(path, size, seed=chaos.seed)
    if path[1:] not in held(proxy):
        await _stored(proxy, chaos, size, path)
    etag = await _tag(proxy, body)
    tags = {"tag": etag, "weak": f"W/{etag}", "other": '"x"'}
    client = await dial(proxy.base)
    for ranged, named in asks:
        validator = tags.get(named, named) if named is not None else None
        wanted = expected(ranged, validator, size=size, etag=etag, modified=MODIFIED)
        got = await _ranged(client, f"/files{path}", body, ranged, validator)
        assert got == wanted, (ranged, validator, size)
    client.close()


@pytest.mark.parametrize("ends", ["well", "cut"])
async def test_c08_a_range_never_stores_a_part(tmp_path: Path, chaos: Chaos, ends: str) -> None:
    fill = stall(0.5, seconds=0.4) if ends == "well" else cut(0.5, ranges=False, validators=False)
    body = chaos.script("/f.bin", fill, ok(), size=3_000_000)
    limits = "idle: 5s\nresumes: 0\nretries: 0"
    async with proxied(tmp_path, chaos.origin, limits, top="limits: {cold_range_wait: 50ms}") as proxy:
        got = await asyncio.gather(
            *(proxy.get("/files/f.bin", Range=f"bytes={n * 1000}-{n * 1000 + 99}") for n in range(5))
        )
        for n, one in enumerate(got):
            if one.status == 206:
                assert one.body == body.slice(n * 1000, n * 1000 + 100)
            else:
                assert (ends, one.status) == ("cut", 502)
        await proxy.settled()
        sizes = [path.stat().st_size for path in proxy.blobs()]
        assert sizes == ([body.size] if ends == "well" else [])
        assert held(proxy) == ({"f.bin"} if ends == "well" else set())
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await well(proxy, chaos)


# --- conditions ---


def _conditions(tag: str) -> list[tuple[list[str], int]]:
    """Header lines and the status that RFC 9110 section 13.2.2 gives, for GET and HEAD alike."""
    return [
        ([f"If-None-Match: {tag}"], 304),
        ([f"If-None-Match: W/{tag}"], 304),
        ([f'If-None-Match: "a", {tag}, "b"'], 304),
        ([f'If-None-Match: "a,{tag[1:-1]}"'], 200),
        ([f'If-None-Match: "a"\r\nIf-None-Match: {tag}'], 304),
        (["If-None-Match: *"], 304),
        (['If-None-Match: "other"'], 200),
        (['If-None-Match: ""'], 200),
        (["If-None-Match: "], 200),
        ([f"If-None-Match: {tag[1:-1]}"], 200),
        ([f"If-Match: {tag}"], 200),
        ([f'If-Match: "a", {tag}'], 200),
        (["If-Match: *"], 200),
        ([f"If-Match: W/{tag}"], 412),
        (['If-Match: "other"'], 412),
        ([f"If-Modified-Since: {FIXDATE}"], 304),
        ([f"If-Modified-Since: {LATER}"], 304),
        ([f"If-Modified-Since: {EARLIER}"], 200),
        ([f"If-Modified-Since: {RFC850}"], 304),
        ([f"If-Modified-Since: {ASCTIME}"], 304),
        (["If-Modified-Since: Mon, 32 Jan 2024 00:00:00 GMT"], 200),
        (["If-Modified-Since: Mon, 01 Jan 2024 00:00:00 CET"], 200),
        (["If-Modified-Since: 1704067200"], 200),
        (["If-Modified-Since: "], 200),
        ([f"If-Unmodified-Since: {FIXDATE}"], 200),
        ([f"If-Unmodified-Since: {EARLIER}"], 412),
        (["If-Unmodified-Since: Mon, 99 Jan 1999 00:00:00 GMT"], 200),
        (["If-Unmodified-Since: never"], 200),
        # A tag counts more than a date.
        (['If-None-Match: "other"', f"If-Modified-Since: {LATER}"], 200),
        ([f"If-None-Match: {tag}", f"If-Modified-Since: {EARLIER}"], 304),
        ([f"If-Match: {tag}", f"If-Unmodified-Since: {EARLIER}"], 200),
        (['If-Match: "other"', f"If-None-Match: {tag}"], 412),
        ([f"If-None-Match: {tag}", "Range: bytes=0-1"], 304),
        (['If-Match: "other"', "Range: bytes=0-1"], 412),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_c09_conditions(proxy: Proxy, chaos: Chaos, method: str) -> None:
    body = await _stored(proxy, chaos)
    tag = await _tag(proxy, body)
    client = await dial(proxy.base)
    for lines, wanted in _conditions(tag):
        await client.send(target("/files/f.bin", *lines, method=method))
        reply = await client.head()
        assert reply.status == wanted, lines
        if wanted == 304:
            assert reply.headers["etag"] == tag
            assert {"content-type", "content-range", "x-checksum-sha256"}.isdisjoint(reply.headers)
        elif method == "GET":
            sent = await client.exactly(int(reply.headers["content-length"]))
            assert wanted != 200 or sent == body.bytes()
        # Whatever comes next on this connection begins with its own head.
        await client.send(target("/livez"))
        assert (await client.reply()).body == b"ok\n"
    assert client.buffer == b""
    client.close()
    assert await counted(proxy, "requests", result="hit", status="3xx") >= 10
    await logged(proxy, event="request", status=412, error="precondition_failed")
    assert chaos.hits("/f.bin") == 1
    await well(proxy, chaos)


async def test_c09_conditions_on_a_generated_index(proxy: Proxy, chaos: Chaos) -> None:
    promise(chaos, "pkg-1.0.tar.gz", chaos.script("/pkg-1.0.tar.gz", ok()))
    path, html, js = "/pypi/simple/pkg/", "Accept: text/html", "Accept: application/vnd.pypi.simple.v1+json"
    client = await dial(proxy.base)
    tags = []
    for accept in (html, js):
        await client.send(target(path, accept))
        tags.append((await client.reply()).headers["etag"])
    assert tags[0] != tags[1]
    for accept, tag, wanted in ((html, tags[0], 304), (js, tags[1], 304), (html, tags[1], 200)):
        await client.send(target(path, accept, f"If-None-Match: {tag}") + target("/livez"))
        reply = await client.reply()
        assert (reply.status, bool(reply.body)) == (wanted, wanted == 200)
        assert (await client.reply()).body == b"ok\n"
    assert client.buffer == b""
    client.close()
    await well(proxy, chaos)
