"""Clients that leave, stall, come in numbers, or are still there when we want to stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import time

import aiohttp
import pytest

from artifactproxy.engine.answer import Bytes, Chunks, Tail
from artifactproxy.errors import ConfigError
from artifactproxy.limits import Limits
from artifactproxy.web.access import AccessRules
from artifactproxy.web.connection import parser_name, places, require_aiohttp

from .scripted import Pieces, Rig, chunks, file_body

BIG = os.urandom(1 << 20) * 48  # more than loopback's socket buffers take


async def _until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


async def test_a_client_that_leaves_cancels_its_own_request(rig) -> None:
    gate = asyncio.Event()

    async def script(ask):
        await gate.wait()

    rig.engine.answers["paper/a"] = script
    client = await rig.connect()
    await client.ask("/paper/a")
    await _until(lambda: rig.engine.asked)
    client.close()
    outcome = await rig.watch.last()
    assert (outcome.error, outcome.status, rig.engine.cancelled) == ("client_left", 0, 1)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_frees_its_reader(rig, how) -> None:
    reader = Pieces(b"x" * 1000, asyncio.Event())
    rig.engine.give("paper/a", lambda: Tail(reader, 10_000))
    client = await rig.connect()
    await client.ask("/paper/a")
    await client.head()
    getattr(client, how)()
    outcome = await rig.watch.last()
    assert (outcome.error, reader.closed) == ("client_left", 1)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_in_a_file_frees_it(rig, tmp_path, how) -> None:
    rig.engine.give("paper/a", file_body(tmp_path / "f", BIG))
    client = await rig.connect(receive_buffer=4096)
    await client.ask("/paper/a")
    await client.head()
    getattr(client, how)()
    outcome = await rig.watch.last()
    assert outcome.error == "client_left"
    assert outcome.bytes < len(BIG)


@pytest.mark.parametrize("kind", ["bytes", "file", "tail", "chunks"])
async def test_a_client_that_stops_reading_is_reset(rigs, tmp_path, kind) -> None:
    rig = await rigs(send_stall=0.15)
    make = {
        "bytes": lambda: Bytes(BIG),
        "file": file_body(tmp_path / "f", BIG),
        "tail": lambda: Tail(Pieces(*[BIG[: 1 << 20]] * 48), None),
        "chunks": lambda: Chunks(chunks(*[BIG[: 1 << 20]] * 48), len(BIG)),
    }[kind]
    rig.engine.give("paper/a", make)
    client = await rig.connect(receive_buffer=4096)
    await client.ask("/paper/a")
    outcome = await rig.watch.last()
    assert (outcome.result, outcome.error) == ("error", "client_slow")
    assert outcome.bytes < len(BIG)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    client.close()


async def test_a_slow_but_steady_client_is_not_reset(rigs, tmp_path) -> None:
    """At this pace the server's full socket buffer is not writable again for several stalls."""
    rig = await rigs(send_stall=0.15)
    rig.engine.give("paper/a", file_body(tmp_path / "f", BIG[: 16 << 20]))
    client = await rig.connect(receive_buffer=65536)
    await client.ask("/paper/a")
    await client.head()
    got = len(client.buffer)
    for _ in range(60):
        got += len(await asyncio.get_running_loop().sock_recv(client.sock, 1 << 14))
        await asyncio.sleep(0.02)
    assert rig.watch.outcomes == []
    client.buffer = b""
    await client.exactly((16 << 20) - got)
    client.close()
    assert (await rig.watch.last()).error == ""


async def test_a_pipelining_client_that_does_not_read_stops_being_served(rigs) -> None:
    rig = await rigs(send_stall=0.2)
    rig.engine.give("paper/a", lambda: Bytes(b"x" * 60_000))
    client = await rig.connect(receive_buffer=4096)
    request = b"GET /paper/a HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    sending = asyncio.create_task(client.send(request))
    await _until(lambda: any(outcome.error for outcome in rig.watch.outcomes))
    sending.cancel()
    client.close()
    assert len(rig.engine.asked) < 1000
    assert rig.watch.outcomes[-1].error in ("client_slow", "client_left")


