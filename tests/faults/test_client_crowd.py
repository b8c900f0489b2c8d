"""Clients in numbers: more connections than there are places, more requests than are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok
from tests.house_proxy import configuration, proxied
from tests.program import started
from tests.web.scripted import Client

from .clients import counted, dial, logged, number, target, until, well

PLACES = 20
QUEUE = 32  # requests of one connection that aiohttp parses ahead


@asynccontextmanager
async def _many(base: str, count: int) -> AsyncIterator[list[Client]]:
    clients: list[Client] = []
    try:
        for _ in range(count):
            with contextlib.suppress(ConnectionResetError):  # turned away before it could ask
                clients.append(await dial(base))
        yield clients
    finally:
        for client in clients:
            client.reset()


async def _fate(client: Client) -> int:
    """The status that a connection gets for a request, 0 if it is ended without one."""
    try:
        await client.send(target("/files/f.bin"))
        reply = await client.reply()
    except (OSError, EOFError):
        return 0
    if reply.status == 503:
        assert reply.headers["x-proxy-error"] == "connections"
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["connection"] == "close"
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""
    return reply.status


async def test_c03_connections_above_the_cap(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=100_000)
    top = f"limits: {{connections: {PLACES}}}"
    async with proxied(tmp_path, chaos.origin, top=top) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        await until(lambda: not proxy.server._repositories.connections)
        async with _many(proxy.base, PLACES) as early:
            assert {await _fate(client) for client in early} == {200}
            async with _many(proxy.base, 60) as late:
                fates = await asyncio.gather(*(_fate(client) for client in late))
                assert set(fates) == {503, 0}
                # Those that have a place go on as if nothing was.
                for client in early:
                    await client.send(target("/files/f.bin"))
                    assert (await client.reply()).body == body.bytes()
                await early[0].send(target("/metrics"))
                metrics = (await early[0].reply()).body.decode()
        assert number(metrics, "rejected", reason="connections") == 60
        assert number(metrics, "connections") >= PLACES
        assert number(metrics, "warnings", event="connections_full") == 1
        assert (await logged(proxy, warning="connections_full"))["connections"] == PLACES
        assert (await logged(proxy, event="request", error="connections"))["status"] == 503
        await until(lambda: not proxy.server._repositories.connections)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await well(proxy, chaos)


async def test_c03_every_crowd_is_told_of_once(tmp_path: Path, chaos: Chaos) -> None:
    top = f"limits: {{connections: {PLACES}}}"
    async with proxied(tmp_path, chaos.origin, top=top) as proxy:
        for number_of in (1, 2):
            async with _many(proxy.base, PLACES + 10):
                await until(lambda: len(proxy.server._repositories.connections) == PLACES + 10)
            await until(lambda: not proxy.server._repositories.connections)
            assert await counted(proxy, "warnings", event="connections_full") == number_of
        await well(proxy, chaos)


def _lines(folder: Path, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return [line for line in lines if event in (line["event"], line.get("warning"))]


async def test_c03_the_cap_leaves_open_files_for_the_rest(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=100_000)
    configuration(tmp_path, chaos.origin)
    async with started(tmp_path, open_files=(160, 160)) as (_, base):
        async with _many(base, 96) as early:
            assert {await _fate(client) for client in early} == {200}
            async with _many(base, 200) as late:
                fates = await asyncio.gather(*(_fate(client) for client in late))
                assert set(fates) == {503, 0}
                other = chaos.script("/other.bin", ok(), size=1_000_000)
                await early[0].send(target("/files/other.bin"))
                assert (await early[0].reply()).body == other.bytes()
                await early[1].send(target("/files/f.bin"))
                assert (await early[1].reply()).body == body.bytes()
        await until(lambda: _lines(tmp_path, "connections_lowered"))
        (line,) = _lines(tmp_path, "connections_lowered")
        assert (line["wanted"], line["connections"], line["open_files"]) == (4096, 96, 160)
        for _ in range(1_000):  # until the server has seen that the others left
            fresh = await dial(base)
            fate = await _fate(fresh)
            fresh.close()
            if fate == 200:
                break
            await asyncio.sleep(0.05)
        assert fate == 200
    assert chaos.hits("/f.bin") == 1


async def test_c03_a_low_soft_limit_is_raised(tmp_path: Path, chaos: Chaos) -> None:
    """Many shells and containers start programs with 1,024 although the system allows far more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10_000:
        pytest.skip("this machine allows fewer than 10,000 open files")
    configuration(tmp_path, chaos.origin)
    async with started(tmp_path, open_files=(1024, hard)) as (process, base):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
        assert int(line.split()[3]) * 0.6 >= 4096
        client = await dial(base)
        await client.send(target("/livez"))
        assert (await client.reply()).status == 200
        client.close()
        await until(lambda: _lines(tmp_path, "listening"))
        assert _lines(tmp_path, "connections_lowered") == []


