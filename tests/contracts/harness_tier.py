"""The local tier under the contracts of a store, in front of a second directory or of a bucket."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifactproxy.model import BlobRef
from artifactproxy.stores.copies import TierLimits
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.tier import Tier
from tests.contracts.harness import Stores, fs_stores
from tests.contracts.harness_s3 import s3_stores
from tests.stores.far import Far, Heard

FORMS = ("bucket", "cold", "warm", "without copies")


class Cold(Tier):
    """Puts leave no copy, so that every first read goes to the remote store."""

    async def put(self, ref: BlobRef, path: Path) -> None:
        await super().put(ref, path)
        await self._copies.drop(ref.sha256)

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        await super().put_bytes(ref, body)
        await self._copies.drop(ref.sha256)


def tier_stores(root: Path, form: str) -> Stores:
    disk = root / "disk"
    fars: list[Far] = []

    def refuse(error: str) -> None:
        fars[-1].refuses = getattr(errno, error)

    def away(is_away: bool) -> None:
        fars[-1].away = is_away

    if form == "bucket":
        (root / "bucket").mkdir()
        remote = s3_stores(root / "bucket")
    else:
        remote = replace(fs_stores(root), breaks={"put": refuse}, away=None if form == "warm" else away)
    opened: list[Tier] = []

    @asynccontextmanager
    async def far() -> AsyncIterator[Far]:
        store = Far(root / "store", remote.clock)
        await store.start()
        fars.append(store)
        yield store
        await store.close()
        assert store.running == 0

    @asynccontextmanager
    async def open_() -> AsyncIterator[Tier]:
        behind: AbstractAsyncContextManager[Any] = remote.open() if form == "bucket" else far()
        async with behind as store:
            near = FsStore(disk, fsync=False, threads=4, clock=remote.clock)
            await near.start()
            tier = (Tier if form == "warm" else Cold)(
                store,
                near,
                budget=0 if form == "without copies" else 2**30,
                observer=Heard(),
                clock=remote.clock,
                limits=TierLimits(shun=0.0, rest=0.0),
            )
            await tier.start()
            opened.append(tier)
            try:
                yield tier
            finally:
                await tier.close()

    def damage(sha256: str) -> None:
        remote.damage(sha256)
        copy = disk / "blobs/sha256" / sha256[:2] / sha256
        if copy.exists():
            with copy.open("ab") as file:
                file.write(b"!")

    def leftovers() -> list[str]:
        """A copy that is just being made is not the leftover of a put."""
        arriving = {each.path.name for tier in opened for each in tier._arrivals._tasks}
        return remote.leftovers() + sorted({path.name for path in (disk / "tmp").iterdir()} - arriving)

    return replace(remote, temp=FsStore(disk).temp_path, open=open_, damage=damage, leftovers=leftovers)
