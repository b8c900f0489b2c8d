"""A large file that nobody has: how much longer than nginx does a verified fill take?"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from bench.content import Blob, cold_paths, promise
from bench.measures.index import taught_paths
from bench.model import GIB, Bench, CannotMeasure, Column, Goal, Result, Sample, ratio
from bench.pull import Run, pull
from bench.servers import Origin, Server, nginx_cache, origin, proxy, remotes_of
from bench.watch import cpu_seconds

_MOST = 1.25
_PLAIN, _PROMISED, _NGINX = "artifactproxy", "artifactproxy, digest promised", "nginx proxy_cache"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    with origin(bench.folder / "origin", root, bench.client_cores) as source:
        blob = Blob(root / "large.bin", bench.scale.large)
        samples = bench.interleaved(
            {
                "direct from the origin": partial(_direct, bench, source, blob),
                _NGINX: partial(_nginx, bench, source, blob),
                _PLAIN: partial(_ours, bench, source, blob, promised=False),
                _PROMISED: partial(_ours, bench, source, blob, promised=True),
            }
        )
    return Result(
        title="Cold miss of a large file",
        method=(
            f"One client pulls {_size(bench)} that the cache does not hold; origin and client share one core, the "
            "cache may use all. Each sample has a fresh server, an empty cache and new content, after a sync of the "
            "disk. The client discards in the kernel, so that only the server's work is timed; afterwards the file is "
            "pulled again from the cache and compared byte for byte with the origin's, and the sha256 that "
            "artifactproxy states with the one known beforehand. nginx hashes nothing."
        ),
        columns=(
            Column("seconds", "total s", 3),
            Column("GiB/s", "GiB/s"),
            Column("first ms", "first byte ms"),
            Column("cpu", "CPU-s/GiB"),
        ),
        samples=samples,
        goals=tuple(
            _goal(bench, name, ratio(samples, "seconds", name, _NGINX)) for name in (_PLAIN, _PROMISED)
        ),
    )


def _goal(bench: Bench, name: str, times: float) -> Goal:
    what = f"cold miss, {_size(bench)}: total time ({'promised' if name == _PROMISED else 'no promise'})"
    return Goal(
        what, "nginx proxy_cache cold, same origin", f"at most {_MOST} x", f"{times:.2f} x", times <= _MOST
    )


def _size(bench: Bench) -> str:
    return "1 GiB" if bench.scale.large == GIB else f"{bench.scale.large >> 20} MiB"


def _timed(bench: Bench, server: Server | None, take: Callable[[], Run]) -> Sample:
    before = cpu_seconds(server.pid) if server else 0.0
    run = take()
    spent = cpu_seconds(server.pid) - before if server else 0.0
    (only,) = run.transfers
    gib = bench.scale.large / GIB
    return {
        "seconds": only.total,
        "GiB/s": gib / only.total,
        "first ms": only.first_byte * 1000,
        "cpu": spent / gib,
    }


def _direct(bench: Bench, source: Origin, blob: Blob) -> Sample:
    blob.renew()
    os.sync()
    return _timed(bench, None, lambda: pull(source.port, cold_paths(blob), bench.client_cores))


def _nginx(bench: Bench, source: Origin, blob: Blob) -> Sample:
    blob.renew()
    with nginx_cache(bench.folder / "nginx", source, bench.all_cores) as (server, port, _):
        pull(port, ["/ready"], bench.client_cores)
        os.sync()
        paths = cold_paths(blob)
        sample = _timed(bench, server, lambda: pull(port, paths, bench.client_cores))
        pull(port, paths, bench.client_cores, like=blob.path)
    return sample


def _ours(bench: Bench, source: Origin, blob: Blob, *, promised: bool) -> Sample:
    blob.renew()
    project = promise(source.root, blob)
    with proxy(bench.folder / "proxy", bench.all_cores, remotes_of(source.port)) as (server, port):
        pull(port, ["/files/ready"], bench.client_cores)
        paths = taught_paths(port, project) if promised else [f"/files{path}" for path in cold_paths(blob)]
        os.sync()
        sample = _timed(bench, server, lambda: pull(port, paths, bench.client_cores))
        (again,) = pull(port, paths, bench.client_cores, like=blob.path).transfers
        stated = again.headers.get("x-checksum-sha256")
        if stated != blob.sha256:
            raise CannotMeasure(
                f"the proxy states a wrong sha256: {stated}, the origin's file has {blob.sha256}"
            )
    return sample
