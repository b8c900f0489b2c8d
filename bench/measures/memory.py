"""Several large cold files at once: how much memory does that take beyond an idle process?"""

from __future__ import annotations

import os
import shutil
import time

from bench.content import Blob, cold_paths
from bench.model import GIB, MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, worst
from bench.pull import pull
from bench.servers import origin, proxy, remotes_of
from bench.watch import PeakWatch, forget_peak, memory

_MOST_MIB = 64
_OURS = "artifactproxy"
_SETTLE = 1.0  # seconds


def measure(bench: Bench) -> Result:
    scale = bench.scale
    needed = scale.large * scale.at_once * 1.2 + GIB
    if shutil.disk_usage(bench.folder).free < needed:
        raise CannotMeasure(f"needs {needed / GIB:.0f} GiB of free disk in the temporary folder")
    root = bench.folder / "files"
    with origin(bench.folder / "origin", root, bench.client_cores) as source:
        blobs = [Blob(root / f"large{n}.bin", scale.large, sparse=True) for n in range(scale.at_once)]

        def sample() -> Sample:
            with proxy(bench.folder / "proxy", bench.all_cores, remotes_of(source.port)) as (server, port):
                paths = [f"/files{path}" for blob in blobs for path in cold_paths(blob)]
                os.sync()
                time.sleep(_SETTLE)
                forget_peak(server.pid)
                idle = memory(server.pid)
                with PeakWatch(server.pid) as watch:
                    run = pull(port, paths, bench.client_cores, at_once=len(paths), timeout=300)
                return {
                    "idle": idle.resident,
                    "peak": watch.peak,
                    "growth": watch.peak - idle.resident,
                    "pss": watch.proportional - idle.proportional,
                    "seconds": run.seconds,
                }

        samples = bench.interleaved({_OURS: sample})
    growth = max(worst(samples[_OURS], "growth"), worst(samples[_OURS], "pss"))
    return Result(
        title="Memory under large cold files",
        method=(
            f"{scale.at_once} different uncached files of {scale.large // MIB} MiB pulled at once by {scale.at_once} "
            "connections, fresh proxy in each sample. Idle is the process that has answered /livez only. Growth is the "
            "kernel's high-water mark (VmHWM, summed over the process and its children) less idle VmRSS; PSS is sampled "
            "every 50 ms. The goal is judged by the worst of all rounds and both."
        ),
        columns=(
            Column("idle", "idle MiB", 1),
            Column("peak", "peak MiB", 1),
            Column("growth", "growth MiB", 1),
            Column("pss", "PSS growth MiB", 1),
            Column("seconds", "wall s"),
        ),
        samples=samples,
        goals=(
            Goal(
                f"peak memory growth, {scale.at_once} cold {scale.large // MIB} MiB blobs at once",
                "idle process",
                f"at most {_MOST_MIB} MiB",
                f"{growth:.1f} MiB",
                growth <= _MOST_MIB,
            ),
        ),
    )
