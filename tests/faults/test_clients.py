"""What clients do: leave, read slowly, come in crowds, ask for heads, ranges and conditions."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import flip, ok, slow, stall, status
from tests.house_proxy import Proxy, promise, proxied

BIG = 3_000_000


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin) as running:
        yield running
        await running.check()


async def raw(
    proxy: Proxy, path: str, *headers: str, method: str = "GET"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    return reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_first_remote_then_cache_with_every_promised_header(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    first = await proxy.get("/files/f.bin")
    assert (first.status, first.source, first.body) == (200, "remote", body.bytes())
    assert first.headers["Content-Length"] == str(BIG)
    assert first.headers["Cache-Status"] == "artifactproxy; fwd=miss; stored"
    await proxy.settled()
    second = await proxy.get("/files/f.bin")
    assert (second.source, second.body) == ("cache", body.bytes())
    assert second.headers["Cache-Status"].startswith("artifactproxy; hit")
    assert second.headers["X-Checksum-Sha256"] == body.sha256
    assert second.headers["ETag"] == first.headers["ETag"]
    assert second.headers["Accept-Ranges"] == "bytes"
    assert "Age" in second.headers
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]


async def test_a_crowd_causes_one_upstream_get(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(4_000_000), size=BIG)
    async with proxied(tmp_path, chaos.origin, extra="idle: 10s") as proxy:
        answers = await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(200)))
        assert {a.status for a in answers} == {200}
        assert {hashlib.sha256(a.body or b"").hexdigest() for a in answers} == {body.sha256}
        assert chaos.hits("/f.bin") == 1
        assert sum("collapsed" in a.headers["Cache-Status"] for a in answers) >= 1
        await proxy.check()


async def test_a_crowd_on_wrong_bytes_gets_no_complete_body(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", flip(-1), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    answers = await asyncio.gather(*(proxy.get(path) for _ in range(100)))
    assert [a for a in answers if a.status == 200 and a.body is not None] == []


async def test_c01_the_first_client_leaves_and_the_fill_goes_on(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(6_000_000), size=BIG)
    reader, writer = await raw(proxy, "/files/f.bin")
    await reader.readexactly(100_000)
    await close(writer)
    await proxy.settled()
    second = await proxy.get("/files/f.bin")
    assert (second.source, second.body) == ("cache", body.bytes())
    assert chaos.hits("/f.bin") == 1


async def test_c01_followers_do_not_notice_that_the_leader_left(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(6_000_000), size=BIG)
    reader, writer = await raw(proxy, "/files/f.bin")
    await reader.readexactly(10_000)
    follower = asyncio.create_task(proxy.get("/files/f.bin"))
    await asyncio.sleep(0.05)
    await close(writer)
    got = await follower
    assert (got.status, got.body) == (200, body.bytes())
    assert chaos.hits("/f.bin") == 1


async def test_an_unwanted_endless_fill_is_given_up(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", stall(0.9, ranges=False), size=BIG)
    async with proxied(tmp_path, chaos.origin, extra="idle: 30s", top="limits: {orphans: 0}") as proxy:
        reader, writer = await raw(proxy, "/files/f.bin")
        await reader.readexactly(100_000)
        await close(writer)
        await proxy.settled()
        assert proxy.blobs() == []
        await proxy.check()


async def test_who_comes_while_a_fill_is_given_up_gets_one_of_his_own(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", stall(0.5, ranges=False), ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, extra="idle: 30s", top="limits: {orphans: 0}") as proxy:
        reader, writer = await raw(proxy, "/files/f.bin")
        await reader.readexactly(100_000)
        writer.transport.abort()
        for _ in range(1000):
            await asyncio.sleep(0)
            if not proxy.engine.states()["readers"]:
                break
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.check()


async def test_c02_a_slow_reader_slows_nobody(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=20_000_000)
    reader, writer = await raw(proxy, "/files/f.bin")
    await reader.read(1000)
    fast = await proxy.get("/files/f.bin")
    assert fast.body == body.bytes()
    rest = await reader.read(1_000_000)
    assert rest
    await close(writer)


async def test_c02_a_reader_that_takes_nothing_is_reset(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=40_000_000)
    async with proxied(tmp_path, chaos.origin, top="limits: {send_stall: 300ms}") as proxy:
        reader, writer = await raw(proxy, "/files/f.bin")
        await asyncio.sleep(1.0)
        received = 0
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while True:
                piece = await reader.readexactly(65536)
                received += len(piece)
        assert received < 40_000_000
        await close(writer)
        await proxy.check()


async def test_first_byte_leaves_before_the_last_arrives(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", stall(0.5, seconds=0.3), size=BIG)
    reader, writer = await raw(proxy, "/files/f.bin", "Connection: close")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 0.25)
    assert head.startswith(b"HTTP/1.1 200")
    assert await asyncio.wait_for(reader.readexactly(1_000_000), 0.25)
    rest = await reader.read(-1)
    assert len(rest) == BIG - 1_000_000
    await close(writer)


async def test_the_tail_is_withheld_until_the_digest_is_known(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", stall(-1, seconds=0.3), size=BIG)
    reader, writer = await raw(proxy, "/files/f.bin", "Connection: close")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(BIG - 65536)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    assert len(await reader.read(-1)) == 65536
    await close(writer)


# --- HEAD ---


async def test_c07_cold_head_asks_upstream_for_a_head_only(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    got = await proxy.get("/files/f.bin", "HEAD")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", str(BIG))
    assert [seen.method for seen in chaos.requests] == ["HEAD"]
    assert proxy.blobs() == []
    full = await proxy.get("/files/f.bin")
    assert full.headers["ETag"] == got.headers["ETag"]
    await proxy.settled()
    warm = await proxy.get("/files/f.bin", "HEAD")
    assert (warm.status, warm.body, warm.headers["Content-Length"]) == (200, b"", str(BIG))
    assert warm.headers["ETag"] == got.headers["ETag"]


async def test_cold_head_of_a_promised_file_needs_no_upstream(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    await proxy.get("/pypi/simple/pkg/")
    got = await proxy.get(path, "HEAD")
    assert (got.status, got.headers["Content-Length"]) == (200, str(BIG))
    assert got.headers["Accept-Ranges"] == "bytes"
    assert chaos.hits("/pkg-1.0.tar.gz") == 0


async def test_head_of_something_absent_is_404(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(404))
    assert (await proxy.get("/files/f.bin", "HEAD")).status == 404


async def test_head_where_upstream_knows_only_get(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(405), ok(), size=BIG)
    got = await proxy.get("/files/f.bin", "HEAD")
    assert (got.status, got.headers["Content-Length"]) == (200, str(BIG))


# --- ranges and conditions on a warm file ---

RANGES = [
    ("bytes=0-9", 206, 0, 10),
    ("bytes=10-", 206, 10, BIG),
    ("bytes=-10", 206, BIG - 10, BIG),
    ("bytes=0-99999999999", 206, 0, BIG),
    (f"bytes={BIG}-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=5-4", 200, 0, BIG),
    ("bytes=a-b", 200, 0, BIG),
    ("lines=0-5", 200, 0, BIG),
    ("bytes=0-1,5-6", 200, 0, BIG),
]


@pytest.mark.parametrize(("text", "code", "start", "stop"), RANGES, ids=[r[0] for r in RANGES])
async def test_c08_ranges(proxy: Proxy, chaos: Chaos, text: str, code: int, start: int, stop: int) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG).bytes()
    await proxy.get("/files/f.bin")
    await proxy.settled()
    got = await proxy.get("/files/f.bin", Range=text)
    assert got.status == code
    if code == 416:
        assert got.headers["Content-Range"] == f"bytes */{BIG}"
        return
    assert got.body == body[start:stop]
    if code == 206:
        assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{BIG}"
        assert "X-Checksum-Sha256" not in got.headers


async def test_if_range_and_conditions(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG).bytes()
    await proxy.get("/files/f.bin")
    await proxy.settled()
    etag = (await proxy.get("/files/f.bin")).headers["ETag"]
    assert (await proxy.get("/files/f.bin", Range="bytes=0-9", If_Range=etag)).status == 206
    other = await proxy.get("/files/f.bin", Range="bytes=0-9", If_Range='"other"')
    assert (other.status, other.body) == (200, body)
    same = await proxy.get("/files/f.bin", If_None_Match=etag)
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", etag)
    assert (await proxy.get("/files/f.bin", If_None_Match=f'"x", W/{etag}')).status == 304
    assert (await proxy.get("/files/f.bin", If_None_Match="*")).status == 304
    assert (await proxy.get("/files/f.bin", If_None_Match='"x"')).status == 200
    assert (await proxy.get("/files/f.bin", If_Match='"x"')).status == 412


# --- ranges of something cold ---


async def test_a_cold_range_of_a_quick_file_waits_for_the_fill(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG).bytes()
    got = await proxy.get("/files/f.bin", Range="bytes=100-199")
    assert (got.status, got.body) == (206, body[100:200])
    assert chaos.hits("/f.bin") == 1
    await proxy.settled()
    assert (await proxy.get("/files/f.bin")).source == "cache"


async def test_a_cold_range_of_a_slow_file_is_relayed(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", stall(0.5, seconds=1.0), ok(), size=BIG).bytes()
    async with proxied(
        tmp_path, chaos.origin, extra="idle: 5s", top="limits: {cold_range_wait: 50ms}"
    ) as proxy:
        got = await proxy.get("/files/f.bin", Range="bytes=-100")
        assert (got.status, got.body) == (206, body[-100:])
        assert "fwd=partial; detail=unverified" in got.headers["Cache-Status"]
        assert chaos.last("/f.bin").headers["range"] == f"bytes={BIG - 100}-{BIG - 1}"
        assert chaos.wholes("/f.bin") == 1
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).body == body
        await proxy.check()


async def test_cold_ranges_wait(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", stall(0.5, seconds=0.3), ok(), size=BIG).bytes()
    top = "limits: {cold_range_wait: 10ms}"
    async with proxied(tmp_path, chaos.origin, "idle: 5s", "cold_ranges: wait", top) as proxy:
        got = await proxy.get("/files/f.bin", Range="bytes=0-99")
        assert (got.status, got.body) == (206, body[:100])
        assert chaos.hits("/f.bin") == 1
        await proxy.check()


# --- what is refused at the door ---


@pytest.mark.parametrize(
    "target", ["/files/../x", "/files/%2e%2e/x", "/files/a%00b", "/files/a//b", "/files/a%5cb", "/files/%ff"]
)
async def test_bad_paths_reach_nobody(proxy: Proxy, chaos: Chaos, target: str) -> None:
    reader, writer = await raw(proxy, target, "Connection: close")
    answer = await reader.read(-1)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"X-Proxy-Error: bad_path" in answer
    await close(writer)
    assert chaos.requests == []


async def test_unknown_repository_and_method(proxy: Proxy, chaos: Chaos) -> None:
    got = await proxy.get("/nothing/here")
    assert (got.status, got.error) == (404, "not_served")
    assert (await proxy.get("/files/f.bin", "PUT")).status == 405
    assert chaos.requests == []
