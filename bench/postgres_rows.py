"""Fills a PostgreSQL index with made-up rows, fast: for measuring look-ups among a million of them.

`python -m bench.postgres_rows postgresql://user@host/name 1000000` loads and measures. With `load` after
that it only loads, with `look` it only looks rows up and prints microseconds of each as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import asyncpg

from artifactproxy.indexes.postgres.index import PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.indexes.postgres.text import digest_of
from artifactproxy.indexes.rows import entry_row, promise_row
from artifactproxy.indexes.statements import ENTRY_COLUMNS, PROMISE_COLUMNS
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Kind, Promise

NOW = 1_700_000_000.0
BATCH = 50_000
_LOOKS = 5_000


def key_of(number: int) -> ArtifactKey:
    return ArtifactKey("packages", f"files/{number % 5000}/package-{number % 5000}-{number // 5000}.0.tar.gz")


async def load(url: str, rows: int) -> None:
    """`rows` entries, their promises and blobs, into the tables of a started index that is empty."""
    connection = await asyncpg.connect(url)
    try:
        for first in range(0, rows, BATCH):
            numbers = range(first, min(first + BATCH, rows))
            await connection.copy_records_to_table(
                "entries", records=_entries(numbers), columns=("key", *ENTRY_COLUMNS)
            )
            await connection.copy_records_to_table(
                "promises", records=_promises(numbers), columns=("key", *PROMISE_COLUMNS)
            )
            await connection.copy_records_to_table(
                "blobs",
                records=[(_sha256(n), 100_000, NOW) for n in numbers],
                columns=("sha256", "size", "added_at"),
            )
        await connection.execute("VACUUM ANALYZE", timeout=None)
    finally:
        await connection.close()


def _sha256(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _entries(numbers: range) -> Iterator[tuple[Any, ...]]:
    for number in numbers:
        key = key_of(number)
        entry = CacheEntry(
            key,
            Kind.ARTIFACT,
            BlobRef(_sha256(number), 100_000),
            media_type="application/gzip",
            etag=f'"{_sha256(number)}"',
            source=f"https://files.example/{key.path}",
            fetched_at=NOW,
            checked_at=NOW,
            verified_by="digest",
            purl=f"pkg:generic/package-{number % 5000}@{number // 5000}.0",
            first_seen=NOW,
            last_used=NOW - number,
        )
        yield digest_of(key), *entry_row(entry)


def _promises(numbers: range) -> Iterator[tuple[Any, ...]]:
    for number in numbers:
        key = key_of(number)
        promise = Promise(
            key, (Digest("sha256", _sha256(number)),), taught_by=f"simple/package-{number % 5000}/"
        )
        yield digest_of(key), *promise_row(promise)


async def _measure(url: str, rows: int) -> None:
    index = PostgresIndex(PostgresOptions(url))
    await index.start()
    began = time.perf_counter()
    await load(url, rows)
    print(f"{rows} rows loaded in {time.perf_counter() - began:.1f} s")
    keys = [key_of(number * 7919 % rows) for number in range(2000)]
    for name in ("looked up", "remembered"):
        began = time.perf_counter()
        for key in keys:
            await index.find(key)
        print(f"{name}: {(time.perf_counter() - began) / len(keys) * 1e6:.1f} us each")
    for name, work in (
        ("coldest", lambda: index.coldest(1000, NOW + 1e9)),
        ("named", lambda: index.named("", 1000)),
        ("totals", index.totals),
        ("prefix", lambda: index.entries("packages", prefix="files/17/")),
        ("purl", lambda: index.entries("packages", purl="pkg:generic/package-17")),
        ("unlearn", lambda: index.unlearn("packages", path=keys[0].path, whole=True)),
        ("touch 5000", lambda: index.touch([key_of(n) for n in range(5000)], NOW + 1)),
        ("expire", lambda: index.expire(NOW)),
    ):
        began = time.perf_counter()
        await work()
        print(f"{name}: {(time.perf_counter() - began) * 1e3:.1f} ms")
    taught = [Promise(ArtifactKey("new", str(n)), (Digest("sha256", _sha256(n)),)) for n in range(20_000)]
    for name in ("learnt", "known"):
        began = time.perf_counter()
        await index.learn(taught)
        print(f"20,000 promises {name}: {(time.perf_counter() - began) * 1e3:.0f} ms")
    await index.close()


async def _only_load(url: str, rows: int) -> None:
    index = PostgresIndex(PostgresOptions(url))
    await index.start()
    await load(url, rows)
    await index.close()


async def _look(url: str, rows: int) -> None:
    """Rows that this process has not met, then the same again."""
    index = PostgresIndex(PostgresOptions(url))
    await index.start()
    keys = [key_of(number) for number in random.Random().sample(range(rows), min(_LOOKS, rows // 2))]
    await index.find(key_of(0))  # a connection is there
    found: dict[str, float] = {}
    for name in ("asked", "remembered"):
        began = time.perf_counter()
        for key in keys:
            if (await index.find(key)).entry is None:
                raise LookupError("a row that was loaded is not there")
        found[name] = (time.perf_counter() - began) / len(keys) * 1e6
    await index.close()
    print(json.dumps(found))


if __name__ == "__main__":
    _works = {"": _measure, "load": _only_load, "look": _look}
    asyncio.run(_works["".join(sys.argv[3:])](sys.argv[1], int(sys.argv[2])))
