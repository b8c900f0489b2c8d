"""Deleting and pushing at once: whatever is answered 201 is there, and stays."""

from __future__ import annotations

import asyncio
import os

import pytest

from artifactproxy.model import ArtifactKey, BlobRef
from tests.hosted.rig import NAME, Rig, sha256


async def gone(reg: Rig, body: bytes) -> str:
    """Pushed and deleted: its bytes lie in the store, and are on their way out."""
    digest = await reg.pushed(body)
    assert (await reg.ask("DELETE", f"{NAME}/blobs/{digest}")).status == 202
    assert await reg.engine.parts.ledger.condemned(10**12, 9) == [BlobRef(digest[7:], len(body))]
    return digest


async def test_what_is_deleted_is_collected(reg: Rig) -> None:
    digest = await gone(reg, os.urandom(300_000))
    reg.clock.ahead = 60.0  # a store tells ages in whole seconds
    if reg.bucket is not None:
        reg.bucket.ahead = 60.0
    assert await reg.engine._janitor.collect(0.0) == (1, 300_000)
    assert reg.blobs() == set()
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).status == 404


@pytest.mark.parametrize("size", [1000, 300_000])
async def test_a_push_waits_for_who_deletes_the_same_blob(
    reg: Rig, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would put its bytes between the look at the age of the old ones and their deletion."""
    body = os.urandom(size)
    digest = await gone(reg, body)
    store = reg.engine.parts.store
    deleting, go_on, real = asyncio.Event(), asyncio.Event(), store.delete

    async def slow(sha256: str, *, older_than: float = 0.0) -> None:
        deleting.set()
        await go_on.wait()
        await real(sha256)  # whatever its age: the look at it was before

    monkeypatch.setattr(store, "delete", slow)
    collecting = asyncio.create_task(reg.engine._janitor.collect(0.0))
    await deleting.wait()
    pushing = asyncio.create_task(reg.ask("POST", f"{NAME}/blobs/uploads/?digest={digest}", body))
    await asyncio.sleep(0.3)
    assert not pushing.done()
    go_on.set()
    assert (await pushing).status == 201
    await collecting
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body


async def test_a_push_that_came_first_keeps_the_blob(reg: Rig) -> None:
    body = os.urandom(300_000)
    digest = await gone(reg, body)
    condemned = await reg.engine.parts.ledger.condemned(10**12, 9)
    await reg.pushed(body)
    assert await reg.engine.parts.ledger.seize([ref.sha256 for ref in condemned], 0.0) == []
    assert await reg.engine._janitor.collect(0.0) == (0, 0)
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body


async def test_pushed_deleted_and_collected_all_the_time(reg: Rig) -> None:
    """The last word of each round decides, whatever the collector does meanwhile."""
    body = os.urandom(20_000)
    digest, stop = sha256(body), asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await reg.engine._janitor.collect(0.0)
            await asyncio.sleep(0)

    collecting = asyncio.create_task(collect())
    for _ in range(25):
        await reg.pushed(body)
        assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body
        assert (await reg.ask("DELETE", f"{NAME}/blobs/{digest}")).status == 202
    await reg.pushed(body)
    stop.set()
    await collecting
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body


async def test_a_push_that_died_before_its_bytes_were_there_is_no_damage(reg: Rig) -> None:
    """It has named its blob and put nothing: the checks at the end find nothing wrong."""
    await reg.registry._kit.receiving._held("images", "team/app", BlobRef("ab" * 32, 10))
    assert len(await reg.rows()) == 1


async def test_eviction_of_a_fetched_twin_takes_no_pushed_row(reg: Rig) -> None:
    """The same bytes were fetched by a remote and are pushed while they are being evicted."""
    body = os.urandom(20_000)
    digest = await reg.pushed(body)
    row = (await reg.engine.parts.ledger.entries("images"))[0]
    twin = ArtifactKey("files", "twin.bin")
    await reg.engine.parts.index.record(
        type(row)(**{**{f: getattr(row, f) for f in row.__slots__}, "key": twin})
    )
    assert await reg.engine.parts.ledger.forget_blob(digest[7:]) == [twin]
    assert await reg.engine.parts.ledger.doom([digest[7:]], 0.0) == []
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body


async def test_a_manifest_and_the_deletion_of_its_blob(reg: Rig) -> None:
    """Of the two at once one is refused, or the manifest came first: it never names what never was."""
    from artifactproxy.rules.oci.media import OCI_MANIFEST
    from tests.hosted.rig import manifest_of

    for number in range(8):
        config = f'{{"n": {number}}}'.encode()
        digest = await reg.pushed(config)
        manifest = manifest_of(config, [])
        put, deleted = await asyncio.gather(
            reg.ask("PUT", f"{NAME}/manifests/t{number}", manifest, Content_Type=OCI_MANIFEST),
            reg.ask("DELETE", f"{NAME}/blobs/{digest}"),
        )
        assert deleted.status == 202
        assert put.status in (201, 404)
