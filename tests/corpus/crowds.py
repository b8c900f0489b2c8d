"""Recipes of part E: many requests, or few that cost much. Each plays one case against an instance of
its own, whose limits are small, and asserts what the entry promises."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from tests.chaos.behaviours import ok, slow, status
from tests.corpus.recorders import Names, watched
from tests.corpus.scene import AUDIT, Scene, post, raw
from tests.corpus.slow import slow_clients
from tests.house_proxy import Got, Proxy

Recipe = Callable[..., Awaitable[None]]


# --- bodies of requests ---------------------------------------------------------------------


async def zipped_body(scene: Scene, *, ratio: int, megabytes: int, path: str, wants: list[int]) -> None:
    """A compressed request body: nothing here unpacks it, and upstream gets it as it was sent."""
    del ratio
    scene.chaos.script(
        f"/npm{AUDIT.removeprefix('/npm')}", status(200, b"{}", Content_Type="application/json")
    )
    body = gzip.compress(bytes(megabytes * 2**20), 9)
    async with scene.proxy() as proxy:
        sent = post(path, body, "Content-Encoding: gzip", "Content-Type: application/json")
        got = await raw(proxy, sent)
        assert int(got.split()[1]) in wants, got[:200]
        seen = [one for one in scene.chaos.requests if one.method == "POST"]
        assert [one.body for one in seen] == ([body] if 200 in wants else [])


async def big_body(
    scene: Scene, *, kind: str, path: str, wants: list[int], limit: str = "64KiB", head: bool = False
) -> None:
    """A body past the limit, announced or not; upstream never hears of it."""
    body = {
        "form": b"a=1&" * 100_000,
        "multipart": b"".join(
            b'--x\r\nContent-Disposition: form-data; name="f%d"; filename="f"\r\n\r\nv\r\n' % n
            for n in range(12_000)
        ),
        "json": b"[" * 1_000_000,
    }[kind]
    async with scene.proxy(top=f"limits: {{request_body: {limit}, lingering: 300ms}}") as proxy:
        if head:  # chunked: no length is announced
            start = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            sent = (
                start + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body)) + b"0\r\n\r\n"
            )
        else:
            sent = post(path, body, "Content-Type: multipart/form-data; boundary=x")
        got = await raw(proxy, sent)
        assert int(got.split()[1]) in wants, got[:200]
        assert [one for one in scene.chaos.requests if one.method == "POST"] == []


def _parts(body: bytes) -> list[bytes]:
    return [body[at : at + 50_000] for at in range(0, len(body), 50_000)]


async def long_query(scene: Scene, *, path: str, unit: str, count: int, wants: list[int]) -> None:
    async with scene.proxy() as proxy:
        got = await raw(proxy, f"GET {path}?{unit * count} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert int(got.split()[1]) in wants, got[:200]
        assert b"Connection: close" in got
        assert len(scene.chaos.requests) == 1  # that for the held file


# --- names ----------------------------------------------------------------------------------


async def missing_names(scene: Scene, *, path: str, count: int, cap: int) -> None:
    """Names that do not exist, each remembered for a while, but only so many of them."""
    top = f"limits: {{negative_keys: {cap}, sweep_every: 50ms}}"
    async with scene.proxy(top=top, extra="first_byte: 10s") as proxy:
        before = len((await proxy.get("/metrics")).body.splitlines())
        statuses = await _crowd([f"{path.format(n=n)}" for n in range(count)], proxy)
        assert set(statuses) == {404}, statuses
        await proxy.settled()
        for _ in range(1_000):
            rows = _absences(proxy)
            if len(rows) <= cap:
                break
            await asyncio.sleep(0.05)
        assert 0 < len(rows) <= cap
        last = path.format(n=count - 1).partition("/")[2].partition("/")[2]
        assert last in {row.lstrip("/") for row in rows}, "the latest are the ones that are kept"
        assert sum(file.stat().st_size for file in proxy.data.glob("index.sqlite3*")) < 12_000_000
        assert len((await proxy.get("/metrics")).body.splitlines()) < before + 60


def _absences(proxy: Proxy) -> set[str]:
    with sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True) as db:
        return {row[0] for row in db.execute("SELECT path FROM entries WHERE sha256 IS NULL")}


async def _crowd(paths: list[str], proxy: Proxy, at_once: int = 50) -> Counter[int]:
    places, found = asyncio.Semaphore(at_once), Counter[int]()

    async def one(path: str) -> None:
        async with places:
            found[(await proxy.get(path)).status] += 1

    await asyncio.gather(*map(one, paths))
    return found


async def named_hosts(scene: Scene, *, by: str, count: int) -> None:
    """Documents that name a host of its own for every file: each is looked up for the request that
    asks for it and for nobody else, and nothing grows with them."""
    names = Names()
    hosts = [f"h{n}.example" for n in range(count)]
    with watched(names) as wire:
        async with scene.proxy() as proxy:
            before = len((await proxy.get("/metrics")).body.splitlines())
            await _NAMING[by](scene, proxy, hosts)
            assert names.asked == [], "reading a document looks nothing up"
            wanted = [_path_of(by, host) for host in hosts]
            assert set(await _crowd(wanted, proxy)) == {502}
            assert set(names.asked) == set(hosts)
            assert set(await _crowd(wanted[:20], proxy)) == {502}
            assert len(names.asked) <= count + 20
            assert {port for _, port in wire.connects} <= {
                scene.chaos.port,
                int(proxy.base.rpartition(":")[2]),
            }
            assert len((await proxy.get("/metrics")).body.splitlines()) < before + 260
            assert len(proxy.blobs()) <= 3


async def _name_by_pypi(scene: Scene, proxy: Proxy, hosts: list[str]) -> None:
    files = [
        {
            "filename": f"many-{n}.0.tar.gz",
            "url": f"http://{host}/many-{n}.0.tar.gz",
            "hashes": {"sha256": "0" * 64},
        }
        for n, host in enumerate(hosts)
    ]
    page = json.dumps({"meta": {"api-version": "1.0"}, "name": "many", "files": files}).encode()
    scene.chaos.script("/simple/many/", status(200, page, Content_Type="application/vnd.pypi.simple.v1+json"))
    assert (await proxy.get("/pypi/simple/many/")).status == 200


async def _name_by_npm(scene: Scene, proxy: Proxy, hosts: list[str]) -> None:
    versions = {
        f"{n}.0.0": {
            "name": "many",
            "version": f"{n}.0.0",
            "dist": {"tarball": f"http://{host}/many-{n}.0.0.tgz", "shasum": "0" * 40},
        }
        for n, host in enumerate(hosts)
    }
    document = json.dumps({"name": "many", "dist-tags": {"latest": "0.0.0"}, "versions": versions}).encode()
    scene.chaos.script("/npm/many", status(200, document, Content_Type="application/json"))
    assert (await proxy.get("/npm/many")).status == 200


_NAMING = {"pypi": _name_by_pypi, "npm": _name_by_npm}


def _path_of(by: str, host: str) -> str:
    number = host.partition(".")[0][1:]
    if by == "npm":
        return f"/npm/many/-/{host}:80/many-{number}.0.0.tgz".replace(":80", "")
    return f"/pypi/packages/{host}/many-{number}.0.tar.gz"


async def hostile_names(scene: Scene, *, path: str, count: int, method: str = "GET") -> None:
    """Names in every place that a label might be taken from: the exposition stays as it is."""
    async with scene.proxy(top="limits: {negative_keys: 100}") as proxy:
        for n in range(20):
            await proxy.get(path.format(n=quote(f"warm{n}")), method)
        before = len((await proxy.get("/metrics")).body.splitlines())
        places = asyncio.Semaphore(50)

        async def one(n: int) -> None:
            hostile = quote(f'n{n}"}} 1\\', safe="")
            async with places:
                await proxy.get(
                    path.format(n=hostile), method, User_Agent=f"agent-{n}", X_Request_Id=f"id{n}"
                )

        await asyncio.gather(*(one(n) for n in range(count)))
        text = (await proxy.get("/metrics")).body.decode()
        assert len(text.splitlines()) <= before + 30, text
        assert "n7" not in text.replace("gen7", "")


# --- headers --------------------------------------------------------------------------------


async def header(
    scene: Scene, *, name: str, start: str, unit: str, count: int, wants: list[int], lines: int = 1
) -> None:
    """A header value of many members, in one line or in several."""
    async with scene.proxy() as proxy:
        members = [f"{unit.format(n=n)}" for n in range(count)]
        size = -(-count // lines)
        values = [",".join(members[at : at + size]) for at in range(0, count, size)]
        fields = "".join(f"{name}: {start}{value}\r\n" for value in values)
        text = f"GET /files/held.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Connection: close\r\n\r\n"
        got = await raw(proxy, text.encode())
        assert int(got.split()[1]) in wants, got[:300]
        if b" 200 " in got[:20]:
            held = scene.chaos.script("/held.bin", ok(), size=5000)
            assert got.partition(b"\r\n\r\n")[2] == held.bytes()


async def patterns(scene: Scene, *, room: str) -> None:
    """Every regular expression of a room, in a process of its own that is ended if it does not end."""
    del scene
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.corpus.baits", room),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
    lines = out.decode().splitlines()
    assert lines[-1:] == ["done"], lines[-5:]
    assert [line for line in lines if line.startswith("slow")] == []
    assert sum(line.startswith("tries") for line in lines) > 0


# --- many misses ----------------------------------------------------------------------------


async def one_blob(scene: Scene, *, clients: int, size: int) -> None:
    """One big file that nobody has yet, asked for by many at once."""
    body = scene.chaos.script("/big.bin", slow(size * 4), size=size)
    async with scene.proxy() as proxy:
        most = 0

        async def weigh() -> None:
            nonlocal most
            while True:
                used = sum(file.stat().st_size for file in proxy.data.glob("tmp/*"))
                most = max(most, used)
                await asyncio.sleep(0.01)

        scales = asyncio.create_task(weigh())
        sums = await asyncio.gather(*(_sum(proxy, "/files/big.bin") for _ in range(clients)))
        scales.cancel()
        assert set(sums) == {(200, body.sha256)}
        assert scene.chaos.hits("/big.bin") == 1
        assert 0 < most <= size
        await proxy.settled()
        assert sum(blob.stat().st_size for blob in proxy.blobs()) <= size + 10_000


async def many_blobs(scene: Scene, *, clients: int, size: int, quota: str) -> None:
    """More bytes at once than there is room for: right bytes, or an error that says so."""
    bodies = {n: scene.chaos.script(f"/{n}.bin", ok(), size=size) for n in range(clients)}
    async with scene.proxy(top=f"limits: {{temp_bytes: {quota}, memory_body: 1KiB}}") as proxy:
        made = await asyncio.gather(*(_sum(proxy, f"/files/{n}.bin") for n in bodies))
        for n, (code, sha256) in enumerate(made):
            assert (code, sha256) == (200, bodies[n].sha256) or code == 503, (code, sha256)
        assert any(code == 200 for code, _ in made)
        await proxy.settled()
        again = await asyncio.gather(*(_sum(proxy, f"/files/{n}.bin") for n in range(3)))
        assert again == [(200, bodies[n].sha256) for n in range(3)]


async def _sum(proxy: Proxy, path: str) -> tuple[int, str]:
    got: Got = await proxy.get(path)
    assert got.status != 200 or got.body is not None, "cut off"
    return got.status, hashlib.sha256(got.body or b"").hexdigest()


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        *(zipped_body, big_body, long_query, slow_clients, missing_names, named_hosts, hostile_names),
        *(header, patterns, one_blob, many_blobs),
    )
}
