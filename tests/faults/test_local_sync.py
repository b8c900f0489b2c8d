"""Bytes that do not reach the medium: fsync and fdatasync fail under the running program."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.faults.machine import Running, injecting, metric, program, readiness, told
from tests.house_proxy import check_store, configuration, proxied
from tests.needs import needs

BIG = 600_000
QUIET = "limits: {flush_every: 1h, sweep_every: 1h}"
SYNCED = re.compile(r"(?:fsync|fdatasync)\(\d+<([^>]*)>\)\s+= (-1|0)(.*INJECTED)?")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@asynccontextmanager
async def failing(proxy: Running, when: str = "") -> AsyncIterator[Path]:
    """While this is open fsync and fdatasync fail; with `when` only the k-th of each thread."""
    trace = proxy.folder / "trace"
    trace.unlink(missing_ok=True)
    async with injecting(proxy, f"fsync,fdatasync:error=EIO{when}", trace):
        yield trace


def synced(trace: Path) -> list[tuple[str, bool]]:
    """Every file that was to reach the medium, in order, and whether it did."""
    return [(m[1], m[2] == "0") for m in SYNCED.finditer(trace.read_text())]


def injected(trace: Path) -> bool:
    return trace.exists() and "INJECTED" in trace.read_text()


def never_again(trace: Path) -> None:
    """A temporary file whose fsync failed was not synced once more: the second call would lie."""
    lost: set[str] = set()
    for name, reached in synced(trace):
        if name.endswith(".part"):
            assert name not in lost
            if not reached:
                lost.add(name)


@needs("strace")
async def test_l03_each_fsync_of_storing_a_file_fails_once(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin, top=QUIET)
    async with program(tmp_path) as proxy:
        failed: set[str] = set()
        for k in range(1, 20):
            body = chaos.script(f"/f{k}.bin", ok(), size=BIG + k)
            async with failing(proxy, f":when={k}") as trace:
                got = await proxy.get(f"/files/f{k}.bin")
                assert (got.status, got.body) == (200, body.bytes()), "a pull has verified bytes already"
                await settled(proxy)
            never_again(trace)
            failed |= {_kind(name) for name, reached in synced(trace) if not reached}
            if not injected(trace):
                break
            again = await proxy.get(f"/files/f{k}.bin")
            assert (again.status, again.body) == (200, body.bytes())
            await settled(proxy)
            assert (await proxy.get(f"/files/f{k}.bin")).source == "cache"
        else:
            pytest.fail("the number of fsyncs of one file does not end")
        assert failed >= {"temp", "blobs", "index"}, failed
        await told(proxy, lambda line: line.get("warning") == "store_failed")
        assert (await readiness(proxy))[0] == 200
        assert await proxy.stop() == 0
    check_store(proxy.data)


def _kind(name: str) -> str:
    if name.endswith(".part"):
        return "temp"
    return "blobs" if "/blobs" in name else "index" if "index.sqlite3" in name else name


async def settled(proxy: Running) -> None:
    async with asyncio.timeout(60):
        while await metric(proxy, "fills"):
            await asyncio.sleep(0.02)


@needs("strace")
async def test_l03_while_every_fsync_fails_nothing_is_committed(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin, top=QUIET)
    async with program(tmp_path) as proxy:
        async with failing(proxy) as trace:
            for name in ("a", "b"):
                body = chaos.script(f"/{name}.bin", ok(), size=BIG)
                got = await proxy.get(f"/files/{name}.bin")
                assert (got.status, got.body) == (200, body.bytes())
                await settled(proxy)
            never_again(trace)
            assert not [p for p in (proxy.data / "blobs").rglob("*") if p.is_file()]
            assert list((proxy.data / "tmp").iterdir()) == []
            ready, found = await readiness(proxy)
            assert ready == 503
            assert "Input/output error" in found["store"]
            assert await metric(proxy, "degraded", dependency="store") == 1
            assert await metric(proxy, "store_errors_total", kind="store_unavailable") >= 2
            await told(
                proxy,
                lambda line: line.get("warning") == "store_failed" and "Input/output" in str(line["cause"]),
            )
        assert (await readiness(proxy)) == (200, dict.fromkeys(found, "ok")), "a probe that passes heals"
        body = chaos.script("/c.bin", ok(), size=BIG)
        assert (await proxy.get("/files/c.bin")).body == body.bytes()
        await settled(proxy)
        assert (await proxy.get("/files/c.bin")).source == "cache"
        assert await proxy.stop() == 0
    check_store(proxy.data)


@needs("strace")
async def test_l03_only_the_index_does_not_reach_the_medium(tmp_path: Path, chaos: Chaos) -> None:
    """A small index document has promises and a row, and for once its blob is not the trouble."""
    configuration(tmp_path, chaos.origin, top=QUIET)
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await settled(proxy)
        chaos.script("/gone.bin", status(404))
        async with failing(proxy):
            got = await proxy.get("/files/gone.bin")
            assert (got.status, got.error) == (404, "upstream_absent"), "what upstream says needs no row"
            await told(proxy, lambda line: line.get("warning") == "record_waits")
            ready, found = await readiness(proxy)
            assert ready == 503
            assert "index" in found["index"], found
            assert (await proxy.get("/files/f.bin")).source == "cache"
        assert (await readiness(proxy))[0] == 200
        assert await proxy.stop() == 0
    check_store(proxy.data)


@pytest.mark.parametrize("step", ["tmp.fsynced", "dir.fsynced"])
async def test_l03_the_store_is_not_trusted_until_a_probe_passes(
    tmp_path: Path, chaos: Chaos, step: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm(f"{step}=raise:EIO@1")
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.settled()
        assert (proxy.temp_files(), proxy.blobs()) == ([], [])
        failpoints.arm("tmp.fsynced=raise:EIO")
        ready, found = await readiness(proxy)
        assert (ready, "write a probe" in found["store"]) == (503, True)
        assert await metric(proxy, "warnings_total", event="store_failed") == 1
        failpoints.arm("")
        assert (await readiness(proxy))[0] == 200
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()
