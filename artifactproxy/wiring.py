"""The only place that picks adapters and builds the graph."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from artifactproxy import backends
from artifactproxy.checkup.cases import Scope
from artifactproxy.checkup.checkup import Checkup
from artifactproxy.checkup.heal import Healer
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.repair import Mender
from artifactproxy.checkup.rounds import Rounds
from artifactproxy.checkup.scrub import Scrub
from artifactproxy.config import Config, Remote
from artifactproxy.datadir import DataFolder, alone, leave, took
from artifactproxy.engine.engine import Engine, Parts
from artifactproxy.engine.mounts import Mount
from artifactproxy.hosted.kit import Kit
from artifactproxy.hosted.pushed import mount_of
from artifactproxy.hosted.registry import Registry
from artifactproxy.observe.logs import JsonLog
from artifactproxy.observe.metrics import Metrics, Observations
from artifactproxy.place import Place
from artifactproxy.ports import BlobStore, Bulletin, Clock
from artifactproxy.ports.checkup import Census, StoreSurvey
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import Provider
from artifactproxy.tokens.desk import Desk
from artifactproxy.tokens.keys import Keys
from artifactproxy.upstream.access import RemoteAccess
from artifactproxy.upstream.client import UpstreamClient
from artifactproxy.upstream.peers import PeerClient
from artifactproxy.upstream.pool import tls_context

BEARABLE = frozenset({"coordination", "index"})
"""Without these we still serve: a database across the network may come back."""
# Our name in Via, another for each process: chained proxies are no loop.
VIA = f"artifactproxy-{secrets.token_hex(4)}"
STORING_SECONDS = 5.0  # for fills whose last byte came, after the last client has gone


@asynccontextmanager
async def running(
    config: Config,
    clock: Clock = time.time,
    *,
    folder: DataFolder | None = None,
    place: Place | None = None,
    keep_parts: bool = False,
) -> AsyncIterator[tuple[Engine, Observations, DataFolder]]:
    """The whole graph below the web floor, started; closed in reverse order. A `folder` that the
    caller has locked is for a command: how the last serving process ended stays known. With a `place`
    this is one of several workers, and the supervisor sees to the folder. `keep_parts`: see `Parts`."""
    async with AsyncExitStack() as stack:
        serving = folder is None and place is None
        folder = place.folder if place else folder
        folder = folder or stack.enter_context(closing(DataFolder(config.data)))
        clean = place.clean if place else stack.enter_context(_use(config, folder.path, serving=serving))
        observations = observe(config)
        stack.callback(observations.close)
        index, was_clean = await backends.open_index(
            stack, config, folder.path, observations, clock, owner=serving, shared=place is not None
        )
        kept = await backends.open_store(stack, config, folder.path, index, observations, clock)
        bulletin = await backends.open_bulletin(stack, config, place, index, observations)
        upstream = _upstream(config, place, observations, bulletin, clock)
        stack.push_async_callback(upstream.close)
        coordinator = await backends.open_coordinator(stack, config, folder.path, place, observations)
        engine = Engine(
            Parts(
                mounts=mounts(config),
                store=kept.store,
                truth=kept.truth,
                index=index,
                ledger=index,
                coordinator=coordinator,
                upstream=upstream,
                observer=observations,
                clock=clock,
                limits=config.limits,
                bounds=kept.bounds(config),
                new_path=kept.disk.temp_path,
                executor=_hashing_threads(stack),
                recheck=not (clean and (place is not None or was_clean)),
                temp_free=kept.temp_free,
                bearable=BEARABLE if config.index is not None else BEARABLE - {"index"},
                bulletin=bulletin,
                redirect=kept.redirect,
                hosting=index,
                tokens=index.tokens,
                left_overs=kept.disk,
                keep_parts=keep_parts,
            )
        )
        stack.push_async_callback(engine.close, STORING_SECONDS)
        yield engine, observations, folder


def _upstream(
    config: Config, place: Place | None, observations: Observations, bulletin: Bulletin | None, clock: Clock
) -> UpstreamClient:
    return UpstreamClient(
        {name: way(remote) for name, remote in config.remotes.items()},
        total_connections=config.limits.upstream_connections,
        observer=observations,
        clock=clock,
        bulletin=bulletin,
        peers=backends.peers_of(config, place, observations, clock),
    )


@contextmanager
def _use(config: Config, data: Path, *, serving: bool) -> Iterator[bool]:
    """Whether the instance had ended well before this one, where no embedded index tells; it is
    marked as in use until this ends well."""
    if config.index is None or not serving:
        yield True
        return
    clean = took(data)
    yield clean
    leave(data)


def claim(config: Config, data: Path) -> bool:
    """Mark the data folder as in use, for workers; whether the last stop was clean. Raises
    `IndexUnavailable`."""
    return backends.sqlite(config, data).claim() if config.index is None else took(data)


def disclaim(config: Config, data: Path) -> None:
    """All workers have ended well. Raises `IndexUnavailable`."""
    if config.index is None:
        backends.sqlite(config, data).disclaim()
    else:
        leave(data)


@asynccontextmanager
async def target(config: Config) -> AsyncIterator[tuple[backends.Index | None, BlobStore | None]]:
    """The index and the store across the network that a migration fills; None for those it does not."""
    async with AsyncExitStack() as stack:
        observations = observe(config)
        stack.callback(observations.close)
        index = bucket = None
        if config.index is not None:
            index, _ = await backends.open_index(
                stack, config, config.data, observations, time.time, owner=False, shared=False
            )
        if config.store is not None:
            bucket = await backends.open_bucket(
                stack, config.store, index or backends.Forgetful(), observations
            )
        yield index, bucket


@asynccontextmanager
async def offline(config: Config) -> AsyncIterator[Engine]:
    """The engine without a server, for commands. Raises `StoreUnavailable` beside a running one."""
    with closing(DataFolder(config.data)) as folder:
        async with running(config, folder=folder) as (engine, _, _):
            yield engine


@asynccontextmanager
async def token_desk(config: Config, clock: Clock = time.time) -> AsyncIterator[Desk]:
    """Tokens without a server; nothing but the index is opened. An embedded one is locked meanwhile:
    raises `StoreUnavailable` beside a running server."""
    async with AsyncExitStack() as stack:
        if config.index is None:
            stack.enter_context(closing(DataFolder(config.data)))
        observations = observe(config)
        stack.callback(observations.close)
        index, _ = await backends.open_index(
            stack, config, config.data, observations, clock, owner=False, shared=False
        )
        yield Desk(index.tokens, clock)


def tokens(engine: Engine, config: Config) -> tuple[Keys, Desk]:
    """Who is believed here, and what makes and ends tokens."""
    parts = engine.parts
    assert parts.tokens is not None
    pepper = config.cluster.secret if config.cluster is not None else ""
    keys = Keys(parts.tokens, parts.clock, bulletin=parts.bulletin, pepper=pepper)
    return keys, Desk(parts.tokens, parts.clock, keys)


class _Mounted(Mapping[str, Provider]):
    """The providers by repository, as they are mounted at the moment of asking. Repositories that take
    pushes are among them and have none: nobody can be asked for their rows again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, repo: str) -> Provider:
        mount = self._engine.mounts()[repo]
        if mount.local:
            raise KeyError(repo)
        return mount.provider

    def __contains__(self, repo: object) -> bool:
        return repo in self._engine.mounts()

    def __iter__(self) -> Iterator[str]:
        return iter(self._engine.mounts())

    def __len__(self) -> int:
        return len(self._engine.mounts())


