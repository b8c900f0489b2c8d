"""What several workers have counted is shown as one, and never goes down."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.observe.metrics import Metrics
from artifactproxy.ports import Outcome
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.faults.machine import Running, metric
from tests.workers.family import WORKERS, answerers, family, replaced, workers_of

BIG = 100_000


def counted(requests: int, *, seconds: float = 0.02) -> Metrics:
    metrics = Metrics(["files"])
    for _ in range(requests):
        metrics.outcome(
            Outcome(
                "request", repo="files", result="hit", status=200, bytes=10, source="cache", seconds=seconds
            )
        )
    metrics.gauge("connections", requests)
    metrics.gauge("degraded", 1, dependency="store")
    metrics.gauge("scrub_finished", 1000 + requests)
    metrics.lag(seconds)
    return metrics


def series(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def travelled(metrics: Metrics) -> dict[str, object]:
    return json.loads(json.dumps(metrics.numbers()))


@given(st.lists(st.integers(min_value=0, max_value=5), min_size=1, max_size=4))
def test_counters_and_histograms_add_up(numbers: list[int]) -> None:
    first, *others = map(counted, numbers)
    shown = series(first.exposition([travelled(each) for each in (first, *others)]).decode())
    total = sum(numbers)
    if total:
        assert shown['artifactproxy_requests_total{repo="files",result="hit",status="2xx"}'] == total
        assert shown['artifactproxy_bytes_sent_total{repo="files",source="cache"}'] == 10 * total
        assert shown['artifactproxy_request_seconds_count{result="hit"}'] == total
    assert shown["artifactproxy_loop_lag_seconds_count"] == len(numbers)


def test_gauges_add_up_but_for_what_is_the_same_for_all() -> None:
    shown = series(Metrics().exposition([travelled(counted(3)), travelled(counted(4))]).decode())
    assert shown["artifactproxy_connections"] == 7
    assert shown['artifactproxy_degraded{dependency="store"}'] == 1
    assert shown["artifactproxy_scrub_finished"] == 1004


def test_processes_add_up_and_the_oldest_tells_the_start() -> None:
    mine, other = counted(1), travelled(counted(1))
    other["process"]["process_start_time_seconds"] = 5.0  # type: ignore[index]
    alone, both = (
        series(mine.exposition().decode()),
        series(mine.exposition([mine.numbers(), other]).decode()),
    )
    for name in ("resident_memory_bytes", "open_fds"):
        assert both[f"artifactproxy_process_{name}"] > 1.5 * alone[f"artifactproxy_process_{name}"]
    assert both["artifactproxy_process_start_time_seconds"] == 5
    assert both["artifactproxy_process_cpu_seconds_total"] >= alone["artifactproxy_process_cpu_seconds_total"]


def test_a_successor_goes_on_counting_and_takes_no_gauges_over() -> None:
    successor = counted(1)
    successor.add(travelled(counted(4)), counters_only=True)
    shown = series(successor.exposition().decode())
    assert shown['artifactproxy_requests_total{repo="files",result="hit",status="2xx"}'] == 5
    assert shown["artifactproxy_connections"] == 1


def test_looking_changes_nothing() -> None:
    metrics = counted(2)
    other = travelled(counted(3))
    first = series(metrics.exposition([metrics.numbers(), other]).decode())
    again = series(metrics.exposition([metrics.numbers(), other]).decode())
    ours = "artifactproxy_requests", "artifactproxy_connections", "artifactproxy_loop"
    assert {n: v for n, v in first.items() if n.startswith(ours)} == {
        n: v for n, v in again.items() if n.startswith(ours)
    }


# --- the whole ------------------------------------------------------------------------------


async def counters(proxy: Running) -> dict[str, float]:
    text = ((await proxy.get("/metrics")).body or b"").decode()
    found = series(text)
    monotone = re.compile(r"\S*(?:_total|_count|_bucket|_sum)(?:\{.*\})?")
    return {name: value for name, value in found.items() if monotone.fullmatch(name)}


async def test_every_worker_shows_what_all_have_counted(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        await proxy.get("/files/f.bin")
        await answerers(proxy)
        before = await metric(proxy, "requests_total", repo="files")
        asked = 60
        await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(asked)))
        for _ in range(10):
            assert await metric(proxy, "requests_total", repo="files") == before + asked
        assert await metric(proxy, "build_info") == 1
        assert await metric(proxy, "process_open_fds") > WORKERS * 10
        assert await proxy.stop() == 0


async def test_counters_never_go_down_when_a_worker_dies(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        await proxy.get("/files/f.bin")
        await answerers(proxy)
        last: dict[str, float] = {}
        for round_ in range(3):
            await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(30)))
            last = _not_below(await counters(proxy), last)
            victim = workers_of(proxy)[round_ % WORKERS]
            os.kill(victim, signal.SIGKILL)
            for _ in range(5):
                last = _not_below(await counters(proxy), last)
            await replaced(proxy, victim)
            last = _not_below(await counters(proxy), last)
        assert await metric(proxy, "workers_restarted_total") == 3
        assert await proxy.stop() == 0


def _not_below(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """The connection that was asked over may have ended with the worker."""
    if not now:
        return before
    for name, value in before.items():
        # Sums of fractions depend on the order of the parts.
        assert now.get(name, 0.0) >= value - 1e-6, f"{name} went from {value} to {now.get(name)}"
    return now


async def test_a_worker_that_hangs_is_left_out(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with family(tmp_path, chaos, workers=2) as proxy:
        await answerers(proxy, 2)
        await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(20)))
        before = await metric(proxy, "requests_total", repo="files")
        assert before == 20
        hanging = workers_of(proxy)[0]
        os.kill(hanging, signal.SIGSTOP)
        try:
            text = b""
            async with asyncio.timeout(20):
                while not text:  # a connection that the stopped one took waits for it
                    asking = [asyncio.create_task(proxy.get("/metrics")) for _ in range(4)]
                    done, waiting = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
                    text = next((task.result().body or b"" for task in done), b"")
                    for task in waiting:
                        task.cancel()
                    await asyncio.gather(*waiting, return_exceptions=True)
            shown = series(text.decode())
            assert shown["artifactproxy_workers_silent"] == 1
            total = sum(
                v for n, v in shown.items() if n.startswith('artifactproxy_requests_total{repo="files"')
            )
            assert total == before
        finally:
            os.kill(hanging, signal.SIGCONT)
        assert await proxy.stop() == 0
