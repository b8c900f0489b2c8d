"""Disks that are full, have no inode left, cannot be written, break off or are taken away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, slow, status
from tests.faults.machine import (
    command,
    fill_up,
    metric,
    mount,
    read_only,
    readiness,
    told,
    umount,
    use_up_inodes,
)
from tests.house_proxy import Proxy, configuration, promise, proxied

__all__ = ["mount"]

Mount = Callable[..., None]
NO_FLOOR = "limits: {min_free_share: 0}"
BIG = 1_000_000
SIDECAR = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def script(chaos: Chaos) -> tuple[dict[str, str], Oracle]:
    """A wheel, the index that promises it and its sidecar: their paths at the proxy."""
    name = "pkg-1.0-py3-none-any.whl"
    body = chaos.script(f"/{name}", ok(), size=BIG)
    file = promise(chaos, name, body, sidecar=hashlib.sha256(SIDECAR).hexdigest())
    chaos.script(f"/{name}.metadata", status(200, SIDECAR))
    return {"index": "/pypi/simple/pkg/", "artifact": file, "sidecar": f"{file}.metadata"}, body


async def right(proxy: Proxy, what: str, path: str, body: Oracle) -> None:
    """A whole and right answer of that kind, stored or not."""
    got = await proxy.get(path)
    assert got.status == 200, (what, got.status, got.body)
    if what == "index":
        assert got.body is not None
        assert body.sha256.encode() in got.body
    else:
        assert got.body == (SIDECAR if what == "sidecar" else body.bytes())


async def recovered(proxy: Proxy, paths: dict[str, str], body: Oracle) -> None:
    """Nobody restarted anything: it is ready again, stores again, and all is consistent."""
    ready, found = await readiness(proxy)
    assert (ready, set(found.values())) == (200, {"ok"})
    for what, path in paths.items():
        await right(proxy, what, path, body)
        await proxy.settled()
    for path in paths.values():
        assert (await proxy.get(path)).source == "cache"
    assert await metric(proxy, "degraded") == 0
    await proxy.check()


@pytest.mark.parametrize("what", ["artifact", "index", "sidecar"])
async def test_l01_no_space_for_a_temp_file(tmp_path: Path, chaos: Chaos, mount: Mount, what: str) -> None:
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    paths, body = script(chaos)
    async with proxied(tmp_path, chaos.origin, top=NO_FLOOR) as proxy:
        ballast = fill_up(proxy.data)
        await right(proxy, what, paths[what], body)
        await proxy.settled()
        assert (proxy.temp_files(), proxy.blobs()) == ([], [])
        ready, found = await readiness(proxy)
        assert (ready, found["store"]) == (503, "no space is left for blobs")
        assert await metric(proxy, "degraded", dependency="store") == 1
        assert await metric(proxy, "store_errors_total") >= 1
        await told(proxy, lambda line: "_full" in str(line.get("error")))
        for path in ballast:
            path.unlink()
        await recovered(proxy, paths, body)


async def test_l01_the_answer_says_that_it_was_not_stored(tmp_path: Path, chaos: Chaos, mount: Mount) -> None:
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=NO_FLOOR) as proxy:
        ballast = fill_up(proxy.data)
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        assert got.headers["Cache-Status"] == "artifactproxy; fwd=bypass; detail=store-full"
        assert got.headers["Cache-Control"] == "no-store"
        assert await metric(proxy, "bypassed_total") == 1
        ballast[0].unlink()
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await proxy.check()
        assert (await proxy.get("/files/f.bin")).source == "cache"


async def test_l02_a_body_without_a_length_breaks_off_once_and_passes_through_then(
    tmp_path: Path, chaos: Chaos, mount: Mount
) -> None:
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    body = chaos.script("/f.bin", ok(chunked=True), size=20_000_000)
    async with proxied(tmp_path, chaos.origin, top=NO_FLOOR) as proxy:
        both = await asyncio.gather(proxy.get("/files/f.bin"), proxy.get("/files/f.bin"))
        for got in both:
            assert got.body is None or got.body == body.bytes(), "short and yet complete"
        await proxy.settled()
        assert (proxy.temp_files(), proxy.blobs()) == ([], [])
        assert await metric(proxy, "store_errors_total", kind="store_full") >= 1
        line = await told(proxy, lambda line: line.get("result") == "failed")
        assert (line["event"], line["error"]) == ("fill", "store_full")
        again = await proxy.get("/files/f.bin")
        assert (again.status, again.body) == (200, body.bytes())
        assert again.headers["Cache-Status"].startswith("artifactproxy; fwd=bypass")
        small = chaos.script("/g.bin", ok(), size=10_000)
        assert (await proxy.get("/files/g.bin")).body == small.bytes()
        await proxy.check()


async def test_l02_somebody_else_takes_the_space_in_the_middle(
    tmp_path: Path, chaos: Chaos, mount: Mount
) -> None:
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    body = chaos.script("/f.bin", slow(8_000_000), ok(), size=5_000_000)
    async with proxied(tmp_path, chaos.origin, top=NO_FLOOR) as proxy:
        running = asyncio.create_task(proxy.get("/files/f.bin"))
        while not proxy.engine.states()["temp_bytes"]:
            await asyncio.sleep(0.01)
        ballast = fill_up(proxy.data)
        got = await running
        assert got.body is None
        await proxy.settled()
        assert (proxy.temp_files(), proxy.blobs()) == ([], [])
        assert await metric(proxy, "store_errors_total", kind="store_full") >= 1
        ballast[0].unlink()
        again = await proxy.get("/files/f.bin")
        assert (again.status, again.body) == (200, body.bytes())
        await proxy.check()
        assert (await proxy.get("/files/f.bin")).source == "cache"


@pytest.mark.parametrize("what", ["artifact", "index", "sidecar"])
async def test_l10_no_inode_is_left(tmp_path: Path, chaos: Chaos, mount: Mount, what: str) -> None:
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "size=32m,nr_inodes=64", "tmpfs")
    paths, body = script(chaos)
    async with proxied(tmp_path, chaos.origin, top=NO_FLOOR) as proxy:
        ballast = use_up_inodes(proxy.data)
        assert ballast
        await right(proxy, what, paths[what], body)
        await proxy.settled()
        assert (proxy.temp_files(), proxy.blobs()) == ([], [])
        ready, found = await readiness(proxy)
        assert (ready, found["store"]) == (503, "no space is left for blobs")
        assert await metric(proxy, "degraded", dependency="store") == 1
        await told(proxy, lambda line: line.get("error") == "store_full")
        for path in ballast:
            path.unlink()
        await recovered(proxy, paths, body)


@pytest.mark.parametrize("what", ["artifact", "index", "sidecar"])
async def test_l10_the_disk_becomes_read_only(tmp_path: Path, chaos: Chaos, mount: Mount, what: str) -> None:
    paths, body = script(chaos)
    async with proxied(tmp_path, chaos.origin) as proxy:
        held = chaos.script("/held.bin", ok(), size=BIG)
        await proxy.get("/files/held.bin")
        await proxy.settled()
        read_only(mount, proxy.data)
        await right(proxy, what, paths[what], body)
        got = await proxy.get("/files/held.bin")
        assert (got.source, got.body) == ("cache", held.bytes()), "what is held needs no writing"
        await proxy.settled()
        assert len(proxy.blobs()) == 1
        ready, found = await readiness(proxy)
        assert ready == 503
        assert "Read-only file system" in found["store"]
        assert await metric(proxy, "degraded", dependency="store") == 1
        await told(proxy, lambda line: "Read-only" in str(line.get("cause")))
        umount(proxy.data)
        await recovered(proxy, paths, body)


async def test_l10_a_read_only_disk_is_refused_at_start(tmp_path: Path, chaos: Chaos, mount: Mount) -> None:
    configuration(tmp_path, chaos.origin)
    mount(tmp_path / "data", "-t", "tmpfs", "-o", "ro", "tmpfs")
    code, said = await command(tmp_path, "serve")
    assert code == 1
    assert said.count("\n") == 1
    assert "cannot be used: Read-only file system; choose another with --data" in said


# --- the directory of temporary files, and the data folder ----------------------------------


async def test_l04_another_filesystem_for_temporary_files_is_refused_at_start(
    tmp_path: Path, chaos: Chaos, mount: Mount
) -> None:
    configuration(tmp_path, chaos.origin)
    mount(tmp_path / "data" / "tmp", "-t", "tmpfs", "tmpfs")
    code, said = await command(tmp_path, "serve")
    assert (code, said.count("\n")) == (1, 1)
    assert "must be on one filesystem" in said


NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


async def test_l04_a_directory_that_cannot_be_written_is_refused_at_start(
    tmp_path: Path, chaos: Chaos
) -> None:
    """Also for root, who is here without the right to pass over modes."""
    configuration(tmp_path, chaos.origin)
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o500)
    code, said = await command(tmp_path, "serve", before=NO_CAPABILITIES)
    assert (code, said.count("\n")) == (1, 1)
    assert "cannot be used: Permission denied; choose another with --data" in said
    data.chmod(0o700)
    (data / "tmp").mkdir(mode=0o500)
    code, said = await command(tmp_path, "serve", before=NO_CAPABILITIES)
    assert (code, said.count("\n")) == (1, 1)
    assert "cannot hold blobs" in said
    assert "Permission denied" in said


def take_away(data: Path, mount: Mount, how: str) -> Callable[[], None]:
    """Do it to the running program; returns what undoes it."""
    aside = data.with_name("aside")
    if how == "removed":
        (data / "tmp").rename(aside)
        return lambda: (aside.rename(data / "tmp"), None)[1]
    if how == "another filesystem":
        mount(data / "tmp", "-t", "tmpfs", "tmpfs")
        return lambda: umount(data / "tmp")
    if how == "hidden by a mount":
        mount(data, "-t", "tmpfs", "tmpfs")
        return lambda: umount(data)
    data.rename(aside)

    def put_back() -> None:
        if data.exists():
            data.rmdir()
        aside.rename(data)

    if how == "replaced":
        data.mkdir()
    return put_back


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("removed", "No such file"),
        ("another filesystem", "must be on one filesystem"),
        ("hidden by a mount", "No such file"),
        ("gone", "No such file"),
        ("replaced", "No such file"),
    ],
)
async def test_l04_taken_away_under_the_running_program(
    tmp_path: Path, chaos: Chaos, mount: Mount, how: str, says: str
) -> None:
    paths, body = script(chaos)
    held = chaos.script("/held.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        await proxy.get("/files/held.bin")
        await proxy.settled()
        put_back = take_away(proxy.data, mount, how)
        for what, path in paths.items():
            await right(proxy, what, path, body)
        assert (await proxy.get("/files/held.bin")).body == held.bytes()
        for _ in range(5_000):
            if not proxy.engine.states()["fills"]:
                break
            await asyncio.sleep(0.01)
        ready, found = await readiness(proxy)
        assert ready == 503
        assert says in found["store"]
        if how in ("hidden by a mount", "gone", "replaced"):
            assert "was removed or replaced" in found["index"]
        assert await metric(proxy, "degraded", dependency="store") == 1
        await told(proxy, lambda line: str(line.get("error")).startswith("store"))
        put_back()
        await recovered(proxy, paths, body)
        assert (await proxy.get("/files/held.bin")).source == "cache"
