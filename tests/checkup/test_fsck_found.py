"""What the check found in the program itself, each as a test of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from artifactproxy import inspection
from artifactproxy.model import BlobRef
from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.checkup.planted import PLANTED
from tests.checkup.world import World, filled, row_of, sql
from tests.house_proxy import Proxy


async def _condemned(world: World, proxy: Proxy, *paths: str) -> list[BlobRef]:
    """Forgotten and doomed long ago."""
    parts = proxy.engine.parts
    refs = [BlobRef(*row_of(world.data, path)) for path in paths]
    for ref in refs:
        await parts.ledger.forget_blob(ref.sha256)
    await parts.ledger.doom([ref.sha256 for ref in refs], 1.0)
    return refs


async def test_a_blob_put_again_during_a_long_deletion_stays(tmp_path: Path, chaos: Chaos) -> None:
    """The grace counts from when it was asked what is doomed, not from when it is deleted."""
    async with filled(tmp_path, chaos) as world, world.serving() as (proxy, _):
        store, janitor = proxy.engine.parts.store, proxy.engine._janitor
        refs = await _condemned(world, proxy, "tool.bin", "small.bin")
        again = {"tool.bin": refs[0].sha256, "small.bin": refs[1].sha256}
        delete, asked = store.delete, list[str]()

        async def slow(sha256: str, *, older_than: float = 0.0) -> None:
            if not asked:
                other = next(path for path, name in again.items() if name != sha256)
                got = await proxy.get(f"/files/{other}")
                assert got.status == 200
                await proxy.settled()
                await asyncio.sleep(0.1)
            asked.append(sha256)
            await delete(sha256, older_than=older_than)

        store.delete = slow
        await janitor.collect(0.02)
        assert sorted(asked) == sorted(again.values())
        assert (await inspection.inspect(world.data))[0] == []
        other = next(path for path, name in again.items() if name != asked[0])
        assert (await proxy.get(f"/files/{other}")).source == "cache"


async def test_a_row_refreshed_while_its_blob_goes_is_forgotten(tmp_path: Path, chaos: Chaos) -> None:
    async with filled(tmp_path, chaos) as world, world.serving() as (proxy, _):
        parts = proxy.engine.parts
        [row] = await parts.ledger.entries("files", path="page.json")
        await _condemned(world, proxy, "page.json")
        delete = parts.store.delete

        async def beside(sha256: str, *, older_than: float = 0.0) -> None:
            await parts.index.record(row)  # a 304 has come for it
            await delete(sha256, older_than=older_than)

        parts.store.delete = beside
        await proxy.engine._janitor.collect(0.0)
        assert await parts.ledger.entries("files", path="page.json") == []
        assert (await inspection.inspect(world.data))[0] == []


async def test_collecting_an_orphan_stops_counting_it(tmp_path: Path, chaos: Chaos) -> None:
    """Its process died between forgetting its row and marking it."""
    async with filled(tmp_path, chaos) as world:
        PLANTED["forgotten"].plant(world.data)
        async with world.serving() as (proxy, _):
            before = (await proxy.engine.stats())["bytes"]
            report = await proxy.engine.gc(run=True)
            assert report["orphans"] == 1
            assert (await proxy.engine.stats())["bytes"] == before - 10
        assert (await inspection.inspect(world.data))[0] == []


async def test_an_absence_keeps_no_signed_address(tmp_path: Path, chaos: Chaos) -> None:
    """Rows of documents never did; the key is what the client asked for and stays."""
    signed = "/lost.bin?X-Amz-Signature=secret"
    async with filled(tmp_path, chaos) as world:
        chaos.script("/lost.bin", status(404))
        async with world.serving() as (proxy, _):
            assert (await proxy.get(f"/files{signed}")).status == 404
            await proxy.settled()
        assert chaos.requests[-1].target == signed
        with sql(world.data) as db:
            [(source,)] = db.execute("SELECT source FROM entries WHERE path LIKE 'lost.bin%'").fetchall()
        assert source == chaos.url("/lost.bin")
        assert (await inspection.inspect(world.data))[0] == []
