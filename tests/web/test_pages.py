"""Reserved paths: health, metrics, setup, the index, and the control socket."""

from __future__ import annotations

import asyncio
import json
import stat

import aiohttp
import pytest

from artifactproxy.engine.answer import Bytes
from artifactproxy.rules.paths import RESERVED
from artifactproxy.web.access import AccessRules


async def test_live_and_ready(rig) -> None:
    assert (await rig.get("/livez")).body == b"ok\n"
    ready = await rig.get("/readyz")
    assert (ready.status, json.loads(ready.body)) == (200, {"store": "ok", "index": "ok", "mode": "ok"})
    rig.engine.ready = {"store": "ok", "index": "no connection"}
    unready = await rig.get("/readyz")
    assert (unready.status, json.loads(unready.body)["index"]) == (503, "no connection")
    assert json.loads(unready.body)["mode"] == "without index"
    rig.engine.ready = {"store": "ok", "coordination": "no connection"}
    bearable = await rig.get("/readyz")
    assert (bearable.status, json.loads(bearable.body)["mode"]) == (200, "without coordination")
    assert [outcome.status for outcome in rig.watch.outcomes] == [503]


async def test_a_dependency_that_hangs_makes_us_unready(rig, monkeypatch) -> None:
    monkeypatch.setattr("artifactproxy.web.admin.READINESS_SECONDS", 0.05)
    monkeypatch.setattr(rig.engine, "readiness", lambda: asyncio.sleep(60))
    reply = await rig.get("/readyz")
    assert reply.status == 503
    assert (await rig.get("/livez")).status == 200


async def test_metrics_with_the_engines_gauges(rig) -> None:
    rig.engine.gauges["breaker_open"] = {"a": 1}
    reply = await rig.get("/metrics")
    assert reply.body == b"metrics\n"
    assert reply.headers["content-type"].startswith("text/plain")
    assert rig.watch.gauges == {"connections": 1, "fills": 2.0, "temp_bytes": 10.0, "breaker_open": 1.0}


