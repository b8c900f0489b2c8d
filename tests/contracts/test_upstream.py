"""The numbered contracts of `ports.Upstream`, against the one adapter there is."""

from __future__ import annotations

import asyncio

import pytest

from artifactproxy.errors import TooLarge, UpstreamBlocked, UpstreamBroken, UpstreamBusy, UpstreamUnreachable
from artifactproxy.ports import UpstreamRequest
from artifactproxy.upstream.auth import Bearer
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, endless, ok, redirect, stall, status
from tests.upstream.tools import LOOPBACK, client, fetch, refusal


async def test_u1_head_before_body(chaos):
    body = chaos.script("/a", stall(at=1000, seconds=0.1))
    async with client(chaos.origin) as up, up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
        assert (reply.head.status, reply.head.length, reply.head.framed) == (200, body.size, True)
        assert reply.head.headers["etag"] == body.etag
        assert b"".join([block async for block in reply.chunks()]) == body.bytes()


@pytest.mark.parametrize("announced", [True, False])
async def test_u2_stops_at_the_limit(chaos, announced):
    chaos.script("/a", ok(chunked=not announced), size=50_000)
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), TooLarge, "too_large", max_bytes=49_999)
        _, body = await fetch(up, chaos.url("/a"), max_bytes=50_000)
    assert len(body) == 50_000


async def test_u2_an_announced_excess_is_refused_before_a_byte(chaos):
    chaos.script("/a", ok(), size=1_000_000)
    received = []
    async with client(chaos.origin) as up:
        with pytest.raises(TooLarge):
            async with up.open(UpstreamRequest("r", chaos.url("/a"), max_bytes=999_999)) as reply:
                async for block in reply.chunks():
                    received.append(block)
    assert received == []


async def test_u2_endless_body_ends_at_the_limit(chaos):
    chaos.script("/a", endless())
    received = 0
    async with client(chaos.origin) as up:
        with pytest.raises(TooLarge):
            async with up.open(UpstreamRequest("r", chaos.url("/a"), max_bytes=1_000_000)) as reply:
                async for block in reply.chunks():
                    received += len(block)
    assert received <= 1_000_000


async def test_u3_every_hop_is_judged(chaos):
    async with Chaos() as inner:
        inner.script("/secret", ok())
        chaos.script("/a", redirect("/b"))
        chaos.script("/b", redirect(inner.url("/secret")))
        async with client(chaos.origin) as up:
            await refusal(up, chaos.url("/a"), UpstreamBlocked, "blocked_address")
        assert inner.connections == 0


async def test_u4_only_named_headers_go_out(chaos):
    chaos.script("/a", ok())
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"), headers=(("Accept", "x/y"),))
    sent = chaos.last("/a").headers
    assert set(sent) == {"host", "accept", "accept-encoding", "user-agent", "via"}
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"].startswith("artifactproxy/")
    assert sent["via"] == "1.1 artifactproxy"


async def test_u4_credentials_only_to_their_origin(chaos):
    async with Chaos() as other:
        other.script("/b", ok())
        chaos.script("/a", redirect(other.url("/b")))
        async with client(
            chaos.origin, credentials={chaos.origin: Bearer("s3cret")}, allow_private=LOOPBACK
        ) as up:
            await fetch(up, chaos.url("/a"))
        assert chaos.last("/a").headers["authorization"] == "Bearer s3cret"
        assert b"s3cret" not in other.last("/b").raw


@pytest.mark.parametrize("at", [0, 1, 0.5, -1])
@pytest.mark.parametrize("how", [{}, {"rst": True}, {"chunked": True}])
async def test_u5_fewer_bytes_raise(chaos, at, how):
    body = chaos.script("/a", cut(at=at, **how))
    received = bytearray()
    async with client(chaos.origin) as up:
        with pytest.raises(UpstreamBroken) as caught:
            async with up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
                async for block in reply.chunks():
                    received += block
    assert caught.value.code == "short_body"
    assert body.bytes().startswith(bytes(received))
    assert len(received) < body.size


