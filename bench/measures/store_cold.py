"""A file that nobody has, stored in a bucket: does the client wait longer than for one on this disk?"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from artifactproxy.rules.paths import blob_path
from bench.backends import Backend, emptied, in_bucket, minio
from bench.content import Blob, cold_paths, promise
from bench.measures.index import taught_paths
from bench.model import GIB, MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, ratio
from bench.pull import pull
from bench.servers import Origin, origin, proxy, remotes_of
from bench.watch import cpu_seconds
from tests.servers.minio import FreshBucket

_MOST = 1.1
_PATIENCE = 60.0  # seconds
_FS, _S3 = "data folder", "MinIO"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    sizes = (bench.scale.middle // 4, bench.scale.middle)
    with (
        minio(bench.folder / "minio", bench.all_cores) as server,
        origin(bench.folder / "origin", root, bench.client_cores) as source,
    ):
        bucket = server.fresh_bucket()
        blobs = [Blob(root / f"{size}.bin", size) for size in sizes]
        samples = bench.interleaved(
            {
                _name(store, blob.size, promised): partial(
                    _sample, bench, source, blob, bucket if store == _S3 else None, promised=promised
                )
                for blob in blobs
                for promised in (False, True)
                for store in (_FS, _S3)
            }
        )
    return Result(
        title="Cold miss through to a bucket",
        method=(
            "One client pulls a file that the cache does not hold, with the data folder as the store and with MinIO "
            "behind a local tier; MinIO and the cache share all cores, origin and client one of them. Promised: "
            "an index named its digest before, so that its upload begins while it arrives. Each sample has a fresh "
            "server and new content, after a sync of the disk; afterwards the file is pulled again and compared byte for "
            "byte. 'stored after' counts from when the client had all. CPU is artifactproxy's, until then."
        ),
        columns=(
            Column("seconds", "total s", 3),
            Column("first ms", "first byte ms"),
            Column("late", "stored after s", 3),
            Column("cpu", "CPU-s/GiB"),
        ),
        samples=samples,
        goals=tuple(
            _goal(size, promised, ratio(samples, "seconds", *(_name(s, size, promised) for s in (_S3, _FS))))
            for size in sizes
            for promised in (False, True)
        ),
    )


def _name(store: str, size: int, promised: bool) -> str:
    return f"{store}, {size // MIB} MiB, {'promised' if promised else 'no promise'}"


def _goal(size: int, promised: bool, times: float) -> Goal:
    return Goal(
        f"cold miss through to a bucket, {size // MIB} MiB, {'promised' if promised else 'no promise'}: total time",
        "the same miss on the data folder",
        f"at most {_MOST} x",
        f"{times:.2f} x",
        times <= _MOST,
    )


def _sample(
    bench: Bench, source: Origin, blob: Blob, bucket: FreshBucket | None, *, promised: bool
) -> Sample:
    blob.renew()
    project = promise(source.root, blob)
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
        before = cpu_seconds(server.pid)
        (cold,) = pull(port, paths, bench.client_cores).transfers
        ended = time.perf_counter()
        while not is_stored():
            if time.perf_counter() - ended > _PATIENCE:
                raise CannotMeasure("what was pulled is not stored")
            time.sleep(0.005)
        late = time.perf_counter() - ended
        spent = cpu_seconds(server.pid) - before
        pull(port, paths, bench.client_cores, like=blob.path)
    if bucket:
        emptied(bucket)
    return {
        "seconds": cold.total,
        "first ms": cold.first_byte * 1000,
        "late": late,
        "cpu": spent * GIB / blob.size,
    }


def _in_bucket(client: Any, bucket: str, key: str) -> bool:
    return any(
        found["Key"] == key for found in client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", ())
    )
