"""A store without files of this machine: its bodies pass through, its documents are read all the same,
and clients may be sent to it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from artifactproxy import backends
from artifactproxy.engine.recheck import Recheck
from artifactproxy.engine.terms import Redirect
from artifactproxy.errors import BlobMissing, StoreAway
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Clock
from artifactproxy.stores.copies import TierLimits
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.tier import Tier
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slam, status
from tests.engine.test_indexes import listed, wheel
from tests.house_proxy import Got, Proxy, proxied
from tests.stores.far import Far, Heard

SIMPLE = "application/vnd.pypi.simple.v1+json"
SIZE = 300_000
F = "/files/f-1.0.bin"
FORMS = {
    "in the loop": "limits: {inline_index: 10MiB}",
    "by the helper, in memory": "limits: {inline_index: 1KiB}",
    "by the helper, in files": "limits: {inline_index: 1KiB, memory_body: 2KiB}",
}


@dataclass
class Scene:
    proxy: Proxy
    far: Far

    async def stored(self, path: str, **headers: str) -> Got:
        got = await self.proxy.get(path, **headers)
        assert got.status == 200
        await self.proxy.settled()
        del self.far.gets[:]
        return got

    def redirect(self, which: str = "blobs", from_bytes: int = 0) -> None:
        self.proxy.engine._tools.redirect = Redirect(which, from_bytes, 60.0)  # type: ignore[arg-type]
        self.far.url = "https://bucket.example/blobs/f?signature=x"

    def metric(self, line: str) -> bool:
        return f"artifactproxy_{line}" in self.proxy.engine.parts.observer.exposition().decode()  # type: ignore[attr-defined]


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Far]:
    """What the program gets instead of a directory."""
    made: list[Far] = []

    def far(root: Path, *, fsync: bool, clock: Clock) -> Far:
        assert fsync
        made.append(Far(root, clock))
        return made[-1]

    monkeypatch.setattr(backends, "FsStore", far)
    return made


@pytest.fixture
async def scene(tmp_path: Path, chaos: Chaos, stores: list[Far]) -> AsyncIterator[Scene]:
    async with proxied(tmp_path, chaos.origin) as proxy:
        yield Scene(proxy, stores[0])
        await proxy.check()
        assert stores[0].running == 0


@pytest.fixture(params=FORMS.values(), ids=FORMS)
async def reader(
    tmp_path: Path, chaos: Chaos, stores: list[Far], request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    listing(chaos, "pkg")
    async with proxied(tmp_path, chaos.origin, top=request.param) as proxy:
        yield Scene(proxy, stores[0])
        await proxy.check()
        assert stores[0].running == 0


def listing(chaos: Chaos, name: str, files: int = 300) -> None:
    entries = [
        {
            "filename": f"{name}-1.{n}.tar.gz",
            "url": f"/{name}-1.{n}.tar.gz",
            "hashes": {"sha256": f"{n:064x}"},
        }
        for n in range(files)
    ]
    page = {"meta": {"api-version": "1.0"}, "name": name, "files": entries}
    chaos.script(f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE))


# --- bodies that pass through ---------------------------------------------------------------


async def test_a_hit_says_what_a_file_says(scene: Scene, chaos: Chaos) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE).bytes()
    first = await scene.stored(F)
    hit = await scene.proxy.get(F)
    assert (hit.status, hit.source, hit.body) == (200, "cache", body)
    assert hit.headers["Content-Length"] == str(SIZE)
    assert hit.headers["X-Checksum-Sha256"] == hashlib.sha256(body).hexdigest()
    for name in ("ETag", "Last-Modified", "Content-Type", "Accept-Ranges"):
        assert hit.headers.get(name) == first.headers.get(name), name
    head = await scene.proxy.get(F, "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(SIZE))
    tag = hit.headers["ETag"]
    assert (await scene.proxy.get(F, If_None_Match=tag)).status == 304
    assert (await scene.proxy.get(F, If_Match='"other"')).status == 412
    assert (await scene.proxy.get(F, Range=f"bytes={SIZE}-")).status == 416
    assert len(scene.far.gets) == 1, "only the one answer with a body asked the store"
    for asked, span in (("0-0", (0, 1)), ("100-70099", (100, 70_100)), ("-5", (SIZE - 5, SIZE))):
        part = await scene.proxy.get(F, Range=f"bytes={asked}", If_Range=tag)
        assert (part.status, part.body) == (206, body[slice(*span)])
        assert part.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/{SIZE}"
        assert (scene.far.gets[-1].start, scene.far.gets[-1].stop) == span
    assert (await scene.proxy.get(F, Range="bytes=0-9", If_Range='"other"')).body == body
    assert chaos.hits("/f-1.0.bin") == 1


@pytest.mark.parametrize("breaks", [0, 1, 16_384, 65_536, 250_000, SIZE - 1])
async def test_a_store_that_breaks_off_is_a_503_or_a_reset(scene: Scene, chaos: Chaos, breaks: int) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE).bytes()
    await scene.stored(F)
    scene.far.breaks = breaks
    for headers in ({}, {"Range": "bytes=0-299999"}):
        got = await scene.proxy.get(F, **headers)
        if breaks:
            assert (got.status, got.body) == (206 if headers else 200, None)
        else:
            assert (got.status, got.error) == (503, "store_away")
            assert got.headers["Retry-After"]
    assert (await scene.proxy.get(F, "HEAD")).status == 200
    scene.far.breaks = None
    assert (await scene.proxy.get(F)).body == body
    assert chaos.hits("/f-1.0.bin") == 1


async def test_s09_a_store_that_is_away_is_never_a_404(scene: Scene, chaos: Chaos) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE).bytes()
    await scene.stored(F)
    scene.far.away = True
    chaos.script("/f-1.0.bin", slam(), size=SIZE)
    got = await scene.proxy.get(F)
    assert (got.status, got.error) == (503, "store_away")
    scene.far.away = False
    assert (await scene.proxy.get(F)).body == body


async def test_s06_an_object_that_is_missing_is_fetched_again(scene: Scene, chaos: Chaos) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    await scene.far.delete(body.sha256)
    for headers in ({"Range": "bytes=5-9"}, {}):
        got = await scene.proxy.get(F, **headers)
        assert got.body == (body.bytes()[5:10] if headers else body.bytes())
        await scene.proxy.settled()
    assert (await scene.proxy.get(F)).source == "cache"


async def test_a_client_that_leaves_ends_the_get(scene: Scene, chaos: Chaos) -> None:
    chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    scene.far.held = 100_000
    address = urlsplit(scene.proxy.base)
    loop = asyncio.get_running_loop()
    with socket.create_connection((address.hostname or "", address.port or 0)) as client:
        client.setblocking(False)
        await loop.sock_sendall(client, f"GET {F} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = 0
        while got < 50_000:
            got += len(await loop.sock_recv(client, 65_536))
        assert scene.far.running == 1
    async with asyncio.timeout(60):
        while scene.far.running:
            await asyncio.sleep(0.01)


# --- documents ------------------------------------------------------------------------------


async def page(scene: Scene, coding: str = "") -> Got:
    headers = {"Accept": SIMPLE} | ({"Accept_Encoding": coding} if coding else {})
    return await scene.proxy.get("/pypi/simple/pkg/", **headers)


async def test_a_held_document_is_read_and_rendered(reader: Scene) -> None:
    first = await page(reader)
    await reader.proxy.settled()
    for coding in ("", "gzip"):
        reader.proxy.engine._documents.forget()
        got = await page(reader, coding)
        assert (got.status, got.source) == (200, "cache")
        body = gzip.decompress(got.body or b"") if coding else got.body
        assert body == first.body
    assert len(reader.far.gets) == 2


async def test_many_who_want_it_at_once_cost_one_get(reader: Scene) -> None:
    first = await page(reader)
    await reader.proxy.settled()
    reader.proxy.engine._documents.forget()
    del reader.far.gets[:]
    reader.far.held = 5000
    asking = [asyncio.create_task(page(reader, coding)) for coding in ("", "gzip") * 5]
    async with asyncio.timeout(60):
        while not reader.far.running:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    reader.far.go.set()
    bodies = [got.body or b"" for got in await asyncio.gather(*asking)]
    assert {gzip.decompress(body) if n % 2 else body for n, body in enumerate(bodies)} == {first.body}
    assert len(reader.far.gets) == 1


async def test_s07_a_document_of_wrong_bytes_is_fetched_again(reader: Scene, chaos: Chaos) -> None:
    first = await page(reader)
    await reader.proxy.settled()
    reader.proxy.engine._documents.forget()
    [blob] = reader.proxy.blobs()
    reader.far.lies.add(blob.name)
    got = await page(reader)
    assert (got.status, got.body) == (200, first.body)
    assert chaos.hits("/simple/pkg/") == 2
    reader.far.lies.clear()
    await reader.proxy.settled()
    assert reader.metric('integrity_failures_total{where="local"} 1.0')


@pytest.mark.parametrize("breaks", [0, 1000])
async def test_a_document_that_cannot_be_read_is_upstreams_or_a_503(
    reader: Scene, chaos: Chaos, breaks: int
) -> None:
    first = await page(reader)
    await reader.proxy.settled()
    reader.proxy.engine._documents.forget()
    reader.far.breaks = breaks
    got = await page(reader)
    assert (got.status, got.body, got.source) == (200, first.body, "remote")
    chaos.script("/simple/pkg/", slam())
    reader.proxy.engine._documents.forget()
    got = await page(reader)
    assert (got.status, got.error) == (503, "store_away")
    reader.far.breaks = None
    got = await page(reader)
    assert (got.body, got.source) == (first.body, "cache")


async def test_one_who_leaves_takes_the_document_from_nobody(reader: Scene) -> None:
    first = await page(reader)
    await reader.proxy.settled()
    bodies = reader.proxy.engine._documents._bodies
    [blob] = reader.proxy.blobs()
    ref = BlobRef(blob.name, blob.stat().st_size)
    reader.far.held = 5000
    asking = [asyncio.create_task(bodies.whole(ref)) for _ in range(3)]
    await asyncio.sleep(0.02)
    asking[0].cancel()
    await asyncio.wait(asking[:1])
    reader.far.go.set()
    assert set(await asyncio.gather(*asking[1:])) == {blob.read_bytes()}
    reader.far.go.clear()
    asking = [asyncio.create_task(bodies.whole(ref)) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    async with asyncio.timeout(60):
        while reader.far.running:
            await asyncio.sleep(0.01)
    reader.far.go.set()
    assert bodies._loans == {}
    assert (await page(reader)).body == first.body


@pytest.mark.parametrize("bound", ["256KiB", "100"], ids=["in memory", "in a file"])
async def test_a_sidecar_is_made_of_a_wheel_that_lies_far_away(
    tmp_path: Path, chaos: Chaos, stores: list[Far], bound: str
) -> None:
    metadata = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"
    async with proxied(tmp_path, chaos.origin, top=f"limits: {{memory_body: {bound}}}") as proxy:
        path = listed(chaos, wheel(metadata), metadata)
        scene = Scene(proxy, stores[0])
        await scene.stored(path.removesuffix(".metadata"))
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, metadata)
        assert len(stores[0].gets) == 1
        assert chaos.hits("/pkg-1.0-py3-none-any.whl") == 1
        await proxy.check()


async def test_a_sidecar_is_made_though_the_wheel_cannot_be_stored(scene: Scene, chaos: Chaos) -> None:
    metadata = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"
    path = listed(chaos, wheel(metadata), metadata)
    await scene.stored("/pypi/simple/pkg/", Accept=SIMPLE)

    scene.far.away = True
    got = await scene.proxy.get(path)
    assert (got.status, got.body) == (200, metadata)
    scene.far.away = False


# --- redirects ------------------------------------------------------------------------------


async def test_b15_a_large_hit_is_where_the_store_says(scene: Scene, chaos: Chaos) -> None:
    chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    scene.redirect(from_bytes=SIZE)
    for headers in ({}, {"Range": "bytes=0-9"}):
        got = await scene.proxy.get(F, **headers)
        assert (got.status, got.body, got.source) == (307, b"", "cache")
        assert got.headers["Location"] == scene.far.url
        assert got.headers["Cache-Control"] == "no-store"
        assert got.headers["Cache-Status"] == "artifactproxy; hit; detail=redirect"
        assert got.headers["Content-Length"] == "0"
        assert not {"ETag", "Age", "Repr-Digest", "Content-Range"} & set(got.headers)
    assert scene.far.gets == []
    assert scene.far.asked == [(60.0, "application/octet-stream", "f-1.0.bin")] * 2
    assert scene.metric("redirects_total 2.0")


async def test_what_is_not_redirected(scene: Scene, chaos: Chaos) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE).bytes()
    first = await scene.stored(F)
    tag = first.headers["ETag"]
    scene.redirect()
    head = await scene.proxy.get(F, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
    assert (await scene.proxy.get(F, If_None_Match=tag)).status == 304
    assert (await scene.proxy.get(F, If_Match='"other"')).status == 412
    assert (await scene.proxy.get(F, Range=f"bytes={SIZE}-")).status == 416
    # Conditions that the client would repeat over there, where another tag and date apply.
    assert (await scene.proxy.get(F, If_Match=tag)).body == body
    part = await scene.proxy.get(F, Range="bytes=5-9", If_Range=tag)
    assert (part.status, part.body) == (206, body[5:10])
    scene.redirect(from_bytes=SIZE + 1)
    assert (await scene.proxy.get(F)).body == body
    assert scene.far.asked == []


async def test_no_address_no_redirect(scene: Scene, chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    scene.redirect()
    scene.far.url = None
    assert (await scene.proxy.get(F)).body == body.bytes()

    async def away(*_: object, **__: object) -> str:
        raise StoreAway("the bucket does not answer")

    monkeypatch.setattr(scene.far, "address", away)
    assert (await scene.proxy.get(F)).body == body.bytes()

    async def gone(ref: BlobRef, **_: object) -> str:
        raise BlobMissing(ref.sha256)

    monkeypatch.setattr(scene.far, "address", gone)
    assert (await scene.proxy.get(F)).body == body.bytes()
    assert chaos.hits("/f-1.0.bin") == 2, "healed as every hollow hit"


@pytest.mark.parametrize("which", ["blobs", "all"])
async def test_documents_are_redirected_only_as_they_are_stored(
    tmp_path: Path, chaos: Chaos, stores: list[Far], which: str
) -> None:
    listing(chaos, "pkg")
    chaos.script("/i.json", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin) as proxy:
        scene = Scene(proxy, stores[0])
        await scene.stored("/files/i.json")
        await page(scene)
        await proxy.settled()
        scene.redirect(which)
        assert (await page(scene)).status == 200
        assert (await proxy.get("/files/i.json")).status == (307 if which == "all" else 200)


# --- with copies ----------------------------------------------------------------------------


@pytest.fixture
async def tiered(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Scene, Tier]]:
    """A disk in front of the far store, as `wiring` builds it."""
    made: list[tuple[Far, Tier]] = []

    class Started(Tier):
        async def start(self) -> None:
            await self._disk.start()
            await self.remote.start()  # type: ignore[attr-defined]
            await super().start()

    def build(root: Path, *, fsync: bool, clock: Clock) -> Tier:
        assert fsync
        far = Far(tmp_path / "bucket", clock)
        disk = FsStore(root, fsync=False, clock=clock)
        tier = Started(far, disk, budget=2**30, observer=Heard(), clock=clock, limits=TierLimits(rest=0.0))
        made.append((far, tier))
        return tier

    monkeypatch.setattr(backends, "FsStore", build)
    async with proxied(tmp_path, chaos.origin) as proxy:
        [(far, tier)] = made
        yield Scene(proxy, far), tier
        await proxy.settled()
        assert far.running == 0
        assert proxy.temp_files() == []


async def test_a_copy_is_faster_than_a_redirect(tiered: tuple[Scene, Tier], chaos: Chaos) -> None:
    scene, tier = tiered
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    scene.redirect()
    got = await scene.proxy.get(F)
    assert (got.status, got.body, got.source) == (200, body.bytes(), "cache")
    await tier._copies.drop(body.sha256)
    assert (await scene.proxy.get(F)).status == 307
    assert scene.far.gets == []


async def test_a12_a_crowd_on_a_miss_of_the_tier(tiered: tuple[Scene, Tier], chaos: Chaos) -> None:
    scene, tier = tiered
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    await tier._copies.drop(body.sha256)
    scene.far.held = 150_000
    asking = [asyncio.create_task(scene.proxy.get(F)) for _ in range(20)]
    async with asyncio.timeout(60):
        while not scene.far.running:
            await asyncio.sleep(0.01)
    scene.far.go.set()
    assert {got.body for got in await asyncio.gather(*asking)} == {body.bytes()}
    assert len(scene.far.gets) == 1
    assert (await scene.proxy.get(F)).body == body.bytes()
    assert chaos.hits("/f-1.0.bin") == 1


async def test_s07_a_wrong_object_is_never_a_whole_answer(tiered: tuple[Scene, Tier], chaos: Chaos) -> None:
    scene, tier = tiered
    body = chaos.script("/f-1.0.bin", ok(), size=SIZE)
    await scene.stored(F)
    await tier._copies.drop(body.sha256)
    scene.far.lies.add(body.sha256)
    got = await scene.proxy.get(F)
    assert (got.status, got.body) == (200, None), "a reset"
    scene.far.lies.clear()
    assert (await scene.proxy.get(F)).body == body.bytes()
    await scene.proxy.settled()
    assert chaos.hits("/f-1.0.bin") == 2, "it was set aside, so it was missing"


# --- after an unclean stop ------------------------------------------------------------------


async def test_a_damaged_copy_gives_way_to_the_blob(tmp_path: Path) -> None:
    far = Far(tmp_path / "far", clock=lambda: 1.7e9)
    disk = FsStore(tmp_path / "near", fsync=False)
    await far.start()
    await disk.start()
    tier = Tier(far, disk, budget=2**20, observer=Heard())
    body = b"the whole body"
    ref = BlobRef(hashlib.sha256(body).hexdigest(), len(body))
    await tier.put_bytes(ref, body)
    (tmp_path / "near/blobs/sha256" / ref.sha256[:2] / ref.sha256).write_bytes(b"the wh0le body")
    recheck = Recheck(tier, active=True)
    assert await recheck.locate(ref) is None
    assert await far.size(ref.sha256) == len(body)
    assert b"".join([chunk async for chunk in await tier.open(ref, Span(0, ref.size))]) == body
    while tier._arrivals._tasks:
        await asyncio.sleep(0.01)
    located = await recheck.locate(ref)
    assert located is not None
    os.close(located.fd)
    await disk.delete(ref.sha256)
    await far.delete(ref.sha256)
    lone = Recheck(disk, active=True)
    await disk.put_bytes(ref, body)
    (tmp_path / "near/blobs/sha256" / ref.sha256[:2] / ref.sha256).write_bytes(b"the wh0le body")
    with pytest.raises(BlobMissing) as caught:
        await lone.locate(ref)
    assert caught.value.damaged
    await tier.close()
