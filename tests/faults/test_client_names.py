"""What a client says about names and addresses is never believed: Host, absolute targets, forwarded headers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, promise, proxied

from .clients import counted, dial, logged, said, target, untouched, well

PUBLIC = "https://cache.example/mirror"
FORGED = [
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 6666",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-For: 127.0.0.1, 10.66.66.66",
    'Forwarded: for=10.66.66.66;host=evil.example;proto="https"',
    "X-Host: evil.example",
    "X-Original-URL: /files/evil.bin",
    "X-Rewrite-URL: /files/evil.bin",
    "X-HTTP-Method-Override: DELETE",
]
SETUPS = ("/setup", "/setup/pip", "/setup/npm")


def _npm(chaos: Chaos) -> str:
    return f"npm:\n  provider: npm\n  upstream: {chaos.origin}/\n"


def _packages(chaos: Chaos) -> None:
    promise(chaos, "pkg-1.0.tar.gz", chaos.script("/pkg-1.0.tar.gz", ok()))
    tarball = chaos.url("/left-pad/-/left-pad-1.0.0.tgz")
    version = {"name": "left-pad", "version": "1.0.0", "dist": {"tarball": tarball, "shasum": "0" * 40}}
    document = {"name": "left-pad", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    chaos.script("/left-pad", status(200, json.dumps(document).encode(), Content_Type="application/json"))


async def _links(proxy: Proxy, *lines: str, host: str = "x") -> dict[str, str]:
    """Every generated page, as one who sends these header lines sees it."""
    accept = "Accept: application/vnd.pypi.simple.v1+json"
    pages = {"/": lines, "/pypi/simple/pkg/": (*lines, accept), "/npm/left-pad": lines}
    seen = {}
    for path, sent in (pages | dict.fromkeys(SETUPS, lines)).items():
        client = await dial(proxy.base)
        request = "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *sent, "", ""))
        await client.send(request.encode())
        reply = await client.reply()
        client.close()
        assert reply.status == 200, (path, reply.body)
        assert b"evil" not in reply.body, path
        assert not any("evil" in value for value in reply.headers.values())
        seen[path] = reply.body.decode()
    return seen


def _bases(text: str) -> set[str]:
    """Scheme, host and port of each address in a page, but those of the upstream."""
    return set(re.findall(r"https?://[^/\s\"'<>]+", text))


@pytest.mark.parametrize("host", ["x", "evil.example", "evil.example:99", "127.0.0.1"])
async def test_c13_links_lead_to_the_public_address_only(tmp_path: Path, chaos: Chaos, host: str) -> None:
    _packages(chaos)
    async with proxied(tmp_path, chaos.origin, remotes=_npm(chaos), top=f"public_url: {PUBLIC}") as proxy:
        for lines in ((), FORGED):
            pages = await _links(proxy, *lines, host=host)
            for path, page in pages.items():
                assert _bases(page) <= {"https://cache.example"}, path
            # Relative, so that no name is in them at all.
            assert '"url":"../../packages/' in pages["/pypi/simple/pkg/"]
            assert f"{PUBLIC}/pypi/simple/" in pages["/setup/pip"]
            assert f"{PUBLIC}/npm/" in pages["/setup/npm"]
            tarball = json.loads(pages["/npm/left-pad"])["versions"]["1.0.0"]["dist"]["tarball"]
            assert tarball == f"{PUBLIC}/npm/left-pad/-/left-pad-1.0.0.tgz"
        assert all(line.get("caller") == "127.0.0.1" for line in proxy.log_lines() if "caller" in line)
        for seen in chaos.requests:
            assert not any("evil" in value for value in seen.headers.values())
            assert {"x-forwarded-for", "x-forwarded-host", "forwarded"}.isdisjoint(seen.headers)
        await well(proxy, chaos)


async def test_c13_without_a_public_address_nobody_sees_what_another_forged(
    tmp_path: Path, chaos: Chaos
) -> None:
    _packages(chaos)
    async with proxied(tmp_path, chaos.origin, remotes=_npm(chaos)) as proxy:
        forged = await _links(proxy, *FORGED, host="one.example")
        honest = await _links(proxy, host="two.example")
        assert _bases(forged["/npm/left-pad"]) == {"http://one.example"}
        for path, page in honest.items():
            assert _bases(page) <= {"http://two.example"}, path
        assert chaos.hits("/left-pad") == 1
        await well(proxy, chaos)


async def test_c13_a_trusted_peer_is_believed(tmp_path: Path, chaos: Chaos) -> None:
    _packages(chaos)
    sent = ["X-Forwarded-Host: front.example", "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.7"]
    top = "trusted_proxies: [127.0.0.1]"
    async with proxied(tmp_path, chaos.origin, remotes=_npm(chaos), top=top) as proxy:
        pages = await _links(proxy, *sent, host="inner")
        assert _bases(pages["/npm/left-pad"]) == {"https://front.example"}
        assert (await logged(proxy, event="request", repo="npm"))["caller"] == "192.0.2.7"
        await well(proxy, chaos)


@pytest.mark.parametrize("path", ["/files/a.bin", "/npm/left-pad", "/setup", "/metrics", "/"])
async def test_c13_an_unknown_host_is_421(tmp_path: Path, chaos: Chaos, path: str) -> None:
    top = "allowed_hosts: [cache.example, 127.0.0.1]"
    async with proxied(tmp_path, chaos.origin, remotes=_npm(chaos), top=top) as proxy:
        for host in ("evil.example", "cache.example.evil.example", "127.0.0.2"):
            sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            got = await said(proxy.base, f"{sent}{FORGED[0]}\r\n\r\n".encode())
            assert got.startswith(b"HTTP/1.1 421 ")
            assert b"\r\nX-Proxy-Error: unknown_host\r\n" in got
            assert b"evil" not in got
        await logged(proxy, event="request", status=421, error="unknown_host")
        assert await counted(proxy, "rejected", reason="unknown_host") == 3
        await untouched(proxy, chaos)


@pytest.mark.parametrize(
    ("line", "host", "code"),
    [
        ("http://x/files/a.bin", "x", 200),
        ("http://evil.example/files/a.bin", "x", 421),
        ("http://x@evil.example/files/a.bin", "x", 421),
        ("http://x:80/files/a.bin", "x", 421),
        ("//evil.example/files/a.bin", "x", 400),
        ("ftp://x/files/a.bin", "x", 400),
        ("/files/a.bin", "x@evil.example", 400),
        ("/files/a.bin", "x/../evil", 400),
        ("/files/a.bin", "x evil", 400),
        ("/files/a.bin", "", 400),
    ],
)
async def test_c13_targets_and_hosts_that_disagree(
    tmp_path: Path, chaos: Chaos, line: str, host: str, code: int
) -> None:
    body = chaos.script("/a.bin", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin) as proxy:
        got = await said(
            proxy.base, f"GET {line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert got.startswith(b"HTTP/1.1 %d " % code)
        assert b"evil" not in got
        if code == 200:
            assert got.endswith(body.bytes())
            await well(proxy, chaos)
            return
        reason = "unknown_host" if code == 421 else str((await logged(proxy, status=400))["error"])
        assert await counted(proxy, "rejected", reason=reason) == 1
        await untouched(proxy, chaos)


async def test_c13_headers_that_would_change_the_request_do_not(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/a.bin", ok(), size=5000)
    chaos.script("/evil.bin", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin) as proxy:
        got = await said(proxy.base, target("/files/a.bin", "Connection: close", *FORGED))
        assert got.endswith(body.bytes())
        assert [(seen.method, seen.path) for seen in chaos.requests] == [("GET", "/a.bin")]
        await well(proxy, chaos)
