"""What the tests of the S3 store share: a store on the stand-in, bodies, an observer that remembers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Outcome
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.store import S3Store
from tests.bucket import Bucket
from tests.contracts.harness_s3 import MemoryIntents

MIB = 2**20
PART = 5 * MIB
_numbers = count()


class Told:
    """An observer that remembers its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def outcome(self, outcome: Outcome) -> None: ...

    def notice(self, event: str, **facts: str | float) -> None:
        self.events.append((event, facts))

    def warning(self, event: str, **facts: str | float) -> None:
        self.events.append((event, facts))

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        self.events.append((name, labels))

    def count(self, name: str) -> int:
        return sum(1 for event, _ in self.events if event == name)


class World:
    """One bucket, and everything a store on it is given."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.intents = MemoryIntents()
        self.told = Told()

    @asynccontextmanager
    async def store(
        self, owner: str = "", clock: Callable[[], float] | None = None, **over: Any
    ) -> AsyncIterator[S3Store]:
        options = self.options(**over)
        more = {"clock": clock} if clock else {}
        store = S3Store(
            options, intents=self.intents, owner=owner, observer=self.told, rng=lambda: 0.01, **more
        )
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def options(self, **over: Any) -> S3Options:
        return replace(self.bucket.options(), **{"part_size": PART, "prefix": "p/", **over})

    def file(self, body: bytes) -> Path:
        path = self.folder / f"{next(_numbers)}.part"
        path.write_bytes(body)
        return path

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def held(self, ref: BlobRef) -> bytes | None:
        stored = self.bucket.objects.get(key_of(ref))
        return None if stored is None else stored.data


def key_of(ref: BlobRef) -> str:
    return f"p/blobs/sha256/{ref.sha256[:2]}/{ref.sha256}"


def ref_of(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).hexdigest(), len(body))


def body_of(size: int) -> tuple[bytes, BlobRef]:
    body = os.urandom(size)
    return body, ref_of(body)


async def read(store: S3Store, ref: BlobRef, span: Span | None = None) -> bytes:
    return b"".join([piece async for piece in await store.open(ref, span or Span(0, ref.size))])
