"""The wall clock is set, by a day or by ten years; and the event loop that stands still."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifactproxy.engine.clockwatch import ClockWatch
from artifactproxy.observe.loopwatch import LoopWatch
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow, status
from tests.faults.machine import metric, program, readiness, told
from tests.house_proxy import Proxy, check_store, configuration, proxied
from tests.needs import needs

DAY = 86400.0
JUMPS = [DAY, -DAY, 3650 * DAY, -3650 * DAY]
BIG = 1_000_000
BRISK = """
    limits: {flush_every: 20ms, sweep_every: 30ms, blob_grace: 10ms, touch_every: 1ms, superseded_keep: 1h}
"""


@dataclass(slots=True)
class Wall:
    """A wall clock that can be set."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def rows(proxy: Proxy, text: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True) as db:
        return db.execute(text).fetchall()


async def filled(proxy: Proxy, chaos: Chaos) -> None:
    """An artifact, an index with one superseded body, and an absence."""
    chaos.script("/f.bin", ok(), size=BIG)
    await proxy.get("/files/f.bin")
    chaos.script("/i.json", ok(), size=BIG, version=1)
    await proxy.get("/files/i.json")
    await proxy.settled()
    await proxy.engine.purge("files", path="nothing")
    chaos.script("/i.json", ok(), size=BIG, version=2)
    for _ in range(2_000):
        await proxy.get("/files/i.json", Cache_Control="no-cache")
        await proxy.settled()
        if rows(proxy, "SELECT 1 FROM superseded"):
            break
        await asyncio.sleep(0.01)
    assert (await proxy.get("/files/none.json")).status == 404


@pytest.mark.parametrize("jump", JUMPS)
async def test_l07_a_jump_expires_nothing_and_breaks_nothing(
    tmp_path: Path, chaos: Chaos, jump: float
) -> None:
    wall = Wall()
    remote = "ttl: 1h\nmin_revalidate: 1ms"
    async with proxied(tmp_path, chaos.origin, remote=remote, top=BRISK, clock=wall) as proxy:
        await filled(proxy, chaos)
        body = chaos.script("/f.bin", status(500), size=BIG)
        index = chaos.script("/i.json", ok(), size=BIG, version=2)
        before = {path.name for path in proxy.blobs()}
        running = asyncio.create_task(proxy.get("/files/slow.bin"))
        late = chaos.script("/slow.bin", slow(2_000_000), size=BIG)
        wall.ahead = jump
        line = await told(proxy, lambda line: line.get("warning") == "clock_jump")
        assert line["seconds"] == pytest.approx(jump, abs=60)
        assert await metric(proxy, "clock_jumps_total") == 1
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.source, got.body) == (200, "cache", body.bytes())
        assert int(got.headers["Age"]) >= 0
        got = await proxy.get("/files/i.json")
        assert (got.status, got.body) == (200, index.bytes())
        assert int(got.headers["Age"]) >= 0
        assert (await proxy.get("/files/none.json")).status == 404
        assert (await running).body == late.bytes(), "time-outs and rates do not look at this clock"
        await asyncio.sleep(0.15)  # several sweeps
        await proxy.settled()
        assert before <= {path.name for path in proxy.blobs()}, "deleted because of a date"
        assert rows(proxy, "SELECT 1 FROM superseded"), "a body expired because of a date"
        assert (await readiness(proxy))[0] == 200
        wall.ahead = 0.0
        assert (await proxy.get("/files/i.json")).body == index.bytes()
        await proxy.settled()
        await proxy.check(but="I17")


async def test_l07_after_a_clock_that_was_ahead_freshness_and_eviction_are_right(
    tmp_path: Path, chaos: Chaos
) -> None:
    wall = Wall(3650 * DAY)
    top = BRISK.replace("limits: {", "data_limit: 2500kB\n    limits: {clock_hold: 0, ").replace(
        "sweep_every: 30ms", "sweep_every: 1h"
    )
    async with proxied(tmp_path, chaos.origin, remote="ttl: 1h", top=top, clock=wall) as proxy:
        old = chaos.script("/old.bin", ok(), size=BIG)
        chaos.script("/i.json", ok(), size=1000)
        for path in ("/files/old.bin", "/files/i.json", "/files/none.json"):
            await proxy.get(path)
            await proxy.settled()
        wall.ahead = 0.0
        now = chaos.script("/i.json", ok(), size=1000, version=2)
        chaos.script("/none.json", ok(), size=1000)
        await proxy.get("/files/i.json")  # at once, and refreshed behind
        await proxy.settled()
        assert (await proxy.get("/files/i.json")).body == now.bytes(), "fresh until that date"
        assert (await proxy.get("/files/none.json")).status == 200, "absent until that date"
        await proxy.engine._janitor.sweep()
        await asyncio.sleep(0.05)
        for name in ("new1", "new2"):
            chaos.script(f"/{name}.bin", ok(), size=BIG)
            await proxy.get(f"/files/{name}.bin")
            await proxy.settled()
        await proxy.engine.gc(run=True)
        held = {path.name for path in proxy.blobs()}
        assert old.sha256 not in held, "what was used in that future looked warm for ever"
        await proxy.check(but="I17")


