"""N06: one replica throws away what others are bringing in at that moment, under the same digest."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import status
from tests.faults.replicas import Replicas, replicas
from tests.needs import needs

pytestmark = needs("postgres", "redis-server")

SIZES = (900, 70_000, 200_000, 1_000, 80_000, 900_000)
CONTENTS = [Oracle(f"content {number}", size).bytes() for number, size in enumerate(SIZES)]
PHASE = 0.5  # seconds for which one of them is asked for, while the others may go
GRACE = 1.2  # seconds; the bucket dates in whole ones
ENOUGH = 6  # deletions
LONGEST = 45.0


class Race:
    def __init__(self, cl: Replicas) -> None:
        self.cl = cl
        self.began = asyncio.get_running_loop().time()
        self.wrong: list[tuple[str, int, str]] = []
        self.evicted = self.deleted = self.fetched = 0

    @property
    def elapsed(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    def goes_on(self) -> bool:
        return self.deleted < ENOUGH and self.elapsed < LONGEST

    async def client(self, number: int) -> None:
        """The same bytes under ever new names, and under names that were thrown away."""
        for turn in itertools.count():
            if not self.goes_on():
                return
            which = int(self.elapsed / PHASE) % len(CONTENTS)
            path = f"/{which}-{number}-{turn % 5}.bin"
            self.cl.chaos.script(path, status(200, CONTENTS[which], ETag=f'"{which}"'))
            got = await self.cl[(number + turn) % len(self.cl.all)].get(f"/files{path}")
            self.fetched += got.source == "remote"
            if got.status != 200 or got.body != CONTENTS[which]:
                self.wrong.append((path, got.status, got.error))
            await asyncio.sleep(0.01)

    async def evict(self, number: int) -> None:
        janitor = self.cl[number].engine._janitor
        while self.goes_on():
            self.evicted += (await janitor.evict(10**12))[0]
            await asyncio.sleep(0.02)

    async def collect(self, number: int) -> None:
        janitor = self.cl[number].engine._janitor
        while self.goes_on():
            self.deleted += (await janitor.collect(GRACE))[0]
            await asyncio.sleep(0.02)


async def test_n06_collecting_races_with_filling_the_same_digest(tmp_path: Path, chaos: Chaos) -> None:
    async with replicas(tmp_path, chaos, 3) as cl:
        race = Race(cl)
        clients = [race.client(number) for number in range(6)]
        await asyncio.gather(*clients, race.evict(0), race.collect(0), race.collect(1))
        assert race.wrong == []
        assert min(race.evicted, race.deleted, race.fetched) >= ENOUGH, vars(race)
        await cl.settled()
        for which, content in enumerate(CONTENTS):
            for number, replica in enumerate(cl):
                path = f"/{which}-{number}-0.bin"
                chaos.script(path, status(200, content, ETag=f'"{which}"'))
                got = await replica.get(f"/files{path}")
                assert (got.status, got.body == content) == (200, True)
        await cl.settled()
        rows = await cl[0].engine.parts.ledger.entries("files")
        assert rows
        for row in rows:
            assert row.ref is not None
            assert await cl[0].engine.parts.truth.size(row.ref.sha256) == row.ref.size


async def test_n06_a_collector_dies_in_the_middle(tmp_path: Path, chaos: Chaos) -> None:
    """Whoever collects next ends what it began; what was asked for again meanwhile stays."""
    async with replicas(tmp_path, chaos, 2) as cl:
        for which, content in enumerate(CONTENTS[:3]):
            chaos.script(f"/{which}.bin", status(200, content, ETag=f'"{which}"'))
            assert (await cl[0].get(f"/files/{which}.bin")).body == content
        await cl.settled()
        janitor, bury = cl[0].engine._janitor, cl[0].engine.parts.ledger.bury
        assert (await janitor.evict(10**12))[0] == 3

        async def dies(sha256s: list[str], *, seized: bool = False) -> None:
            raise asyncio.CancelledError

        cl[0].engine.parts.ledger.bury = dies  # type: ignore[method-assign]
        assert (await cl[1].get("/files/0.bin")).body == CONTENTS[0]
        await cl.settled()
        await asyncio.sleep(2 * GRACE)
        try:
            await janitor.collect(GRACE)
        except asyncio.CancelledError:
            pass
        else:
            raise AssertionError("there was nothing to bury")
        cl[0].engine.parts.ledger.bury = bury  # type: ignore[method-assign]
        assert (await cl[1].get("/files/1.bin")).body == CONTENTS[1]
        await cl.settled()
        assert (await cl[1].engine._janitor.collect(GRACE))[0] == 1, "the third alone is nobody's"
        for which, content in enumerate(CONTENTS[:3]):
            got = await cl[0].get(f"/files/{which}.bin")
            assert (got.status, got.body == content) == (200, True)
