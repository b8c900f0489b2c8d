"""A crash in the middle of a large promised download: the next life goes on with what has landed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import flip, ok, slow
from tests.crash.nursery import Nursery
from tests.crash.program import fetch
from tests.crash.test_crash import killed
from tests.house_proxy import check_store, configuration, promise, proxied

MIB = 2**20
SIZE = 12 * MIB + 777
NAME = "/pkg-1.0.tar.gz"
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"


async def crashed(folder: Path, chaos: Chaos, nursery: Nursery, place: str) -> tuple[str, Oracle]:
    """A life that ended at this place; the path of the file and what it is."""
    body = chaos.script(NAME, slow(900_000), size=SIZE)
    path = promise(chaos, NAME[1:], body)
    configuration(folder, chaos.origin, remote=REMOTE)
    async with nursery.program(folder / "config.yaml", place) as (child, base):
        await fetch(f"{base}/pypi/simple/pkg/")
        status, _, got = await fetch(base + path)
        assert (status, got) in ((200, None), (0, None))
        await killed(child)
    return path, body


def asked_for(chaos: Chaos, since: int, size: int = SIZE) -> int:
    """Bytes of the first request and of those that asked for a part."""
    total, first = 0, True
    for seen in chaos.requests[since:]:
        if seen.path == NAME:
            start, stop = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers["range"]).groups()
            total += int(stop) + 1 - int(start) if stop else MIB if first else size - int(start)
            first = False
    return total


@pytest.mark.parametrize("place", ["map.saved=kill@3", "segment.landed=kill@200"])
async def test_l05_a_promised_download_goes_on_after_a_crash(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, place: str
) -> None:
    path, body = await crashed(tmp_path, chaos, nursery, place)
    assert len(os.listdir(tmp_path / "data" / "tmp")) == 2, "the file and its map"
    check_store(tmp_path / "data")
    chaos.script(NAME, ok(), size=SIZE)
    before = len(chaos.requests)
    async with proxied(tmp_path, chaos.origin, remote=REMOTE) as proxy:
        assert len(proxy.temp_files()) == 2
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.settled()
        assert (await proxy.get(path)).source == "cache"
        await proxy.check()
    assert asked_for(chaos, before) < SIZE - MIB, "not all of it came again"


async def test_a_stop_leaves_what_has_landed_as_well(tmp_path: Path, chaos: Chaos, nursery: Nursery) -> None:
    body = chaos.script(NAME, slow(900_000), size=SIZE)
    path = promise(chaos, NAME[1:], body)
    configuration(tmp_path, chaos.origin, remote=REMOTE, top="limits: {drain: 0s, drain_notice: 0s}")
    async with nursery.program(tmp_path / "config.yaml") as (child, base):
        await fetch(f"{base}/pypi/simple/pkg/")
        task = asyncio.create_task(fetch(base + path))
        async with asyncio.timeout(60):
            while child.passed.count("map.saved") < 2:
                await asyncio.sleep(0.02)
        child.signal(signal.SIGTERM)
        assert await child.wait() == 0
        assert (await task)[2] is None
    chaos.script(NAME, ok(), size=SIZE)
    before = len(chaos.requests)
    async with proxied(tmp_path, chaos.origin, remote=REMOTE) as proxy:
        assert (await proxy.get(path)).body == body.bytes()
        await proxy.check()
    assert asked_for(chaos, before) < SIZE - MIB


async def test_what_is_left_and_wrong_is_found_out(tmp_path: Path, chaos: Chaos, nursery: Nursery) -> None:
    """A map that tells of bytes that are not there costs one failure, never a wrong byte."""
    path, body = await crashed(tmp_path, chaos, nursery, "map.saved=kill@3")
    (part,) = (tmp_path / "data" / "tmp").glob("*.part")
    with part.open("r+b") as file:
        file.seek(5000)
        file.write(b"rotten")
    chaos.script(NAME, ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin, remote=REMOTE) as proxy:
        assert (await proxy.get(path)).body in (None, body.bytes())
        await proxy.settled()
        assert proxy.temp_files() == []
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.check()


@pytest.mark.parametrize("how", ["old", "other length", "not a map", "no map", "another boot"])
async def test_what_cannot_be_believed_is_swept(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, how: str
) -> None:
    path, body = await crashed(tmp_path, chaos, nursery, "map.saved=kill@2")
    folder = tmp_path / "data" / "tmp"
    (map_,), (part,) = folder.glob("*.map"), folder.glob("*.part")
    if how == "old":
        then = time.time() - 86401
        os.utime(map_, (then, then))
    elif how == "other length":
        os.truncate(part, SIZE - 1)
    elif how == "not a map":
        map_.write_text('{"version": 1}')
    elif how == "no map":
        map_.unlink()
    else:
        for file in (map_, part):
            file.rename(folder / ("0" * 12 + file.name[file.name.index(".") :]))
    chaos.script(NAME, ok(), size=SIZE)
    async with proxied(tmp_path, chaos.origin, remote=REMOTE) as proxy:
        assert proxy.temp_files() == []
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, body.bytes())
        await proxy.check()


@pytest.mark.parametrize("now", ["no ranges", "wrong", "gone on"])
async def test_an_upstream_that_is_not_as_before(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, now: str
) -> None:
    path, body = await crashed(tmp_path, chaos, nursery, "map.saved=kill@2")
    behaviours = {"no ranges": [ok(ranges=False)], "wrong": [flip(0.5), ok()], "gone on": [ok()]}[now]
    chaos.script(NAME, *behaviours, size=SIZE)
    async with proxied(tmp_path, chaos.origin, remote=REMOTE) as proxy:
        answers = await asyncio.gather(*(proxy.get(path) for _ in range(5)))
        assert {got.body for got in answers} <= {None, body.bytes()}
        await proxy.settled()
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, body.bytes())
