"""A data folder moves into another store and index, while somebody goes on storing into it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints
from artifactproxy.backup.progress import Quiet
from artifactproxy.datadir import INDEX
from artifactproxy.errors import StoreUnavailable
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.migrate.move import Move
from artifactproxy.migrate.source import Source
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Kind, Promise, Span
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.survey import FsSurvey


def body_of(name: str, size: int = 3000) -> bytes:
    return (name.encode() * size)[:size]


def entry_of(name: str, body: bytes, generation: int) -> CacheEntry:
    ref = BlobRef(hashlib.sha256(body).hexdigest(), len(body))
    return CacheEntry(
        ArtifactKey("files", name), Kind.ARTIFACT, ref, fetched_at=1.0, checked_at=1.0, generation=generation
    )


class Place:
    """A folder with a store and an index."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack

    async def open(self) -> Place:
        self.folder.mkdir()
        self.store = FsStore(self.folder)
        await self.store.start()
        self._stack.push_async_callback(self.store.close)
        self.index = SqliteIndex(self.folder / INDEX)
        await self.index.start()
        self._stack.push_async_callback(self.index.close)
        return self

    async def keep(self, name: str, size: int = 3000) -> CacheEntry:
        entry = entry_of(name, body_of(name, size), await self.index.generation())
        assert entry.ref is not None
        await self.store.put_bytes(entry.ref, body_of(name, size))
        await self.index.record(entry)
        return entry

    def move(self, target: Place, **options: Any) -> Move:
        census = SqliteCensus(self.folder / INDEX)
        self._stack.push_async_callback(census.close)
        store: Any = options.pop("store", target.store)
        index: Any = options.pop("index", target.index)
        return Move(Source(self.folder), census, store, index, Quiet(), **options)

    def temp_files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "tmp").iterdir())


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[tuple[Place, Place]]:
    async with AsyncExitStack() as stack:
        yield await Place(tmp_path / "old", stack).open(), await Place(tmp_path / "new", stack).open()


async def _holds(target: Place, entry: CacheEntry) -> bool:
    assert entry.ref is not None
    found = await target.index.find(entry.key)
    if found.entry is None:
        return False
    chunks = [chunk async for chunk in await target.store.open(entry.ref, Span(0, entry.ref.size))]
    return found.entry == entry and b"".join(chunks) == body_of(entry.key.path, entry.ref.size)


async def test_everything_that_is_named_moves(places):
    old, new = places
    entries = [await old.keep(f"a{number}", size) for number, size in enumerate((0, 1, 3000, 300_000))]
    absence = CacheEntry(ArtifactKey("files", "gone"), Kind.ARTIFACT, None, status=404, generation=7)
    await old.index.record(absence)
    promise = Promise(ArtifactKey("files", "b"), (Digest("sha256", "0" * 64),), size=1)
    await old.index.learn([promise])
    moved = await old.move(new).run()
    assert all([await _holds(new, entry) for entry in entries])
    assert (await new.index.find(absence.key)).entry == absence
    assert (await new.index.find(promise.key)).promise == promise
    assert (moved.blobs, moved.bytes, moved.entries, moved.promises) == (4, 303_001, 5, 1)
    assert moved.settled
    assert await new.index.generation() > await old.index.generation() - 1
    assert old.temp_files() == new.temp_files() == []


async def test_a_second_run_moves_only_what_came_since(places):
    old, new = places
    await old.keep("a")
    await old.move(new).run()
    later = await old.keep("b")
    moved = await old.move(new).run()
    assert (moved.blobs, moved.there) == (1, 1)
    assert await _holds(new, later)


async def test_what_is_stored_meanwhile_moves_too(places):
    old, new = places
    await old.keep("a")
    came = []

    class Slow:
        def __getattr__(self, name):
            return getattr(new.store, name)

        async def put(self, ref, path):
            if not came:
                came.append(await old.keep("b"))
            await new.store.put(ref, path)

    moved = await old.move(new, store=Slow()).run()
    assert moved.passes == 3
    assert moved.blobs == 2
    assert await _holds(new, came[0])


async def test_a_newer_row_of_the_target_stays(places):
    old, new = places
    entry = await old.keep("a")
    newer = replace(entry, generation=entry.generation + 1000, media_type="text/plain")
    await new.index.record(newer)
    await old.move(new).run()
    assert (await new.index.find(entry.key)).entry == newer


@pytest.mark.parametrize("harm", ["missing", "size", "content"])
async def test_a_bad_blob_stays_behind_with_its_row(places, harm):
    old, new = places
    entry, good = await old.keep("a"), await old.keep("b")
    path = old.folder / blob_path(entry.ref.sha256)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x" * (3000 if harm == "content" else 2999))
    moved = await old.move(new).run()
    assert (moved.missing, moved.damaged) == ((1, 0) if harm == "missing" else (0, 1))
    assert moved.examples == [(entry.ref.sha256, "missing" if harm == "missing" else "damaged")]
    assert moved.settled
    assert (await new.index.find(entry.key)).entry is None
    assert await _holds(new, good)
    assert old.temp_files() == []


async def test_a_target_that_lost_the_blob_gets_no_row(places):
    old, new = places
    entry = await old.keep("a")

    class Forgetful:
        def __getattr__(self, name):
            return getattr(new.store, name)

        async def size(self, sha256):
            return None

    with pytest.raises(StoreUnavailable, match="does not hold"):
        await old.move(new, store=Forgetful()).run()
    assert (await new.index.find(entry.key)).entry is None


async def test_reading_back_finds_other_bytes(places):
    old, new = places
    entry = await old.keep("a")

    class Twisted:
        def __getattr__(self, name):
            return getattr(new.store, name)

        async def put(self, ref, path):
            await new.store.put(ref, path)
            blob = new.folder / blob_path(ref.sha256)
            blob.write_bytes(b"x" * ref.size)

    survey = FsSurvey(new.folder)
    with pytest.raises(StoreUnavailable, match="does not hold"):
        await old.move(new, store=Twisted(), survey=survey).run()
    await survey.close()
    assert (await new.index.find(entry.key)).entry is None


@pytest.mark.parametrize("point", ["migrate.copied", "migrate.stored"])
async def test_an_interrupted_migration_is_run_again(places, point):
    old, new = places
    entries = [await old.keep(f"a{number}") for number in range(20)]
    failpoints.arm(f"{point}=raise@5")
    with pytest.raises(OSError, match="failpoint"):
        await old.move(new).run()
    failpoints.arm("")
    assert old.temp_files() == []
    assert not [entry for entry in entries if (await new.index.find(entry.key)).entry]
    moved = await old.move(new).run()
    assert moved.there + moved.blobs == 20
    assert all([await _holds(new, entry) for entry in entries])


async def test_blobs_alone_and_rows_alone(places):
    old, new = places
    entry = await old.keep("a")
    moved = await old.move(new, index=None).run()
    assert (moved.blobs, moved.entries) == (1, 0)
    moved = await old.move(new, store=None).run()
    assert (moved.blobs, moved.entries) == (0, 1)
    assert await _holds(new, entry)
