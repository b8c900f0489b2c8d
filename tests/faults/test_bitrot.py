"""L11: what a disk does to blobs by itself. No client gets a wrong byte as a good answer that size or
first use can tell; whatever they cannot, the scrub finds; what was damaged is kept out of reach."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.checkup.scrubbing import (
    SEEN_BY_HASH,
    SEEN_BY_SIZE,
    Damage,
    bench,
    delete,
    flip,
    metric,
    swap,
    until,
)
from tests.crash.program import fetch, program
from tests.house_proxy import Proxy, configuration, promise, proxied
from tests.needs import needs

SIZE = 300_000
ALL: dict[str, Damage] = {**SEEN_BY_SIZE, **SEEN_BY_HASH, "deleted": delete}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def held(proxy: Proxy, path: str) -> Path:
    before = set(proxy.blobs())
    assert (await proxy.get(path)).status == 200
    await proxy.settled()
    [blob] = set(proxy.blobs()) - before
    return blob


def unclean(folder: Path) -> None:
    """As a kill leaves the index."""
    with sqlite3.connect(folder / "data" / "index.sqlite3") as db:
        assert db.execute("UPDATE counters SET value = 0 WHERE name = 'clean'").rowcount == 1


async def alarmed(proxy: Proxy, sha256: str, times: int = 1) -> None:
    """The log names it, the metric counts it, and the evidence is kept."""

    def lines() -> int:
        return sum(
            line.get("warning") == "damaged_blob" and line.get("sha256") == sha256
            for line in proxy.log_lines()
        )

    await until(lambda: lines() == times, "the damage is in the log")
    assert await metric(proxy, "integrity_failures_total", where="local") >= times
    aside = [path.name for path in (proxy.data / "quarantine").iterdir()]
    assert [name.startswith(sha256) for name in aside].count(True) == times


async def cached(proxy: Proxy, path: str, body: bytes) -> None:
    await proxy.settled()
    got = await proxy.get(path)
    assert (got.status, got.body, got.source) == (200, body, "cache")


@pytest.mark.parametrize("method", ["GET", "HEAD", "range"])
@pytest.mark.parametrize("damage", SEEN_BY_SIZE)
async def test_l11_another_size_is_seen_before_the_headers(
    tmp_path: Path, chaos: Chaos, damage: str, method: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
        SEEN_BY_SIZE[damage](blob)
        if method == "range":
            got = await proxy.get("/files/f.bin", Range="bytes=100-199")
            assert (got.status, got.body) == (206, body.slice(100, 200))
        else:
            got = await proxy.get("/files/f.bin", method)
            assert (got.status, got.headers["Content-Length"]) == (200, str(SIZE))
            assert got.body == (body.bytes() if method == "GET" else b"")
        if method != "HEAD":  # which opens nothing, and promises only what the row knows
            await alarmed(proxy, blob.name)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await cached(proxy, "/files/f.bin", body.bytes())
        await alarmed(proxy, blob.name)
        if damage == "symlink":
            (blob.parent / "elsewhere").unlink()
        await proxy.check()


async def test_l11_a_deleted_blob_is_fetched_again(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
        blob.unlink()
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        assert await metric(proxy, "hollow_hits_total") == 1
        await cached(proxy, "/files/f.bin", body.bytes())
        await proxy.check()


async def test_l11_what_is_lost_does_not_count_as_held(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin, top="limits: {blob_grace: 1ms}") as proxy:
        blob = await held(proxy, "/files/f.bin")
        os.truncate(blob, 10)
        await chaos.stop()
        assert (await proxy.get("/files/f.bin")).status == 502
        await asyncio.sleep(0.01)
        await proxy.engine.gc(run=True)
        assert (await proxy.engine.stats())["bytes"] == 0
        await proxy.check()


@pytest.mark.parametrize("damage", SEEN_BY_HASH)
async def test_l11_first_use_after_an_unclean_stop(tmp_path: Path, chaos: Chaos, damage: str) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
    SEEN_BY_HASH[damage](blob)
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        await alarmed(proxy, blob.name)
        await cached(proxy, "/files/f.bin", body.bytes())
        await proxy.check()


async def test_l11_an_index_is_rechecked_before_it_is_rendered(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=70_000)
    promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/pypi/simple/pkg/")
        page = (await proxy.get("/pypi/simple/pkg/")).body
    text = blob.read_bytes()
    blob.write_bytes(text.replace(body.sha256.encode(), b"0" * 64))
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        got = await proxy.get("/pypi/simple/pkg/")
        assert (got.status, (got.body or b"").count(b"0" * 64)) == (200, 0)
        assert page is not None
        assert body.sha256.encode() in (got.body or b"")
        await alarmed(proxy, blob.name)
        await proxy.check()


async def test_l11_two_blobs_swapped(tmp_path: Path, chaos: Chaos) -> None:
    """Of one size only a hash can tell; of two sizes every hit does."""
    bodies = {name: chaos.script(f"/{name}", ok(), size=SIZE) for name in ("a.bin", "b.bin")}
    bodies["c.bin"] = chaos.script("/c.bin", ok(), size=SIZE + 1)
    async with proxied(tmp_path, chaos.origin) as proxy:
        first, second, third = [await held(proxy, f"/files/{name}") for name in bodies]
        swap(second, third)
        for name in ("b.bin", "c.bin"):
            assert (await proxy.get(f"/files/{name}")).body == bodies[name].bytes()
        await alarmed(proxy, second.name)
        await alarmed(proxy, third.name)
        await proxy.check()
    swap(first, second)
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        for name, body in bodies.items():
            assert (await proxy.get(f"/files/{name}")).body == body.bytes()
        await alarmed(proxy, first.name)
        await alarmed(proxy, second.name, times=2)
        await proxy.check()


async def test_l11_after_a_real_kill(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    bodies = {name: chaos.script(f"/{name}.bin", ok(), size=SIZE) for name in ALL}
    folder = tmp_path / "data" / "blobs"
    async with program(tmp_path) as (process, base):
        for name in ALL:
            assert (await fetch(f"{base}/files/{name}.bin"))[0] == 200
        await until(lambda: sum(p.is_file() for p in folder.rglob("*")) == len(ALL), "all are stored")
        await asyncio.sleep(0.2)  # and their rows
        process.send_signal(signal.SIGKILL)
        await process.wait()
    for name, damage in ALL.items():
        sha256 = bodies[name].sha256
        damage(folder / "sha256" / sha256[:2] / sha256)
    async with program(tmp_path) as (_, base):
        for name, body in bodies.items():
            for source in ("remote", "cache"):
                assert await fetch(f"{base}/files/{name}.bin") == (200, source, body.bytes()), name
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("damage", ALL)
async def test_l11_the_scrub_finds_what_no_hit_has_seen(tmp_path: Path, chaos: Chaos, damage: str) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        ALL[damage](blob)
        [finding], _ = await it.run()
        assert (finding["subject"], finding["repaired"]) == (blob.name, True)
        if damage != "deleted":
            await alarmed(it.proxy, blob.name)
        await cached(it.proxy, "/files/f.bin", body.bytes())
        assert chaos.hits("/f.bin") == 2
        if damage == "symlink":
            (blob.parent / "elsewhere").unlink()
        await it.proxy.check()


@needs("strace")
@pytest.mark.parametrize(
    ("calls", "error"), [("pread64,preadv2", "EIO"), ("pread64,preadv2", "EBADMSG"), ("openat", "EACCES")]
)
async def test_l11_the_kernel_cannot_read_it(tmp_path: Path, chaos: Chaos, calls: str, error: str) -> None:
    bodies = {name: chaos.script(f"/{name}", ok(), size=SIZE) for name in ("a.bin", "b.bin")}
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/a.bin")
        await held(proxy, "/files/b.bin")
    bad = blob.stat().st_ino
    process = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-P", str(blob)),
        # One file is meant, not those that take its name: the first two readings, or the first opening.
        *(
            "-e",
            f"trace={calls}",
            "-e",
            f"inject={calls}:error={error}:when=1..{2 if 'p' == calls[0] else 1}",
        ),
        *(sys.executable, "-m", "artifactproxy", "scrub", "--rate", "0"),
        *("--config", str(tmp_path / "config.yaml")),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert (process.returncode, b"unreadable" in out, out.count(b"I02")) == (1, True, 1), out
    [aside] = (tmp_path / "data" / "quarantine").iterdir()
    assert aside.name.startswith(blob.name)
    assert aside.stat().st_ino == bad
    async with proxied(tmp_path, chaos.origin) as proxy:
        for name, body in bodies.items():
            await cached(proxy, f"/files/{name}", body.bytes())
        await proxy.check()


async def test_l11_unreadable_at_first_use_is_fetched_again(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm("recheck.read=raise:EIO@1")
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await alarmed(proxy, blob.name)
        await cached(proxy, "/files/f.bin", body.bytes())
        await proxy.check()


async def test_l11_our_own_want_of_descriptors_at_first_use_destroys_nothing(
    tmp_path: Path, chaos: Chaos
) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm("recheck.read=raise:ENOMEM@1")
        got = await proxy.get("/files/f.bin")
        assert got.status == 503 or got.body == body.bytes()
        assert blob.exists()
        await cached(proxy, "/files/f.bin", body.bytes())
        await proxy.check()


@pytest.mark.parametrize("damage", ["first-byte", "truncated"])
async def test_l11_many_clients_at_once_and_one_transfer(tmp_path: Path, chaos: Chaos, damage: str) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
    ALL[damage](blob)
    unclean(tmp_path)
    async with proxied(tmp_path, chaos.origin) as proxy:
        answers = await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(30)))
        assert {(got.status, got.body) for got in answers} == {(200, body.bytes())}
        assert chaos.hits("/f.bin") == 2
        await proxy.settled()
        await alarmed(proxy, blob.name)
        await proxy.check()


async def test_l11_a_quarantine_that_was_removed_does_not_stop_the_cure(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin) as proxy:
        blob = await held(proxy, "/files/f.bin")
        (proxy.data / "quarantine").rmdir()
        os.truncate(blob, 10)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await alarmed(proxy, blob.name)
        await cached(proxy, "/files/f.bin", body.bytes())
        await proxy.check()


async def test_l11_a_doomed_blob_that_became_a_directory_does_not_stop_the_janitor(
    tmp_path: Path, chaos: Chaos
) -> None:
    for name in ("a.bin", "b.bin"):
        chaos.script(f"/{name}", ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin, top="limits: {blob_grace: 1ms}") as proxy:
        first, second = [await held(proxy, f"/files/{name}") for name in ("a.bin", "b.bin")]
        for name in ("a.bin", "b.bin"):
            await proxy.engine.purge("files", path=name)
        SEEN_BY_SIZE["directory"](first)
        await asyncio.sleep(0.01)
        await proxy.engine.gc(run=True)
        assert not first.exists()
        assert not second.exists()
        await proxy.check()


async def test_i26_quarantine_has_no_address(tmp_path: Path, chaos: Chaos) -> None:
    """Whatever path is tried: the quarantined bytes never leave."""
    chaos.script("/f.bin", ok(), size=SIZE)
    async with bench(tmp_path, chaos) as it:
        blob = await it.hold("/files/f.bin")
        flip(0.5)(blob)
        await it.run()
        [aside] = it.quarantine()
        evidence = aside.read_bytes()
        within = (aside.name, blob.name, f"sha256/{blob.name[:2]}/{aside.name}")
        roots = [
            "",
            "/files",
            "/pypi",
            "/api/v1/remote/files",
            "/repository/files",
            "/artifactory/files",
            "/artifactory/api/generic/files",
        ]
        folders = (
            "/",
            "/quarantine/",
            "/data/quarantine/",
            "/blobs/",
            "/../quarantine/",
            "/%2e%2e/quarantine/",
        )
        asked = 0
        for root in roots:
            for folder in (*folders, "/..%2fquarantine/", "//quarantine/", "/v2/blobs/sha256:"):
                for name in within:
                    got = await it.proxy.get(f"{root}{folder}{name}")
                    assert got.body != evidence
                    assert got.status in (400, 404), (root, folder, name)
                    asked += 1
        assert asked > 100
        await it.proxy.check()