# --- pipelining ---


async def _pipelined(base: str, bodies: list[Oracle], count: int, stop: int) -> int:
    """Ask for all in one go; read `stop` answers and hang up. Returns how many were right."""
    client = await dial(base)
    wanted = [bodies[n % len(bodies)] for n in range(count)]
    asked = b"".join(target(f"/files{body.name}") for body in wanted)
    sending = asyncio.create_task(client.send(asked))
    for body in wanted[:stop]:
        reply = await client.reply()
        assert (reply.status, reply.body) == (200, body.bytes())
    if stop == count:
        await sending
        assert client.buffer == b""
    client.reset()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        sending.cancel()
        await sending
    return stop


async def test_c22_a_thousand_pipelined_requests(tmp_path: Path, chaos: Chaos) -> None:
    sizes = {"/a.bin": 10, "/b.bin": 700, "/c.bin": 70_000}
    bodies = [chaos.script(name, ok(), size=size) for name, size in sizes.items()]
    async with proxied(tmp_path, chaos.origin) as proxy:
        for body in bodies:
            await proxy.get(f"/files{body.name}")
        await proxy.settled()
        await until(lambda: not proxy.server._repositories.connections)
        most = {"parsed": 0, "unsent": 0}

        async def watch() -> None:
            while True:
                for connection in proxy.server._repositories.open_connections():
                    most["parsed"] = max(most["parsed"], len(connection._messages))
                    transport = connection.transport
                    unsent = transport.get_write_buffer_size() if transport is not None else 0
                    most["unsent"] = max(most["unsent"], unsent)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        stops = [1000, 1, 1000, 333, 1000, 900]
        done = await asyncio.gather(*(_pipelined(proxy.base, bodies, 1000, stop) for stop in stops))
        watching.cancel()
        assert done == stops
        # What a client may pile up here: a few parsed requests, and little more than one answer
        # beside what the kernel holds.
        assert 1 < most["parsed"] <= QUEUE
        assert most["unsent"] < 4 * max(sizes.values())
        await until(lambda: not proxy.server._repositories.connections)
        assert await counted(proxy, "client_aborts", reason="client_left") <= 3
        lines = [line for line in proxy.log_lines() if line["event"] == "request"]
        assert len(lines) < 6 * 1000, "requests of those who had left were worked off"
        assert len(chaos.requests) == 3
        await well(proxy, chaos)


async def test_c22_pipelining_without_reading_is_bounded(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=60_000)
    async with proxied(tmp_path, chaos.origin, top="limits: {send_stall: 400ms}") as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        client = await dial(proxy.base, receive_buffer=4096)
        sending = asyncio.create_task(client.send(target("/files/f.bin") * 1000))
        line = await logged(proxy, event="request", error="client_slow")
        assert line["result"] == "error"
        answered = [line for line in proxy.log_lines() if line["event"] == "request"]
        assert len(answered) < 500
        sending.cancel()
        client.close()
        assert await counted(proxy, "client_aborts", reason="client_slow") == 1
        await until(lambda: not proxy.server._repositories.connections)
        await well(proxy, chaos)
