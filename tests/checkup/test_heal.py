"""Fetching again what is damaged: the same bytes or none, beside requests, through every trouble."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import BrokenPromise
from artifactproxy.model import ArtifactKey
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow, status
from tests.checkup.scrubbing import bench, flip, truncate, until
from tests.house_proxy import promise

spoil = flip(0.5)
FILE = ArtifactKey("files", "f.bin")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def test_other_bytes_from_upstream_are_refused_and_never_stored(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        chaos.script("/f.bin", ok(), size=300_000, version=2)
        spoil(blob)
        [finding], summary = await it.run()
        assert (finding["repaired"], summary["repaired"]) == (False, 0)
        assert it.proxy.blobs() == []
        found = await it.proxy.engine.parts.index.find(FILE)
        assert found.entry is None
        await until(lambda: bool(it.warnings("lost_for_good")), "the alarm is in the log")
        assert await it.metric("integrity_failures_total", where="upstream") >= 1
        got = await it.proxy.get("/files/f.bin")
        assert got.body is None, "first sight still counts: a reset, never other bytes"
        assert it.proxy.blobs() == []
        await it.proxy.check()


async def test_other_bytes_are_refused_even_if_the_index_promises_them_now(
    tmp_path: Path, chaos: Chaos
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=300_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with bench(tmp_path, chaos) as it:
        await it.proxy.get(path)
        await it.proxy.settled()
        [blob] = [blob for blob in it.proxy.blobs() if blob.name == body.sha256]
        promise(chaos, "pkg-1.0.tar.gz", chaos.script("/pkg-1.0.tar.gz", ok(), size=300_000, version=2))
        spoil(blob)
        [finding], _ = await it.run()
        assert finding["repaired"] is False
        assert [other.name for other in it.proxy.blobs() if other.stat().st_size == 300_000] == []
        await it.proxy.check()


async def test_upstream_down_then_back(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        port = chaos.port
        spoil(blob)
        await chaos.stop()
        [finding], _ = await it.run()
        assert finding["repaired"] is False
        assert (await it.proxy.engine.parts.index.find(FILE)).entry is None
        assert (await it.proxy.get("/files/f.bin")).status == 502
        await chaos.start(port)
        got = await it.proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        await it.proxy.check()


@pytest.mark.parametrize("code", [404, 410, 403, 500, 503])
async def test_upstream_has_it_no_more(tmp_path: Path, chaos: Chaos, code: int) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos, remote="negative_ttl: 0s") as it:
        blob = await it.hold("/files/f.bin")
        chaos.script("/f.bin", status(code), size=300_000)
        spoil(blob)
        [finding], _ = await it.run()
        assert finding["repaired"] is False
        chaos.script("/f.bin", ok(), size=300_000)
        assert (await it.proxy.get("/files/f.bin")).body == body.bytes()
        await it.proxy.check()


async def test_an_offline_remote_is_not_asked(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
    async with bench(tmp_path, chaos, remote="offline: true") as it:
        spoil(blob)
        [finding], _ = await it.run()
        assert (finding["repaired"], chaos.hits("/f.bin")) == (False, 1)
        got = await it.proxy.get("/files/f.bin")
        assert (got.status, got.error) == (504, "not_cached")
        await it.proxy.check()


async def test_a_full_disk_while_healing(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        spoil(blob)
        failpoints.arm("tmp.fsynced=raise:ENOSPC")
        [finding], _ = await it.run()
        assert finding["repaired"] is False
        assert it.proxy.temp_files() == []
        failpoints.arm("")
        assert (await it.proxy.get("/files/f.bin")).body == body.bytes()
        await it.proxy.settled()
        assert (await it.proxy.get("/files/f.bin")).source == "cache"
        await it.proxy.check()


async def test_a_disk_without_room_for_what_must_be_fetched(tmp_path: Path, chaos: Chaos) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root: mount -t tmpfs")
    try:
        body = chaos.script("/f.bin", ok(), size=2_000_000)
        async with bench(folder, chaos, top="limits: {min_free_share: 0}") as it:
            blob = await it.hold("/files/f.bin")
            spoil(blob)
            (folder / "others").write_bytes(b"x" * 1_500_000)
            [finding], _ = await it.run()
            assert finding["repaired"] is False, "quarantine keeps the evidence, so there is no room"
            assert it.proxy.blobs() == []
            for kept in it.quarantine():
                kept.unlink()
            assert (await it.proxy.get("/files/f.bin")).body == body.bytes()
            await it.proxy.check()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_an_index_is_fetched_anew_whatever_it_says_now(tmp_path: Path, chaos: Chaos) -> None:
    first = chaos.script("/latest/index.json", ok(), size=3000)
    async with bench(tmp_path, chaos, remote="min_revalidate: 0s") as it:
        blob = await it.hold("/files/latest/index.json")
        assert blob.read_bytes() == first.bytes()
        second = chaos.script("/latest/index.json", ok(), size=3000, version=2)
        spoil(blob)
        [finding], _ = await it.run()
        assert finding["repaired"] is True
        assert "if-none-match" not in chaos.last("/latest/index.json").headers
        await chaos.stop()
        got = await it.proxy.get("/files/latest/index.json")
        assert (got.status, got.body, got.source) == (200, second.bytes(), "cache")
        assert [each.read_bytes() for each in it.proxy.blobs()] == [second.bytes()]
        await it.proxy.check()


async def test_a_damaged_superseded_body_is_dropped_and_not_asked_for(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/latest/index.json", ok(), size=3000)
    async with bench(tmp_path, chaos, remote="min_revalidate: 0s") as it:
        old = await it.hold("/files/latest/index.json")
        chaos.script("/latest/index.json", ok(), size=3000, version=2)
        await asyncio.sleep(0.01)
        await it.proxy.get("/files/latest/index.json", Cache_Control="no-cache")
        await it.proxy.settled()
        assert len(it.proxy.blobs()) == 2
        spoil(old)
        asked = chaos.hits("/latest/index.json")
        [finding], _ = await it.run()
        assert (finding["subject"], finding["repaired"]) == (old.name, True)
        assert chaos.hits("/latest/index.json") == asked
        assert await it.proxy.engine.parts.ledger.named("", 10) == [
            ref async for ref, _ in it.proxy.engine.parts.store.scan()
        ]
        await it.proxy.check()


async def test_two_names_of_one_blob_are_healed_by_one_transfer(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/latest/same.json", status(200, b"x" * 5000))
    chaos.script("/other.bin", status(200, b"x" * 5000))
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/other.bin")
        await it.proxy.get("/files/latest/same.json")
        await it.proxy.settled()
        assert len(it.proxy.blobs()) == 1, body
        asked = len(chaos.requests)
        spoil(blob)
        [finding], _ = await it.run()
        assert (finding["repaired"], len(chaos.requests)) == (True, asked + 1)
        for path in ("/files/other.bin", "/files/latest/same.json"):
            assert (await it.proxy.get(path)).body == b"x" * 5000
        await it.proxy.check()


async def test_a_heal_is_nobodys_use_and_names_itself_in_the_log(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        index = it.proxy.engine.parts.index
        before = (await index.find(FILE)).entry
        etag = (await it.proxy.get("/files/f.bin", "HEAD")).headers["ETag"]
        spoil(blob)
        await it.run()
        after = (await index.find(FILE)).entry
        assert before and after
        assert (after.last_used, after.first_seen) == (before.last_used, before.first_seen)
        assert after.fetched_at > before.fetched_at
        assert (await it.proxy.get("/files/f.bin", "HEAD")).headers["ETag"] == etag

        def fills() -> list[object]:
            return [line.get("caller") for line in it.proxy.log_lines() if line["event"] == "fill"]

        await until(lambda: len(fills()) == 2, "both fills are in the log")
        assert fills() == [None, "scrub"]
        await it.proxy.check()


async def test_a_request_joins_the_heal(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), slow(1_000_000), size=300_000)
    async with bench(tmp_path, chaos) as it:
        truncate(await it.hold("/files/f.bin"))
        round_ = asyncio.create_task(it.run())
        await until(lambda: chaos.hits("/f.bin") == 2, "the heal asks upstream")
        got = await it.proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        assert (await round_)[1]["repaired"] == 1
        assert chaos.hits("/f.bin") == 2
        await it.proxy.check()


async def test_a_heal_joins_a_request(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), slow(1_000_000), size=300_000)
    async with bench(tmp_path, chaos) as it:
        truncate(await it.hold("/files/f.bin"))
        request = asyncio.create_task(it.proxy.get("/files/f.bin"))
        await until(lambda: chaos.hits("/f.bin") == 2, "the request asks upstream")
        key_gone = (await it.proxy.engine.parts.index.find(FILE)).entry is None
        assert key_gone
        assert await it.healer.refetch(FILE) is True
        assert (await request).body == body.bytes()
        assert chaos.hits("/f.bin") == 2
        await it.proxy.check()


async def test_few_at_once(tmp_path: Path, chaos: Chaos) -> None:
    names = [f"f{number}.bin" for number in range(6)]
    for name in names:
        chaos.script(f"/{name}", ok(), slow(1_000_000), size=200_000)
    async with bench(tmp_path, chaos) as it:
        blobs = [await it.hold(f"/files/{name}") for name in names]
        for blob in blobs:
            blob.unlink()
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, it.proxy.engine.states()["fills"])
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        healed = await asyncio.gather(*(it.healer.refetch(ArtifactKey("files", name)) for name in names))
        watching.cancel()
        assert all(healed)
        assert 1 <= most <= 2
        await it.proxy.check()


async def test_a_heal_can_be_cancelled(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), slow(200_000), ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        blob.unlink()
        healing = asyncio.create_task(it.healer.refetch(FILE))
        await until(lambda: chaos.hits("/f.bin") == 2, "it asks upstream")
        healing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await healing
        await it.proxy.settled()
        assert await it.healer.refetch(FILE) is True
        assert (await it.proxy.get("/files/f.bin")).body == body.bytes()
        await it.proxy.check()


async def test_a_row_of_a_remote_that_is_no_more(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=300_000)
    further = f"gone:\n  provider: generic\n  upstream: {chaos.origin}/\n"
    async with bench(tmp_path, chaos, remotes=further) as it:
        blob = await it.hold("/gone/f.bin")
    async with bench(tmp_path, chaos) as it:
        spoil(blob)
        [finding], _ = await it.run()
        assert (finding["repaired"], chaos.hits("/f.bin")) == (False, 1)
        assert await it.proxy.engine.parts.ledger.named("", 10) == []
        await it.proxy.check()


async def test_both_forms_of_a_package_document(tmp_path: Path, chaos: Chaos) -> None:
    short = "application/vnd.npm.install-v1+json"
    document = json.dumps({"name": "left", "versions": {}, "dist-tags": {}}).encode()
    chaos.script("/npm/left", status(200, document + b" ", Content_Type="application/json"))
    further = f"npm:\n  provider: npm\n  upstream: {chaos.origin}/npm/\n"
    async with bench(tmp_path, chaos, remotes=further) as it:
        full = await it.hold("/npm/left")
        chaos.script("/npm/left", status(200, document, Content_Type=short))
        assert (await it.proxy.get("/npm/left", Accept=short)).status == 200
        await it.proxy.settled()
        [abbreviated] = [blob for blob in it.proxy.blobs() if blob != full]
        spoil(abbreviated)
        [finding], _ = await it.run()
        assert (finding["subject"], finding["repaired"]) == (abbreviated.name, True)
        assert chaos.last("/npm/left").headers["accept"].startswith(short)
        await it.proxy.check()


async def test_other_bytes_are_refused_even_if_a_request_has_forgotten_the_row(
    tmp_path: Path, chaos: Chaos
) -> None:
    """Then nothing contradicts the new promise but the row that the heal remembers."""
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=30_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with bench(tmp_path, chaos, remote="min_revalidate: 0s") as it:
        await it.proxy.get(path)
        await it.proxy.settled()
        parts = it.proxy.engine.parts
        [row] = await parts.ledger.naming(body.sha256)
        for blob in it.proxy.blobs():
            if blob.name == body.sha256:
                blob.unlink()
        await parts.ledger.forget_blob(body.sha256)
        await parts.ledger.bury(await parts.ledger.doom([body.sha256], time.time()))
        other = chaos.script("/pkg-1.0.tar.gz", ok(), size=30_000, version=2)
        promise(chaos, "pkg-1.0.tar.gz", other)
        with pytest.raises(BrokenPromise):
            await it.proxy.engine.refetch(row.key, row, caller="test")
        await it.proxy.settled()
        assert other.sha256 not in {blob.name for blob in it.proxy.blobs()}
        assert (await it.proxy.get(path)).body == other.bytes(), "a request believes the index of today"
        await it.proxy.check()


async def test_a_row_that_is_gone_is_fetched_by_its_promise(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        await it.proxy.engine.parts.ledger.forget_blob(blob.name)
        blob.unlink()
        assert await it.healer.refetch(FILE) is True
        assert blob.read_bytes() == body.bytes()
        await it.proxy.engine.parts.ledger.forget_blob(blob.name)
        blob.unlink()
        chaos.script("/f.bin", ok(), size=300_000, version=2)
        assert await it.healer.refetch(FILE) is False
        assert it.proxy.blobs() == []
        assert await it.healer.refetch(ArtifactKey("nobody", "f.bin")) is False
        await it.proxy.check(but="I14")  # the row was taken away, not its count
