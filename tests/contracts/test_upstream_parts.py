"""Requests for parts: where redirects led before, and connections that are only taken if to spare."""

from __future__ import annotations

import asyncio

import pytest

from artifactproxy.errors import Busy, UpstreamBlocked
from artifactproxy.ports import UpstreamRequest
from artifactproxy.upstream.auth import Bearer
from artifactproxy.upstream.guard import origin_of
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, redirect, stall
from tests.upstream.test_gate import busy
from tests.upstream.tools import LOOPBACK, Recorder, client, fetch, refusal


async def test_u12_a_reply_tells_where_redirects_led_and_nobody_else_does(chaos):
    chaos.script("/b", ok())
    chaos.script("/a", redirect("/b?sig=secret"))
    async with client(chaos.origin) as up:
        async with up.open(UpstreamRequest("r", chaos.url("/a"))) as reply:
            assert reply.at == chaos.url("/b?sig=secret")
            assert "secret" not in reply.head.url
        async with up.open(UpstreamRequest("r", chaos.url("/b"))) as reply:
            assert reply.at == ""
    assert "secret" not in repr(UpstreamRequest("r", "/a", at="/b?sig=secret"))


async def test_u12_it_is_asked_there_at_once_with_what_a_hop_gets(chaos):
    async with Chaos() as other:
        body = other.script("/b", ok())
        secrets = {"credentials": {chaos.origin: Bearer("hidden")}, "allow_private": LOOPBACK}
        async with client(chaos.origin, **secrets) as up:
            request = UpstreamRequest(
                "r",
                chaos.url("/a"),
                headers=(("range", "bytes=0-9"), ("x-token", "hidden")),
                at=other.url("/b?sig=secret"),
            )
            async with up.open(request) as reply:
                assert b"".join([block async for block in reply.chunks()]) == body.slice(0, 10)
                assert reply.at == other.url("/b?sig=secret")
                assert reply.head.url == other.url("/b")
    assert chaos.requests == []
    seen = other.last("/b").headers
    assert (seen["range"], seen.get("authorization"), seen.get("x-token")) == ("bytes=0-9", None, None)


async def test_u12_it_is_judged_there_as_any_hop_is(chaos):
    async with Chaos() as other:
        async with client(chaos.origin) as up:
            at = other.url("/b").replace("127.0.0.1", "localhost")
            with pytest.raises(UpstreamBlocked):
                async with up.open(UpstreamRequest("r", chaos.url("/a"), at=at)):
                    pass
        assert other.connections == 0


async def test_u12_a_spare_connection_is_taken_only_if_there_is_one(chaos):
    chaos.script("/a", stall(at=0.5))
    chaos.script("/b", ok())
    heard = Recorder()
    async with client(
        chaos.origin, max_per_host=2, changed={"connections_per_host": 3, "queue_wait": 5.0}, observer=heard
    ) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 1)
        await fetch(up, chaos.url("/b"), spare=True)
        more, go = await busy(up, chaos.url("/a"), 1)
        await refusal(up, chaos.url("/b"), Busy, "no_spare", spare=True)
        await fetch(up, chaos.url("/b"))  # an ordinary one has its place
        third, leave_third = await busy(up, chaos.url("/a"), 1)
        waiting = asyncio.ensure_future(fetch(up, chaos.url("/b")))
        await asyncio.sleep(0.02)
        leave_third.set()
        leave.set()
        await waiting
        go.set()
        await asyncio.gather(*tasks, *more, *third)
        await fetch(up, chaos.url("/b"), spare=True)
        state = up.states()[origin_of(chaos.origin)]
    assert (state.active, state.queued) == (0, 0)
    assert not any("no_spare" in name for name in heard.counts), "that is no trouble of upstream's"


async def test_u12_nobody_is_overtaken_by_a_spare_request(chaos):
    chaos.script("/a", stall(at=0.5))
    chaos.script("/b", ok())
    async with client(
        chaos.origin, max_per_host=9, changed={"connections_per_host": 1, "queue_wait": 5.0}
    ) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 1)
        waiting = asyncio.ensure_future(fetch(up, chaos.url("/b")))
        await asyncio.sleep(0.02)
        await refusal(up, chaos.url("/b"), Busy, "no_spare", spare=True)
        leave.set()
        await asyncio.gather(*tasks, waiting)
