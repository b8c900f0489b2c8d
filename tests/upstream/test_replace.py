"""Remotes that change while the program runs: new ways for new requests, the old ones to their end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from artifactproxy.errors import UpstreamBroken, UpstreamUnreachable
from artifactproxy.ports import UpstreamRequest
from artifactproxy.upstream.access import RemoteAccess
from artifactproxy.upstream.auth import Bearer
from tests.chaos import Chaos
from tests.chaos import behaviours as does
from tests.chaos.certs import Authority
from tests.upstream.tools import FAST, client, fetch

SIZE = 400_000


async def test_a_transfer_goes_on_over_its_connection(chaos: Chaos) -> None:
    body = chaos.script("/f.bin", does.slow(2_000_000), size=SIZE)
    async with client(chaos.origin) as upstream:
        async with upstream.open(UpstreamRequest("r", chaos.url("/f.bin"))) as reply:
            got = b""
            upstream.replace({})
            assert upstream._sessions._retired
            async for chunk in reply.chunks():
                got += chunk
                upstream.replace({})
                upstream.replace({"r": RemoteAccess(("https://elsewhere.example",), limits=FAST)})
            assert got == body.bytes()
        upstream.replace({})
        async with asyncio.timeout(20):
            while upstream._sessions._closing:
                await asyncio.sleep(0)
        assert upstream._sessions._retired == []


async def test_new_requests_take_the_new_way(chaos: Chaos) -> None:
    chaos.script("/f.bin", does.ok(), size=10)
    async with client(chaos.origin) as upstream:
        await fetch(upstream, chaos.url("/f.bin"))
        access = RemoteAccess((chaos.origin,), limits=FAST, credentials={chaos.origin: Bearer("new")})
        upstream.replace({"r": access, "s": replace(access, credentials={})})
        await fetch(upstream, chaos.url("/f.bin"))
        assert [seen.headers.get("authorization") for seen in chaos.requests] == [None, "Bearer new"]
        async with upstream.open(UpstreamRequest("s", chaos.url("/f.bin"))) as reply:
            assert reply.head.status == 200


async def test_a_file_of_authorities_is_read_anew(tmp_path) -> None:
    old, new = (Authority.make(tmp_path, name) for name in ("old", "new"))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(old.pem.read_bytes())
    async with Chaos(tls=new.server("IP:127.0.0.1")) as chaos:
        chaos.script("/f.bin", does.ok(), size=10)
        async with client(chaos.origin, ca=str(ca)) as upstream:
            with pytest.raises((UpstreamBroken, UpstreamUnreachable)):
                await fetch(upstream, chaos.url("/f.bin"))
            ca.write_bytes(new.pem.read_bytes())
            upstream.replace({})
            assert (await fetch(upstream, chaos.url("/f.bin")))[0].status == 200
