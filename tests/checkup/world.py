"""A cache of every kind of thing, stopped or serving, and the check of it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactproxy import inspection, wiring
from artifactproxy.checkup.checkup import Checkup
from artifactproxy.config import Config
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Proxy, configuration, promise, proxied

TOP = "limits: {sweep_every: 1h, min_free_share: 0}"
Line = dict[str, Any]


@dataclass
class World:
    """`bodies` by path at the proxy. `kept` is what every test may look for by name."""

    folder: Path
    chaos: Chaos
    bodies: dict[str, Oracle] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def config(self) -> Config:
        return configuration(self.folder, self.chaos.origin, top=TOP)

    @property
    def wheel(self) -> str:
        return next(path for path in self.bodies if path.startswith("/pypi/"))

    def script(self) -> None:
        for name, size in (("tool.bin", 300_000), ("small.bin", 10)):
            self.bodies[f"/files/{name}"] = self.chaos.script(f"/{name}", ok(), size=size)
        wheel = self.chaos.script("/pkg-1.0.tar.gz", ok(), size=5_000)
        self.bodies[promise(self.chaos, "pkg-1.0.tar.gz", wheel)] = wheel
        self.chaos.script("/gone.bin", status(404))

    async def fill(self, proxy: Proxy) -> None:
        """Artifacts, an index, a superseded index and an absence."""
        for path, body in self.bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes()), path
        for version in (1, 2):
            self.chaos.script("/page.json", ok(), size=500, version=version)
            await proxy.get("/files/page.json", Cache_Control="no-cache")
            await proxy.settled()
            with sql(self.data) as db:
                assert db.execute("UPDATE entries SET checked_at = 1 WHERE path = 'page.json'").rowcount == 1
            proxy.engine.parts.index._recent.clear()
        assert (await proxy.get("/files/gone.bin")).status == 404
        await proxy.settled()

    async def exact(self, proxy: Proxy) -> None:
        """Every file is served byte for byte, and is held afterwards."""
        for path, body in self.bodies.items():
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes()), path
        await proxy.settled()
        for path in self.bodies:
            assert (await proxy.get(path)).source == "cache", path

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Proxy, Checkup]]:
        async with proxied(self.folder, self.chaos.origin, top=TOP) as proxy:
            checkup, _ = wiring.checkup(proxy.engine, self.data, self.config)
            try:
                yield proxy, checkup
            finally:
                await checkup.close()

    async def stopped(self, *, repair: bool = False, full: bool = True) -> tuple[list[Line], Line]:
        return await gathered(inspection.fsck(self.config, full=full, repair=repair))


async def gathered(lines: Any) -> tuple[list[Line], Line]:
    """The findings and the summary of a check."""
    found: list[Line] = []
    async with aclosing(lines) as told:
        async for line in told:
            if "finding" in line:
                found.append(line["finding"])
            summary = line.get("summary")
    assert summary is not None, "the summary comes last"
    return found, summary


@asynccontextmanager
async def filled(folder: Path, chaos: Chaos) -> AsyncIterator[World]:
    """Filled and stopped."""
    world = World(folder, chaos)
    world.script()
    async with proxied(folder, chaos.origin, top=TOP) as proxy:
        await world.fill(proxy)
    yield world


class _Sql:
    def __init__(self, data: Path) -> None:
        self._db = sqlite3.connect(data / "index.sqlite3", isolation_level=None, timeout=5)

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()


def sql(data: Path) -> _Sql:
    """A connection that is closed, as sqlite3's own context is not."""
    return _Sql(data)


def row_of(data: Path, path: str) -> tuple[str, int]:
    """sha256 and size of the blob that a path names."""
    with sql(data) as db:
        sha256, size = db.execute("SELECT sha256, size FROM entries WHERE path = ?", (path,)).fetchone()
    return str(sha256), int(size)


def blob_of(data: Path, path: str) -> Path:
    sha256, _ = row_of(data, path)
    return data / "blobs/sha256" / sha256[:2] / sha256


Plant = Callable[[Path], None]
__all__ = ["Line", "Plant", "World", "blob_of", "closing", "filled", "gathered", "row_of", "sql"]
