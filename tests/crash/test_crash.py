"""`kill -9` at every named place of the commit path, then a restart: nothing half, nothing lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow
from tests.house_proxy import check_store, configuration, promise

BIG = 3_000_000
PLACES = [
    "tmp.opened",
    "tmp.half",
    "tmp.full",
    "verified",
    "tail.released",
    "tmp.fsynced",
    "blob.linked",
    "dir.fsynced",
    "row.written",
    "row.committed",
]


@asynccontextmanager
async def program(
    folder: Path, failpoints: str = ""
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The program as a user starts it; yields it and its address."""
    env = {**os.environ, "ARTIFACTPROXY_FAILPOINTS": failpoints}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "serve", "--config", str(folder / "config.yaml")),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        found = re.search(rb"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield process, found.group().decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def fetch(url: str) -> tuple[int, str, bytes | None]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as answer:
                return answer.status, answer.headers.get("X-Artifact-Source", ""), await answer.read()
        except aiohttp.ClientError:
            return 0, "", None


@pytest.mark.parametrize("place", PLACES)
async def test_l05_killed_at(tmp_path: Path, chaos: Chaos, place: str) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    configuration(tmp_path, chaos.origin)
    data = tmp_path / "data"
    # At start the disk is probed and the index written to; the project page is committed next.
    nth = {"tmp.fsynced": "@2", "row.written": "@3", "row.committed": "@3"}.get(place, "")
    async with program(tmp_path, f"{place}=kill{nth}") as (process, base):
        status, _, got = await fetch(base + path)
        assert got is None or (status, got) == (200, body.bytes())
        async with asyncio.timeout(10):
            assert await process.wait() == -signal.SIGKILL, "the place was not passed"
    async with program(tmp_path) as (process, base):
        assert os.listdir(data / "tmp") == []
        check_store(data)
        status, _, got = await fetch(base + path)
        assert (status, got) == (200, body.bytes())
        await asyncio.sleep(0.3)
        status, source, got = await fetch(base + path)
        assert (status, source, got) == (200, "cache", body.bytes())
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    check_store(data)


async def test_l13_a_second_process_on_the_same_folder_is_refused(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    async with program(tmp_path):
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "artifactproxy", "serve", "--config", str(tmp_path / "config.yaml")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await second.communicate()
        assert second.returncode == 1
        assert b"another artifactproxy works in" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_l16_answers_under_way_end_before_the_program_does(
    tmp_path: Path, chaos: Chaos, number: signal.Signals
) -> None:
    body = chaos.script("/f.bin", slow(4_000_000), size=BIG)
    configuration(tmp_path, chaos.origin)
    async with program(tmp_path) as (process, base):
        running = asyncio.create_task(fetch(base + "/files/f.bin"))
        await asyncio.sleep(0.2)
        process.send_signal(number)
        assert (await running)[2] == body.bytes()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    assert os.listdir(tmp_path / "data" / "tmp") == []
    check_store(tmp_path / "data")
    async with program(tmp_path) as (_, base):
        assert (await fetch(base + "/files/f.bin"))[1] == "cache"


async def test_a_second_signal_ends_at_once(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", slow(100_000), size=BIG)
    configuration(tmp_path, chaos.origin)
    async with program(tmp_path) as (process, base):
        running = asyncio.create_task(fetch(base + "/files/f.bin"))
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            assert await process.wait() == 1
        assert (await running)[2] is None
    async with program(tmp_path):
        assert os.listdir(tmp_path / "data" / "tmp") == []
        check_store(tmp_path / "data")


async def test_a_newer_layout_is_refused(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    async with program(tmp_path):
        pass
    (tmp_path / "data" / "format").write_text("99\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "serve", "--config", str(tmp_path / "config.yaml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"use the newer artifactproxy" in said


@pytest.mark.parametrize("place", ["evict.marked", "evict.deleted"])
async def test_l05_killed_while_evicting(tmp_path: Path, chaos: Chaos, place: str) -> None:
    bodies = {f"f{n}.bin": chaos.script(f"/f{n}.bin", ok(), size=BIG) for n in range(3)}
    top = "data_limit: 4MB\nlimits: {blob_grace: 10ms, sweep_every: 300ms, flush_every: 50ms}"
    configuration(tmp_path, chaos.origin, top=top)
    data = tmp_path / "data"
    async with program(tmp_path, f"{place}=kill") as (process, base):
        for name in bodies:
            await fetch(f"{base}/files/{name}")
        async with asyncio.timeout(10):
            assert await process.wait() == -signal.SIGKILL, "the place was not passed"
    async with program(tmp_path) as (process, base):
        check_store(data)
        for name, body in bodies.items():
            status, _, got = await fetch(f"{base}/files/{name}")
            assert (status, got) == (200, body.bytes())
        async with asyncio.timeout(30):
            while (
                sum(path.stat().st_size for path in (data / "blobs").rglob("*") if path.is_file()) > 4_000_000
            ):
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    check_store(data)
