"""`kill -9` at every named place of the commit path, then a restart: nothing half, nothing lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow
from tests.crash.contents import CONTENTS, PASSES, Content, setting
from tests.crash.nursery import Child, Nursery
from tests.crash.program import fetch, program
from tests.house_proxy import check_store, configuration, promise, proxied

BIG = 3_000_000
EVICTING = "data_limit: 4MB\nlimits: {blob_grace: 10ms, sweep_every: 300ms, flush_every: 50ms}"


async def killed(child: Child) -> None:
    assert await child.wait() == -signal.SIGKILL, f"the place was not passed, but {child.passed}"


async def prepared(folder: Path, chaos: Chaos, content: Content) -> None:
    """The data folder before the life that will be killed; stopped properly."""
    configuration(folder, chaos.origin, **setting(chaos))
    async with proxied(folder, chaos.origin, **setting(chaos)) as proxy:
        for path in content.warm:
            assert (await proxy.get(path)).status == 200
            await proxy.settled()
    content.change()


async def recovered(folder: Path, chaos: Chaos, content: Content) -> None:
    """A start after the kill: nothing is left over, and the next answers are right."""
    async with proxied(folder, chaos.origin, **setting(chaos)) as proxy:
        assert proxy.temp_files() == []
        check_store(proxy.data)
        for _ in range(2):
            got = await proxy.get(content.path)
            assert got.body is not None
            assert content.right(got.status, got.body), got
            await proxy.settled()
        assert got.source == content.source
        await proxy.check()


@pytest.mark.parametrize(("name", "passage"), [(name, place) for name in PASSES for place in PASSES[name]])
async def test_l05_killed_at(tmp_path: Path, chaos: Chaos, nursery: Nursery, name: str, passage: str) -> None:
    content = CONTENTS[name](chaos)
    await prepared(tmp_path, chaos, content)
    place, _, nth = passage.partition("@")
    async with nursery.program(tmp_path / "config.yaml", f"{place}=kill@{nth}") as (child, base):
        status, _, got = await fetch(base + content.path)
        assert got is None or content.right(status, got)
        await killed(child)
    await recovered(tmp_path, chaos, content)


@pytest.mark.parametrize("name", sorted(PASSES))
async def test_the_table_of_passages_is_what_is_passed(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, name: str
) -> None:
    """A place that moves or is new gets its kill, or this fails."""
    content = CONTENTS[name](chaos)
    tabled = {passage.partition("@")[0] for passage in PASSES[name]}
    await prepared(tmp_path, chaos, content)
    async with nursery.program(tmp_path / "config.yaml") as (child, base):
        status, _, body = await fetch(base + content.path)
        assert body is not None
        assert content.right(status, body)
        for _ in range(3_000):
            passed = set(child.passed)
            if tabled <= passed:
                break
            await asyncio.sleep(0.01)
        child.signal(signal.SIGTERM)
        assert await child.wait() == 0
    if name == "reread":  # what comes before and after is tabled for other content
        assert tabled <= passed
    elif "blob.linked" in tabled:
        assert tabled == passed
    else:
        assert tabled == passed - {"tmp.fsynced"}  # the probe of the disk, at start


@pytest.mark.parametrize("place", ["tmp.half", "dir.fsynced"])
async def test_l05_killed_as_a_user_starts_it(tmp_path: Path, chaos: Chaos, place: str) -> None:
    """The same with no nursery in between."""
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    configuration(tmp_path, chaos.origin)
    data = tmp_path / "data"
    async with program(tmp_path, f"{place}=kill") as (process, base):
        status, _, got = await fetch(base + path)
        assert got is None or (status, got) == (200, body.bytes())
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL, "the place was not passed"
    async with program(tmp_path) as (process, base):
        assert os.listdir(data / "tmp") == []
        check_store(data)
        status, _, got = await fetch(base + path)
        assert (status, got) == (200, body.bytes())
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    check_store(data)


@pytest.mark.parametrize("seed", range(3))
async def test_l05_killed_again_and_again(tmp_path: Path, chaos: Chaos, nursery: Nursery, seed: int) -> None:
    """Each recovery is killed too: at its probe of the disk, or at any moment of its start."""
    rng = random.Random(seed)
    content = CONTENTS[rng.choice(["promised", "index", "unpromised"])](chaos)
    await prepared(tmp_path, chaos, content)
    config = tmp_path / "config.yaml"
    for place in rng.sample(["tmp.half@1", "blob.linked@1", "row.written@2", "row.committed@2"], 3):
        name, _, nth = place.partition("@")
        async with nursery.program(config, f"{name}=kill@{nth}") as (child, base):
            _, source, got = await fetch(base + content.path)
            if source == "cache":
                break  # a life before this one came as far as the row
            assert got is None or content.right(200, got)
            await killed(child)
        await killed(await nursery.start(config, "tmp.fsynced=kill"))
        interrupted = await nursery.start(config)
        await asyncio.sleep(rng.random() * 0.1)
        interrupted.signal(signal.SIGKILL)
        await interrupted.wait()
    await recovered(tmp_path, chaos, content)


@pytest.mark.parametrize(
    "passage", ["evict.marked@1", "evict.marked@2", "evict.deleted@1", "evict.deleted@2"]
)
async def test_l05_killed_while_evicting(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, passage: str
) -> None:
    bodies = {f"f{n}.bin": chaos.script(f"/f{n}.bin", ok(), size=BIG) for n in range(3)}
    configuration(tmp_path, chaos.origin, top=EVICTING)
    data = tmp_path / "data"
    place, _, nth = passage.partition("@")
    async with nursery.program(tmp_path / "config.yaml", f"{place}=kill@{nth}") as (child, base):
        for name in bodies:
            await fetch(f"{base}/files/{name}")
        await killed(child)
    async with nursery.program(tmp_path / "config.yaml") as (child, base):
        check_store(data)
        for name, body in bodies.items():
            status, _, got = await fetch(f"{base}/files/{name}")
            assert (status, got) == (200, body.bytes())
        async with asyncio.timeout(30):
            while held(data) > 4_000_000:
                await asyncio.sleep(0.02)
        child.signal(signal.SIGTERM)
        assert await child.wait() == 0
    check_store(data)


def held(data: Path) -> int:
    sizes = []
    for path in (data / "blobs").rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return sum(sizes)


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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(20):
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


@pytest.mark.parametrize("passage", ["recheck.read@1", "recheck.read@2"])
async def test_l05_killed_while_hashing_after_an_unclean_stop(
    tmp_path: Path, chaos: Chaos, nursery: Nursery, passage: str
) -> None:
    content = CONTENTS["unpromised"](chaos)
    await prepared(tmp_path, chaos, content)
    config = tmp_path / "config.yaml"
    async with nursery.program(config) as (_, base):
        for _ in range(2):
            assert content.right(200, (await fetch(base + content.path))[2] or b"")
            await asyncio.sleep(0.2)
    place, _, nth = passage.partition("@")
    async with nursery.program(config, f"{place}=kill@{nth}") as (child, base):
        assert (await fetch(base + content.path))[2] is None
        await killed(child)
    await recovered(tmp_path, chaos, content)


async def test_l05_killed_while_the_store_is_read_through(
    tmp_path: Path, chaos: Chaos, nursery: Nursery
) -> None:
    """`fsck --full --repair` of a stopped instance, in a process of its own."""
    content = CONTENTS["unpromised"](chaos)
    content = replace(content, warm=(content.path,))
    await prepared(tmp_path, chaos, content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "fsck", "--full", "--repair"),
        *("--config", str(tmp_path / "config.yaml")),
        env={**os.environ, "ARTIFACTPROXY_FAILPOINTS": "survey.read=kill"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    await recovered(tmp_path, chaos, content)
