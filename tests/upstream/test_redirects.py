"""Redirects are followed by hand: bounded, judged, and with a fresh header set for each hop."""

from __future__ import annotations

import asyncio

import pytest

from artifactproxy.errors import UpstreamBlocked
from artifactproxy.upstream.auth import Basic
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, raw, redirect, status
from tests.upstream.tools import LOOPBACK, client, fetch, refusal


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_followed(chaos, code):
    body = chaos.script("/b", ok())
    chaos.script("/a", redirect("/b?sig=secret", code))
    async with client(chaos.origin) as up:
        head, got = await fetch(up, chaos.url("/a"))
        again, _ = await fetch(up, chaos.url("/b?x=1"))
    assert got == body.bytes()
    assert head.url == chaos.url("/b"), "a signature must not end up in rows and logs"
    assert again.url == chaos.url("/b?x=1")
    assert chaos.requests[1].target == "/b?sig=secret"
    assert chaos.connections == 1, "a redirect must not cost a connection"


async def test_the_page_of_a_redirect_does_not_cost_a_connection(chaos):
    async def behave(exchange):
        await exchange.head(302, {"Location": "/b", "Content-Length": "5000"})
        await asyncio.sleep(0.02)
        await exchange.send(bytes(5000))

    chaos.script("/a", behave)
    body = chaos.script("/b", ok())
    async with client(chaos.origin) as up:
        assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()
    assert chaos.connections == 1


@pytest.mark.parametrize("announced", [5000, 10_000_000])
async def test_a_redirect_whose_page_never_comes(chaos, announced):
    async def behave(exchange):
        await exchange.head(302, {"Location": "/b", "Content-Length": str(announced)})
        await exchange.for_ever()

    chaos.script("/a", behave)
    body = chaos.script("/b", ok())
    async with client(chaos.origin, changed={"idle": 0.05}) as up:
        assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()
    assert chaos.connections == 2


async def test_head_stays_head(chaos):
    chaos.script("/b", ok())
    chaos.script("/a", redirect("/b", 303))
    async with client(chaos.origin) as up:
        head, got = await fetch(up, chaos.url("/a"), method="HEAD")
    assert (head.status, head.length, got) == (200, 100_000, b"")
    assert chaos.hits("/b", "HEAD") == 1


async def test_a_post_is_not_redirected(chaos):
    chaos.script("/a", redirect("/b", 307))
    async with client(chaos.origin) as up:
        head, _ = await fetch(up, chaos.url("/a"), method="POST", body=b"{}")
    assert head.status == 307
    assert chaos.last("/a").body == b"{}"
    assert chaos.hits("/b") == 0


async def test_a_redirect_without_location_is_an_answer(chaos):
    chaos.script("/a", status(302))
    async with client(chaos.origin) as up:
        assert (await fetch(up, chaos.url("/a")))[0].status == 302


@pytest.mark.parametrize(
    "shape",
    [
        {"/a": "/a"},
        {"/a": "/b", "/b": "/a"},
        {"/a": lambda e: f"/a?n={e.number}"},
        {"/a": "/a1", "/a1": "/a2", "/a2": "/a3", "/a3": "/a4", "/a4": "/a5", "/a5": "/a6", "/a6": "/a7"},
    ],
    ids=["self", "a-b-a", "growing query", "six hops"],
)
async def test_u18_loops_and_long_chains(chaos, shape):
    for path, target in shape.items():
        chaos.script(path, redirect(target))
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBlocked, "redirects")
    assert len(chaos.requests) <= 6


async def test_five_hops_are_fine(chaos):
    for n in range(5):
        chaos.script(f"/{n}", redirect(f"/{n + 1}"))
    body = chaos.script("/5", ok())
    async with client(chaos.origin) as up:
        assert (await fetch(up, chaos.url("/0")))[1] == body.bytes()


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{}/x",
        "http://localhost:{}/x",
        "http://[::ffff:127.0.0.1]:{}/x",
        "http://0x7f000001:{}/x",
    ],
)
async def test_u19_no_packet_to_an_internal_address(chaos, location):
    async with Chaos() as inner:
        inner.script("/x", ok())
        chaos.script("/a", redirect(location.format(inner.port)))
        async with client(chaos.origin) as up:
            await refusal(up, chaos.url("/a"), UpstreamBlocked, "blocked_address")
        assert inner.connections == 0


async def test_u20_only_what_describes_the_bytes_crosses(chaos):
    async with Chaos() as other:
        other.script("/b", redirect("/c"))
        other.script("/c", redirect(chaos.url("/d")))
        chaos.script("/a", redirect(other.url("/b")))
        chaos.script("/d", ok())
        async with client(
            chaos.origin, allow_private=LOOPBACK, credentials={chaos.origin: Basic("u", "pässword")}
        ) as up:
            await fetch(
                up,
                chaos.url("/a"),
                headers=(
                    ("Accept", "a/b"),
                    ("Range", "bytes=0-9"),
                    ("If-Range", '"x"'),
                    ("X-Token", "t0ken"),
                    ("Private-Token", "t0ken"),
                    ("Cookie", "s=t0ken"),
                ),
            )
        home, away = chaos.last("/a").headers, other.last("/c").headers
        assert home["authorization"].startswith("Basic ")
        assert home["x-token"] == "t0ken"
        assert set(away) == {"host", "accept", "accept-encoding", "range", "if-range", "user-agent", "via"}
        assert all(b"t0ken" not in seen.raw and b"asic" not in seen.raw for seen in other.requests)
        assert chaos.last("/d").headers["authorization"] == home["authorization"], "back on its own origin"


async def test_a_named_authorization_wins_and_does_not_cross(chaos):
    async with Chaos() as other:
        other.script("/b", ok())
        chaos.script("/a", redirect(other.url("/b")))
        async with client(
            chaos.origin, allow_private=LOOPBACK, credentials={chaos.origin: Basic("u", "p")}
        ) as up:
            await fetch(up, chaos.url("/a"), headers=(("Authorization", "Bearer mine"),))
        assert chaos.last("/a").headers["authorization"] == "Bearer mine"
        assert "authorization" not in other.last("/b").headers


def test_secrets_are_not_shown():
    assert "s3cret" not in repr(Basic("u", "s3cret"))


@pytest.mark.parametrize(
    ("location", "code"),
    [
        (b"/a b", "bad_location"),
        (b"http://good.example\\@127.0.0.1/", "bad_location"),
        (b"http://u:p@good.example/", "bad_location"),
        (b"file:///etc/passwd", "downgrade"),
        (b"http://good.example:22/", "blocked_address"),
    ],
)
async def test_b23_hostile_locations(chaos, location, code):
    chaos.script("/a", raw(b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location))
    async with client(chaos.origin) as up:
        await refusal(up, chaos.url("/a"), UpstreamBlocked, code)


async def test_escapes_and_signatures_arrive_untouched(chaos):
    chaos.script("/x%2fy%7E", ok())
    chaos.script("/a", redirect("/x%2fy%7E?sig=a%2Bb+c%3d%3D&p=%2e%2E"))
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        await fetch(up, chaos.url("/x%2fy%7E?z=%7e"))
    assert chaos.requests[1].target == "/x%2fy%7E?sig=a%2Bb+c%3d%3D&p=%2e%2E"
    assert chaos.requests[2].target == "/x%2fy%7E?z=%7e"
