"""Random requests against an upstream that misbehaves at random: whatever ends cleanly is right.

Every body is oracle content, so each byte of each answer is checked. `SEED` and `STEPS` in the
environment replay or lengthen a run; a failure prints its seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from artifactproxy import wiring
from artifactproxy.config import load
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import (
    cut,
    empty,
    flip,
    lies,
    longer,
    ok,
    portal,
    silence,
    slam,
    slow,
    stall,
    status,
    unframed,
)
from tests.house_proxy import Got, Proxy, promise, proxied

STEPS = int(os.environ.get("STEPS", "250"))
SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [1, 2, 3]
SIZES = (1, 1000, 65_536, 65_537, 262_144, 262_145, 1_500_000)
PROXY_TROUBLE = (400, 404, 410, 412, 416, 429, 502, 503, 504)


def trouble(rng: random.Random) -> list[object]:
    bad = [
        cut(rng.random(), rst=rng.random() < 0.5, ranges=rng.random() < 0.7),
        stall(rng.random(), ranges=rng.random() < 0.7),
        flip(rng.choice([0, 0.5, -1])),
        lies(rng.choice([-100, 100])),
        longer(100),
        unframed(rng.choice([None, 0.5])),
        status(rng.choice([404, 500, 502, 503])),
        status(503, Retry_After="1") if rng.random() < 0.1 else status(304),
        empty(),
        portal(),
        slam(rst=rng.random() < 0.5),
        silence() if rng.random() < 0.2 else slow(3_000_000),
    ]
    return [*rng.sample(bad, rng.choice([0, 0, 1, 1, 2])), ok()]


class World:
    """The files of upstream, promised ones in `pypi` and unpromised ones in `files`."""

    def __init__(self, chaos: Chaos, rng: random.Random) -> None:
        self.chaos = chaos
        self.rng = rng
        self.bodies: dict[str, Oracle] = {}
        for number, size in enumerate(SIZES * 2):
            promised = number < len(SIZES)
            name = f"pkg{number}-1.0.tar.gz" if promised else f"f{number}.bin"
            body = chaos.script(f"/{name}", ok(), size=size)
            path = promise(chaos, name, body) if promised else f"/files/{name}"
            self.bodies[path] = body

    def disturb(self) -> None:
        path = self.rng.choice(list(self.bodies))
        name = path.rpartition("/")[2]
        self.chaos.script(f"/{name}", *trouble(self.rng), size=self.bodies[path].size)  # type: ignore[arg-type]

    async def ask(self, proxy: Proxy) -> None:
        rng, path = self.rng, self.rng.choice(list(self.bodies))
        body = self.bodies[path]
        headers: dict[str, str] = {}
        method = "HEAD" if rng.random() < 0.1 else "GET"
        if rng.random() < 0.2:
            start = rng.randrange(body.size + 1)
            headers["Range"] = rng.choice(
                [f"bytes={start}-", f"bytes=-{start}", f"bytes={start}-{start + 999}"]
            )
        if rng.random() < 0.1:
            headers["Cache_Control"] = "no-cache"
        self.judge(await proxy.get(path, method, **headers), body, method, path)

    def judge(self, got: Got, body: Oracle, method: str, path: str) -> None:
        if got.body is None:
            return  # reset: nobody holds a complete body
        if got.status >= 400:
            assert got.status in PROXY_TROUBLE, (path, got)
            assert got.error, path
            return
        if method == "HEAD":
            assert got.body == b""
            return
        if "unverified" in got.headers["Cache-Status"]:
            return  # a range relayed past a slow fill says so
        promised = path.startswith("/pypi/")
        right = body.bytes()
        if got.status == 206:
            span = got.headers["Content-Range"].removeprefix("bytes ").partition("/")[0]
            first, last = map(int, span.split("-"))
            right = right[first : last + 1]
        # Nothing vouches for an unpromised file but its framing: a flipped bit or a lying length
        # passes once, and then stays what it is.
        if promised:
            assert got.body == right, (path, got.status, len(got.body))


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_requests_and_faults(tmp_path: Path, chaos: Chaos, seed: int) -> None:
    rng = random.Random(seed)
    world = World(chaos, rng)
    top = "data_limit: 4MB\nlimits: {blob_grace: 0, flush_every: 50ms, sweep_every: 100ms, cold_range_wait: 50ms}"
    extra = "idle: 150ms\nfirst_byte: 200ms"
    for _ in range(3):
        async with proxied(tmp_path, chaos.origin, extra=extra, top=top) as proxy:
            for _ in range(STEPS // 3 // 5):
                world.disturb()
                await asyncio.gather(*(world.ask(proxy) for _ in range(5)))
                if rng.random() < 0.05:
                    await proxy.engine.purge(rng.choice(["files", "pypi"]))
                if rng.random() < 0.05 and proxy.blobs():
                    rng.choice(proxy.blobs()).unlink(missing_ok=True)
            await proxy.settled()
            await heal(proxy, tmp_path)
            await proxy.check()


async def heal(proxy: Proxy, folder: Path) -> None:
    """Blobs were taken away: the check finds what lost one, mends it, and then finds nothing."""
    config = load(folder / "config.yaml", env={}, flags={})
    checkup, _ = wiring.checkup(proxy.engine, proxy.data, config)
    try:
        async for line in checkup.fsck(full=True, repair=True):
            finding = line.get("finding")
            assert not finding or finding["note"] or finding["repaired"], finding
    finally:
        await checkup.close()