def swap(
    engine: Engine, config: Config, mounts: Mapping[str, Mount], ways: Mapping[str, RemoteAccess]
) -> None:
    """Serve and reach these repositories from now on, and take the bounds that may change."""
    upstream = engine.parts.upstream
    if isinstance(upstream, UpstreamClient):
        upstream.replace(ways)
    engine.swap(mounts)
    budget = getattr(engine.parts.truth, "budget", None)
    if budget is not None and config.store is not None:
        options = config.store.options
        budget.resize(uploads=options.uploads, part_memory=options.part_memory)


def peers(engine: Engine) -> PeerClient | None:
    upstream = engine.parts.upstream
    return upstream.peers if isinstance(upstream, UpstreamClient) else None


def probe(remote: Remote) -> None:
    """Whether the files that this remote needs at run time can be used. Raises `ConfigError`."""
    if remote.egress.ca is not None:
        tls_context(str(remote.egress.ca))


def checkup(engine: Engine, data: Path, config: Config) -> tuple[Checkup, Rounds]:
    """What checks, mends and scrubs everything that this engine holds, by command and by itself."""
    parts = engine.parts
    survey, census = backends.survey(config, data, parts.clock), backends.census(config, data)
    healer, scrub, rounds = scrubbing(engine, data, config)
    scope = Scope(
        truth_of(parts),
        survey,
        census,
        parts.clock,
        providers=_Mounted(engine),
        temp_limit=temp_limit(config),
        live=True,
        since=parts.clock(),
        pinned=parts.bounds.pinned,
    )
    return Checkup(scope, mender(engine, survey, census, healer), scrub, lambda: alone(data)), rounds


