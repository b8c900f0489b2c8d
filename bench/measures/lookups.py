"""The index across the network: what does it cost a hit?"""

from __future__ import annotations

from functools import partial

from bench.backends import in_postgres, postgres
from bench.content import Blob, cold_paths
from bench.measures.small import parsed
from bench.model import KIB, Bench, Column, Goal, Result, Sample, ratio
from bench.pull import pull
from bench.servers import Server, origin, proxy, remotes_of, run_pinned, tool
from bench.watch import cpu_seconds

_LEAST, _MOST = 0.9, 1.1
_SQLITE, _POSTGRES = "SQLite", "PostgreSQL"


def measure(bench: Bench) -> Result:
    root, program = bench.folder / "files", tool("wrk")
    with (
        postgres(bench.folder / "postgres", bench.client_cores) as database,
        origin(bench.folder / "origin", root, bench.client_cores) as source,
    ):
        behind, remotes = in_postgres(database.fresh_database()), remotes_of(source.port)
        with (
            proxy(bench.folder / "embedded", bench.server_cores, remotes) as embedded,
            proxy(
                bench.folder / "remote", bench.server_cores, behind.top + remotes, env=behind.env
            ) as remote,
        ):
            blob = Blob(root / "small.bin", 2 * KIB)
            (path,) = cold_paths(blob)
            for _, port in (embedded, remote):
                pull(port, [f"/files{path}"] * 2, bench.client_cores, like=blob.path)
            samples = bench.interleaved(
                {
                    _SQLITE: partial(_sample, bench, program, *embedded, path),
                    _POSTGRES: partial(_sample, bench, program, *remote, path),
                }
            )
    rate, cost = (ratio(samples, key, _POSTGRES, _SQLITE) for key in ("rps", "cpu"))
    return Result(
        title="Warm small file, index in PostgreSQL",
        method=(
            f"wrk -t1 -c64 -d{bench.scale.wrk_seconds}s on one core, artifactproxy on another with its default log; 2 KiB "
            "from the data folder, its row in an index that is warm: SQLite in the data folder, or PostgreSQL, which "
            "shares the core of wrk. Both are asked anew once a second at most for a row that is remembered."
        ),
        columns=(
            Column("rps", "requests/s", 0),
            Column("p50", "p50 ms"),
            Column("p99", "p99 ms"),
            Column("cpu", "server CPU us/request", 1),
        ),
        samples=samples,
        goals=(
            Goal(
                "warm 2 KiB with PostgreSQL: requests/s",
                "the same with SQLite",
                f"level: at least {_LEAST} x",
                f"{rate:.2f} x",
                rate >= _LEAST,
            ),
            Goal(
                "warm 2 KiB with PostgreSQL: CPU of a request",
                "the same with SQLite",
                f"level: at most {_MOST} x",
                f"{cost:.2f} x",
                cost <= _MOST,
            ),
        ),
    )


def _sample(bench: Bench, program: str, server: Server, port: int, path: str) -> Sample:
    seconds = bench.scale.wrk_seconds
    command = [program, "-t1", "-c64", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/files{path}"]
    before = cpu_seconds(server.pid)
    sample = parsed(run_pinned(command, bench.client_cores, seconds + 20))
    requests = sample.pop("requests")
    return sample | {"cpu": (cpu_seconds(server.pid) - before) / requests * 1e6}
