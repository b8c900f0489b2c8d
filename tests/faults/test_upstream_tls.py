"""U31: certificates and protocols that cannot be trusted, each in the place of one that could."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.chaos.certs import Authority
from tests.faults.watch import Watch, watched


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def contexts(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ssl.SSLContext]:
    names = ("localhost", "IP:127.0.0.1")
    stranger = Authority.make(tmp_path_factory.mktemp("stranger"), "stranger")
    found = {
        "good": authority.server(*names),
        "expired": authority.server(*names, expired=True),
        "wrong name": authority.server("other.example"),
        "unknown authority": stranger.server(*names),
    }
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = authority.server(*names)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        found[version.name] = context
    return found


@pytest.fixture
async def watch(
    tmp_path: Path, authority: Authority, contexts: dict[str, ssl.SSLContext]
) -> AsyncIterator[Watch]:
    async with Chaos(tls=contexts["good"]) as chaos:
        remote = f"egress: {{ca: {authority.pem}}}"
        async with watched(tmp_path, chaos, extra="connect: 500ms", remote=remote) as running:
            yield running


async def become(chaos: Chaos, context: ssl.SSLContext) -> None:
    """The same address, with another certificate."""
    port = chaos.port
    await chaos.stop()
    chaos.tls = context
    await chaos.start(port)


BAD = ["expired", "wrong name", "unknown authority", "TLSv1", "TLSv1_1"]


@pytest.mark.parametrize("fault", BAD)
async def test_u31_what_cannot_be_trusted_is_not_used(
    watch: Watch, contexts: dict[str, ssl.SSLContext], fault: str
) -> None:
    await become(watch.chaos, contexts[fault])
    sent = len(watch.chaos.requests)
    got = await watch.refused("/files/f.bin", 502, "tls")
    assert f"127.0.0.1:{watch.chaos.port}".encode() in (got.body or b"")
    await watch.is_kept()
    await watch.is_stale()
    assert len(watch.chaos.requests) == sent, "no request went over it, not even once"
    assert await watch.errors("tls") == 2, "and it was not tried again"
    await become(watch.chaos, contexts["good"])
    await watch.next_is_right()


@contextlib.asynccontextmanager
async def listener(port: int, answer: bytes) -> AsyncIterator[None]:
    """Accepts, answers without TLS (or not at all), and keeps the connection."""
    held: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        writer.write(answer)
        with contextlib.suppress(OSError):
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    yield
    server.close()
    for writer in held:
        writer.transport.abort()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"], ids=["stall", "plain"]
)
async def test_u31_no_handshake_no_fallback(watch: Watch, answer: bytes) -> None:
    port = watch.chaos.port
    await watch.chaos.stop()
    async with listener(port, answer):
        started = time.monotonic()
        if answer:
            await watch.refused("/files/f.bin", 502, "tls")
        else:
            await watch.refused("/files/f.bin", 504, "connect_timeout")
        assert time.monotonic() - started < 3
        await watch.is_kept()
        await watch.is_stale()
    await watch.chaos.start(port)
    await watch.next_is_right()


async def test_u31_the_good_one_works(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", ok(), size=100_000)
    assert (await watch.proxy.get("/files/f.bin")).body == body.bytes()
    assert await watch.errors("tls") == 0
