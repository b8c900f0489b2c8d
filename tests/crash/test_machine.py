"""Any order of requests, faults, damage, purges, evictions, restarts and steps of the clock.

The model knows every version of every document; an answer that ends cleanly is one of them whole, and
no older one than was answered before.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import cut, flip, lies, ok, slam, status, unframed
from tests.chaos.server import Behaviour
from tests.house_proxy import Got, Proxy, promise, proxied

SIZES = {"small": 500, "held": 60_000, "spooled": 90_000}
LIMITS = (
    "limits: {memory_body: 64KiB, blob_grace: 0, sweep_every: 1h, cold_range_wait: 20ms, error_memory: 10ms}"
)
REMOTE = "ttl: 100ms\nmin_revalidate: 0s\nstale_while_revalidate: 50ms"
FAULTS: dict[str, Behaviour] = {
    "cut": cut(0.7),
    "cut for good": cut(0.4, ranges=False, rst=True),
    "503": status(503),
    "slam": slam(),
    "too short": lies(50),
    "unframed": unframed(0.5),
}
LIES: dict[str, Behaviour] = {"flip": flip(-1), "too long": lies(-3)}
NAMES = [
    *(f"{kind}-{size}" for kind in ("promised", "plain") for size in SIZES),
    *(f"changing-{size}" for size in SIZES),
]
names = st.sampled_from(NAMES)


def _file(name: str) -> str:
    kind, _, size = name.partition("-")
    return {"changing": f"{name}.json", "plain": f"{name}.bin", "promised": f"{size}-1.0.tar.gz"}[kind]


class Answers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.offset = 0.0
        self.versions: dict[str, list[Oracle]] = {name: [] for name in NAMES}
        self.floor = dict.fromkeys(NAMES, 0)
        self.paths: dict[str, str] = {}
        self.tags: dict[str, int] = {}

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def start() -> None:
            self.chaos = await self.stack.enter_async_context(Chaos())
            for name in NAMES:
                self.script(name)
                path = f"/files/{_file(name)}"
                if name.startswith("promised"):
                    path = promise(self.chaos, _file(name), self.versions[name][0])
                self.paths[name] = path

        self.do(start())
        self.start()

    def script(self, name: str, *bad: Behaviour, new: bool = False) -> None:
        size = name.partition("-")[2]
        version = max(len(self.versions[name]) - 1 + new, 0)
        body = self.chaos.script(f"/{_file(name)}", *bad, ok(), size=SIZES[size], version=version)
        if version == len(self.versions[name]):
            self.versions[name].append(body)
            self.tags[f"{name} {body.etag}"] = version

    def start(self) -> None:
        self.life = AsyncExitStack()
        running = proxied(
            self.folder,
            self.chaos.origin,
            remote=REMOTE,
            top=f"{LIMITS}\ndata_limit: 300KB",
            clock=lambda: time.time() + self.offset,
        )
        self.proxy: Proxy = self.do(self.life.enter_async_context(running))

    # --- requests ---

    @rule(name=names, no_cache=st.booleans())
    def fetch(self, name: str, no_cache: bool) -> None:
        headers = {"Cache_Control": "no-cache"} if no_cache else {}
        floor = self.floor[name]
        self.judge(name, self.do(self.ask(name, **headers)), floor)

    @rule(name=names, clients=st.integers(2, 6))
    def fetch_at_once(self, name: str, clients: int) -> None:
        async def together() -> list[Got]:
            return await asyncio.gather(*(self.ask(name) for _ in range(clients)))

        floor = self.floor[name]
        for got in self.do(together()):
            self.judge(name, got, floor)

    @rule(name=names)
    def head(self, name: str) -> None:
        got = self.do(self.ask(name, "HEAD"))
        assert got.body in (b"", None)
        if got.status == 200:
            assert int(got.headers["Content-Length"]) == SIZES[name.partition("-")[2]]

    @rule(name=names.filter(lambda name: not name.startswith("changing")), data=st.data())
    def part(self, name: str, data: st.DataObject) -> None:
        size = SIZES[name.partition("-")[2]]
        start = data.draw(st.integers(0, size - 1))
        stop = data.draw(st.integers(start + 1, size))
        got = self.do(self.ask(name, Range=f"bytes={start}-{stop - 1}"))
        if got.status == 206 and got.body is not None and "unverified" not in got.headers["Cache-Status"]:
            assert got.body == self.versions[name][0].slice(start, stop)
        elif got.status == 200:
            self.judge(name, got, 0)

    @rule(name=names, data=st.data())
    def conditional(self, name: str, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(self.versions[name]))
        floor = self.floor[name]
        got = self.do(self.ask(name, If_None_Match=body.etag))
        if got.status == 304:
            assert self.tags[f"{name} {body.etag}"] >= floor
        else:
            self.judge(name, got, floor)

    async def ask(self, name: str, method: str = "GET", **headers: str) -> Got:
        return await self.proxy.get(self.paths[name], method, **headers)

    def judge(self, name: str, got: Got, floor: int) -> None:
        if got.body is None:
            return
        if got.status != 200:
            assert got.status in (404, 502, 503, 504), got
            assert got.error
            return
        found = [number for number, body in enumerate(self.versions[name]) if body.bytes() == got.body]
        assert found, f"{name}: {len(got.body)} bytes that are no version of it"
        assert found[0] >= floor, f"{name}: version {found[0]} after {floor}"
        if got.source == "cache":
            self.floor[name] = max(self.floor[name], found[0])

    # --- upstream ---

    @rule(name=names, fault=st.sampled_from([*FAULTS, *LIES]), times=st.integers(1, 4))
    def trouble(self, name: str, fault: str, times: int) -> None:
        if fault in LIES and not name.startswith("promised"):
            return  # nothing could tell
        self.script(name, *[(FAULTS | LIES)[fault]] * times)

    @rule(name=names.filter(lambda name: name.startswith("changing")))
    def advance(self, name: str) -> None:
        self.script(name, new=True)

    # --- the store ---

    @rule(name=names)
    def purge(self, name: str) -> None:
        repo, _, path = self.paths[name][1:].partition("/")
        self.do(self.proxy.engine.purge(repo, path=path))

    @rule()
    def collect(self) -> None:
        self.do(self.proxy.engine.gc(run=True))

    @rule()
    def sweep(self) -> None:
        self.do(self.proxy.engine._janitor.sweep())

    @rule(seed=st.integers(0, 99), gone=st.booleans())
    def damage(self, seed: int, gone: bool) -> None:
        """What a hit can see: a blob is gone, or is not as long as it was."""
        self.do(self.proxy.settled())
        blobs = self.proxy.blobs()
        if blobs:
            blob = random.Random(seed).choice(blobs)
            if gone:
                blob.unlink()
            else:
                os.truncate(blob, blob.stat().st_size // 2)

    # --- time ---

    @rule(seconds=st.sampled_from([-86_400.0, -2.0, 0.2, 60.0, 86_400.0]))
    def step_of_the_clock(self, seconds: float) -> None:
        self.offset += seconds

    @rule()
    def restart(self) -> None:
        self.do(self.life.aclose())
        self.start()

    @invariant()
    def nothing_is_held_open(self) -> None:
        if self.paths:
            self.do(self.proxy.upstream_idle())

    def teardown(self) -> None:
        try:
            if self.paths:
                self.do(self.end())
        finally:
            self.do(self.life.aclose())
            self.do(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.folder)

    async def end(self) -> None:
        """Once upstream is well, everything is answered; then nothing is left over."""
        for name in NAMES:
            self.script(name)
            await asyncio.sleep(0.02)
            got = await self.ask(name, Cache_Control="no-cache")
            assert got.status == 200, (name, got)
            self.judge(name, got, self.floor[name])
        await self.proxy.settled()
        assert self.proxy.temp_files() == []


Answers.TestCase.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "15")),
    stateful_step_count=25,
    deadline=None,
    derandomize="SEED" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
TestAnswers = Answers.TestCase