async def test_metrics_are_not_for_a_rebound_name(rig) -> None:
    got = await rig.raw(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 421 ")
    assert b"metrics\n" not in got


async def test_allowed_hosts_but_probes_come_by_any(rigs) -> None:
    rig = await rigs(AccessRules(allowed_hosts=["good.example"]))
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    statuses = {}
    for host in (b"good.example", b"bad.example"):
        for path in (b"/paper/a", b"/livez", b"/metrics", b"/setup"):
            got = await rig.raw(
                b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n"
            )
            statuses[host, path] = int(got.split(b" ", 2)[1])
    assert {path for (host, path), status in statuses.items() if status == 421} == {
        b"/paper/a",
        b"/metrics",
        b"/setup",
    }
    assert {host for (host, _), status in statuses.items() if status == 421} == {b"bad.example"}


async def test_the_index_lists_addresses(rig) -> None:
    reply = await rig.get("/")
    assert f"{rig.url}/paper/  (paper)" in reply.body.decode()
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


async def test_reserved_names_never_reach_the_engine(rig) -> None:
    for name in sorted(RESERVED - {"livez", "readyz", "metrics", "setup", "robots.txt", "v2"}):
        assert (await rig.get(f"/{name}")).status == 404
        assert (await rig.get(f"/{name}/livez")).status == 404
    assert (await rig.get("/livez/x")).status == 404
    assert (await rig.get("/robots.txt")).status == 200
    assert rig.engine.asked == []


async def test_setup_on_loopback(rig) -> None:
    listed = (await rig.get("/setup")).body.decode()
    assert f"{rig.url}/setup/scissors\n" in listed
    text = (await rig.get("/setup/scissors")).body.decode()
    host, port = rig.address
    assert f'registry = "{rig.url}/paper/"\nhome = {{"o": "http://{host}:{port}", "h": "{host}"}}' in text
    assert f"{rig.url}/other/" in text
    assert "insecure" not in text
    missing = await rig.get("/setup/hammer")
    assert missing.status == 404
    assert b"glue, scissors" in missing.body


async def test_setup_for_a_plain_address_off_loopback(rigs) -> None:
    rig = await rigs(AccessRules("http://cache.example:8080/art"))
    text = (await rig.get("/setup/scissors")).body.decode()
    assert 'registry = "http://cache.example:8080/art/paper/"' in text
    assert "insecure = cache.example\n" in text
    rig = await rigs(AccessRules("https://cache.example"))
    assert b"insecure" not in (await rig.get("/setup/scissors")).body


@pytest.fixture
async def control(rig, tmp_path):
    path = tmp_path / "control.sock"
    await rig.server.start_unix(str(path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:

        async def call(method: str, target: str, **options):
            async with session.request(method, f"http://control{target}", **options) as reply:
                return reply.status, await reply.json()

        yield call


async def test_commands(rig, control) -> None:
    assert await control("GET", "/ping") == (200, {"ok": True})
    assert await control("GET", "/stats") == (200, {"entries": 3})
    assert await control("POST", "/purge", json={"repo": "paper", "path": "a/b"}) == (200, {"purged": 1})
    assert await control("POST", "/gc", json={"run": True}) == (200, {"doomed": 0})
    assert await control("POST", "/gc") == (200, {"doomed": 0})
    assert rig.engine.calls == [("purge", ("paper", "a/b", "")), ("gc", True), ("gc", False)]


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("/paper/a?b=c", "http://localhost/paper"),
        ("paper/a?b=c", "http://localhost/paper"),
        ("https://cache.example/paper/a?b=c", "https://cache.example/paper"),
    ],
)
async def test_explain_takes_urls_and_paths(control, address, base) -> None:
    status, told = await control("GET", "/explain", params={"url": address})
    assert (status, told) == (200, {"repo": "paper", "path": "a", "query": "b=c", "base": base})


async def test_explain_knows_the_public_url(rigs, tmp_path) -> None:
    rig = await rigs(AccessRules("https://cache.example/art"))
    path = str(tmp_path / "c.sock")
    await rig.server.start_unix(path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        async with session.get("http://c/explain?url=https://cache.example/art/paper/a") as reply:
            assert (await reply.json())["base"] == "https://cache.example/art/paper"


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/purge", None, 405),
        ("POST", "/purge", b"not json", 400),
        ("POST", "/purge", b"[1]", 400),
        ("POST", "/purge", b"{}", 400),
        ("POST", "/purge", b'{"repo": 5}', 400),
        ("POST", "/purge", b"[" * 50_000, 400),
        ("POST", "/purge", b" " * 70_000, 400),
        ("POST", "/gc", b'{"run": "yes"}', 400),
        ("GET", "/explain?url=/../x", None, 400),
        ("GET", "/fetch?url=/../x", None, 400),
        ("POST", "/fetch", None, 405),
    ],
)
async def test_bad_commands(rig, control, method, target, body, status) -> None:
    got, told = await control(method, target, data=body)
    assert got == status
    assert set(told) == {"error", "code"}
    assert rig.engine.calls == []


async def test_a_body_is_fetched_as_a_client_gets_it(rig, control, tmp_path) -> None:
    path = str(tmp_path / "control.sock")
    rig.engine.give("paper/a", lambda: Bytes(b"scissors"), headers=(("X-Checksum-Sha256", "ab"),))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        async with session.get("http://c/fetch", params={"url": "/paper/a?b=c"}) as reply:
            assert (reply.status, await reply.read()) == (200, b"scissors")
            assert reply.headers["X-Checksum-Sha256"] == "ab"
    [asked] = rig.engine.asked
    assert (asked.repo, asked.path, asked.query) == ("paper", "a", "b=c")
    # A condition, so that the bytes are not to be had by a redirect to where they are stored.
    assert asked.headers == {"if-match": "*"}


async def test_the_control_socket_is_private_and_replaced(rig, control, rigs, tmp_path) -> None:
    path = tmp_path / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = await rigs()
    await second.server.start_unix(str(path))
    await second.server.close()
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(OSError, match=r"in use|not a socket|File exists"):
        await (await rigs()).server.start_unix(str(path))
    assert path.read_text() == "not a socket"
