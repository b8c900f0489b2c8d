"""`explain` and the log: what happened, and why, without asking upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.model import Ask
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, promise, proxied


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin) as running:
        yield running
        await running.check()


async def test_a_miss_a_hit_and_an_absence(proxy: Proxy, chaos: Chaos) -> None:
    told = await proxy.engine.explain(Ask("files", "f.bin"))
    assert (told["decision"], told["reason"]) == ("Fetch", "nothing is held")
    assert chaos.requests == []
    chaos.script("/f.bin", ok())
    await proxy.get("/files/f.bin")
    await proxy.settled()
    told = await proxy.engine.explain(Ask("files", "f.bin"))
    assert told["decision"] == "Serve"
    assert told["row"]["verified_by"] == "framing"
    assert told["route"]["sources"] == [chaos.url("/f.bin")]
    await proxy.get("/files/none.bin")
    await proxy.settled()
    told = await proxy.engine.explain(Ask("files", "none.bin"))
    assert told["decision"] == "ServeAbsence"
    assert "upstream said 404" in told["reason"]


async def test_a_failure_says_why(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body, sha256="ab" * 32)
    await proxy.get(path)
    await proxy.settled()
    told = await proxy.engine.explain(Ask("pypi", path.removeprefix("/pypi/")))
    assert told["last_failure"]["error"] == "digest"
    assert told["last_failure"]["upstream"] == chaos.url("/pkg-1.0.tar.gz")
    chaos.script("/f.bin", status(500))
    await proxy.get("/files/f.bin")
    await proxy.settled()
    told = await proxy.engine.explain(Ask("files", "f.bin"))
    assert told["last_failure"]["upstream_status"] == 500
    chaos.script("/f.bin", ok())
    await proxy.get("/files/f.bin")
    await proxy.settled()
    assert "last_failure" not in await proxy.engine.explain(Ask("files", "f.bin"))


async def test_one_line_for_each_request_and_each_fill(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok())
    first = await proxy.get("/files/f.bin")
    await proxy.settled()
    await proxy.get("/files/f.bin")
    await asyncio.sleep(0.3)
    lines = [line for line in proxy.log_lines() if line["event"] in ("request", "fill")]
    assert [line["event"] for line in lines].count("fill") == 1
    requests = [line for line in lines if line["event"] == "request"]
    assert [(r["result"], r["source"], r["bytes"]) for r in requests] == [
        ("miss", "remote", body.size),
        ("hit", "cache", body.size),
    ]
    assert requests[0]["request_id"] == first.headers["X-Request-Id"]
    [fill] = [line for line in lines if line["event"] == "fill"]
    assert (fill["result"], fill["sha256"], fill["upstream_status"]) == ("stored", body.sha256, 200)
    assert requests[0]["fill_id"] == fill["fill_id"]


async def test_metrics_and_probes(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok())
    await proxy.get("/files/f.bin")
    await proxy.settled()
    text = (await proxy.get("/metrics")).body or b""
    assert b'artifactproxy_fills_total{repo="files",result="stored"} 1.0' in text
    assert b'artifactproxy_requests_total{repo="files",result="miss",status="2xx"} 1.0' in text
    assert (await proxy.get("/livez")).body == b"ok\n"
    ready = await proxy.get("/readyz")
    assert ready.status == 200
    assert b'"store": "ok"' in (ready.body or b"") or b'"store":"ok"' in (ready.body or b"")


async def test_who_asked_for_what_is_counted(proxy: Proxy, chaos: Chaos) -> None:
    import sqlite3

    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    for _ in range(3):
        await proxy.get(path)
        await proxy.settled()
    await asyncio.sleep(2.3)
    with sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT caller, purl, sha256, requests, bytes FROM uses WHERE purl LIKE '%@1.0'"
        ).fetchall()
    assert rows == [("127.0.0.1", "pkg:pypi/pkg@1.0", body.sha256, 3, 60_000)]
