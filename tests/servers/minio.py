"""MinIO, built from its Go module at one pinned version into the cache of the end-to-end tests.

python -m tests.servers.minio       # build it where it is missing; prints where it is
"""

from __future__ import annotations

import fcntl
import http.client
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

from artifactproxy.stores.s3.options import S3Options
from tests.needs import cache, find, missing

from .process import HOST, Server, one_per_process

MODULE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
BUILD_SECONDS = 1800
ACCESS_KEY, SECRET_KEY = "minio-access", "minio-secret/+key"


@dataclass(frozen=True, slots=True)
class FreshBucket:
    """An empty bucket of a real server, and the keys to it."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def options(self, **over: Any) -> S3Options:
        known: dict[str, Any] = {
            "bucket": self.name,
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "addressing": "path",
        }
        return S3Options(**(known | over))

    def client(self) -> Any:
        """A blocking client, for looking behind the store's back."""
        return botocore.session.Session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )


class Minio(Server):
    name = "minio"

    def __init__(self, folder: Path | None = None, *, port: int = 0) -> None:
        super().__init__(folder, port=port)
        self._program = obtain()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def fresh_bucket(self, name: str = "bucket") -> FreshBucket:
        """An empty bucket whose name begins so."""
        bucket = FreshBucket(self.endpoint, f"{name}-{secrets.token_hex(5)}", ACCESS_KEY, SECRET_KEY)
        bucket.client().create_bucket(Bucket=bucket.name)
        return bucket

    def command(self) -> list[str]:
        return [
            self._program,
            "server",
            "--quiet",
            "--address",
            f"{HOST}:{self.port}",
            str(self.folder / "d"),
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "1",
            "HOME": str(self.folder),
        }

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/minio/health/cluster")
            return connection.getresponse().status == 200
        except http.client.HTTPException:
            return False
        finally:
            connection.close()


def obtain() -> str:
    """The program, built at first use; skips the test where it cannot be had."""
    if path := find("minio"):
        return path
    if find("go") is None:
        pytest.skip(missing("minio"))
    try:
        return str(build())
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error))[-300:]
        pytest.skip(f"needs minio: go install {MODULE} failed: {said}")


def build() -> Path:
    """Build it into the cache, once however many ask at a time; raises `subprocess.SubprocessError`."""
    folder = cache() / "minio"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "minio"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            subprocess.run(
                [find("go") or "go", "install", MODULE],
                env={**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"},
                check=True,
                timeout=BUILD_SECONDS,
                stderr=subprocess.PIPE,
                text=True,
            )
            (Path(scratch) / "minio").rename(program)
    return program


def shared() -> Minio:
    return one_per_process(Minio)


if __name__ == "__main__":
    try:
        print(find("minio") or build())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.stderr}\ngo install {MODULE} failed; it wants Go 1.24 or newer")
