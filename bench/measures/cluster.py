"""Many clients want one cold file from several replicas at once: does upstream see one of them?"""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import partial

from bench.backends import Backend, among, emptied, in_bucket, in_postgres, minio, postgres, redis
from bench.content import Blob, cold_paths
from bench.model import GIB, MIB, Bench, Column, Goal, Result, Sample, median, ratio, worst
from bench.pull import pull
from bench.servers import Origin, free_port, origin, proxy, remotes_of
from bench.watch import cpu_seconds, memory
from tests.servers.minio import FreshBucket
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

_REPLICAS = 3
_MOST = 1.5
_TIMEOUT = 200.0  # seconds for one crowd
_ONE, _ALL, _PATIENT = "one replica", f"{_REPLICAS} replicas", f"{_REPLICAS} replicas, 2 s for Redis"
_BUDGET, _LONG = "50ms", "2s"
"""What a request waits for Redis by default, and what a Redis may need that gets no core."""


def measure(bench: Bench) -> Result:
    root, cores = bench.folder / "files", bench.all_cores
    with (
        minio(bench.folder / "minio", cores) as store,
        postgres(bench.folder / "postgres", cores) as database,
        redis(bench.folder / "redis", cores) as board,
        origin(bench.folder / "origin", root, bench.client_cores) as source,
    ):
        blob, bucket = Blob(root / "middle.bin", bench.scale.middle), store.fresh_bucket()
        sample = partial(_sample, bench, source, blob, bucket, database, board)
        samples = bench.interleaved(
            {
                _ONE: partial(sample, 1, _BUDGET),
                _ALL: partial(sample, _REPLICAS, _BUDGET),
                _PATIENT: partial(sample, _REPLICAS, _LONG),
            }
        )
    clients, mib = bench.scale.clients, bench.scale.middle // MIB
    times = ratio(samples, "seconds", _ALL, _ONE)
    return Result(
        title="A crowd on replicas",
        method=(
            f"{clients} connections ask at once for one uncached file of {mib} MiB, taking turns among the replicas, "
            "which share MinIO, PostgreSQL and Redis; every body is compared byte for byte with the origin's file (a "
            "difference fails the measure). Everything runs on the same cores, the client on one of them: the time shows "
            "what replicas cost each other, not what more machines are good for. A replica that gets no answer from "
            "Redis within 50 ms goes on alone, which costs a GET; beside it the same with 2 s, because Redis has no core "
            "of its own here. Upstream GETs are counted in the origin's log. Fresh replicas, database and content in each "
            "sample. CPU and memory are of all replicas."
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
            *(_single(bench, name, samples[name]) for name in (_ALL, _PATIENT)),
            Goal(
                f"{clients} clients over {_REPLICAS} replicas: wall time",
                "one replica, same cores",
                f"at most {_MOST} x",
                f"{times:.2f} x",
                times <= _MOST,
            ),
        ),
    )


def _single(bench: Bench, name: str, samples: list[Sample]) -> Goal:
    clients, most = bench.scale.clients, worst(samples, "GETs")
    return Goal(
        f"{clients} clients over {name} on one cold {bench.scale.middle // MIB} MiB blob",
        "-",
        "1 upstream GET, all digests right",
        f"at most {most:.0f} GET, {median(samples, 'right'):.0f} bodies right",
        most == 1 and all(each["right"] == clients for each in samples),
    )


def _sample(
    bench: Bench,
    source: Origin,
    blob: Blob,
    bucket: FreshBucket,
    database: Postgres,
    board: Redis,
    count: int,
    budget: str,
) -> Sample:
    blob.renew()
    clients, prefix = bench.scale.clients, f"bench-{secrets.token_hex(4)}:"
    shared = in_bucket(bucket, 4 * GIB) + in_postgres(database.fresh_database())
    secret = secrets.token_hex(16)
    remotes = Backend(remotes_of(source.port))
    with contextlib.ExitStack() as stack:
        servers, ports = [], []
        for number in range(count):
            port = free_port()
            behind = shared + among(board, prefix, port, secret, budget) + remotes
            folder = bench.folder / f"replica{number}"
            server, _ = stack.enter_context(
                proxy(folder, bench.all_cores, behind.top, port=port, env=behind.env)
            )
            servers.append(server)
            ports.append(port)
        for port in ports:
            pull(port, ["/files/ready"], bench.client_cores)
        os.sync()
        (path,) = cold_paths(blob)
        before = sum(cpu_seconds(server.pid) for server in servers)
        run = pull(
            ports,
            [f"/files{path}"] * clients,
            bench.client_cores,
            at_once=clients,
            like=blob.path,
            timeout=_TIMEOUT,
        )
        spent = sum(cpu_seconds(server.pid) for server in servers) - before
        gib = run.size / GIB
        sample = {
            "GETs": float(source.gets(path)),
            "right": float(sum(each.same is True for each in run.transfers)),
            "seconds": run.seconds,
            "GiB/s": gib / run.seconds,
            "cpu": spent / gib,
            "peak": sum(memory(server.pid).peak for server in servers),
        }
    emptied(bucket)
    return sample
