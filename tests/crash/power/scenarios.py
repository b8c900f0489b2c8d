"""What the program does while its file operations are recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, status
from tests.crash.contents import ALWAYS_STALE
from tests.crash.power.recorder import Recording, recording
from tests.house_proxy import Proxy, promise, proxied

BIG = 80_000
SMALL = 3000
LIMITS = "limits: {memory_body: 4KiB, blob_grace: 1ms}"


@dataclass(slots=True)
class World:
    """The upstream, and what each path must be answered with; `damaged` are blobs that were spoilt."""

    chaos: Chaos
    recording: Recording
    versions: dict[str, list[Oracle]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    since: int = 0

    def file(self, name: str, size: int, version: int = 0) -> str:
        path = f"/files/{name}"
        body = self.chaos.script(f"/{name}", ok(), size=size, version=version)
        self.versions.setdefault(path, []).append(body)
        return path

    def alias(self, name: str, of: str) -> str:
        """Another name of the same bytes."""
        path, body = f"/files/{name}", self.versions[of][-1]
        self.chaos.script(f"/{name}", status(200, body.bytes()))
        self.versions[path] = [body]
        return path

    def promised(self, name: str, size: int) -> str:
        body = self.chaos.script(f"/{name}", ok(), size=size)
        path = promise(self.chaos, name, body)
        self.versions[path] = [body]
        return path

    def since_version(self, path: str, sha256: str) -> list[bytes]:
        """What may be answered once these bytes were."""
        digests = [body.sha256 for body in self.versions[path]]
        return [body.bytes() for body in self.versions[path][digests.index(sha256) :]]

    async def stored(self, proxy: Proxy, path: str) -> None:
        """Fetched, and then answered from the store: from here on it may not be lost."""
        got = await proxy.get(path)
        assert (got.status, got.body) == (200, self.versions[path][-1].bytes()), path
        await proxy.settled()
        again = await proxy.get(path, Cache_Control="only-if-cached")
        assert (again.status, again.source, again.body) == (200, "cache", got.body), path
        self.recording.acked(path, self.versions[path][-1].sha256)

    def blob(self, path: str) -> Path:
        """Where its bytes lie, for somebody who means to spoil them."""
        sha256 = self.versions[path][-1].sha256
        self.damaged.add(sha256)
        self.recording.withdrawn(path)
        return self.recording.root / "blobs" / "sha256" / sha256[:2] / sha256


@asynccontextmanager
async def running(world: World, top: str = LIMITS, *, start: bool = False) -> AsyncIterator[Proxy]:
    """With `start`, what the start does belongs to the scenario."""
    folder = world.recording.root.parent
    async with proxied(folder, world.chaos.origin, top=top, remote=ALWAYS_STALE) as proxy:
        if not start:
            world.since = len(world.recording.ops)
        yield proxy


async def recorded(scenario: Callable[[World], Awaitable[None]], chaos: Chaos, folder: Path) -> World:
    """The scenario, played in `folder`."""
    (folder / "data").mkdir()
    with recording(folder / "data") as found:
        world = World(chaos, found)
        await scenario(world)
    return world


async def first_start(world: World) -> None:
    """The folder is made, and stopped properly."""
    async with running(world, start=True):
        pass


async def first_fetches(world: World) -> None:
    """Small and big, promised and not, with the index that promises."""
    async with running(world) as proxy:
        for path in (
            world.file("small.bin", SMALL),
            world.file("big.bin", BIG),
            world.promised("pkg-1.0.tar.gz", BIG),
        ):
            await world.stored(proxy, path)


async def one_content_twice(world: World) -> None:
    """Two names of the same bytes, first after each other, then at once."""
    async with running(world) as proxy:
        first = world.file("a.bin", BIG)
        second, third = (world.alias(name, first) for name in ("b.bin", "c.bin"))
        await world.stored(proxy, first)
        await asyncio.gather(proxy.get(second), proxy.get(third))
        await proxy.settled()
        for path in (second, third):
            await world.stored(proxy, path)


async def index_replaced(world: World) -> None:
    async with running(world) as proxy:
        path = world.file("index.json", SMALL)
        await world.stored(proxy, path)
        world.file("index.json", BIG, version=1)
        await world.stored(proxy, path)


async def evicted(world: World) -> None:
    """Rows forgotten, blobs doomed, then deleted; one of them is wanted again in between."""
    top = LIMITS.replace("1ms", "30ms") + f"\ndata_limit: {BIG * 2}B"
    async with running(world, top) as proxy:
        paths = [world.file(f"{name}.bin", BIG) for name in "abc"]
        for path in paths:
            await world.stored(proxy, path)
        world.recording.withdrawn(*paths)
        collecting = asyncio.create_task(proxy.engine.gc(run=True))
        await asyncio.sleep(0.01)
        await proxy.get(paths[0])  # not acknowledged: whoever collects may not have come to it yet
        await proxy.settled()
        await collecting
        for path in paths:
            if (await proxy.get(path, Cache_Control="only-if-cached")).status == 200:
                world.recording.acked(path, world.versions[path][-1].sha256)


async def purged_and_fetched_again(world: World) -> None:
    async with running(world) as proxy:
        path = world.file("f.bin", BIG)
        await world.stored(proxy, path)
        world.recording.withdrawn(path)
        await proxy.engine.purge("files")
        await world.stored(proxy, path)
        await proxy.engine.gc(run=True)
        assert (await proxy.get(path)).source == "cache"


async def set_aside(world: World) -> None:
    """A blob that lost its end is moved away at its next use, and fetched again."""
    async with running(world) as proxy:
        path = world.file("f.bin", BIG)
        await world.stored(proxy, path)
        fd = os.open(world.blob(path), os.O_RDWR)
        os.ftruncate(fd, BIG // 2)
        os.fsync(fd)
        os.close(fd)
        await world.stored(proxy, path)


async def fetched_over_rot(world: World) -> None:
    """A byte of a blob turned over while no row named it, and then it is fetched again."""
    async with running(world) as proxy:
        path = world.file("f.bin", BIG)
        await world.stored(proxy, path)
        blob = world.blob(path)
        await proxy.engine.purge("files")
        fd = os.open(blob, os.O_RDWR)
        os.pwrite(fd, b"\0rot", BIG // 2)
        os.fsync(fd)
        os.close(fd)
        await world.stored(proxy, path)


async def swept(world: World) -> None:
    """A start that finds what a dead process left."""
    async with running(world) as proxy:
        await world.stored(proxy, world.file("f.bin", BIG))
    world.since = len(world.recording.ops)
    for number in range(3):
        fd = os.open(world.recording.root / "tmp" / f"0.1.1-{number}-ab.part", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x" * BIG)
        os.close(fd)
    async with running(world, start=True) as proxy:
        assert proxy.temp_files() == []


SCENARIOS: tuple[Callable[[World], Awaitable[None]], ...] = (
    first_start,
    first_fetches,
    one_content_twice,
    index_replaced,
    evicted,
    purged_and_fetched_again,
    set_aside,
    fetched_over_rot,
    swept,
)