async def test_u6_leaving_early_closes_the_connection(chaos):
    chaos.script("/a", stall(at=0.1))
    chaos.script("/b", ok())
    async with client(chaos.origin) as up:
        async with up.open(UpstreamRequest("r", chaos.url("/a"))):
            assert up.states()[chaos.origin].active == 1
        assert up.states()[chaos.origin].active == 0
        await fetch(up, chaos.url("/b"))
    assert chaos.connections == 2


async def test_u6_a_body_read_to_its_end_returns_the_connection(chaos):
    chaos.script("/a", ok(), size=300_000)
    chaos.script("/c", ok(chunked=True))
    async with client(chaos.origin) as up:
        for path in ("/a", "/c", "/a"):
            await fetch(up, chaos.url(path))
        await fetch(up, chaos.url("/a"), method="HEAD")
        await fetch(up, chaos.url("/a"))
    assert chaos.connections == 1


async def test_u6_cancelling_frees_place_and_connection(chaos):
    chaos.script("/a", stall(at=0.1))
    async with client(chaos.origin, changed={"idle": 30.0}) as up:
        task = asyncio.ensure_future(fetch(up, chaos.url("/a")))
        while not chaos.hits("/a"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert up.states()[chaos.origin].active == 0


@pytest.mark.parametrize("code", [200, 204, 206, 301, 304, 401, 403, 404, 410, 416, 429, 500, 502, 503])
async def test_u7_statuses_are_returned(chaos, code):
    chaos.script("/a", status(code))
    async with client(chaos.origin) as up:
        head, body = await fetch(up, chaos.url("/a"))
    assert (head.status, body) == (code, b"")


async def test_u8_a_failing_upstream_is_left_alone(chaos):
    chaos.script("/a", status(500))
    async with client(chaos.origin, changed={"breaker_failures": 3, "breaker_open": 30.0}) as up:
        for _ in range(3):
            await fetch(up, chaos.url("/a"))
        fault = await refusal(up, chaos.url("/a"), UpstreamUnreachable, "breaker_open")
    assert 0 < fault.retry_after <= 30
    assert chaos.hits("/a") == 3


async def test_u8_a_wish_to_wait_is_honoured(chaos):
    chaos.script("/a", status(429, Retry_After="7"))
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        for _ in range(3):
            fault = await refusal(up, chaos.url("/b"), UpstreamBusy, "upstream_busy")
    assert 6 < fault.retry_after <= 7
    assert len(chaos.requests) == 1


async def test_u9_no_retry(chaos):
    chaos.script("/a", cut(at=0.5), ok())
    chaos.script("/b", status(503), ok())
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBroken, "short_body")
        assert (await fetch(up, chaos.url("/b")))[0].status == 503
    assert (chaos.hits("/a"), chaos.hits("/b")) == (1, 1)


async def test_u10_a_request_that_waits_for_a_place_has_not_left(chaos):
    chaos.script("/a", stall(at=0.1))
    chaos.script("/b", ok())
    async with client(chaos.origin, changed={"idle": 30.0, "connections_per_host": 1}) as up:
        left = asyncio.Event()
        holding = asyncio.ensure_future(fetch(up, chaos.url("/a")))
        while not chaos.hits("/a"):
            await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(fetch(up, chaos.url("/b"), on_leave=left.set))
        while not up.states()[chaos.origin].queued:
            await asyncio.sleep(0.01)
        assert not left.is_set()
        waiting.cancel()
        holding.cancel()
        await asyncio.wait((waiting, holding))
        assert (chaos.hits("/b"), left.is_set()) == (0, False)
        await fetch(up, chaos.url("/b"), on_leave=left.set)
    assert left.is_set()


async def test_check_and_close(chaos):
    chaos.script("/a", ok())
    async with client(chaos.origin) as up:
        await up.check()
        await fetch(up, chaos.url("/a"))
        await up.close()
        with pytest.raises(UpstreamUnreachable):
            await up.check()
        await refusal(up, chaos.url("/a"), UpstreamUnreachable, "closed")
