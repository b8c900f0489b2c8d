"""The adapters that the configuration chooses: made, started, and closed with the stack they are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from artifactproxy.config import Config
from artifactproxy.config.resolved import S3
from artifactproxy.coordination.bulletin import ChannelBulletin
from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.datadir import INDEX
from artifactproxy.engine.janitor import Bounds
from artifactproxy.engine.terms import Redirect
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.place import Place
from artifactproxy.ports import (
    BlobStore,
    Bulletin,
    Clock,
    Coordinator,
    Intent,
    Intents,
    Ledger,
    MetadataIndex,
    Observer,
)
from artifactproxy.ports.checkup import Census, StoreSurvey
from artifactproxy.ports.hosting import Hosting
from artifactproxy.ports.tokens import TokenStore
from artifactproxy.rules.bulletin import CHANGED, keys_of
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.survey import FsSurvey
from artifactproxy.upstream.peers import PeerClient
from artifactproxy.upstream.pool import tls_context

if TYPE_CHECKING:
    from artifactproxy.stores.s3.store import S3Store

PRIVATE = tuple(INDEX + side for side in ("", "-wal", "-shm"))
"""Beside the blobs, for the owner of the data folder only."""
TIER = "tier"
"""Of a data folder: copies of what a store across the network holds, and temporary files. Not the place
of an embedded store, whose blobs would be taken for copies that may go."""


class Forgetful:
    """Intents of a migration that has no database: what it leaves open it ends itself, or nobody does."""

    async def intend(self, intent: Intent) -> None:
        del intent

    async def fulfil(self, ids: Sequence[str]) -> None:
        del ids

    async def intents(self, before: float, limit: int) -> list[Intent]:
        del before, limit
        return []


class Index(MetadataIndex, Ledger, Intents, Hosting, Protocol):
    """One class answers the requests, the janitor and the store."""

    @property
    def tokens(self) -> TokenStore: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Where blobs lie: `store` is what requests use, `truth` the same past all copies; temporary files are
    on `disk`."""

    store: BlobStore
    truth: BlobStore
    disk: FsStore
    redirect: Redirect | None = None

    def bounds(self, config: Config) -> Bounds:
        """A store across the network is bounded by `data_limit` alone."""
        return Bounds(
            config.data_limit, self.disk.free if self.store is self.disk else None, self.disk.pinned
        )

    def temp_free(self) -> int:
        """Bytes."""
        return self.disk.free()[1]


# --- rows ---------------------------------------------------------------------------------------


def sqlite(
    config: Config, data: Path, clock: Clock = time.time, *, owner: bool = True, shared: bool = False
) -> SqliteIndex:
    limits = config.limits
    return SqliteIndex(
        data / INDEX,
        locals_=tuple(config.locals),
        owner=owner,
        shared=shared,
        negative_keys=limits.negative_keys,
        superseded_keep=limits.superseded_keep,
        ledger_keep=limits.ledger_keep,
        busy_timeout=limits.index_wait,
        clock=clock,
    )


async def open_index(
    stack: AsyncExitStack,
    config: Config,
    data: Path,
    observer: Observer,
    clock: Clock,
    *,
    owner: bool,
    shared: bool,
) -> tuple[Index, bool]:
    """And whether this machine's last stop was clean, as far as the index knows it. Raises
    `IndexUnavailable` with what to do."""
    if config.index is None:
        embedded = sqlite(config, data, clock, owner=owner, shared=shared)
        await embedded.start()
        stack.push_async_callback(embedded.close)
        return embedded, embedded.was_clean
    from artifactproxy.indexes.postgres.index import PostgresIndex

    limits = config.limits
    index = PostgresIndex(
        config.index,
        locals_=tuple(config.locals),
        negative_keys=limits.negative_keys,
        superseded_keep=limits.superseded_keep,
        ledger_keep=limits.ledger_keep,
        clock=clock,
        note=observer.increment,
    )
    await index.start()
    stack.push_async_callback(index.close)
    return index, True


def census(config: Config | None, data: Path, *, still: bool = False) -> Census:
    """Every row, for the checker; `still`: nobody has the file of an embedded index open. Without a
    configuration everything lies in the data folder."""
    if config is None or config.index is None:
        return SqliteCensus(data / INDEX, still=still)
    from artifactproxy.indexes.postgres.census import PostgresCensus

    return PostgresCensus(config.index)


