"""Registries to push to and to pull from: ours, Debian's docker-registry, and one that spools first; each over
a folder or over a bucket."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.backends import Backend, in_bucket
from bench.servers import Server, free_port, proxy, run_pinned, tool
from tests.servers.minio import FreshBucket

OURS, SPOOLED, DEBIANS = "artifactproxy", "spool, hash, store", "docker-registry"
_LOCAL = "locals: {images: {provider: oci}}\n"
_TOKEN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Registry:
    """`name` is where images go; `headers` are the lines that let a client push."""

    server: Server
    port: int
    folder: Path
    headers: str = ""
    name: str = "images/team/app"


Start = Callable[[Path, frozenset[int], "FreshBucket | None"], AbstractContextManager[Registry]]


@contextlib.contextmanager
def ours(folder: Path, cores: frozenset[int], bucket: FreshBucket | None) -> Iterator[Registry]:
    behind = in_bucket(bucket, 0) if bucket else Backend("")
    with proxy(folder, cores, behind.top + _LOCAL, env=behind.env) as (server, port):
        command = ["-m", "artifactproxy", "token", "create", "bench", "--scope", "push:images", "--json"]
        where = ["--config", str(folder / "config.yaml"), "--data", str(folder / "data")]
        env = {**os.environ, **behind.env}
        said = run_pinned([sys.executable, *command, *where], cores, _TOKEN_SECONDS, env)
        token = base64.b64encode(f"bench:{json.loads(said)['token']}".encode()).decode()
        yield Registry(server, port, folder, f"Authorization: Basic {token}\r\n")


@contextlib.contextmanager
def spooled(folder: Path, cores: frozenset[int], bucket: FreshBucket | None) -> Iterator[Registry]:
    env = dict(os.environ)
    if bucket:
        env |= {
            "BENCH_BUCKET": bucket.name,
            "BENCH_ENDPOINT": bucket.endpoint,
            "BENCH_ACCESS": bucket.access_key,
            "BENCH_SECRET": bucket.secret_key,
        }
    port = free_port()
    command = [sys.executable, "-m", "bench.spooler", str(port), str(folder / "data")]
    with _started(command, cores, folder, port, env) as server:
        yield Registry(server, port, folder)


@contextlib.contextmanager
def debians(folder: Path, cores: frozenset[int], bucket: FreshBucket | None) -> Iterator[Registry]:
    port, config = free_port(), folder / "registry.yml"
    storage = f"filesystem: {{rootdirectory: {folder / 'data'}}}"
    if bucket:
        storage = (
            f"s3: {{accesskey: {bucket.access_key}, secretkey: {bucket.secret_key}, bucket: {bucket.name}, "
            f"region: {bucket.region}, regionendpoint: '{bucket.endpoint}', secure: false, v4auth: true}}\n"
            "  redirect: {disable: true}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  {storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    command = [tool("docker-registry"), "serve", str(config)]
    # Its S3 client fails on a bundle of certificates that the environment names.
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with _started(command, cores, folder, port, env) as server:
        yield Registry(server, port, folder)


@contextlib.contextmanager
def _started(
    command: list[str], cores: frozenset[int], folder: Path, port: int, env: dict[str, str]
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Server(command, cores, folder / "output", env) as server:
            server.wait_for(port, "/v2/")
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


REGISTRIES: dict[str, Start] = {OURS: ours, SPOOLED: spooled, DEBIANS: debians}
