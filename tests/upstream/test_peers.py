"""U11 of `ports.Upstream`, and what a process that fills may do wrong: always a `PeerGone`, counted apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from artifactproxy.errors import BrokenPromise, PeerGone, TooLarge
from artifactproxy.model import ArtifactKey, Told, UpstreamHead
from artifactproxy.ports import UpstreamRequest
from artifactproxy.rules import passes
from artifactproxy.rules.peers import HEAD, PATH, WAIT, fill_name, write_fault, write_head
from artifactproxy.upstream.access import RemoteAccess
from artifactproxy.upstream.client import UpstreamClient
from artifactproxy.upstream.peers import PeerClient
from tests.chaos import Chaos
from tests.chaos.behaviours import raw, redirect, silence, slam, status
from tests.chaos.server import Behaviour
from tests.upstream.tools import FAST, Recorder

KEY = ArtifactKey("files", "a.bin", "v")
NOW = 1_700_000_000.0
UPSTREAM = "http://upstream.example/a.bin"
SIZE = 300_000


@asynccontextmanager
async def client(observer: object = None, **options: float) -> AsyncIterator[UpstreamClient]:
    peers = PeerClient("s", clock=lambda: NOW, observer=observer, **{"connect": 1.0, "hold": 0.2, **options})
    accesses = {"r": RemoteAccess(origins=("http://upstream.example",), limits=FAST)}
    up = UpstreamClient(accesses, clock=lambda: NOW, peers=peers, observer=observer)
    try:
        yield up
    finally:
        await up.close()


def told(**over: object) -> str:
    fields = {"status": 200, "headers": {"etag": '"x"'}, "length": SIZE, "framed": True, "url": UPSTREAM}
    return write_head(UpstreamHead(**{**fields, **over}), Told("f1"))


def holder(word: str, *, size: int = SIZE, stop: int | None = None, chunked: bool = False) -> Behaviour:
    """A process that tells this and sends its bytes, up to `stop`."""

    async def behave(exchange) -> None:
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        await exchange.head(200, {HEAD: word, **framing})
        body = exchange.body.slice(0, size if stop is None else stop)
        await exchange.send(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
        if stop is not None:
            exchange.hang_up()
        if chunked:
            await exchange.send(b"0\r\n\r\n")

    return behave


def asked(peer: str, **more: object) -> UpstreamRequest:
    return UpstreamRequest("r", UPSTREAM, peer=peer, key=KEY, **more)


async def read(up: UpstreamClient, request: UpstreamRequest) -> tuple[UpstreamHead, bytes]:
    async with up.open(request) as reply:
        return reply.head, b"".join([chunk async for chunk in reply.chunks()])


@pytest.mark.parametrize("chunked", [False, True])
async def test_port_u11_head_and_url_are_upstreams_and_nothing_else_is_asked(
    chaos: Chaos, chunked: bool
) -> None:
    length = None if chunked else SIZE
    body = chaos.script(PATH, holder(told(length=length), chunked=chunked), size=SIZE)
    left: list[bool] = []
    async with client() as up:
        head, got = await read(up, asked(chaos.origin, on_leave=lambda: left.append(True)))
        assert up.states() == {}
    assert (head.status, head.url, head.headers, head.length) == (200, UPSTREAM, {"etag": '"x"'}, length)
    assert head.told == Told("f1")
    assert got == body.bytes()
    assert left == [True]
    (seen,) = chaos.requests
    name = fill_name(KEY)
    assert seen.target == f"{PATH}?key={name}"
    assert passes.holds("s", seen.headers[passes.HEADER.lower()], "GET", name, NOW)
    assert set(seen.headers) == {"host", passes.HEADER.lower()}


async def test_port_u11_the_address_may_name_a_worker(chaos: Chaos) -> None:
    chaos.script(PATH, holder(told()), size=SIZE)
    async with client() as up:
        await read(up, asked(f"{chaos.origin}?worker=3"))
    assert chaos.requests[0].target == f"{PATH}?worker=3&key={fill_name(KEY)}"


async def test_port_u11_a_fault_that_is_passed_on_is_raised(chaos: Chaos) -> None:
    chaos.script(PATH, holder(write_fault(BrokenPromise("other bytes")), size=0))
    async with client() as up:
        with pytest.raises(BrokenPromise, match="other bytes"):
            await read(up, asked(chaos.origin))
        assert up.states() == {}


async def test_port_u11_who_waits_itself_is_asked_again(chaos: Chaos) -> None:
    word = write_head(UpstreamHead(200, {}, SIZE, True, UPSTREAM), Told("f1", ended=True))
    body = chaos.script(PATH, *[holder(WAIT, size=0)] * 3, holder(word), size=SIZE)
    async with client() as up:
        head, got = await read(up, asked(chaos.origin))
    assert got == body.bytes()
    assert head.told is not None
    assert not head.told.ended, "it had not when we first asked"
    assert len(chaos.requests) == 4


WRONG = {
    "refused": (status(403), "x"),
    "gone": (status(404), "x"),
    "broken": (status(500), "x"),
    "away": (redirect("http://127.0.0.1:1/"), "x"),
    "mute": (silence(), "x"),
    "slammed": (slam(), "x"),
    "garbage": (raw(b"\x00\x01 not HTTP\r\n\r\n"), "x"),
    "wordless": (holder("", size=0), "x"),
    "babble": (holder('{"v": 1, "kind": "head"}', size=0), "x"),
    "endless word": (holder("x" * 100_000, size=0), "x"),
}


@pytest.mark.parametrize("how", sorted(WRONG))
async def test_port_u11_a_bad_peer_is_gone_and_never_upstreams_fault(chaos: Chaos, how: str) -> None:
    heard = Recorder()
    chaos.script(PATH, WRONG[how][0])
    async with client(heard) as up:
        async with asyncio.timeout(20):
            with pytest.raises(PeerGone):
                await read(up, asked(chaos.origin))
        assert up.states() == {}
    assert (heard.counts, heard.warnings) == ({"peer_errors:": 1}, [])


@pytest.mark.parametrize("chunked", [False, True])
async def test_port_u11_a_body_that_ends_early_is_a_peer_that_is_gone(chaos: Chaos, chunked: bool) -> None:
    word = told(length=None) if chunked else told()
    body = chaos.script(PATH, holder(word, stop=SIZE // 2, chunked=chunked), size=SIZE)
    got = bytearray()
    async with client() as up:
        with pytest.raises(PeerGone):
            async with up.open(asked(chaos.origin)) as reply:
                async for chunk in reply.chunks():
                    got += chunk
    assert body.bytes().startswith(got)


async def test_port_u6_those_who_come_first_together_share_one_session(chaos: Chaos) -> None:
    chaos.script(PATH, holder(told()), size=SIZE)
    peers = PeerClient("s", clock=lambda: NOW)
    made: list[object] = []
    make = peers._session

    def count(*where: object) -> object:
        made.append(where)
        return make(*where)

    peers._session = count
    up = UpstreamClient({"r": RemoteAccess(origins=(UPSTREAM,), limits=FAST)}, clock=lambda: NOW, peers=peers)
    await asyncio.gather(*(read(up, asked(chaos.origin)) for _ in range(5)))
    await up.close()
    assert len(made) == 1, "one that is forgotten is never closed"


async def test_u2_a_peers_body_is_bounded_too(chaos: Chaos) -> None:
    chaos.script(PATH, holder(told()), size=SIZE)
    async with client() as up:
        with pytest.raises(TooLarge):
            await read(up, asked(chaos.origin, max_bytes=SIZE - 1))


@pytest.mark.parametrize(
    "peer",
    ["unix:relative", "file:///etc/passwd", "ftp://a.example", "//a", "http://", "unix:/a?b", "http://[x"],
)
async def test_port_u11_only_addresses_of_processes_are_asked(peer: str) -> None:
    async with client() as up:
        with pytest.raises(PeerGone):
            await read(up, asked(peer))


async def test_port_u11_nobody_there(tmp_path) -> None:
    async with client() as up:
        for peer in (
            "http://127.0.0.1:1",
            f"unix:{tmp_path}/none.sock",
            f"unix:{tmp_path}/{'x' * 120}/none.sock",
        ):
            with pytest.raises(PeerGone):
                await read(up, asked(peer))


async def test_port_u11_without_peers_nobody_is_asked(chaos: Chaos) -> None:
    accesses = {"r": RemoteAccess(origins=("http://upstream.example",), limits=FAST)}
    up = UpstreamClient(accesses, clock=lambda: NOW)
    with pytest.raises(PeerGone):
        await read(up, asked(chaos.origin))
    await up.close()
    assert chaos.requests == []
