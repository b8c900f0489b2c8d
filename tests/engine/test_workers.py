"""The helper processes: what they return, what they raise, and that none outlives its purpose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.engine import workers as module
from artifactproxy.engine.reader import BATCH, Index, Learn, Lesson, Recode, Render
from artifactproxy.engine.workers import HelperBug, Workers
from artifactproxy.errors import StoreUnavailable, UpstreamBroken
from artifactproxy.model import ArtifactKey, Ask, Digest, Promise, Route, View
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import Site
from artifactproxy.rules.coding import encoded

SIMPLE = "application/vnd.pypi.simple.v1+json"
SITE = Site("pypi", ("http://127.0.0.1:1/simple/",))
SOURCE = "http://127.0.0.1:1/simple/pkg/"
SMALL = 1000


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    started = Workers(60.0, 1)
    yield started
    await started.close()
    assert started.pids == []


def page(files: int = 3) -> bytes:
    listed = [
        {
            "filename": f"pkg-1.{n}.tar.gz",
            "url": f"http://127.0.0.1:1/pkg-1.{n}.tar.gz",
            "hashes": {"sha256": f"{n:064x}"},
        }
        for n in range(files)
    ]
    return json.dumps({"meta": {"api-version": "1.0"}, "name": "pkg", "files": listed}).encode()


def index(body: bytes | str, provider: str = "pypi") -> Index:
    route = PROVIDERS["pypi"](SITE).classify(Ask("pypi", "simple/pkg/", headers={"accept": SIMPLE}))
    assert isinstance(route, Route)
    return Index(provider, SITE, route, body, SOURCE)


def render(body: bytes | str, out: Path, memory: int = 10**6, coding: str = "") -> Render:
    return Render(index(body), "http://proxy/pypi", View(), coding, str(out), memory)  # type: ignore[arg-type]


async def gone(pid: int) -> None:
    for _ in range(5_000):
        if not Path(f"/proc/{pid}").exists():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the process is still there")


async def test_the_process_reads_as_this_one_would(workers: Workers, tmp_path: Path) -> None:
    body = page(3 * BATCH + 1)
    held, out = tmp_path / "held", tmp_path / "out"
    held.write_bytes(body)
    task = index(body)
    promised = list(task.reading().learn(task.route, body, SOURCE))
    lesson = await workers.run(Learn(index(str(held))), SMALL)
    assert list(lesson) == promised
    assert len(lesson) == len(promised) and promised[-1] in lesson
    shown = task.reading().render(task.route, body, "http://proxy/pypi", View(), SOURCE).body
    in_memory = await workers.run(render(body, out), SMALL)
    assert in_memory.body == shown
    assert not out.exists()
    in_file = await workers.run(render(str(held), out, memory=100), SMALL)
    assert in_file.body is None
    assert out.read_bytes() == shown
    assert (in_file.size, in_file.sha256) == (in_memory.size, in_memory.sha256)


@pytest.mark.parametrize("memory", [0, 10**6], ids=["file", "memory"])
async def test_recoding_gives_what_rendering_would(workers: Workers, tmp_path: Path, memory: int) -> None:
    body, out = page(500), tmp_path / "out"
    identity = (await workers.run(render(body, out), SMALL)).body or b""
    wanted = b"".join(encoded([identity], "gzip"))
    rendered = await workers.run(render(body, out, memory, "gzip"), SMALL)
    assert (rendered.body or out.read_bytes()) == wanted
    for held, content, coding, expected in (("", identity, "gzip", wanted), ("gzip", wanted, "", identity)):
        again = tmp_path / f"again{coding}"
        job = Recode(content, held, coding, str(again), memory, 5.0)  # type: ignore[arg-type]
        sheet = await workers.run(job, SMALL)
        assert (sheet.body or again.read_bytes()) == expected
        assert (sheet.size, sheet.next_flip) == (len(expected), 5.0)


async def test_what_is_raised_there_is_raised_here(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(UpstreamBroken) as broken:
        await workers.run(Learn(index(b"{")), SMALL)
    assert broken.value.status == 502
    with pytest.raises(FileNotFoundError):
        await workers.run(Learn(index(str(tmp_path / "none"))), SMALL)
    with pytest.raises(FileNotFoundError):
        await workers.run(render(page(500), tmp_path / "none" / "out", memory=0), SMALL)
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(FileExistsError):
        await workers.run(render(page(500), taken, memory=0), SMALL)
    with pytest.raises(HelperBug, match="KeyError: 'nobody'"):
        await workers.run(Learn(index(page(), "nobody")), SMALL)
    assert len(await workers.run(Learn(index(page())), SMALL)) == 3, "it goes on"


async def test_a_waiter_that_leaves_takes_nobody_along(workers: Workers) -> None:
    jobs = [asyncio.create_task(workers.run(Learn(index(page(n))), SMALL)) for n in range(6)]
    await asyncio.sleep(0)
    for left in (0, 3):
        jobs[left].cancel()
    done = await asyncio.gather(*jobs, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [n in (0, 3) for n in range(6)]
    assert [len(each) for each in done if isinstance(each, Lesson)] == [1, 2, 4, 5]


async def test_a_killed_process_costs_one_job(workers: Workers) -> None:
    await workers.run(Learn(index(page())), SMALL)
    [pid] = workers.pids
    os.kill(pid, signal.SIGSTOP)
    jobs = [asyncio.create_task(workers.run(Learn(index(page())), SMALL)) for _ in range(3)]
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    done = await asyncio.gather(*jobs, return_exceptions=True)
    [died] = [each for each in done if isinstance(each, StoreUnavailable)]
    assert (died.status, died.code) == (503, "helper")
    assert [len(each) for each in done if isinstance(each, Lesson)] == [3, 3]
    assert workers.pids != [pid]


async def test_a_process_that_died_while_idle_costs_nothing(workers: Workers) -> None:
    await workers.run(Learn(index(page())), SMALL)
    [pid] = workers.pids
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert len(await workers.run(Learn(index(page())), SMALL)) == 3


async def test_a_job_that_cannot_be_sent_stops_nobody(workers: Workers) -> None:
    unsendable = Learn(index(lambda: b""))  # type: ignore[arg-type]
    jobs = [Learn(index(page())), unsendable, Learn(index(page()))]
    done = await asyncio.gather(*(workers.run(job, SMALL) for job in jobs), return_exceptions=True)
    assert isinstance(done[1], StoreUnavailable)
    assert [len(each) for each in done if isinstance(each, Lesson)] == [3, 3]


async def test_a_process_that_cannot_be_started(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    with pytest.raises(StoreUnavailable, match="cannot be started"):
        await workers.run(Learn(index(page())), SMALL)
    monkeypatch.undo()
    assert len(await workers.run(Learn(index(page())), SMALL)) == 3


async def test_large_jobs_yield_to_some_small_ones_but_not_to_all(workers: Workers) -> None:
    await workers.run(Learn(index(page())), SMALL)
    [pid] = workers.pids
    os.kill(pid, signal.SIGSTOP)
    ended: list[str] = []

    async def job(name: str, size: int) -> None:
        await workers.run(Learn(index(page())), size)
        ended.append(name)

    large = 20 * module.STEP_BYTES
    tasks = [asyncio.create_task(job("running", SMALL)), asyncio.create_task(job("large", large))]
    tasks += [asyncio.create_task(job("small", SMALL)) for _ in range(40)]
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGCONT)
    await asyncio.gather(*tasks)
    assert ended[0] == "running"
    assert 15 <= ended.index("large") <= 25


async def test_a_second_process_takes_small_jobs_only() -> None:
    workers = Workers(60.0, 2)
    large = module.HEAVY_BYTES + 1
    try:
        await workers.run(Learn(index(page())), large)
        [pid] = workers.pids
        os.kill(pid, signal.SIGSTOP)
        heavy = [asyncio.create_task(workers.run(Learn(index(page())), large)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert len(await workers.run(Learn(index(page())), SMALL)) == 3
        assert not any(task.done() for task in heavy)
        assert len(workers.pids) == 2
        os.kill(pid, signal.SIGCONT)
        assert [len(lesson) for lesson in await asyncio.gather(*heavy)] == [3, 3]
    finally:
        await workers.close()


@pytest.mark.parametrize("grown", [True, False])
async def test_an_idle_process_ends_a_large_one_sooner(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, grown: bool
) -> None:
    monkeypatch.setattr(module, "GROWN_IDLE_SECONDS", 0.02)
    monkeypatch.setattr(module, "IDLE_SECONDS", 3600.0 if grown else 0.04)
    monkeypatch.setattr(module, "GROWN_BYTES", 0 if grown else 2**40)
    await workers.run(Learn(index(page())), SMALL)
    [pid] = workers.pids
    await gone(pid)
    assert workers.pids == []
    assert len(await workers.run(Learn(index(page())), SMALL)) == 3


async def test_a_bloated_process_takes_no_other_job(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOATED_BYTES", 0)
    jobs = await asyncio.gather(*(workers.run(Learn(index(page())), SMALL) for _ in range(3)))
    assert [len(lesson) for lesson in jobs] == [3, 3, 3]
    assert workers.pids == []


async def test_closing_ends_what_runs_and_what_waits() -> None:
    workers = Workers(60.0, 1)
    await workers.run(Learn(index(page())), SMALL)
    os.kill(workers.pids[0], signal.SIGSTOP)
    jobs = [asyncio.create_task(workers.run(Learn(index(page())), SMALL)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await workers.close()
    done = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(each) for each in done] == [StoreUnavailable] * 3
    assert workers.pids == []
    with pytest.raises(StoreUnavailable):
        await workers.run(Learn(index(page())), SMALL)


def test_promises_survive_packing() -> None:
    promises = [
        Promise(
            ArtifactKey("r", f"p{n}", "v"),
            (Digest("sha512", "ab"), Digest("sha1", "cd")),
            n,
            "u",
            "t",
            1.5,
            "f",
            "pkg",
        )
        for n in range(2 * BATCH + 3)
    ]
    assert list(Lesson(promises)) == promises
    assert list(Lesson([])) == [] and not Lesson([])
    assert Promise(ArtifactKey("r", "other")) not in Lesson(promises)


async def test_a_job_without_end_is_ended_and_the_next_one_works(tmp_path: Path) -> None:
    workers = Workers(4.0, 1)  # also the time in which a process must start
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody writes to it, so that opening it never ends
    with pytest.raises(StoreUnavailable) as caught:
        await workers.run(Learn(index(str(pipe))), SMALL)
    assert caught.value.code == "helper_slow"
    assert workers.pids == []
    assert list(await workers.run(Learn(index(page())), SMALL))
    await workers.close()