async def test_l07_eviction_goes_on_under_a_clock_that_is_behind(tmp_path: Path, chaos: Chaos) -> None:
    wall = Wall()
    top = BRISK.replace("limits: {", "data_limit: 1500kB\n    limits: {")
    async with proxied(tmp_path, chaos.origin, top=top, clock=wall) as proxy:
        chaos.script("/f.bin", ok(), size=BIG)
        await proxy.get("/files/f.bin")
        await proxy.settled()
        wall.ahead = -3650 * DAY
        await told(proxy, lambda line: line.get("warning") == "clock_jump")
        chaos.script("/g.bin", ok(), size=BIG)
        await proxy.get("/files/g.bin")
        await proxy.settled()
        for _ in range(5_000):
            if len(proxy.blobs()) == 1:
                break
            await asyncio.sleep(0.01)
        assert len(proxy.blobs()) == 1, "a store without bounds"
        await proxy.check()


def test_l07_only_a_jump_counts_as_one() -> None:
    wall, ticks = [1e9], [0.0]
    watch = ClockWatch(lambda: wall[0], lambda: ticks[0])
    for step in (1.0, 86400.0, 30.0):
        wall[0] += step
        ticks[0] += step
        assert watch.look() == 0
    wall[0] += 59
    assert watch.look() == 0
    assert watch.calm == float("inf")
    wall[0] -= 3600
    assert watch.look() == -3600
    ticks[0] += 5
    wall[0] += 5
    assert (watch.look(), watch.calm) == (0, 5)


def _faked(folder: Path, stamp: str) -> None:
    draft = folder / "clock.new"
    draft.write_text(stamp)
    draft.replace(folder / "clock")


@needs("faketime")
@pytest.mark.parametrize("jump", ["+3650d", "-3650d"])
async def test_l07_the_real_program_under_a_clock_that_is_set(
    tmp_path: Path, chaos: Chaos, jump: str
) -> None:
    _faked(tmp_path, "+0d")
    configuration(tmp_path, chaos.origin, top=BRISK, remote="ttl: 1h")
    env = {
        "LD_PRELOAD": str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    body = chaos.script("/f.bin", ok(), size=BIG)
    index = chaos.script("/i.json", ok(), size=1000)
    async with program(tmp_path, env=env) as proxy:
        for path in ("/files/f.bin", "/files/i.json"):
            assert (await proxy.get(path)).status == 200
        _faked(tmp_path, jump)
        await told(proxy, lambda line: line.get("warning") == "clock_jump")
        got = await proxy.get("/files/f.bin")
        assert (got.source, got.body) == ("cache", body.bytes())
        assert int(got.headers["Age"]) >= 0
        assert (await proxy.get("/files/i.json")).body == index.bytes()
        fresh = chaos.script("/g.bin", ok(), size=BIG)
        assert (await proxy.get("/files/g.bin")).body == fresh.bytes()
        assert (await readiness(proxy))[0] == 200
        assert not [line for line in proxy.log_lines() if line.get("status") == 500]
        assert await proxy.stop() == 0
    check_store(proxy.data, but="I17")


# --- the loop -------------------------------------------------------------------------------


@dataclass
class Heard:
    lags: list[float]
    warnings: list[tuple[str, dict[str, str | float]]]

    def lag(self, seconds: float) -> None:
        self.lags.append(seconds)

    def warning(self, event: str, **facts: str | float) -> None:
        self.warnings.append((event, facts))


def blocking_call() -> None:
    time.sleep(0.5)


async def test_l15_a_blocked_loop_is_named_with_its_stack() -> None:
    heard = Heard([], [])
    watch = LoopWatch(heard, blocked=0.2)
    watch.start()
    try:
        await asyncio.sleep(0.3)
        assert heard.lags, "the lag is measured all the time"
        heard.warnings.clear()
        blocking_call()
        await asyncio.sleep(0.1)
        [(event, facts)] = heard.warnings
        assert event == "loop_blocked"
        assert 0.2 <= float(facts["seconds"]) < 5
        assert "blocking_call" in str(facts["stack"])
    finally:
        watch.close()


async def test_l15_others_are_late_and_nobody_fails(tmp_path: Path, chaos: Chaos) -> None:
    """A system call on the loop takes its time, as on a disk that hangs."""
    configuration(tmp_path, chaos.origin, top="limits: {loop_blocked: 200ms}")
    body = chaos.script("/f.bin", ok(), size=BIG)
    other = chaos.script("/g.bin", ok(), size=1000)
    env = {"ARTIFACTPROXY_FAILPOINTS": "tail.released=sleep:0.8@2"}
    async with program(tmp_path, env=env) as proxy:
        assert (await proxy.get("/files/g.bin")).body == other.bytes()
        await told(proxy, lambda line: line.get("result") == "stored")
        first, *rest = await asyncio.gather(
            proxy.get("/files/f.bin"), *(proxy.get("/files/g.bin") for _ in range(20))
        )
        assert (first.status, first.body) == (200, body.bytes())
        assert {got.body for got in rest} == {other.bytes()}
        line = await told(
            proxy,
            lambda line: line.get("warning") == "loop_blocked" and "_verify_and_store" in str(line["stack"]),
        )
        assert float(str(line["seconds"])) >= 0.2
        assert await metric(proxy, "warnings_total", event="loop_blocked") >= 1
        assert await metric(proxy, "loop_lag_seconds_sum") >= 0.2
        assert (await proxy.get("/files/f.bin")).source == "cache"
        assert await proxy.stop() == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)