# --- blobs --------------------------------------------------------------------------------------


async def open_store(
    stack: AsyncExitStack, config: Config, data: Path, intents: Intents, observer: Observer, clock: Clock
) -> Kept:
    """Raises `StoreUnavailable` with what to do."""
    chosen = config.store
    disk = FsStore(data if chosen is None else data / TIER, fsync=chosen is None, clock=clock)
    stack.push_async_callback(disk.close)
    await disk.start()
    if disk.swept:
        observer.notice("temps_swept", files=disk.swept)
        observer.increment("tmp_swept", disk.swept)
    if chosen is None:
        return Kept(disk, disk, disk)
    from artifactproxy.stores.tier import Tier

    bucket = await open_bucket(stack, chosen, intents, observer, clock)
    tier = Tier(bucket, disk, budget=chosen.local_tier, observer=observer, fetch=bucket.fetch, clock=clock)
    stack.push_async_callback(tier.close)
    await tier.start()
    redirect = None
    if chosen.redirect != "never":
        redirect = Redirect(chosen.redirect, chosen.redirect_from, chosen.redirect_for)
    return Kept(tier, bucket, disk, redirect)


async def open_bucket(
    stack: AsyncExitStack, chosen: S3, intents: Intents, observer: Observer, clock: Clock = time.time
) -> S3Store:
    """The bucket itself. Raises `StoreUnavailable` with what to do."""
    from artifactproxy.stores.s3.store import S3Store

    bucket = S3Store(chosen.options, intents=intents, observer=observer, clock=clock)
    stack.push_async_callback(bucket.close)
    await bucket.start()
    return bucket


def survey(config: Config | None, data: Path, clock: Clock) -> StoreSurvey:
    """The store as it lies, for the checker. Without a configuration it is the data folder."""
    if config is None or config.store is None:
        return FsSurvey(data, private=PRIVATE, clock=clock)
    from artifactproxy.stores.s3.survey import S3Survey

    return S3Survey(config.store.options)


# --- the others ---------------------------------------------------------------------------------


def secret_of(config: Config, place: Place | None) -> str:
    """What processes authenticate themselves with among each other; "": there are no others."""
    if config.cluster is not None:
        return config.cluster.secret
    return place.secret if place is not None else ""


def peers_of(config: Config, place: Place | None, observer: Observer, clock: Clock) -> PeerClient | None:
    """Raises `ConfigError` for a `cluster.ca` that is no good."""
    secret = secret_of(config, place)
    ca = config.cluster.ca if config.cluster is not None else ""
    if ca:
        tls_context(ca, "cluster.ca")
    return PeerClient(secret, ca=ca, clock=clock, observer=observer) if secret else None


async def open_coordinator(
    stack: AsyncExitStack, config: Config, data: Path, place: Place | None, observer: Observer
) -> Coordinator:
    """Raises `ConfigError` for what no waiting mends."""
    if config.coordination is None:
        local = LocalCoordinator(data / "leases")
        if place is not None:
            local = LocalCoordinator(
                data / "leases", address=place.address, shared=True, within=place.sockets
            )
        await local.start()
        stack.push_async_callback(local.close)
        return local
    from artifactproxy.coordination.redis import RedisCoordinator

    address = config.cluster.advertise if config.cluster is not None else ""
    if address and place is not None:
        address = f"{address}?worker={place.number}"
    coordinator = RedisCoordinator(config.coordination, address=address, observer=observer)
    await coordinator.start()
    stack.push_async_callback(coordinator.close)
    return coordinator


async def open_bulletin(
    stack: AsyncExitStack, config: Config, place: Place | None, index: MetadataIndex, observer: Observer
) -> Bulletin | None:
    """What others change is looked up anew here."""
    if config.coordination is not None:
        from artifactproxy.coordination.redis_bulletin import RedisBulletin

        board = RedisBulletin(config.coordination, observer=observer)
        board.listen(CHANGED, _look_anew(index))
        await board.start()
        stack.push_async_callback(board.close)
        return board
    if place is None:
        return None
    channel = ChannelBulletin(place.channel.tell)
    place.channel.listen(channel.receive)
    channel.listen(CHANGED, _look_anew(index))
    await channel.start()
    return channel


def _look_anew(index: MetadataIndex) -> Callable[[str], None]:
    def hear(text: str) -> None:
        keys = keys_of(text)
        if keys is not None:
            index.suspect(keys)

    return hear
