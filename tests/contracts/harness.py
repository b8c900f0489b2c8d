"""Kind -> a fresh, empty instance under the shared contracts. A kind without a harness fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints
from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.survey import FsSurvey
from tests.contracts.harness_postgres import postgres_indexes
from tests.contracts.harness_redis import redis_coordinators
from tests.contracts.harness_s3 import s3_stores

NOW = 1_700_000_000.0


def open_files() -> int:
    """How many descriptors this process has; 0 where that cannot be told."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


_ON_DISK = ("tmp.opened", "tmp.full", "tmp.fsynced", "blob.linked", "dir.fsynced")


def failing(point: str) -> Callable[[str], None]:
    """Arms a failpoint, for once."""
    return lambda errno: failpoints.arm(f"{point}=raise:{errno}@1")


@dataclass
class Stores:
    """One kind of store. `open` gives another instance on the same blobs; `litter` plants objects
    that are no blobs and returns a function that tells whether all of them are still there;
    `damage` changes the size of a stored blob; `leftovers` lists what no finished put may leave."""

    clock: Time
    temp: Callable[[], Path]
    open: Callable[[], AbstractAsyncContextManager[Any]]
    litter: Callable[[], Callable[[], bool]]
    damage: Callable[[str], None]
    leftovers: Callable[[], list[str]]
    survey: Callable[[], Any]
    """The checker's eyes on the same blobs."""
    oddities: Callable[[], dict[str, str]]
    """Plants one of each kind; their names by kind."""
    misplace: Callable[[str], None]
    """Moves a blob out of quarantine to a place that is not its own."""
    breaks: dict[str, Callable[[str], None]] = field(
        default_factory=lambda: {p: failing(p) for p in _ON_DISK}
    )
    """Ways to let the next put fail with that error of the medium (the name of an errno)."""
    away: Callable[[bool], None] | None = None
    """Takes the store away, or brings it back; None: it cannot be away."""
    recalls: bool = True
    """Whether nothing of a put that was cancelled on its way appears."""
    counts_temps: bool = True


@dataclass
class Indexes:
    """One kind of index; its local repository is `mine`, its absences are bounded to 5."""

    clock: Time
    open: Callable[..., AbstractAsyncContextManager[Any]]
    census: Callable[[], Any]
    """The checker's eyes on the same rows."""
    state: Callable[[], object]
    """Everything that a census must leave as it was."""
    harm: Callable[[], None]
    """Damages what is stored."""
    together: dict[str, Any] = field(default_factory=dict)
    """What `open` needs where several processes share the index."""
    recheck: float = 0.0
    """How old an answer may be, in seconds, when another of them has written."""
    away: Callable[[], None] | None = None
    """Makes the backend unreachable until `back`; None: it cannot be."""
    back: Callable[[], None] = lambda: None


@dataclass
class Coordinators:
    """`open` gives one more participant, whom the others reach at `address` ("": they cannot); `holder`
    is a program that takes the key, prints `held` and sleeps; `break_backend` makes it unusable."""

    open: Callable[..., AbstractAsyncContextManager[Any]]
    holder: Callable[[str], subprocess.Popen[str]]
    break_backend: Callable[[], None]


