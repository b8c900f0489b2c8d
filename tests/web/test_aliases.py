"""Aliases on the wire: the engine is asked the same as ever, and hears by which address."""

from __future__ import annotations

import json

import aiohttp
import pytest

from artifactproxy.engine.answer import Bytes
from artifactproxy.web.access import AccessRules

PREFIXES = ["", "/repository", "/artifactory", "/artifactory/api/paper", "/api/v1/remote"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_alias_reaches_the_repository(rig, prefix, method) -> None:
    rig.engine.give("paper/@s%2fn", lambda: Bytes(b"content"))
    reply = await rig.get(f"{prefix}/paper/@s%2fn?a=b%2Fc", method=method)
    assert reply.status == 200
    ask = rig.engine.asked[0]
    assert (ask.repo, ask.path, ask.query, ask.method) == ("paper", "@s%2fn", "a=b%2Fc", method)
    assert ask.base == f"{rig.url}{prefix}/paper"


async def test_a_public_address_comes_before_the_alias(rigs) -> None:
    rig = await rigs(AccessRules("https://cache.example/art"))
    await rig.get("/artifactory/api/paper/paper/a")
    assert rig.engine.asked[0].base == "https://cache.example/art/artifactory/api/paper/paper"


async def test_a_forwarded_prefix_comes_before_the_alias(rigs) -> None:
    rig = await rigs(AccessRules(trusted_proxies=["127.0.0.0/8"]))
    forwarded = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: c.example\r\nX-Forwarded-Prefix: /art\r\n"
    await rig.get("/repository/paper/a", forwarded)
    assert rig.engine.asked[0].base == "https://c.example/art/repository/paper"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/artifactory/api/pypi/paper/a", 404),
        ("/artifactory/api/scissors/paper/a", 404),
        ("/artifactory/api/paper/livez", 404),
        ("/artifactory/api/system/ping", 404),
        ("/api/v1/local/paper/a", 404),
        ("/api/v1/remote/paper%2fa", 400),
        ("/%61rtifactory/paper/a", 400),
        ("/repository/%2e%2e/paper/a", 400),
        ("/repository/livez", 404),
        ("/repository/setup", 404),
    ],
)
async def test_what_an_alias_cannot_name(rig, target, status) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    reply = await rig.get(target)
    assert reply.status == status
    assert rig.engine.asked == [] or rig.engine.asked[0].repo not in ("paper", "livez", "setup")


async def test_the_wrong_format_is_told_in_the_repositorys_language(rig) -> None:
    reply = await rig.get("/artifactory/api/pypi/paper/a")
    assert (reply.status, reply.headers["content-type"]) == (404, "text/x-paper")
    assert reply.reason == "the repository paper has paper packages, not these"


async def test_setup_by_an_alias(rig) -> None:
    for named, base in [
        ("paper", f"{rig.url}/paper"),
        ("repository/paper", f"{rig.url}/repository/paper"),
        ("artifactory/api/paper/paper", f"{rig.url}/artifactory/api/paper/paper"),
    ]:
        text = (await rig.get(f"/setup/glue?repo={named}")).body.decode()
        assert text == f"glue {base}\n"


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("repo=post", 404, b"there is other, paper"),
        ("repo=none", 404, b"there is other, paper"),
        ("repo=repository/", 404, b"names no repository"),
        ("repo=artifactory/api/pypi/paper", 404, b"not these"),
        ("repo=../x", 400, b"dot segment"),
    ],
)
async def test_setup_for_a_repository_that_does_not_fit(rig, query, status, words) -> None:
    reply = await rig.get(f"/setup/glue?{query}")
    assert reply.status == status
    assert words in reply.body


async def test_explain_understands_an_alias(rigs, tmp_path) -> None:
    rig = await rigs(AccessRules("https://cache.example/art"))
    path = tmp_path / "control.sock"
    await rig.server.start_unix(str(path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        url = "https://cache.example/art/repository/paper/a%3Fb"
        async with session.get("http://control/explain", params={"url": url}) as reply:
            said = json.loads(await reply.read())
        assert said["repo"] == "paper"
        assert said["base"] == "https://cache.example/art/repository/paper"
        async with session.get("http://control/explain", params={"url": "/repository/livez"}) as reply:
            assert reply.status == 404