async def test_a_slow_head_is_cut_off(rigs) -> None:
    rig = await rigs(keepalive=0.2)
    client = await rig.connect()
    await client.send(b"GET /paper/a HT")
    got = await client.rest()
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"X-Proxy-Error: head_timeout" in got
    assert (await rig.watch.last()).error == "head_timeout"
    client.close()


async def test_an_idle_connection_ends_without_a_word(rigs) -> None:
    rig = await rigs(keepalive=0.2)
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    fresh, used = await rig.connect(), await rig.connect()
    await used.ask("/paper/a")
    assert (await used.reply()).body == b"x"
    assert (await fresh.rest(), await used.rest()) == (b"", b"")
    assert [outcome.status for outcome in rig.watch.outcomes] == [200]
    fresh.close()
    used.close()


@pytest.mark.parametrize("last", [b"GET /paper/a HTTP/1.0\r\n\r\n", b"BAD\0\r\n\r\n"])
async def test_a_client_that_never_takes_its_last_answer_is_cut_off(rigs, last) -> None:
    rig = await rigs(send_stall=0.3, keepalive=5.0)
    rig.engine.give("paper/a", lambda: Bytes(b"x" * 60_000))
    client = await rig.connect(receive_buffer=4096)
    # As much as the sockets hold, and then a little that stays with us.
    sent = 0
    while not any(c.writing_paused for c in rig.server._repositories.connections) and sent < 300:
        await client.send(b"GET /paper/a HTTP/1.1\r\nHost: x\r\n\r\n")
        sent += 1
        await asyncio.sleep(0.005)
    await client.send(last)
    await _until(lambda: not rig.server._repositories.connections)
    client.close()


def test_places_leave_open_files_for_the_rest() -> None:
    assert places(4096, None) == 4096
    assert places(4096, 1_000_000) == 4096
    assert places(4096, 1000) == 600
    assert places(4096, 1) == 1
    assert places(10, 1000) == 10


async def test_connections_over_the_cap_get_a_503_and_then_nothing(rigs) -> None:
    rig = await rigs(connections=2)
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    held = [await rig.connect() for _ in range(2)]
    for client in held:
        await client.ask("/paper/a")
        assert (await client.reply()).status == 200
    late = await rig.connect()
    await late.ask("/paper/a")
    reply = await late.reply()
    assert (reply.status, reply.headers["x-proxy-error"]) == (503, "connections")
    assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
    crowd = [await rig.connect() for _ in range(30)]
    with pytest.raises((ConnectionResetError, EOFError)):
        await crowd[-1].ask("/paper/a")
        await crowd[-1].reply()
    for client in [*held, late, *crowd]:
        client.close()
    await _until(lambda: not rig.server._repositories.connections)
    assert (await rig.get("/paper/a")).status == 200


async def test_draining(rigs) -> None:
    rig = await rigs()
    gate = asyncio.Event()
    rig.engine.give("paper/a", lambda: Tail(Pieces(b"first", gate, b"last"), 9))
    rig.engine.give("paper/b", lambda: Bytes(b"x"))
    busy, idle, probe = await rig.connect(), await rig.connect(), await rig.connect()
    await busy.ask("/paper/a")
    await busy.head()
    await idle.ask("/paper/b")
    await idle.reply()
    draining = asyncio.create_task(rig.server.drain(notice=0.2, timeout=5))
    await asyncio.sleep(0.05)
    await probe.ask("/readyz")
    unready = await probe.reply()
    assert unready.status == 503
    assert b'"server": "draining"' in unready.body
    assert await idle.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await rig.connect()
    gate.set()
    assert await busy.exactly(9) == b"firstlast"
    await asyncio.wait_for(draining, 20)
    for client in (busy, idle, probe):
        client.close()
    assert [outcome.error for outcome in rig.watch.outcomes if outcome.path == "a"] == [""]


async def test_what_outlasts_the_drain_is_reset(rigs) -> None:
    rig = await rigs()
    reader = Pieces(b"first", asyncio.Event())
    rig.engine.give("paper/a", lambda: Tail(reader, None))
    client = await rig.connect()
    await client.ask("/paper/a")
    await client.head()
    await asyncio.wait_for(rig.server.drain(notice=0, timeout=0.05), 20)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    client.close()
    assert reader.closed == 1
    assert (await rig.watch.last()).result == "error"


