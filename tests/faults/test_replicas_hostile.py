"""Strangers at the address that replicas ask each other at, through the door that every client uses.

They are told nothing: not what runs, not what is held, not why they are refused.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from multidict import CIMultiDict
from yarl import URL

from artifactproxy.model import ArtifactKey
from artifactproxy.rules import passes
from artifactproxy.rules.peers import HEAD, fill_name
from tests.chaos import Chaos
from tests.faults.machine import metric
from tests.faults.replicas import SECRET, Replica, replicas
from tests.followers.cluster import Gate
from tests.house_proxy import proxied
from tests.needs import needs

SIZE = 3_000_000
RUNNING, OTHER = (fill_name(ArtifactKey("files", path)) for path in ("f.bin", "g.bin"))
HERE = f"/internal/fill?key={RUNNING}"


def sealed(secret: str = SECRET, method: str = "GET", subject: str = RUNNING, at: float = 0.0) -> str:
    return passes.seal(secret, method, subject, time.time() + at)


PASSES = {
    "none": [],
    "empty": [""],
    "junk": ["v1 99999999999 " + "0" * 64],
    "another version": [sealed().replace("v1", "v2")],
    "another secret": [sealed("what only the replicas knew")],
    "no secret": [sealed("")],
    "replayed after its time": [sealed(at=-125)],
    "from the future": [sealed(at=125)],
    "of another file": [sealed(subject=OTHER)],
    "of another method": [sealed(method="HEAD")],
    "of no file": [sealed(subject="")],
    "in capitals": [sealed().upper()],
    "huge": ["v1 " + "9" * 7000],
    "with more behind it": [sealed() + " " + "x" * 100],
    "a list": [f"{sealed(subject=OTHER)}, {sealed()}"],
    "bytes": ["v1 \u00b2 " + "\u00e4" * 64],
}
PLACES = (
    "/internal",
    "/internal/",
    "/internal/fill",
    f"/internal/fill?key={OTHER}",
    f"/internal/fill?key={RUNNING}&worker=7",
    f"/internal/fill?key={RUNNING}&key=",
    "/internal/fill?key=passwords",
    f"/internal/fill/?key={RUNNING}",
    "/internal/metrics",
    "/internal/%66ill",
)


async def ask(
    replica: Replica, target: str, given: list[str], method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """The answer without what differs each time."""
    headers = CIMultiDict([(passes.HEADER, each) for each in given])
    url = URL(replica.base + target, encoded=True)
    async with replica.client.request(method, url, headers=headers, allow_redirects=False) as answer:
        told = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("date", "x-request-id")
        }
        text = (await answer.read()).replace(answer.headers["X-Request-Id"].encode(), b"")
        return answer.status, told, text


@needs("postgres", "redis-server")
async def test_strangers_are_told_nothing(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    body = chaos.script("/f.bin", gate, size=SIZE)
    async with replicas(tmp_path, chaos, 2, extra={"idle": "60s"}) as cl:
        reading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        answers = [await ask(cl[0], HERE, given) for given in PASSES.values()]
        answers += [
            await ask(cl[0], place, given)
            for place in PLACES
            for given in ([], PASSES["of another file"])
            if OTHER not in place or not given
        ]
        assert {status for status, _, _ in answers} == {403}
        assert len({(tuple(sorted(told.items())), text) for _, told, text in answers}) == 1
        _, told, text = answers[0]
        assert HEAD not in told
        for word in (SECRET, RUNNING, "f.bin", "127.0.0.1", "bytes", str(SIZE)):
            assert word not in text.decode()
        assert await metric(cl[0], "rejected_total", reason="peer_pass") == len(answers)
        for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            status, told, _ = await ask(cl[0], HERE, [], method)
            assert status in (403, 405)
            assert HEAD not in told
        gate.go.set()
        assert (await reading).body == body.bytes()
        assert chaos.hits("/f.bin") == 1
        await cl.settled()
        text = (tmp_path / "r0" / "log").read_text()
        assert SECRET not in text
        assert "internal/fill" not in text


@needs("postgres", "redis-server")
async def test_a_pass_opens_nothing_but_its_fill(tmp_path: Path, chaos: Chaos) -> None:
    gate = Gate(0.5)
    chaos.script("/f.bin", gate, size=SIZE)
    async with replicas(tmp_path, chaos, 2, extra={"idle": "60s"}) as cl:
        reading = asyncio.create_task(cl[0].get("/files/f.bin"))
        await gate.reached.wait()
        good = [sealed()]
        assert (await ask(cl[1], HERE, good))[::2] == (404, b""), "nobody fills that there"
        for target in ("/internal/", f"/internal/other?key={RUNNING}", f"/internal/fill/x?key={RUNNING}"):
            given = [sealed(subject="")] if "key=" not in target else good
            status, told, _ = await ask(cl[0], target, given)
            assert status == 404
            assert HEAD not in told
        for target, more in (
            (f"{HERE}&worker=7", {}),
            (f"{HERE}&worker=-1", {}),
            (f"{HERE}&worker={'9' * 500}", {}),
            (HERE, {"Range": "bytes=0-5"}),
            (HERE, {"Range": f"bytes={'9' * 500}-"}),
            (HERE, {"Range": "bytes=-5"}),
        ):
            url = URL(cl[0].base + target, encoded=True)
            async with cl[0].client.get(url, headers={passes.HEADER: good[0], **more}) as answer:
                assert answer.status in (400, 404)
                assert HEAD not in answer.headers
        for target in ("/files/none.bin", "/metrics", "/api/v2/", "/v1/", "/openapi.json"):
            with_pass, without = await ask(cl[1], target + "?x", good), await ask(cl[1], target + "?x", [])
            assert with_pass[0] == without[0], "it is worth nothing elsewhere"
        gate.go.set()
        assert (await reading).status == 200
        await cl.settled()


@needs("postgres", "redis-server")
@pytest.mark.parametrize("size", [9_000, 60_000, 2_000_000])
async def test_a_head_without_end_is_refused_as_any(tmp_path: Path, chaos: Chaos, size: int) -> None:
    async with replicas(tmp_path, chaos, 1) as cl:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(cl[0].base).port)
        writer.write(b"GET %b HTTP/1.1\r\nHost: x.example\r\nX-Peer-Pass: v1 " % HERE.encode())
        try:
            for _ in range(size // 1000):
                writer.write(b"9" * 1000)
                await writer.drain()
            writer.write(b"\r\n\r\n")
            async with asyncio.timeout(20):
                got = await reader.read()
        except ConnectionError:
            got = b""
        finally:
            writer.close()
        assert not got or got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert HEAD.encode() not in got
        await cl.next_is_right()


async def test_an_instance_alone_has_no_such_address(tmp_path: Path, chaos: Chaos) -> None:
    async with proxied(tmp_path, chaos.origin) as proxy:
        for place in (HERE, *PLACES):
            for given in PASSES.values():
                headers = CIMultiDict([(passes.HEADER, each) for each in given])
                url = URL(proxy.base + place, encoded=True)
                async with proxy.client.get(url, headers=headers) as answer:
                    assert answer.status in (400, 404)
                    assert HEAD not in answer.headers
        await proxy.check()
