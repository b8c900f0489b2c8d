"""A large cached file: as fast and as cheap as nginx's sendfile?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bench.content import Blob, cold_paths
from bench.model import GIB, MIB, Bench, Column, Goal, Result, Sample, Samples, ratio
from bench.pull import pull
from bench.servers import Server, nginx_cache, origin, proxy, remotes_of
from bench.watch import cpu_seconds

Place = tuple[Server, int, str]
"""Who serves, on which port, under which path."""

COLUMNS = (Column("GiB/s", "GiB/s"), Column("cpu", "CPU-s/GiB", 3))
_LEAST = 0.9
_OURS, _SENDFILE, _CACHED = "artifactproxy", "nginx sendfile", "nginx proxy_cache"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    with (
        origin(bench.folder / "origin", root, bench.client_cores) as source,
        nginx_cache(bench.folder / "nginx", source, bench.server_cores) as (nginx, nginx_port, _),
        proxy(bench.folder / "proxy", bench.server_cores, remotes_of(source.port)) as (ours, port),
    ):
        blob = Blob(root / "large.bin", bench.scale.large)
        (path,) = cold_paths(blob)
        places: dict[str, Place] = {
            _SENDFILE: (nginx, nginx_port, f"/static/{blob.path.name}"),
            _CACHED: (nginx, nginx_port, path),
            _OURS: (ours, port, f"/files{path}"),
        }
        for _, at, what in places.values():
            pull(at, [what, what], bench.client_cores, like=blob.path)
        samples = race(bench, places)
    return Result(
        title="Warm large file",
        method=(
            f"{bench.scale.streams} transfers of {bench.scale.large // MIB} MiB per sample from the cache, one or four "
            "connections at a time; server on one core, client on another, which discards in the kernel (MSG_TRUNC). "
            "nginx with sendfile, open_file_cache and without access log. Before the rounds every body was compared with "
            "the origin's file. CPU is the server's own."
        ),
        columns=COLUMNS,
        samples=samples,
        goals=goals(bench, samples, "warm", _OURS, _SENDFILE),
    )


def race(bench: Bench, places: Mapping[str, Place]) -> Samples:
    """Each with one connection, and with four."""
    return bench.interleaved(
        {
            _name(server, connections): partial(_sample, bench, place, connections)
            for connections in (1, 4)
            for server, place in places.items()
        }
    )


def goals(bench: Bench, samples: Samples, kind: str, ours: str, rival: str) -> tuple[Goal, ...]:
    found = []
    for connections in (1, 4):
        pair = (_name(ours, connections), _name(rival, connections))
        rate = ratio(samples, "GiB/s", *pair)
        cost = 1 / ratio(samples, "cpu", *pair)
        what = f"{kind} {bench.scale.large // MIB} MiB, {connections} connection{'s' * (connections > 1)}"
        wanted = f"at least {_LEAST} x"
        found += [
            Goal(f"{what}: throughput", rival, wanted, f"{rate:.2f} x", rate >= _LEAST),
            Goal(f"{what}: bytes per CPU-s", rival, wanted, f"{cost:.2f} x", cost >= _LEAST),
        ]
    return tuple(found)


def _name(server: str, connections: int) -> str:
    return f"{server}, {connections} conn."


def _sample(bench: Bench, place: Place, connections: int) -> Sample:
    server, port, path = place
    before = cpu_seconds(server.pid)
    run = pull(port, [path] * max(bench.scale.streams, connections), bench.client_cores, at_once=connections)
    spent = cpu_seconds(server.pid) - before
    gib = run.size / GIB
    return {"GiB/s": gib / run.seconds, "cpu": spent / gib}