async def test_answers_during_a_drain_close_their_connection(rigs) -> None:
    rig = await rigs()
    gate = asyncio.Event()

    async def script(ask):
        await gate.wait()
        raise RuntimeError

    rig.engine.answers["paper/a"] = script
    rig.engine.give("paper/b", lambda: Bytes(b"x"))
    client = await rig.connect()
    await client.ask("/paper/a")
    await client.ask("/paper/b")
    await _until(lambda: rig.engine.asked)
    draining = asyncio.create_task(rig.server.drain(notice=0, timeout=2))
    await asyncio.sleep(0.05)
    gate.set()
    assert (await client.reply()).status == 500
    assert (await client.reply()).headers["connection"] == "close"
    await draining
    client.close()


async def test_an_inherited_socket_is_served(rigs) -> None:
    rig = await rigs()
    sock = socket.create_server(("127.0.0.1", 0))
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    rig.address = await rig.server.start("", 0, inherited=[sock])
    assert rig.address == sock.getsockname()
    assert (await rig.get("/paper/a")).status == 200
    assert rig.watch.notices[-1] == (
        "listening",
        {
            "host": "127.0.0.1",
            "port": rig.address[1],
            "aiohttp": aiohttp.__version__,
            "parser": parser_name(),
        },
    )


async def test_a_port_that_is_taken_is_an_os_error(rig) -> None:
    with pytest.raises(OSError, match="in use"):
        await rig.server.start(*rig.address)


async def test_old_aiohttp_is_refused() -> None:
    require_aiohttp("3.14.5")
    require_aiohttp("4.0.0a1")
    for version in ("3.14.4", "3.9.0b0", "2.99.99"):
        with pytest.raises(ConfigError, match="too old"):
            require_aiohttp(version)


async def test_the_aiohttp_client_sees_a_failure_never_a_short_success(rig) -> None:
    rig.engine.give("paper/known", lambda: Tail(Pieces(b"x" * 10, RuntimeError()), 20))
    rig.engine.give("paper/chunked", lambda: Tail(Pieces(b"x" * 10, RuntimeError()), None))
    rig.engine.give("paper/good", lambda: Tail(Pieces(b"x" * 10), None))
    async with aiohttp.ClientSession() as session:
        for name in ("known", "chunked"):
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"{rig.url}/paper/{name}") as reply:
                    await reply.read()
        async with session.get(f"{rig.url}/paper/good") as reply:
            assert await reply.read() == b"x" * 10


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_curl(rig, tmp_path) -> None:
    rig.engine.give("paper/f", file_body(tmp_path / "f", BIG))
    rig.engine.give("paper/cut", lambda: Tail(Pieces(b"x" * 10, RuntimeError()), None))

    async def curl(path: str) -> tuple[int | None, bytes]:
        run = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--max-time", "20", f"{rig.url}{path}", stdout=-1, stderr=-1
        )
        out, _ = await run.communicate()
        return run.returncode, out

    assert await curl("/paper/f") == (0, BIG)
    code, out = await curl("/paper/cut")
    assert code != 0
    assert out in (b"", b"x" * 10)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
async def test_tls_sends_files_and_resets(rigs, tmp_path) -> None:
    cert, key = tmp_path / "c.pem", tmp_path / "k.pem"
    run = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=localhost", "-days", "2", "-keyout", str(key), "-out", str(cert)),
        stderr=-3,
    )
    assert await run.wait() == 0
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(cert, key)
    rig = await rigs()
    rig = Rig(Limits(), AccessRules(), ssl=server_side)
    await rig.start()
    rig.engine.give("paper/f", file_body(tmp_path / "f", BIG[: 3 << 20]))
    rig.engine.give("paper/cut", lambda: Tail(Pieces(b"x" * 10, RuntimeError()), None))
    base = rig.url.replace("http:", "https:")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with session.get(f"{base}/paper/f") as reply:
            assert await reply.read() == BIG[: 3 << 20]
        assert rig.engine.asked[0].base == f"{base}/paper"
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{base}/paper/cut") as reply:
                await reply.read()
    await rig.server.close()
