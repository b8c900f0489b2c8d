"""Many clients want one cold file at once: does upstream see one of them, and does each get the right bytes?"""

from __future__ import annotations

import os

from bench.content import Blob, cold_paths
from bench.model import GIB, MIB, Bench, Column, Goal, Result, Sample, median, worst
from bench.pull import pull
from bench.servers import Origin, origin, proxy, remotes_of
from bench.watch import cpu_seconds, memory

_OURS = "artifactproxy"
_TIMEOUT = 200.0  # seconds for one crowd


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    with origin(bench.folder / "origin", root, bench.client_cores) as source:
        blob = Blob(root / "middle.bin", bench.scale.middle)
        samples = bench.interleaved({_OURS: lambda: _sample(bench, source, blob)})
    clients, mib = bench.scale.clients, bench.scale.middle // MIB
    most = worst(samples[_OURS], "GETs")
    return Result(
        title="A crowd on one cold file",
        method=(
            f"{clients} connections ask at once for one uncached file of {mib} MiB; every body is compared byte for "
            "byte with the origin's file (a difference fails the measure), by one client process on one core, which "
            "bounds the time. Upstream GETs are counted in the origin's log. Fresh proxy and content in each sample."
        ),
        columns=(
            Column("GETs", "upstream GETs", 0),
            Column("right", "right bodies", 0),
            Column("seconds", "wall s"),
            Column("GiB/s", "GiB/s to clients"),
            Column("cpu", "CPU-s/GiB"),
            Column("peak", "peak memory MiB", 0),
        ),
        samples=samples,
        goals=(
            Goal(
                f"{clients} clients on one cold {mib} MiB blob",
                "-",
                "1 upstream GET, all digests right",
                f"at most {most:.0f} GET, {median(samples[_OURS], 'right'):.0f} bodies right, "
                f"{median(samples[_OURS], 'seconds'):.1f} s",
                most == 1 and all(sample["right"] == clients for sample in samples[_OURS]),
            ),
        ),
    )


def _sample(bench: Bench, source: Origin, blob: Blob) -> Sample:
    blob.renew()
    clients = bench.scale.clients
    with proxy(bench.folder / "proxy", bench.all_cores, remotes_of(source.port)) as (server, port):
        pull(port, ["/files/ready"], bench.client_cores)
        os.sync()
        (path,) = cold_paths(blob)
        before = cpu_seconds(server.pid)
        run = pull(
            port,
            [f"/files{path}"] * clients,
            bench.client_cores,
            at_once=clients,
            like=blob.path,
            timeout=_TIMEOUT,
        )
        spent = cpu_seconds(server.pid) - before
        gib = run.size / GIB
        return {
            "GETs": source.gets(path),
            "right": sum(each.same is True for each in run.transfers),
            "seconds": run.seconds,
            "GiB/s": gib / run.seconds,
            "cpu": spent / gib,
            "peak": memory(server.pid).peak,
        }
