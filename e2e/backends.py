"""An empty bucket and an empty database of real servers, and what a configuration says of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.servers import postgres
from tests.servers.minio import FreshBucket
from tests.servers.minio import shared as shared_minio


@dataclass(slots=True)
class Backends:
    """`wrong` replaces single settings of the store, as a test of a mistake needs."""

    bucket: FreshBucket = field(default_factory=lambda: shared_minio().fresh_bucket())
    database: str = field(default_factory=lambda: postgres.shared().fresh_database())

    def store(self, **wrong: str) -> str:
        settings = {
            "kind": "s3",
            "bucket": self.bucket.name,
            "endpoint": self.bucket.endpoint,
            "region": self.bucket.region,
            "addressing": "path",
            "access_key": "{env: E2E_ACCESS}",
            "secret_key": "{env: E2E_SECRET}",
            **wrong,
        }
        lines = "".join(f"  {name}: {value}\n" for name, value in settings.items())
        return f"store:\n{lines}"

    def index(self) -> str:
        return "index: {kind: postgres, url: {env: E2E_DATABASE}}\n"

    @property
    def env(self) -> dict[str, str]:
        return {
            "E2E_ACCESS": self.bucket.access_key,
            "E2E_SECRET": self.bucket.secret_key,
            "E2E_DATABASE": self.database,
        }
