"""Real servers behind the proxy under measurement: MinIO, PostgreSQL, Redis, and what it must be told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from bench.model import CannotMeasure
from tests.servers.minio import FreshBucket, Minio
from tests.servers.postgres import Postgres
from tests.servers.process import NotStarted, Server
from tests.servers.redis import Redis

S = TypeVar("S", bound=Server)
_POSTGRES = {"shared_buffers": "256MB"}


@dataclass(frozen=True, slots=True)
class Backend:
    """A part of the configuration, and the environment that holds its secrets."""

    top: str
    env: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Backend) -> Backend:
        return Backend(self.top + other.top, self.env | other.env)


@contextlib.contextmanager
def minio(folder: Path, cores: frozenset[int]) -> Iterator[Minio]:
    with _running(lambda: Minio(_made(folder)), cores) as server:
        yield server


@contextlib.contextmanager
def postgres(folder: Path, cores: frozenset[int]) -> Iterator[Postgres]:
    with _running(lambda: Postgres(_made(folder), settings=_POSTGRES), cores) as server:
        yield server


@contextlib.contextmanager
def redis(folder: Path, cores: frozenset[int]) -> Iterator[Redis]:
    with _running(lambda: Redis(_made(folder)), cores) as server:
        yield server


def in_bucket(bucket: FreshBucket, local_tier: int) -> Backend:
    """Blobs there, and `local_tier` bytes of copies here."""
    return Backend(
        f"store:\n  {{kind: s3, bucket: {bucket.name}, endpoint: '{bucket.endpoint}', "
        f"region: {bucket.region}, addressing: path, local_tier: {local_tier},\n"
        "  access_key: {env: BENCH_ACCESS}, secret_key: {env: BENCH_SECRET}}\n",
        {"BENCH_ACCESS": bucket.access_key, "BENCH_SECRET": bucket.secret_key},
    )


def in_postgres(url: str) -> Backend:
    return Backend("index: {kind: postgres, url: {env: BENCH_DATABASE}}\n", {"BENCH_DATABASE": url})


def among(server: Redis, prefix: str, port: int, secret: str, budget: str) -> Backend:
    """One of several replicas, reached by the others at `port`; they share the `secret`. `budget` is how
    long a request waits for Redis before it goes on alone."""
    return Backend(
        f"coordination: {{kind: redis, url: {{env: BENCH_REDIS}}, prefix: '{prefix}', budget: {budget}}}\n"
        f"cluster: {{advertise: 'http://127.0.0.1:{port}', secret: {{env: BENCH_CLUSTER}}}}\n",
        {"BENCH_REDIS": server.url, "BENCH_CLUSTER": secret},
    )


def yields(server: Server) -> None:
    """From now on it runs only on what nobody else wants of the cores: it stands for another machine."""
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def emptied(bucket: FreshBucket) -> None:
    """Throw away what a sample left, so that rounds do not fill the disk."""
    client = bucket.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=bucket.name, Key=found["Key"])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _running(make: Callable[[], S], cores: frozenset[int]) -> Iterator[S]:
    """Started on these cores. Raises `CannotMeasure` where it is not there or does not start."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)  # which a child inherits
        server = make().start()
    except (pytest.skip.Exception, pytest.fail.Exception, NotStarted) as trouble:
        raise CannotMeasure(str(trouble)) from trouble
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield server
    finally:
        server.stop()
