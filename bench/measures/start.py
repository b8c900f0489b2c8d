"""A process that does nothing yet: how soon does it answer, and how much memory does it take?"""

from __future__ import annotations

import time

from bench.content import Blob, cold_paths
from bench.model import KIB, Bench, Column, Goal, Result, Sample, median, worst
from bench.pull import pull
from bench.servers import Server, free_port, origin, proxy, proxy_command, remotes_of
from bench.watch import memory

_MOST_MIB, _MOST_SECONDS = 80, 1.0
_OURS = "artifactproxy"
_IDLE = 3.0  # seconds between the first answer and the look at an idle process


def measure(bench: Bench) -> Result:
    root, folder = bench.folder / "files", bench.folder / "proxy"
    with origin(bench.folder / "origin", root, bench.client_cores) as source:
        blob = Blob(root / "small.bin", 2 * KIB)
        (path,) = cold_paths(blob)
        with proxy(folder, bench.all_cores, remotes_of(source.port), keep=True) as (_, port):
            pull(port, [f"/files{path}"] * 2, bench.client_cores)

        def sample() -> Sample:
            port = free_port()
            command = proxy_command(port, folder / "data", folder / "config.yaml")
            with Server(command, bench.all_cores, folder / "output") as server:
                seconds = server.wait_for(port, f"/files{path}")
                time.sleep(_IDLE)
                now = memory(server.pid)
                return {
                    "seconds": seconds,
                    "resident": now.resident,
                    "pss": now.proportional,
                    "peak": now.peak,
                }

        samples = bench.interleaved({_OURS: sample})
    seconds, resident = median(samples[_OURS], "seconds"), worst(samples[_OURS], "resident")
    return Result(
        title="Start and idle",
        method=(
            "From the start of the process, with a data folder that holds something, to the end of the first answer: a "
            f"cached file of 2 KiB, asked for every 2 ms. Memory of the process and its children {_IDLE:g} s later; the "
            "goal is judged by the worst VmRSS."
        ),
        columns=(
            Column("seconds", "first answer s", 3),
            Column("resident", "VmRSS MiB", 1),
            Column("pss", "PSS MiB", 1),
            Column("peak", "VmHWM MiB", 1),
        ),
        samples=samples,
        goals=(
            Goal("memory idle", "-", f"{_MOST_MIB} MiB", f"{resident:.1f} MiB", resident <= _MOST_MIB),
            Goal(
                "time to first answer after start",
                "-",
                f"{_MOST_SECONDS:g} s",
                f"{seconds:.2f} s",
                seconds <= _MOST_SECONDS,
            ),
        ),
    )
