"""The bad network is bad in the way that was asked for, and good again when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.chaos.tcp import (
    Tcp,
    bandwidth,
    calm,
    cut_after,
    down,
    latency,
    limit_data,
    reset_peer,
    slicer,
    slow_close,
    timeout,
)
from tests.servers import postgres

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Echo:
    """Says its name, then what it is told."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self.heard = bytearray()
        self.blocks: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.name)
        try:
            while data := await reader.read(65536):
                self.heard += data
                self.blocks.append(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(echo: Echo) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()


@asynccontextmanager
async def proxied(echo: Echo | None = None) -> AsyncIterator[Tcp]:
    async with listening(echo or Echo()) as address, Tcp(address) as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, proxy: Tcp) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 10)

    async def hears_nothing(self, seconds: float = 0.2) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), seconds)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)


async def test_calm_water_changes_nothing():
    async with proxied() as proxy:
        client = await Client.to(proxy)
        data = bytes(range(256)) * 4096
        client.writer.write(data)
        assert await asyncio.wait_for(client.reader.readexactly(len(data)), 10) == data
        client.writer.write_eof()
        assert await client.rest() == b""
        assert proxy.links[0].passed == {"up": len(data), "down": len(data)}


async def test_latency_and_its_end():
    loop = asyncio.get_running_loop()
    async with proxied() as proxy:
        client = await Client.to(proxy)
        proxy.toxics = latency(0.3)
        began = loop.time()
        assert await client.ask(b"late") == b"late"
        assert loop.time() - began >= 0.3
        proxy.toxics = latency(3600)
        client.writer.write(b"held")
        assert await client.hears_nothing()
        proxy.toxics = calm()  # what was held comes now
        assert await asyncio.wait_for(client.reader.readexactly(4), 10) == b"held"


async def test_bandwidth_and_slices():
    loop = asyncio.get_running_loop()
    echo = Echo()
    async with proxied(echo) as proxy:
        client = await Client.to(proxy)
        proxy.toxics = bandwidth(20_000, "up")
        began = loop.time()
        assert len(await client.ask(b"x" * 8_000)) == 8_000
        assert loop.time() - began >= 0.3
        proxy.toxics = slicer(3, 0.02, "up")
        echo.blocks.clear()
        assert await client.ask(b"0123456789") == b"0123456789"
        assert [len(block) for block in echo.blocks] == [3, 3, 3, 1]


async def test_a_black_hole_holds_everything_and_gives_it_back():
    async with proxied() as proxy:
        old = await Client.to(proxy)
        assert await old.ask(b"a") == b"a"
        proxy.toxics = timeout()
        old.writer.write(b"b")
        new = await Client.to(proxy)  # accepted
        new.writer.write(b"c")
        assert await old.hears_nothing()
        assert await new.hears_nothing()
        proxy.toxics = calm()
        assert await asyncio.wait_for(old.reader.readexactly(1), 10) == b"b"
        assert await asyncio.wait_for(new.reader.readexactly(1), 10) == b"c"


async def test_resets_hit_all_or_one():
    async with proxied() as proxy:
        one, two = await Client.to(proxy), await Client.to(proxy)
        assert await one.ask(b"a") + await two.ask(b"b") == b"ab"
        proxy.links[0].toxics = reset_peer()
        with pytest.raises(ConnectionResetError):
            await one.rest()
        assert await two.ask(b"b") == b"b"
        proxy.toxics = reset_peer()
        with pytest.raises(ConnectionResetError):
            await two.rest()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await (await Client.to(proxy)).ask(b"c")
        proxy.toxics = calm()
        assert await (await Client.to(proxy)).ask(b"d") == b"d"


async def test_down_refuses_and_comes_back_on_the_same_port():
    async with proxied() as proxy:
        client, port = await Client.to(proxy), proxy.port
        assert await client.ask(b"a") == b"a"
        for _ in range(3):
            proxy.toxics = down()
            with pytest.raises(ConnectionRefusedError):
                await Client.to(proxy)
            proxy.toxics = calm()
            assert await (await Client.to(proxy)).ask(b"b") == b"b"
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert proxy.port == port


async def test_data_end_at_a_limit():
    async with proxied() as proxy:
        proxy.toxics = limit_data(5)
        client = await Client.to(proxy)
        client.writer.write(b"0123456789")
        assert await client.rest() == b"01234"


async def test_the_end_comes_late():
    async with proxied() as proxy:
        client = await Client.to(proxy)
        assert await client.ask(b"a") == b"a"
        proxy.toxics = slow_close(3600)
        client.writer.write_eof()
        assert await client.hears_nothing()
        proxy.toxics = calm()
        assert await client.rest() == b""


async def test_a_connection_is_lost_after_what_it_said():
    echo = Echo()
    async with proxied(echo) as proxy:
        client, other = await Client.to(proxy), await Client.to(proxy)
        proxy.toxics = cut_after(b"COMMIT", 0.05)
        assert await client.ask(b"BEGIN;COM") == b"BEGIN;COM"
        client.writer.write(b"MIT;")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert bytes(echo.heard) == b"BEGIN;COMMIT;"
        assert await other.ask(b"ROLLBACK") == b"ROLLBACK"


async def test_a_switch_leads_elsewhere():
    async with listening(Echo(b"one")) as first, listening(Echo(b"two")) as second, Tcp(first) as proxy:
        client = await Client.to(proxy)
        assert await client.reader.readexactly(3) == b"one"
        proxy.switch(second)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        client = await Client.to(proxy)
        assert await client.reader.readexactly(3) == b"two"
        proxy.switch(first, cut=False)
        assert await client.ask(b"still") == b"still"


async def test_nobody_behind_it():
    async with listening(Echo()) as address:
        pass
    async with Tcp(address) as proxy:
        client = await Client.to(proxy)
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_commit_is_done_and_its_answer_lost():
    server = await asyncio.to_thread(postgres.shared)
    url = server.fresh_database()
    async with Tcp(("127.0.0.1", server.port)) as proxy:
        through = url.replace(f":{server.port}/", f":{proxy.port}/")
        connection = await asyncpg.connect(through, timeout=10)
        await connection.execute("CREATE TABLE t (n int)")
        proxy.toxics = cut_after(b"COMMIT")
        with pytest.raises((OSError, asyncpg.PostgresError)):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (1)")
        direct = await asyncpg.connect(url, timeout=10)
        assert await direct.fetchval("SELECT count(*) FROM t") == 1
        await direct.close()