def mender(engine: Engine, survey: StoreSurvey, census: Census, healer: Healer) -> Mender:
    parts = engine.parts
    return Mender(
        store=truth_of(parts),
        index=parts.index,
        ledger=parts.ledger,
        survey=survey,
        census=census,
        clock=parts.clock,
        pinned=parts.bounds.pinned,
        repos=_Mounted(engine),
        refetch=healer.refetch,
    )


def truth_of(parts: Parts) -> BlobStore:
    """What is checked and mended: the store itself, past copies of it."""
    return parts.truth if parts.truth is not None else parts.store


def temp_limit(config: Config) -> int:
    """Bytes that temporary files may hold: bodies on their way, and rendered documents, of each worker."""
    return config.workers * (config.limits.temp_bytes + config.limits.memo_file_bytes)


def scrubbing(engine: Engine, data: Path, config: Config) -> tuple[Healer, Scrub, Rounds]:
    """What gets damaged blobs back, by command and in the background."""
    parts, limits = engine.parts, config.limits
    healer = Healer(engine, truth_of(parts), parts.index, parts.ledger, parts.observer, parts.clock)
    position = Position(data / "scrub.json")
    scrub = Scrub(truth_of(parts), parts.ledger, healer, parts.observer, position, parts.clock)
    rounds = Rounds(
        scrub, position, parts.observer, parts.clock, rate=limits.scrub_rate, every=limits.scrub_every
    )
    return healer, scrub, rounds


def observe(config: Config) -> Observations:
    """The log and the metrics of one process. Raises OSError if the log cannot be opened."""
    return Observations(log(config), Metrics([*config.remotes, *config.locals]))


def log(config: Config) -> JsonLog:
    """Raises OSError if it cannot be opened."""
    fd = None
    if config.log.file is not None:
        fd = os.open(config.log.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    limits = config.limits
    log = JsonLog(2 if fd is None else fd, every=limits.log_every, size=limits.log_bytes)
    log.level = config.log.level
    return log


def mount(remote: Remote) -> Mount:
    return Mount(
        name=remote.name,
        provider=PROVIDERS[remote.provider](remote.site),
        policy=remote.policy,
        limits=remote.limits,
        upstreams=remote.upstreams,
        cold_ranges=remote.cold_ranges,
        download=remote.download,
    )


def mounts(config: Config) -> dict[str, Mount]:
    """Every repository, by name."""
    remotes = {name: mount(remote) for name, remote in config.remotes.items()}
    return remotes | {name: mount_of(local) for name, local in config.locals.items()}


def registry(engine: Engine, config: Config) -> Registry:
    """What answers for the repositories that take pushes."""
    tools, receiving, shelf = engine.kit()
    hosting = engine.parts.hosting
    assert hosting is not None
    return Registry(Kit(tools, hosting, receiving, shelf), config.locals)


def way(remote: Remote) -> RemoteAccess:
    """How this remote is reached."""
    return RemoteAccess(
        origins=remote.upstreams,
        credentials=dict.fromkeys(remote.upstreams, remote.auth) if remote.auth else {},
        plain=tuple(host for host in remote.site.file_hosts if host.startswith("http://")),
        allow_private=remote.allow_private,
        egress=remote.egress.proxy or "",
        no_proxy=remote.egress.no_proxy,
        ca=str(remote.egress.ca) if remote.egress.ca else "",
        limits=remote.limits,
        max_per_host=remote.download.max_per_host,
        via=VIA,
        tokens=remote.provider == "oci",
        realms=tuple(host if "://" in host else f"https://{host}" for host in remote.site.file_hosts),
    )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _hashing_threads(stack: AsyncExitStack) -> Executor | None:
    """One thread per core; with a single core hashing in the loop is faster (measured)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        return None
    threads = ThreadPoolExecutor(cores, thread_name_prefix="hash")
    stack.callback(threads.shutdown)
    return threads
