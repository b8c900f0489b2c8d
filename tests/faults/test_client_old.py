"""Clients of HTTP/1.0: they know no chunks, so a cut body must be told by its length."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import cut, ok, raw, status
from tests.house_proxy import proxied

from .clients import counted, dial, held, logged, said, target, until, waits, well

BIG = 80_000_000  # more than is ever kept aside for an answer that is only passed on


def _parts(got: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = got.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    return {"": line, **{f.partition(": ")[0].lower(): f.partition(": ")[2] for f in fields}}, body


@pytest.mark.parametrize("size", [1000, 300_000, BIG], ids=["small", "middle", "large"])
async def test_c23_a_body_of_unknown_length_gets_one(tmp_path: Path, chaos: Chaos, size: int) -> None:
    body = chaos.script("/f.bin", ok(chunked=True), size=size)
    async with proxied(tmp_path, chaos.origin) as proxy:
        for source in ("remote", "cache"):
            client = await dial(proxy.base)
            await client.send(target("/files/f.bin", version="1.0"))
            reply = await client.head()
            assert (reply.status, reply.headers["content-length"]) == (200, str(size))
            assert "transfer-encoding" not in reply.headers
            assert (reply.headers["connection"], reply.headers["x-artifact-source"]) == ("close", source)
            sent, left = hashlib.sha256(client.buffer), size - len(client.buffer)
            client.buffer = b""
            while left:
                piece = await client.more()
                assert piece
                client.buffer = b""
                sent.update(piece)
                left -= len(piece)
            assert sent.hexdigest() == body.sha256
            assert await client.rest() == b""
            client.close()
            await proxy.settled()
        assert chaos.wholes("/f.bin") == 1
        assert held(proxy) == {"f.bin"}
        await well(proxy, chaos)


@pytest.mark.parametrize("size", [1000, 3_000_000], ids=["small", "large"])
async def test_c23_a_cut_body_is_an_error_before_the_first_byte(
    tmp_path: Path, chaos: Chaos, size: int
) -> None:
    chaos.script("/f.bin", cut(0.6, chunked=True, ranges=False, validators=False), size=size)
    async with proxied(tmp_path, chaos.origin, "resumes: 0\nretries: 0") as proxy:
        fields, _ = _parts(await said(proxy.base, target("/files/f.bin", version="1.0")))
        assert fields[""].startswith("HTTP/1.1 502 ")
        assert fields["x-proxy-error"] == "short_body"
        await logged(proxy, event="request", status=502, error="short_body")
        assert await counted(proxy, "requests", repo="files", result="error", status="5xx") == 1
        assert held(proxy) == set()
        assert proxy.blobs() == []
        await well(proxy, chaos)


async def test_c23_a_known_length_that_is_not_reached_is_visible(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", cut(0.6, ranges=False, validators=False), size=3_000_000)
    async with proxied(tmp_path, chaos.origin, "resumes: 0\nretries: 0") as proxy:
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin", version="1.0"))
        head = await client.head()
        assert int(head.headers["content-length"]) == body.size
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert len(client.buffer) < body.size
        client.close()
        assert held(proxy) == set()
        await well(proxy, chaos)


async def test_c23_what_is_only_passed_on_gets_a_length_too(tmp_path: Path, chaos: Chaos) -> None:
    words = b'{"objects": []}' * 1000
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunked += b"%x\r\n%b\r\n" % (len(words), words)
    chaos.script("/-/v1/search", raw(chunked + b"0\r\n\r\n"), raw(chunked))
    remotes = f"npm:\n  provider: npm\n  upstream: {chaos.origin}/\n"
    async with proxied(tmp_path, chaos.origin, remotes=remotes) as proxy:
        ask = target("/npm/-/v1/search?text=a", version="1.0")
        fields, body = _parts(await said(proxy.base, ask))
        assert (fields["content-length"], body) == (str(len(words)), words)
        fields, body = _parts(await said(proxy.base, ask))
        assert fields[""].startswith("HTTP/1.1 502 ")
        assert words not in body
        assert held(proxy) == set()
        await well(proxy, chaos)


async def test_c23_keep_alive_is_granted_where_it_is_asked_for(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(chunked=True), size=100_000)
    chaos.script("/none.bin", status(404))
    async with proxied(tmp_path, chaos.origin) as proxy:
        client = await dial(proxy.base)
        for path, code in (("f", 200), ("f", 200), ("none", 404), ("f", 200)):
            await client.send(target(f"/files/{path}.bin", "Connection: keep-alive", version="1.0"))
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (code, "keep-alive")
            assert code != 200 or reply.body == body.bytes()
        await client.send(target("/files/f.bin", version="1.0"))
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.rest() == b""
        client.close()
        await well(proxy, chaos)


async def test_c23_who_waits_for_a_length_may_leave(tmp_path: Path, chaos: Chaos) -> None:
    word = asyncio.Event()
    body = chaos.script("/f.bin", waits(word, 1_000_000, chunked=True), size=3_000_000)
    async with proxied(tmp_path, chaos.origin, "idle: 20s") as proxy:
        client = await dial(proxy.base)
        await client.send(target("/files/f.bin", version="1.0"))
        await until(lambda: proxy.engine.states()["temp_bytes"] >= 1_000_000)
        client.reset()
        await until(lambda: proxy.engine.states()["readers"] == 0)
        await logged(proxy, event="request", error="client_left")
        word.set()
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await well(proxy, chaos)
