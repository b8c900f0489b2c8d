"""Killed at the k-th system call of the commit path, for every k that occurs there.

A dry run under strace lists the calls of each thread that touch the data folder. strace counts per
thread and call, so each of them has a number of its own; a new program is killed at each. Threads are
told apart by the order of their birth, which requests in advance have settled.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.crash.contents import ALWAYS_STALE
from tests.crash.nursery import Child, Nursery
from tests.crash.program import fetch
from tests.crash.soak.drive import Tally
from tests.house_proxy import check_store, configuration, promise, proxied
from tests.needs import find

CALLS = (
    "openat,write,pwrite64,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "ftruncate,link,linkat,mkdir,mkdirat,utimensat,fchmod"
)
BIG = 400_000
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_QUIET = 60  # rounds of 10 ms in which nothing new is called


@dataclass(frozen=True, slots=True)
class Call:
    """The `nth` invocation of `name` in the `thread`-th oldest thread."""

    thread: int
    name: str
    nth: int


@dataclass(slots=True)
class Scene:
    """`act` does what is killed. `bodies` must be right afterwards; with `warm` they are asked for
    before, and then `change` happens upstream."""

    chaos: Chaos
    folder: Path
    bodies: dict[str, bytes]
    act: Callable[[str], Awaitable[object]]
    change: Callable[[], object] = lambda: None
    warm: bool = False
    top: str = ""

    @property
    def data(self) -> Path:
        return self.folder / "data"


def first_fetch(chaos: Chaos, folder: Path) -> Scene:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    return Scene(chaos, folder, {path: body.bytes()}, lambda base: fetch(base + path))


def index_replaced(chaos: Chaos, folder: Path) -> Scene:
    path = "/files/i.json"
    bodies = {path: chaos.script("/i.json", ok(), size=3000).bytes()}

    def change() -> None:
        bodies[path] = chaos.script("/i.json", ok(), size=4000, version=1).bytes()

    return Scene(chaos, folder, bodies, lambda base: fetch(base + path), change, warm=True)


def eviction(chaos: Chaos, folder: Path) -> Scene:
    bodies = {f"/files/e{n}.bin": chaos.script(f"/e{n}.bin", ok(), size=BIG).bytes() for n in range(3)}

    async def collect(_: str) -> None:
        connector = aiohttp.UnixConnector(path=str(folder / "data" / "control.sock"))
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                await session.post("http://localhost/gc", json={"run": True})
        except aiohttp.ClientError:
            return

    top = f"data_limit: {BIG + 100_000}B\nlimits: {{blob_grace: 1ms}}"
    return Scene(chaos, folder, bodies, collect, warm=True, top=top)


SCENES = {make.__name__: make for make in (first_fetch, index_replaced, eviction)}


@asynccontextmanager
async def ready(scene: Scene, nursery: Nursery) -> AsyncIterator[tuple[Child, str, list[int]]]:
    """A program whose threads are all there, and their ids, oldest first."""
    chaos, quiet = scene.chaos, "\nlimits: {flush_every: 1h, sweep_every: 1h}"
    top = scene.top.replace("{", "{flush_every: 1h, sweep_every: 1h, ") or quiet
    configuration(scene.folder, chaos.origin, remote=ALWAYS_STALE, top=top)
    warm = ["/files/warm.bin"]
    chaos.script("/warm.bin", ok(), size=BIG)
    if scene.warm:
        warm += list(scene.bodies)
    async with nursery.program(scene.folder / "config.yaml") as (child, base):
        for path in warm:
            assert (await fetch(base + path))[0] == 200
            await asyncio.sleep(0.05)
        scene.change()
        yield child, base, sorted(int(name) for name in os.listdir(f"/proc/{child.pid}/task"))


async def traced(*options: str, pids: list[int]) -> asyncio.subprocess.Process:
    """strace, attached."""
    strace = find("strace")
    assert strace is not None
    chosen = [f"--attach={pid}" for pid in pids]
    process = await asyncio.create_subprocess_exec(
        strace, *options, *chosen, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        for _ in pids:
            line = await process.stderr.readline()
            assert b"attached" in line, line
    return process


async def listed(scene: Scene, nursery: Nursery) -> list[Call]:
    """The calls below the data folder that one undisturbed run makes."""
    out = scene.folder / "calls"
    async with ready(scene, nursery) as (child, base, threads):
        strace = await traced(
            "-f", "-yy", "-s", "0", "-e", f"trace={CALLS}", "-o", str(out), pids=[child.pid]
        )
        await scene.act(base)
        await _settled(out)
        child.signal(signal.SIGKILL)
        await child.wait()
        await strace.wait()
    return list(_calls(out.read_text(errors="replace"), threads, str(scene.data)))


async def _settled(out: Path) -> None:
    size, quiet = -1, 0
    while quiet < _QUIET:
        await asyncio.sleep(0.01)
        now = out.stat().st_size
        size, quiet = now, quiet + 1 if now == size else 0


def _calls(text: str, threads: list[int], data: str) -> list[Call]:
    found, counts = [], Counter[tuple[int, str]]()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest = int(match[1]), match[2], match[3]
        counts[thread, name] += 1
        about_us = data in rest and (name != "openat" or "O_CREAT" in rest)
        if about_us and thread in threads:
            found.append(Call(threads.index(thread), name, counts[thread, name]))
    return found


async def killed_at(scene: Scene, nursery: Nursery, call: Call) -> bool:
    """Whether the program came there and died; then it is started again and everything is right."""
    async with ready(scene, nursery) as (child, base, threads):
        if call.thread >= len(threads):
            return False
        inject = f"inject={call.name}:signal=KILL:when={call.nth}"
        strace = await traced(
            *("-e", f"trace={call.name}", "-e", inject, "-o", os.devnull), pids=[threads[call.thread]]
        )
        await scene.act(base)
        try:
            died = await child.wait(1.5) == -signal.SIGKILL
        except TimeoutError:
            died = False
        child.signal(signal.SIGKILL)
        await child.wait()
        await strace.wait()
    await recovered(scene)
    return died


async def recovered(scene: Scene) -> None:
    async with proxied(scene.folder, scene.chaos.origin, remote=ALWAYS_STALE) as proxy:
        assert proxy.temp_files() == []
        check_store(proxy.data)
        for path, body in scene.bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body), f"{path}: {got}"
        await proxy.check()


async def run(name: str, folder: Path, nursery: Nursery, step: int) -> tuple[int, int]:
    """Kill at every `step`-th call of a scene; returns how many calls there are and how many kills."""
    folder.mkdir(parents=True)
    async with Chaos() as chaos:
        (folder / "dry").mkdir()
        calls = await listed(SCENES[name](chaos, folder / "dry"), nursery)
    kills = 0
    for number, call in enumerate(calls[::step]):
        place = folder / f"{number}"
        place.mkdir()
        async with Chaos() as chaos:
            scene = SCENES[name](chaos, place)
            try:
                kills += await killed_at(scene, nursery, call)
            except AssertionError as error:
                raise AssertionError(f"{name}, killed at {call}, in {place}: {error}") from error
    return len(calls), kills


async def every(folder: Path, nursery: Nursery, step: int, tally: Tally, say: Callable[[str], None]) -> int:
    """All scenes; returns the number of kills. What is found goes into `tally`."""
    total = 0
    for name in SCENES:
        try:
            calls, kills = await run(name, folder / name, nursery, step)
        except AssertionError as error:
            tally.lost += 1
            tally.failures.append(str(error))
            continue
        say(f"{name}: {calls} system calls on files of ours, killed at {kills} of them")
        total += kills
    return total
