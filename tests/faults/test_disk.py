"""A full or failing disk: clients get right bytes or a clear error, the store stays consistent."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import promise, proxied

BIG = 3_000_000
NO_FLOOR = "limits: {min_free_share: 0}"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("needs root: mount -t tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_l01_a_body_that_cannot_fit_passes_through_verified(small_disk: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=20_000_000)
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        assert got.headers["Cache-Status"] == "artifactproxy; fwd=bypass; detail=store-full"
        assert chaos.hits("/f.bin") <= 2, "its size is known only from the first answer's head"
        assert proxy.blobs() == []
        small = chaos.script("/g.bin", ok(), size=10_000)
        assert (await proxy.get("/files/g.bin")).body == small.bytes()
        await proxy.settled()
        assert (await proxy.get("/files/g.bin")).source == "cache"
        await proxy.check()


async def test_l01_passing_through_still_verifies(small_disk: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        assert (await proxy.get(path)).body == body.bytes()
        chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000_000, version=2)
        assert (await proxy.get(path)).body is None
        await proxy.check()


async def test_l01_passing_through_frees_upstream_when_the_request_is_refused(
    small_disk: Path, chaos: Chaos
) -> None:
    chaos.script("/f.bin", ok(), size=20_000_000)
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        assert (await proxy.get("/files/f.bin", If_Match='"x"')).status == 412
        await proxy.check()


async def test_l01_passing_through_frees_upstream_when_no_teacher_speaks(
    small_disk: Path, chaos: Chaos
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    chaos.script("/simple/pkg/", status(500))
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        assert (await proxy.get(path)).status == 502
        await proxy.check()


async def test_l02_full_in_the_middle_of_an_unannounced_body(small_disk: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(chunked=True), size=20_000_000)
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        got = await proxy.get("/files/f.bin")
        assert got.body is None or got.body == chaos.script("/f.bin", ok(), size=20_000_000).bytes()
        await proxy.settled()
        assert proxy.temp_files() == []
        small = chaos.script("/g.bin", ok(), size=10_000)
        assert (await proxy.get("/files/g.bin")).body == small.bytes()
        await proxy.check()


STEPS = ["tmp.opened", "tmp.half", "tmp.full", "tmp.fsynced", "blob.linked", "dir.fsynced"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
async def test_a_failure_at_each_step_costs_the_cache_entry_only(
    tmp_path: Path, chaos: Chaos, step: str, error: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm(f"{step}=raise:{error}@1")
        got = await proxy.get("/files/f.bin")
        if got.status == 200 and got.body is not None:
            assert got.body == body.bytes()
        else:
            assert got.body is None or got.status in (502, 503, 507)
        await proxy.settled()
        assert proxy.temp_files() == []
        failpoints.arm("")
        again = await proxy.get("/files/f.bin")
        assert (again.status, again.body) == (200, body.bytes())
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()


async def test_the_index_fails_and_clients_still_get_their_bytes(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm("row.written=raise:EIO@1")
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.settled()
        failpoints.arm("")
        again = await proxy.get("/files/f.bin")
        assert again.body == body.bytes()
        await proxy.check()


async def test_a_hollow_hit_heals(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        [blob] = proxy.blobs()
        blob.unlink()
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        await proxy.check()


@pytest.mark.parametrize("damage", ["shorter", "longer"])
async def test_a_blob_of_the_wrong_size_is_set_aside_and_fetched_again(
    tmp_path: Path, chaos: Chaos, damage: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        [blob] = proxy.blobs()
        blob.chmod(0o600)
        blob.write_bytes(body.bytes()[:-1] if damage == "shorter" else body.bytes() + b"x")
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.check()


async def test_a_flipped_bit_is_found_after_an_unclean_stop(tmp_path: Path, chaos: Chaos) -> None:
    import sqlite3

    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        [blob] = proxy.blobs()
        copy = sqlite3.connect(proxy.data / "index.sqlite3")
        kept = sqlite3.connect(tmp_path / "unclean.sqlite3")
        copy.backup(kept)  # the index as a killed process would leave it
        copy.close()
        kept.close()
    wrong = bytearray(blob.read_bytes())
    wrong[BIG // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(wrong)
    for name in ("index.sqlite3-wal", "index.sqlite3-shm"):
        (tmp_path / "data" / name).unlink(missing_ok=True)
    (tmp_path / "unclean.sqlite3").chmod(0o600)
    (tmp_path / "unclean.sqlite3").rename(tmp_path / "data" / "index.sqlite3")
    async with proxied(tmp_path, chaos.origin) as proxy:
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.source, got.body) == (200, "remote", body.bytes())
        await proxy.check()


async def test_least_recently_used_goes_first_under_data_limit(tmp_path: Path, chaos: Chaos) -> None:
    names = [f"/f{n}.bin" for n in range(5)]
    bodies = {name: chaos.script(name, ok(), size=1_000_000) for name in names}
    top = "data_limit: 3MB\nlimits: {blob_grace: 10ms, touch_every: 1ms, flush_every: 20ms, sweep_every: 1h}"
    async with proxied(tmp_path, chaos.origin, top=top) as proxy:
        for name in names:
            await proxy.get("/files" + name)
            await proxy.settled()
        import asyncio

        await asyncio.sleep(0.1)
        await proxy.get("/files/f0.bin")  # used again: no longer the coldest
        await asyncio.sleep(0.1)
        shown = await proxy.engine.gc(run=False)
        assert shown["to_free_bytes"] >= 2_000_000
        assert shown["evictable"] >= 2
        done = await proxy.engine.gc(run=True)
        assert done["deleted_bytes"] >= 2_000_000
        held = {path.name for path in proxy.blobs()}
        assert bodies["/f0.bin"].sha256 in held
        assert bodies["/f1.bin"].sha256 not in held
        got = await proxy.get("/files/f1.bin")
        assert (got.source, got.body) == ("remote", bodies["/f1.bin"].bytes())
        await proxy.check()


async def test_what_is_evicted_while_it_is_read_is_read_to_its_end(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top="data_limit: 1\nlimits: {blob_grace: 0}") as proxy:
        await proxy.get("/files/f.bin")
        await proxy.settled()
        async with proxy.client.get(proxy.base + "/files/f.bin") as answer:
            start = await answer.content.readexactly(1000)
            await proxy.engine.gc(run=True)
            assert proxy.blobs() == []
            assert start + await answer.read() == body.bytes()
        await proxy.check()


async def test_purge_path_package_and_repository(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:

        async def fetch() -> list[str]:
            sources = []
            for each in ("/pypi/simple/pkg/", path, "/files/f.bin"):
                sources.append((await proxy.get(each)).source)
                await proxy.settled()
            return sources

        assert await fetch() == ["remote"] * 3
        assert await fetch() == ["cache"] * 3
        await proxy.engine.purge("files", path="f.bin")
        assert await fetch() == ["cache", "cache", "remote"]
        report = await proxy.engine.purge("pypi", package="pkg")
        assert report["entries"] == 2
        assert await fetch() == ["remote", "remote", "cache"]
        await proxy.engine.purge("pypi", package="pkg:pypi/pkg@1.0")
        assert await fetch() == ["cache", "remote", "cache"]
        await proxy.engine.purge("pypi")
        assert await fetch() == ["remote", "remote", "cache"]
        await proxy.check()


async def test_a_rendered_index_that_does_not_fit(small_disk: Path, chaos: Chaos) -> None:
    """The whole does not fit beside its source; compressed it does. Nothing half-written stays."""
    files = [
        {
            "filename": f"pkg-1.{n}.zip",
            "url": chaos.url(f"/pkg-1.{n}.zip"),
            "hashes": {},
            "yanked": "x" * 2000,
        }
        for n in range(2200)
    ]
    page = {"meta": {"api-version": "1.0"}, "name": "pkg", "files": files}
    simple = "application/vnd.pypi.simple.v1+json"
    chaos.script("/simple/pkg/", status(200, json.dumps(page).encode(), Content_Type=simple))
    async with proxied(small_disk, chaos.origin, top=NO_FLOOR) as proxy:
        for _ in range(2):
            got = await proxy.get("/pypi/simple/pkg/", Accept=simple)
            assert (got.status, got.error) == (503, "store_full")
            await proxy.settled()
            assert proxy.temp_files() == []
        coded = await proxy.get("/pypi/simple/pkg/", Accept=simple, Accept_Encoding="gzip")
        assert len(json.loads(gzip.decompress(coded.body or b""))["files"]) == 2200
        await proxy.check()
