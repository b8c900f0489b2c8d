"""Hits while the server is crowded: how late are they, and what does the crowd hold?"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from bench.content import Blob, cold_paths
from bench.model import Bench, CannotMeasure, Column, Goal, Result, Sample, Samples, median, worst
from bench.pull import pull
from bench.servers import Origin, origin, proxy, remotes_of
from bench.watch import HoldWatch, StallWatch, forget_peak, memory, tree

_ROOT = Path(__file__).parents[2]
_HIT = "/files/ready.bin"
_SECONDS = 5.0
_MOST_SECONDS = 120.0  # for a load that has an end
_LATEST_MS = 1000
_MOST_MIB = 64
_MOST_THREADS = 24
_SPARE = 200  # descriptors beyond those of the crowd's connections
_IDLE = "idle"


class Loaded:
    """A `bench.load` process while a block runs; `counts` afterwards."""

    def __init__(self, kind: str, port: int, **options: Any) -> None:
        command = [sys.executable, "-m", "bench.load", kind, str(port), json.dumps(options)]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.kill()
            self._process.wait()
            raise CannotMeasure("the crowd could not be made")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            printed, _ = self._process.communicate(timeout=60)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.counts = json.loads(printed or "{}")


def measure(bench: Bench) -> Result:
    scale = bench.scale
    root = bench.folder / "files"
    few = scale.quick
    loads: dict[str, tuple[str, dict[str, Any]]] = {
        _IDLE: ("", {}),
        "1000 idle, 200 active": ("idle", {"idle": 50 if few else 1000, "active": 10 if few else 200}),
        "500 slow readers of one cold file": ("slow", {"readers": 25 if few else 500, "rate": 16 * 1024}),
        "10000 missing names": ("missing", {"count": 500 if few else 10_000}),
        "10000 hostile requests": ("hostile", {"count": 500 if few else 10_000}),
    }
    with origin(bench.folder / "origin", root, bench.client_cores) as source:
        (root / "ready.bin").write_bytes(os.urandom(2048))
        blob = Blob(root / "middle.bin", scale.middle)
        variants = {
            name: lambda kind=kind, options=options: _sample(bench, source, blob, kind, options)
            for name, (kind, options) in loads.items()
        }
        samples = bench.interleaved(variants)
    goals = [goal for name, load in loads.items() if load[0] for goal in _goals(name, load[1], samples)]
    return Result(
        title="Hits in a crowd",
        method=(
            "One connection asks for a stored file of 2 KiB every millisecond while a crowd is on; latencies are "
            "those of somebody who comes at any time. The crowd's process shares the machine's cores with the server. "
            f"Idle and slow crowds are watched for {_SECONDS:g} s, the others until their last request is answered. "
            "A reader that is sent a file holds two descriptors: its socket, and a duplicate of it for sendfile. "
            "Growth is the peak of the kernel's high-water mark less the size before; fresh proxy in each sample."
        ),
        columns=(
            Column("p50", "hit p50 ms"),
            Column("p99", "hit p99 ms"),
            Column("worst", "hit latest ms", 0),
            Column("growth", "memory growth MiB", 1),
            Column("fds", "descriptors", 0),
            Column("threads", "threads", 0),
            Column("metrics", "/metrics KiB", 1),
            Column("answers", "answers to the crowd", 0),
        ),
        samples=samples,
        goals=tuple(goals),
    )


def _goals(name: str, options: dict[str, Any], samples: Samples) -> tuple[Goal, Goal]:
    idle, crowd = median(samples[_IDLE], "p99"), samples[name]
    latest, grown = worst(crowd, "worst"), worst(crowd, "growth")
    fds, threads = worst(crowd, "fds"), worst(crowd, "threads")
    places = options.get("idle", 0) + options.get("active", 0) + 2 * options.get("readers", 0) + _SPARE
    return (
        Goal(
            f"hits beside {name}: the latest of all",
            f"an idle server, p99 {idle:.2f} ms",
            f"under {_LATEST_MS} ms",
            f"{latest:.0f} ms; p99 {median(crowd, 'p99') / idle:.1f} x idle",
            latest < _LATEST_MS,
        ),
        Goal(
            f"what {name} hold",
            "before them",
            f"at most {_MOST_MIB} MiB, {places} descriptors, {_MOST_THREADS} threads",
            f"{grown:.1f} MiB, {fds:.0f} descriptors, {threads:.0f} threads",
            grown <= _MOST_MIB and fds <= places and threads <= _MOST_THREADS,
        ),
    )


def _sample(bench: Bench, source: Origin, blob: Blob, kind: str, options: dict[str, Any]) -> Sample:
    blob.renew()
    with proxy(bench.folder / "proxy", bench.all_cores, remotes_of(source.port)) as (server, port):
        pull(port, [_HIT], bench.client_cores)
        time.sleep(1)
        forget_peak(server.pid)
        before = memory(server.pid).resident
        path = f"/files{cold_paths(blob)[0]}" if kind == "slow" else _HIT
        counts: dict[str, int] = {}
        with HoldWatch(server.pid) as held:
            if kind:
                with (
                    Loaded(kind, port, path=path, **options) as crowd,
                    StallWatch(server.pid, port, _HIT) as hits,
                ):
                    _wait(port, options.get("count", 0))
                counts = crowd.counts
            else:
                with StallWatch(server.pid, port, _HIT) as hits:
                    time.sleep(_SECONDS)
        return {
            "p50": hits.seen["p50"],
            "p99": hits.seen["p99"],
            "worst": hits.seen["worst"],
            "growth": memory(server.pid).peak - before,
            "fds": held.descriptors,
            "threads": held.threads,
            "metrics": len(_get(port, "/metrics")) / 1024,
            "answers": counts.get("answers", 0),
            "processes": len(tree(server.pid)),
        }


def _wait(port: int, requests: int) -> None:
    """For the time of a sample, or until the server has answered so many requests."""
    if not requests:
        time.sleep(_SECONDS)
        return
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if _misses(port) >= requests * 0.99:
            return
    raise CannotMeasure("the crowd was not answered in time")


def _misses(port: int) -> float:
    """Requests that were answered with anything but a hit."""
    lines = _get(port, "/metrics").decode().splitlines()
    counted = [line for line in lines if line.startswith("artifactproxy_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in counted if 'result="hit"' not in line)


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
