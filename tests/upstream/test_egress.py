"""The ways out: a forward proxy, a private certificate authority, and what is trusted."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

import aiohttp
import pytest

from artifactproxy.errors import (
    ConfigError,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from artifactproxy.upstream.auth import Bearer
from tests.chaos import Chaos
from tests.chaos import behaviours as does
from tests.chaos.certs import Authority
from tests.chaos.forward import Forward
from tests.upstream.tools import LOOPBACK, client, fetch, refusal


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def trusted(authority) -> ssl.SSLContext:
    return authority.server("IP:127.0.0.1", "files.example")


async def loopback(host: str, port: int, family: int) -> list[str]:
    return ["127.0.0.1"]


async def test_http_through_the_proxy(chaos):
    body = chaos.script("/a%2Fb", does.ok())
    async with Forward() as forward, client(chaos.origin, egress=forward.url) as up:
        assert (await fetch(up, chaos.url("/a%2Fb?x=%2B")))[1] == body.bytes()
        assert forward.counts.targets == [chaos.url("/a%2Fb?x=%2B")]
        assert forward.counts.bytes_down > body.size
    assert chaos.last("/a%2Fb").target == "/a%2Fb?x=%2B"


async def test_https_through_the_proxy_is_a_tunnel(trusted, authority):
    async with Chaos(tls=trusted) as chaos, Forward() as forward:
        body = chaos.script("/a", does.ok())
        async with client(
            chaos.origin,
            egress=forward.url,
            ca=str(authority.pem),
            credentials={chaos.origin: Bearer("s3cret")},
        ) as up:
            for _ in range(3):
                assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()
        assert (forward.counts.connects, forward.counts.requests) == (1, 0)
        assert forward.counts.targets == [f"127.0.0.1:{chaos.port}"]
        assert chaos.last("/a").headers["authorization"] == "Bearer s3cret"


async def test_the_proxy_resolves_names_that_we_cannot(chaos):
    chaos.script("/a", does.ok())

    async def nothing(host: str, port: int, family: int) -> list[str]:
        raise OSError("no such name")

    url = f"http://inside.example:{chaos.port}/a"
    async with Forward(resolve={"inside.example": "127.0.0.1"}) as forward:
        async with client("http://inside.example", egress=forward.url, lookup=nothing) as up:
            assert (await fetch(up, url))[0].status == 200


async def test_behind_a_proxy_names_and_literals_are_still_judged(chaos):
    chaos.script("/a", does.redirect("http://169.254.169.254/latest"))
    chaos.script("/b", does.redirect("http://localhost:8080/"))
    async with Forward() as forward, client(chaos.origin, egress=forward.url) as up:
        for path in ("/a", "/b"):
            await refusal(up, chaos.url(path), UpstreamBlocked, "blocked_address")
        assert len(forward.counts.targets) == 2


@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.0.0.0/8", "*"])
async def test_no_proxy(chaos, pattern):
    chaos.script("/a", does.ok())
    async with Forward() as forward, client(chaos.origin, egress=forward.url, no_proxy=(pattern,)) as up:
        await fetch(up, chaos.url("/a"))
        assert forward.counts.targets == []


@pytest.mark.parametrize(("pattern", "direct"), [(".example", True), ("*.example", True), (".other", False)])
async def test_no_proxy_suffixes(chaos, pattern, direct):
    chaos.script("/a", does.ok())
    url = f"http://files.example:{chaos.port}/a"
    async with Forward(resolve={"files.example": "127.0.0.1"}) as forward:
        async with client(
            f"http://files.example:{chaos.port}", egress=forward.url, no_proxy=(pattern,), lookup=loopback
        ) as up:
            await fetch(up, url)
        assert bool(forward.counts.targets) is not direct


async def test_a_direct_host_beside_a_proxy_is_guarded(chaos):
    chaos.script("/a", does.redirect(f"http://files.example:{chaos.port}/b"))
    async with Forward() as forward:
        async with client(
            chaos.origin, egress=forward.url, no_proxy=("files.example",), lookup=loopback
        ) as up:
            await refusal(up, chaos.url("/a"), UpstreamBlocked, "blocked_address")
    assert chaos.hits("/b") == 0


async def test_a_stopped_proxy(chaos):
    chaos.script("/a", does.ok())
    async with Forward() as forward:
        url = forward.url.replace("http://", "http://user:s3cret@")
    async with client(chaos.origin, egress=url) as up:
        fault = await refusal(up, chaos.url("/a"), UpstreamUnreachable, "upstream_refused")
    assert "egress proxy" in fault.detail
    assert "s3cret" not in fault.detail
    assert chaos.requests == [], "it is never gone around"


async def test_proxy_credentials(chaos, trusted, authority):
    chaos.script("/a", does.ok())
    async with Forward(authorization="Basic dTpw") as forward, Chaos(tls=trusted) as secure:
        secure.script("/a", does.ok())
        known = forward.url.replace("http://", "http://u:p@")
        async with client(chaos.origin, secure.origin, egress=known, ca=str(authority.pem)) as up:
            assert (await fetch(up, chaos.url("/a")))[0].status == 200
            assert (await fetch(up, secure.url("/a")))[0].status == 200
        assert "proxy-authorization" not in chaos.last("/a").headers
        assert "proxy-authorization" not in secure.last("/a").headers
        async with client(secure.origin, egress=forward.url, ca=str(authority.pem)) as up:
            await refusal(up, secure.url("/a"), UpstreamUnreachable, "upstream_refused")


async def test_the_environment_is_ignored(chaos, monkeypatch):
    chaos.script("/a", does.ok())
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with client(chaos.origin) as up:
        assert (await fetch(up, chaos.url("/a")))[0].status == 200


async def test_the_forward_proxy_runs_by_itself(chaos):
    chaos.script("/a", does.ok(), size=1000)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.forward", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        async with client(chaos.origin, egress=f"http://127.0.0.1:{port}") as up:
            await fetch(up, chaos.url("/a"))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/__counts") as response:
                counts = json.loads(await response.read())
    finally:
        process.terminate()
        await process.wait()
    assert counts["requests"] == 1
    assert counts["bytes_down"] > 1000


async def test_a_private_ca(trusted, authority):
    async with Chaos(tls=trusted) as chaos:
        body = chaos.script("/a", does.ok(), size=1_000_000)
        async with client(chaos.origin, ca=str(authority.pem)) as up:
            for _ in range(2):
                assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()
        assert chaos.connections == 1
        async with client(chaos.origin) as up:
            await refusal(up, chaos.url("/a"), UpstreamBroken, "tls")


async def test_an_unreadable_ca_is_a_configuration_error(chaos, tmp_path):
    (tmp_path / "junk.pem").write_text("junk")
    for path in (tmp_path / "junk.pem", tmp_path / "missing.pem"):
        async with client(chaos.origin, ca=str(path)) as up:
            with pytest.raises(ConfigError):
                await fetch(up, chaos.url("/a"))


async def test_u31_bad_certificates(authority, tmp_path):
    other = Authority.make(tmp_path, "other")
    contexts = {
        "expired": authority.server("IP:127.0.0.1", expired=True),
        "wrong name": authority.server("other.example"),
        "unknown authority": other.server("IP:127.0.0.1"),
        "old protocol": authority.server("IP:127.0.0.1"),
    }
    contexts["old protocol"].maximum_version = ssl.TLSVersion.TLSv1_1
    for name, context in contexts.items():
        async with Chaos(tls=context) as chaos:
            chaos.script("/a", does.ok())
            async with client(chaos.origin, ca=str(authority.pem)) as up:
                fault = await refusal(up, chaos.url("/a"), UpstreamBroken, "tls")
            assert chaos.requests == [], name
            assert "127.0.0.1" in fault.detail


async def test_u31_tls_to_a_plain_port(authority):
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with client(origin, ca=str(authority.pem)) as up:
            await refusal(up, origin + "/a", UpstreamBroken, "tls")


async def test_u31_a_handshake_that_stalls(authority):
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with client(origin, ca=str(authority.pem), changed={"connect": 0.2}) as up:
            await refusal(up, origin + "/a", UpstreamSlow, "connect_timeout")


async def test_u21_no_downgrade(trusted, authority, chaos):
    chaos.script("/b", does.ok())
    async with Chaos(tls=trusted) as secure:
        secure.script("/a", does.redirect(chaos.url("/b")))
        async with client(secure.origin, chaos.origin, ca=str(authority.pem)) as up:
            await refusal(up, secure.url("/a"), UpstreamBlocked, "downgrade")
    assert chaos.connections == 0


async def test_an_upgrade_is_fine(trusted, authority, chaos):
    async with Chaos(tls=trusted) as secure:
        body = secure.script("/b", does.ok())
        chaos.script("/a", does.redirect(secure.url("/b")))
        async with client(chaos.origin, ca=str(authority.pem), allow_private=LOOPBACK) as up:
            assert (await fetch(up, chaos.url("/a")))[1] == body.bytes()


async def test_the_name_is_checked_against_the_certificate_not_the_address(trusted, authority):
    async with Chaos(tls=trusted) as chaos:
        chaos.script("/a", does.ok())
        good, bad = (f"https://{name}.example:{chaos.port}" for name in ("files", "other"))
        async with client(good, bad, ca=str(authority.pem), lookup=loopback) as up:
            assert (await fetch(up, good + "/a"))[0].status == 200
            await refusal(up, bad + "/a", UpstreamBroken, "tls")