def fs_stores(root: Path) -> Stores:
    clock = Time()
    root = root / "store"

    @asynccontextmanager
    async def open_() -> AsyncIterator[FsStore]:
        store = FsStore(root, threads=4, clock=clock)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def litter() -> Callable[[], bool]:
        shard = root / "blobs/sha256/ab"
        shard.mkdir(parents=True, exist_ok=True)
        plain = [
            root / "blobs/README",
            root / "blobs/sha256/zz",
            shard / "abc",
            shard / ("AB" * 32),
            shard / ("cd" * 32),
        ]
        for path in plain:
            path.write_text("not a blob")
        folder = shard / ("ab" * 32)
        folder.mkdir()
        link = shard / ("ab" + "0" * 62)
        link.symlink_to(plain[0])
        return lambda: (
            all(path.read_text() == "not a blob" for path in plain) and folder.is_dir() and link.is_symlink()
        )

    def damage(sha256: str) -> None:
        with (root / "blobs/sha256" / sha256[:2] / sha256).open("ab") as file:
            file.write(b"!")

    def oddities() -> dict[str, str]:
        shard = root / "blobs/sha256/ab"
        shard.mkdir(mode=0o700, exist_ok=True)
        names = {
            "stray": "blobs/sha256/ab/notes",
            "misplaced": "blobs/sha256/ab/" + "cd" * 32,
            "temp": "tmp/0123456789ab.4194305.1-1-ab.part",
            "mode": "blobs/sha256/ab/" + "ab" * 32,
            "link": "blobs/sha256/ab/ab" + "0" * 62,
        }
        for kind, name in names.items():
            if kind == "link":
                (root / name).symlink_to(root / "tmp")
            else:
                (root / name).touch(mode=0o640 if kind == "mode" else 0o600)
                (root / name).write_text("odd")
        return names

    def misplace(sha256: str) -> None:
        [kept] = root.rglob(f"{sha256}.*")
        wrong = root / "blobs/sha256/00"
        wrong.mkdir(mode=0o700)
        kept.rename(wrong / sha256)

    names = FsStore(root)
    return Stores(
        clock=clock,
        temp=names.temp_path,
        open=open_,
        litter=litter,
        damage=damage,
        leftovers=lambda: sorted(path.name for path in (root / "tmp").iterdir()),
        survey=lambda: FsSurvey(root, clock=clock),
        oddities=oddities,
        misplace=misplace,
    )


def sqlite_indexes(root: Path) -> Indexes:
    clock = Time()

    @asynccontextmanager
    async def open_(**options: Any) -> AsyncIterator[SqliteIndex]:
        index = SqliteIndex(
            root / "index.sqlite",
            **{
                "locals_": {"mine"},
                "negative_keys": 5,
                "block": 10,
                "busy_timeout": 0.2,
                "clock": clock,
                **options,
            },
        )
        await index.start()
        try:
            yield index
        finally:
            await index.close()

    path = root / "index.sqlite"

    def state() -> object:
        return {p.name: p.read_bytes() for p in root.iterdir() if not p.name.endswith("-shm")}

    def harm() -> None:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(bytes(3 * 4096))

    return Indexes(
        clock=clock,
        open=open_,
        census=lambda: SqliteCensus(path, page=7),
        state=state,
        harm=harm,
        together={"shared": True},
    )


_HOLDER = """
import asyncio, sys
from pathlib import Path
from artifactproxy.coordination.local import LocalCoordinator

async def main():
    coordinator = LocalCoordinator(Path(sys.argv[1]))
    lease = await coordinator.acquire(sys.argv[2], wait=5)
    print("held" if lease else "refused", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def local_coordinators(root: Path) -> Coordinators:
    folder = root / "leases"

    @asynccontextmanager
    async def open_(address: str = "") -> AsyncIterator[LocalCoordinator]:
        coordinator = LocalCoordinator(folder, address=address, poll=0.001, poll_max=0.01)
        await coordinator.start()
        try:
            yield coordinator
        finally:
            await coordinator.close()

    def holder(key: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLDER, str(folder), key]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def break_backend() -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file where the folder was")

    return Coordinators(open=open_, holder=holder, break_backend=break_backend)


STORES: dict[str, Callable[[Path], Stores]] = {"fs": fs_stores, "s3": s3_stores}
INDEXES: dict[str, Callable[[Path], Indexes]] = {"sqlite": sqlite_indexes, "postgres": postgres_indexes}
CAN_BE_AWAY = ("postgres",)
"""Kinds of index that lie across a network."""
COORDINATORS: dict[str, Callable[[Path], Coordinators]] = {
    "local": local_coordinators,
    "redis": redis_coordinators,
}


def harness_of(harnesses: dict[str, Any], kind: str, root: Path) -> Any:
    if kind not in harnesses:
        pytest.fail(f"{kind!r} is offered in KINDS but has no harness: it may not exist untested")
    return harnesses[kind](root)
