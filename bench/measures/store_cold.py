"""A file that nobody has, stored in a bucket: does the client wait longer than for one on this disk?"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from artifactproxy.rules.paths import blob_path
from bench.backends import Backend, emptied, in_bucket, minio, yields
from bench.content import Blob, cold_paths, promise
from bench.measures.index import taught_paths
from bench.model import GIB, MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, Samples, ratio
from bench.pull import pull
from bench.servers import Origin, origin, proxy, remotes_of
from bench.watch import cpu_seconds
from tests.servers.minio import FreshBucket, Minio

Store = tuple[Minio, FreshBucket]

_MOST = 1.1
_PATIENCE = 60.0  # seconds
_FS, _S3, _YIELDING = "data folder", "MinIO", "MinIO that yields"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    sizes = (bench.scale.middle // 4, bench.scale.middle)
    with (
        minio(bench.folder / "minio", bench.all_cores) as server,
        minio(bench.folder / "yielding", bench.all_cores) as yielding,
        origin(bench.folder / "origin", root, bench.client_cores) as source,
    ):
        buckets: dict[str, Store | None] = {_FS: None}
        for name, each in ((_S3, server), (_YIELDING, yielding)):
            buckets[name] = each, each.fresh_bucket()
        yields(yielding)
        blobs = [Blob(root / f"{size}.bin", size) for size in sizes]
        samples = bench.interleaved(
            {
                _name(store, blob.size, promised): partial(
                    _sample, bench, source, blob, behind, promised=promised
                )
                for blob in blobs
                for promised in (False, True)
                for store, behind in buckets.items()
            }
        )
    return Result(
        title="Cold miss through to a bucket",
        method=(
            "One client pulls a file that the cache does not hold, with the data folder as the store and with MinIO "
            "behind a local tier; MinIO and the cache share all cores, origin and client one of them; beside it with a "
            "MinIO that takes only what is left of the cores (SCHED_IDLE), as it stands for another machine. Promised: "
            "an index named its digest before, so that its upload begins while it arrives. Each sample has a fresh "
            "server and new content, after a sync of the disk; afterwards the file is pulled again and compared byte for "
            "byte. 'stored after' counts from when the client had all. CPU is artifactproxy's, until then."
        ),
        columns=(
            Column("seconds", "total s", 3),
            Column("first ms", "first byte ms"),
            Column("late", "stored after s", 3),
            Column("cpu", "CPU-s/GiB"),
            Column("bucket cpu", "CPU-s/GiB of MinIO"),
        ),
        samples=samples,
        goals=tuple(
            _goal(samples, store, size, promised)
            for store in (_S3, _YIELDING)
            for size in sizes
            for promised in (False, True)
        ),
    )


def _name(store: str, size: int, promised: bool) -> str:
    return f"{store}, {size // MIB} MiB, {'promised' if promised else 'no promise'}"


def _goal(samples: Samples, store: str, size: int, promised: bool) -> Goal:
    name = _name(store, size, promised)
    times = ratio(samples, "seconds", name, _name(_FS, size, promised))
    return Goal(
        f"cold miss through to {name}: total time",
        "the same miss on the data folder",
        f"at most {_MOST} x",
        f"{times:.2f} x",
        times <= _MOST,
    )


def _sample(bench: Bench, source: Origin, blob: Blob, store: Store | None, *, promised: bool) -> Sample:
    blob.renew()
    project = promise(source.root, blob)
    minio_server, bucket = store or (None, None)
    behind = in_bucket(bucket, 4 * GIB) if bucket else Backend("")
    folder = bench.folder / "proxy"
    name = blob_path(blob.sha256)
    is_stored = (
        partial(_in_bucket, bucket.client(), bucket.name, name) if bucket else (folder / "data" / name).exists
    )
    config = behind.top + remotes_of(source.port)
    with proxy(folder, bench.all_cores, config, env=behind.env) as (server, port):
        pull(port, ["/files/ready"], bench.client_cores)
        paths = taught_paths(port, project) if promised else [f"/files{path}" for path in cold_paths(blob)]
        os.sync()
        before, theirs = cpu_seconds(server.pid), _cpu(minio_server)
        (cold,) = pull(port, paths, bench.client_cores).transfers
        ended = time.perf_counter()
        while not is_stored():
            if time.perf_counter() - ended > _PATIENCE:
                raise CannotMeasure("what was pulled is not stored")
            time.sleep(0.005)
        late = time.perf_counter() - ended
        spent, theirs = cpu_seconds(server.pid) - before, _cpu(minio_server) - theirs
        pull(port, paths, bench.client_cores, like=blob.path)
    if bucket:
        emptied(bucket)
    return {
        "seconds": cold.total,
        "first ms": cold.first_byte * 1000,
        "late": late,
        "cpu": spent * GIB / blob.size,
        "bucket cpu": theirs * GIB / blob.size,
    }


def _cpu(server: Minio | None) -> float:
    return cpu_seconds(server.pid) if server else 0.0


def _in_bucket(client: Any, bucket: str, key: str) -> bool:
    return any(
        found["Key"] == key for found in client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", ())
    )
