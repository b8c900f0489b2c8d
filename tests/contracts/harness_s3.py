"""S3 under the shared contracts, on the stand-in of `tests/bucket`, which runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from artifactproxy.ports import Intent
from artifactproxy.stores.s3.store import S3Store
from artifactproxy.stores.s3.survey import S3Survey
from tests.bucket import Bucket, refuse

if TYPE_CHECKING:
    from tests.contracts.harness import Stores

T = TypeVar("T")
PREFIX = "cache/"
PART = 5 * 2**20
_REFUSALS = {"ENOSPC": (507, "XMinioStorageFull"), "EDQUOT": (403, "QuotaExceeded"), "EIO": (403, "Denied")}


class MemoryIntents:
    """Intents of one process; `log` holds every call."""

    def __init__(self) -> None:
        self.held: dict[str, Intent] = {}
        self.log: list[tuple[str, str]] = []

    async def intend(self, intent: Intent) -> None:
        self.log.append(("intend", intent.upload))
        self.held[intent.id] = intent

    async def fulfil(self, ids: Iterable[str]) -> None:
        for each in ids:
            self.log.append(("fulfil", each))
            self.held.pop(each, None)

    async def intents(self, before: float, limit: int) -> list[Intent]:
        found = sorted((i for i in self.held.values() if i.started < before), key=lambda i: i.started)
        return found[:limit]


class Beside:
    """An event loop in a thread, for servers that the sync half of a harness needs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._running: Bucket | None = None
        threading.Thread(target=self.loop.run_forever, name="bucket", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def serve(self, bucket: Bucket) -> Bucket:
        """Start it, in the place of the one before."""
        if self._running is not None:
            self.run(self._running.stop())
        self._running = self.run(bucket.start())
        return bucket


_beside: list[Beside] = []


def beside() -> Beside:
    if not _beside:
        _beside.append(Beside())
    return _beside[0]


def s3_stores(root: Path) -> Stores:
    from tests.contracts.harness import Stores, Time

    clock = Time()
    clock.now = time.time()
    bucket = beside().serve(Bucket(clock=clock))
    options = bucket.options(prefix=PREFIX, part_size=PART, tries=2, read=20.0)
    temps, numbers, intents = root / "tmp", count(), MemoryIntents()
    temps.mkdir(exist_ok=True)

    def key(sha256: str) -> str:
        return f"{PREFIX}blobs/sha256/{sha256[:2]}/{sha256}"

    @asynccontextmanager
    async def open_() -> AsyncIterator[S3Store]:
        store = S3Store(options, intents=intents, clock=clock, rng=lambda: 0.01)
        await store.start()
        try:
            yield store
        finally:
            await store.close()
            await _hung_up(bucket)

    def litter() -> Callable[[], bool]:
        names = ["README", "sha256/zz", "sha256/ab/abc", f"sha256/ab/{'AB' * 32}", f"sha256/ab/{'cd' * 32}"]
        plain = [f"{PREFIX}blobs/{name}" for name in names] + ["elsewhere/x"]
        for each in plain:
            bucket.plant(each, b"not a blob")
        return lambda: all(bucket.objects[each].data == b"not a blob" for each in plain)

    def damage(sha256: str) -> None:
        bucket.damage(key(sha256), (bucket.objects[key(sha256)].data or b"") + b"!")

    def oddities() -> dict[str, str]:
        names = {"stray": "blobs/sha256/ab/notes", "misplaced": f"blobs/sha256/ab/{'cd' * 32}"}
        for name in names.values():
            bucket.plant(PREFIX + name, b"odd")
        return names

    def misplace(sha256: str) -> None:
        [kept] = [each for each in bucket.objects if each.startswith(f"{PREFIX}quarantine/{sha256}.")]
        bucket.objects[f"{PREFIX}blobs/sha256/00/{sha256}"] = bucket.objects.pop(kept)

    def away(is_away: bool) -> None:
        bucket.heal()
        if is_away:
            bucket.rule("*", refuse(503, "SlowDown"))

    def breaks(errno: str) -> None:
        bucket.rules.insert(0, bucket.rule("PutObject", refuse(*_REFUSALS[errno]), nth=0))
        bucket.rules.pop()

    return Stores(
        clock=clock,
        temp=lambda: temps / f"{next(numbers)}.part",
        open=open_,
        litter=litter,
        damage=damage,
        leftovers=lambda: sorted(p.name for p in temps.iterdir()) + sorted(bucket.contents.uploads),
        survey=lambda: S3Survey(options),
        oddities=oddities,
        misplace=misplace,
        breaks={"put": breaks},
        away=away,
        recalls=False,
        counts_temps=False,
    )


async def _hung_up(bucket: Bucket) -> None:
    """The server has noticed that its connections are closed."""
    for _ in range(30):
        runner = bucket._runner
        if runner is None or runner.server is None or not runner.server.connections:
            return
        await asyncio.sleep(0.01)
