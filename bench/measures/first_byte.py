"""How much later than directly does the first byte of an uncached file arrive?"""

from __future__ import annotations

import os
import statistics
from functools import partial

from bench.content import Blob, cold_paths, promise
from bench.measures.index import taught_paths
from bench.model import MIB, Bench, Column, Goal, Result, Sample, median
from bench.pull import pull
from bench.servers import nginx_cache, origin, proxy, remotes_of

_MOST_MS = 5.0
_DIRECT, _NGINX = "direct from the origin", "nginx proxy_cache"
_PLAIN, _PROMISED = "artifactproxy", "artifactproxy, digest promised"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    with (
        origin(bench.folder / "origin", root, bench.client_cores) as source,
        nginx_cache(bench.folder / "nginx", source, bench.all_cores) as (_, nginx_port, _),
        proxy(bench.folder / "proxy", bench.all_cores, remotes_of(source.port)) as (_, port),
    ):
        blobs = [Blob(root / f"megabyte{n}.bin", MIB) for n in range(bench.scale.first_bytes)]
        pull(port, ["/files/ready"], bench.client_cores)

        def direct() -> Sample:
            return _sample(bench, source.port, cold_paths(*blobs))

        def nginx() -> Sample:
            return _sample(bench, nginx_port, cold_paths(*blobs))

        def plain() -> Sample:
            _renew(blobs)
            return _sample(bench, port, [f"/files{path}" for path in cold_paths(*blobs)])

        def promised() -> Sample:
            _renew(blobs)
            return _sample(bench, port, taught_paths(port, promise(root, *blobs)))

        samples = bench.interleaved({_DIRECT: direct, _NGINX: nginx, _PLAIN: plain, _PROMISED: promised})
    goal = partial(_goal, direct=median(samples[_DIRECT], "median"))
    return Result(
        title="First byte of a cold miss",
        method=(
            f"{bench.scale.first_bytes} different files of 1 MiB that the cache does not hold, one after the other, each over a new connection; "
            "from before the connection to the first byte of the body. A sample is their median and 95th percentile."
        ),
        columns=(Column("median", "median ms"), Column("p95", "p95 ms")),
        samples=samples,
        goals=(
            goal("no promise", median(samples[_PLAIN], "median")),
            goal("promised", median(samples[_PROMISED], "median")),
        ),
    )


def _goal(which: str, ours: float, *, direct: float) -> Goal:
    added = ours - direct
    what = f"cold miss above 64 KiB: time to first byte ({which})"
    return Goal(
        what, "direct from the origin", f"+ {_MOST_MS:g} ms at most", f"{added:+.2f} ms", added <= _MOST_MS
    )


def _renew(blobs: list[Blob]) -> None:
    """A cache that knows the content by its digest would not ask upstream."""
    for blob in blobs:
        blob.renew()
    os.sync()


def _sample(bench: Bench, port: int, paths: list[str]) -> Sample:
    first = sorted(each.first_byte * 1000 for each in pull(port, paths, bench.client_cores).transfers)
    return {"median": statistics.median(first), "p95": first[int(0.95 * (len(first) - 1))]}
