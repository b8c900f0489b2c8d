"""One round of the scrub over a real store: what it finds, sets aside, and gets back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.errors import Busy, StoreUnavailable
from artifactproxy.stores.medium import pin
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.checkup.scrubbing import SEEN_BY_HASH, SEEN_BY_SIZE, bench, delete, failing, flip, swap, truncate

ALL = {**SEEN_BY_SIZE, **SEEN_BY_HASH, "deleted": delete}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize("damage", ALL)
async def test_damage_is_found_set_aside_and_healed(tmp_path: Path, chaos: Chaos, damage: str) -> None:
    body = chaos.script("/f.bin", ok(), size=300_000)
    chaos.script("/other.bin", ok(), size=1000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/other.bin")
        blob = await it.hold("/files/f.bin")
        ALL[damage](blob)
        [finding], summary = await it.run()
        kind = "missing" if damage == "deleted" else "size" if damage in SEEN_BY_SIZE else "digest"
        assert (finding["kind"], finding["subject"], finding["repaired"]) == (kind, blob.name, True)
        assert (summary["found"], summary["repaired"], summary["checked"]["blobs"]) == (1, 1, 2)
        assert blob.is_file()
        assert blob.read_bytes() == body.bytes()
        assert len(it.quarantine()) == (damage != "deleted")
        hits = chaos.hits("/f.bin")
        got = await it.proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "cache")
        assert (hits, chaos.hits("/f.bin")) == (2, 2)
        assert await it.metric("scrub_bad_total", kind=kind) == 1
        assert await it.metric("scrub_blobs_total") == 2
        if damage == "symlink":
            (blob.parent / "elsewhere").unlink()
        assert (await it.run())[1]["found"] == 0
        await it.proxy.check()


async def test_two_blobs_swapped(tmp_path: Path, chaos: Chaos) -> None:
    bodies = {name: chaos.script(f"/{name}", ok(), size=70_000) for name in ("a.bin", "b.bin")}
    async with bench(tmp_path, chaos) as it:
        first, second = [await it.hold(f"/files/{name}") for name in bodies]
        swap(first, second)
        findings, summary = await it.run()
        assert {finding["subject"] for finding in findings} == {first.name, second.name}
        assert summary["repaired"] == 2
        for name, body in bodies.items():
            got = await it.proxy.get(f"/files/{name}")
            assert (got.body, got.source) == (body.bytes(), "cache")
        await it.proxy.check()


async def test_an_empty_store_says_that_nothing_was_looked_at(tmp_path: Path, chaos: Chaos) -> None:
    async with bench(tmp_path, chaos) as it:
        findings, summary = await it.run()
        assert findings == []
        assert summary["checked"].get("blobs", 0) == 0


async def test_a_blob_that_nothing_names_is_hashed_too(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=70_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        await it.proxy.engine.parts.ledger.forget_blob(blob.name)
        flip(0.5)(blob)
        [finding], _ = await it.run()
        assert (finding["subject"], finding["repaired"], chaos.hits("/f.bin")) == (blob.name, True, 1)
        assert not blob.exists()
        await it.proxy.check()


@pytest.mark.parametrize("error", ["EIO", "EBADMSG"])
async def test_an_unreadable_blob_is_a_finding(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    bodies = {name: chaos.script(f"/{name}", ok(), size=70_000) for name in ("a.bin", "b.bin", "c.bin")}
    async with bench(tmp_path, chaos) as it:
        for name in bodies:
            await it.hold(f"/files/{name}")
        failing(monkeypatch, error, times=2)
        [finding], summary = await it.run()
        assert (finding["invariant"], finding["kind"], finding["repaired"]) == ("I02", "unreadable", True)
        assert summary["checked"]["blobs"] == 3
        assert len(it.quarantine()) == 1
        for name, body in bodies.items():
            assert (await it.proxy.get(f"/files/{name}")).body == body.bytes()
        await it.proxy.check()


async def test_what_reads_well_the_second_time_is_left_alone(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=70_000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/f.bin")
        failpoints.arm("scrub.read=raise:EIO@1")
        assert (await it.run())[1]["found"] == 0
        assert it.quarantine() == []


async def test_a_disk_that_reads_nothing_is_not_emptied(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactproxy.checkup.scrub.UNREADABLE_MOST", 2)
    async with bench(tmp_path, chaos) as it:
        for number in range(5):
            chaos.script(f"/f{number}.bin", ok(), size=1000)
            await it.hold(f"/files/f{number}.bin")
        await chaos.stop()
        failpoints.arm("scrub.read=raise:EIO")
        findings, summary = await it.run()
        assert (len(findings), summary["repaired"]) == (5, 0)
        assert (len(it.proxy.blobs()), len(it.quarantine())) == (3, 2)
        failpoints.arm("")
        assert (await it.run())[1]["found"] == 0


@pytest.mark.parametrize("error", ["EMFILE", "ENOMEM"])
async def test_our_own_want_is_no_damage(tmp_path: Path, chaos: Chaos, error: str) -> None:
    chaos.script("/f.bin", ok(), size=1000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/f.bin")
        failpoints.arm(f"scrub.read=raise:{error}")
        with pytest.raises(StoreUnavailable):
            await it.run()
        assert (it.quarantine(), len(it.proxy.blobs())) == ([], 1)
        failpoints.arm("")
        assert (await it.run())[1]["found"] == 0


async def test_a_store_that_is_gone_is_no_damage(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=1000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/f.bin")
        blobs = it.proxy.data / "blobs"
        blobs.rename(tmp_path / "unmounted")
        with pytest.raises(StoreUnavailable):
            await it.run()
        (tmp_path / "unmounted").rename(blobs)
        assert (await it.run())[1]["found"] == 0
        await it.proxy.check()


async def test_a_quarantine_that_cannot_be_written_is_told(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=1000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        (it.proxy.data / "quarantine").rmdir()
        (it.proxy.data / "quarantine").write_text("in the way")
        flip(0.5)(blob)
        [finding], summary = await it.run()
        assert (finding["repaired"], summary["repaired"]) == (False, 0)
        assert "could not be set aside" in finding["detail"]
        (it.proxy.data / "quarantine").unlink()
        [finding], _ = await it.run()
        assert finding["repaired"] is True, "the directory is made again"
        await it.proxy.check()


# --- others at the same time ---


async def test_a_good_blob_that_came_meanwhile_stays(tmp_path: Path, chaos: Chaos) -> None:
    """The damaged file is read while a request finds it too short, and fetches it anew."""
    body = chaos.script("/f.bin", ok(), size=3_000_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        flip(0.5)(blob)
        round_ = asyncio.create_task(it.run(rate=2_000_000))
        await asyncio.sleep(0.1)
        truncate(blob)  # of the file that is being read
        assert (await it.proxy.get("/files/f.bin")).body == body.bytes()
        await it.proxy.settled()
        [finding], _ = await round_
        assert (finding["subject"], finding["repaired"]) == (blob.name, True)
        assert blob.read_bytes() == body.bytes()
        assert (chaos.hits("/f.bin"), len(it.quarantine())) == (2, 1)
        await it.proxy.check()


async def test_a_blob_evicted_while_it_is_read(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=3_000_000)
    async with bench(tmp_path, chaos, top="limits: {blob_grace: 1ms}") as it:
        blob = await it.hold("/files/f.bin")
        round_ = asyncio.create_task(it.run(rate=3_000_000))
        await asyncio.sleep(0.1)
        await it.proxy.engine.purge("files", path="f.bin")
        await asyncio.sleep(0.01)
        await it.proxy.engine.gc(run=True)
        assert not blob.exists()
        findings, _ = await round_
        assert (findings, chaos.hits("/f.bin")) == ([], 1)
        await it.proxy.check()


async def test_a_blob_evicted_before_its_turn_is_not_missed(tmp_path: Path, chaos: Chaos) -> None:
    for number in range(3):
        chaos.script(f"/f{number}.bin", ok(), size=1_000_000)
    async with bench(tmp_path, chaos, top="limits: {blob_grace: 1ms}") as it:
        last = max([await it.hold(f"/files/f{number}.bin") for number in range(3)])
        round_ = asyncio.create_task(it.run(rate=3_000_000))
        await asyncio.sleep(0.1)
        await it.proxy.engine.parts.ledger.forget_blob(last.name)
        last.unlink()
        findings, summary = await round_
        assert (findings, summary["checked"]["blobs"]) == ([], 2)


async def test_a_backup_under_way_does_not_stop_it(tmp_path: Path, chaos: Chaos) -> None:
    """A pin keeps good blobs; what is damaged is worth nothing to a backup either."""
    body = chaos.script("/f.bin", ok(), size=70_000)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        flip(0.5)(blob)
        with pin(it.proxy.data):
            [finding], _ = await it.run()
        assert finding["repaired"] is True
        assert blob.read_bytes() == body.bytes()
        await it.proxy.check()


async def test_one_at_a_time_and_stopping_frees_the_place(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=5_000_000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/f.bin")
        first = it.scrub.scrub(rate=1_000_000)
        await anext(first)
        with pytest.raises(Busy):
            await it.run()
        await anext(first)
        await first.aclose()
        assert it.position.finished_at is None
        assert (await it.run())[1]["checked"]["blobs"] == 1
        assert it.position.finished_at is not None
        await it.proxy.check()


async def test_progress_is_told_within_a_large_blob(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=5_000_000)
    async with bench(tmp_path, chaos) as it:
        await it.hold("/files/f.bin")
        lines = [line["progress"] async for line in it.scrub.scrub(rate=20_000_000) if "progress" in line]
        done = [line["done"] for line in lines]
        assert done == sorted(done)
        assert len(set(done)) > 2
        assert (lines[-1]["done"], lines[-1]["total"]) == (5_000_000, 5_000_000)
