"""The only place that picks adapters and builds the graph; start, serve and stop in order."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from artifactproxy.checkup.cases import Scope
from artifactproxy.checkup.checkup import Checkup
from artifactproxy.checkup.heal import Healer
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.repair import Mender
from artifactproxy.checkup.rounds import Rounds
from artifactproxy.checkup.scrub import Scrub
from artifactproxy.config import Config, Remote
from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.datadir import INDEX, DataFolder
from artifactproxy.engine.engine import Engine, Parts
from artifactproxy.engine.janitor import Bounds
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import ConfigError
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.observe.logs import JsonLog
from artifactproxy.observe.loopwatch import LoopWatch
from artifactproxy.observe.metrics import Metrics, Observations
from artifactproxy.ports import Clock, Observer
from artifactproxy.ports.checkup import Census, StoreSurvey
from artifactproxy.providers import PROVIDERS
from artifactproxy.stores.fs import FsStore
from artifactproxy.stores.survey import FsSurvey
from artifactproxy.upstream.client import RemoteAccess, UpstreamClient

PRIVATE = tuple(INDEX + side for side in ("", "-wal", "-shm"))
"""Beside the blobs, for the owner of the data folder only."""
# Our name in Via, another for each process: chained proxies are no loop.
VIA = f"artifactproxy-{secrets.token_hex(4)}"
STORING_SECONDS = 5.0  # for fills whose last byte came, after the last client has gone


def serve(config: Config, *, announce: Callable[[str], None]) -> int:
    """Run until SIGINT or SIGTERM; a second signal ends at once. Returns the exit code.

    Raises OSError if the address cannot be bound, `Fault` if the data folder cannot be used.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, announce))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _serve(config: Config, announce: Callable[[str], None]) -> int:
    from artifactproxy.web.access import AccessRules
    from artifactproxy.web.app import WebServer

    stopping = _stop_signals()
    _allow_open_files(config.limits.connections)
    async with running(config) as (engine, observations, folder):
        access = AccessRules(config.public_url, config.trusted_proxies, config.allowed_hosts)
        context = _tls_context(config, observations)
        checks, rounds = checkup(engine, folder.path, config)
        server = WebServer(engine, observations, config.limits, access, context, via=VIA, checkup=checks)
        watch = LoopWatch(observations, blocked=config.limits.loop_blocked)
        watch.start()
        try:
            host, port = await server.start(config.listen.host, config.listen.port)
            await server.start_unix(str(folder.control_socket))
            engine.start()
            rounds.start()
            for line in _greeting(config, engine.mounts(), _root(config, host, port)):
                announce(line)
            await stopping
            checks.stop()
            await rounds.close()
            announce("stopping: waiting for answers under way; once more to stop at once")
            # A loopback listener has no balancer in front that must notice first.
            notice = 0.0 if _is_loopback(host) else config.limits.drain_notice
            await server.drain(notice, config.limits.drain)
        finally:
            await rounds.close()
            await server.close()
            await checks.close()
            watch.close()
    return 0


@asynccontextmanager
async def running(
    config: Config, clock: Clock = time.time, *, folder: DataFolder | None = None
) -> AsyncIterator[tuple[Engine, Observations, DataFolder]]:
    """The whole graph below the web floor, started; closed in reverse order. A `folder` that the
    caller has locked is for a command: how the last serving process ended stays known."""
    _refuse_unwired(config)
    async with AsyncExitStack() as stack:
        serving = folder is None
        folder = folder or stack.enter_context(closing(DataFolder(config.data)))
        observations = _observations(config)
        stack.callback(observations.close)
        store = FsStore(folder.path, clock=clock)
        stack.push_async_callback(store.close)
        await store.start()
        if store.swept:
            observations.notice("temps_swept", files=store.swept)
            observations.increment("tmp_swept", store.swept)
        index = SqliteIndex(
            folder.path / INDEX,
            owner=serving,
            negative_keys=config.limits.negative_keys,
            superseded_keep=config.limits.superseded_keep,
            ledger_keep=config.limits.ledger_keep,
            busy_timeout=config.limits.index_wait,
            clock=clock,
        )
        await index.start()
        stack.push_async_callback(index.close)
        upstream = UpstreamClient(
            {name: _access(remote) for name, remote in config.remotes.items()},
            total_connections=config.limits.upstream_connections,
            observer=observations,
            clock=clock,
        )
        stack.push_async_callback(upstream.close)
        coordinator = LocalCoordinator(folder.path / "leases")
        await coordinator.start()
        stack.push_async_callback(coordinator.close)
        executor = _hashing_threads()
        if executor is not None:
            stack.callback(executor.shutdown)
        engine = Engine(
            Parts(
                mounts={name: mount(remote) for name, remote in config.remotes.items()},
                store=store,
                index=index,
                ledger=index,
                coordinator=coordinator,
                upstream=upstream,
                observer=observations,
                clock=clock,
                limits=config.limits,
                bounds=Bounds(config.data_limit, store.free, store.pinned),
                new_path=store.temp_path,
                executor=executor,
                recheck=not index.was_clean,
            )
        )
        stack.push_async_callback(engine.close, STORING_SECONDS)
        yield engine, observations, folder


def _refuse_unwired(config: Config) -> None:
    chosen = {"s3": config.store, "postgres": config.index, "redis": config.coordination}
    for name, options in chosen.items():
        if options is not None:
            raise ConfigError(f"{name} is not available in this version")
    if config.workers > 1:
        raise ConfigError("more than one worker is not available in this version")


@asynccontextmanager
async def offline(config: Config) -> AsyncIterator[Engine]:
    """The engine without a server, for commands. Raises `StoreUnavailable` beside a running one."""
    with closing(DataFolder(config.data)) as folder:
        async with running(config, folder=folder) as (engine, _, _):
            yield engine


def checkup(engine: Engine, data: Path, config: Config) -> tuple[Checkup, Rounds]:
    """What checks, mends and scrubs everything that this engine holds, by command and by itself."""
    parts = engine.parts
    survey = FsSurvey(data, private=PRIVATE, clock=parts.clock)
    census = SqliteCensus(data / INDEX)
    healer, scrub, rounds = scrubbing(engine, data, config)
    scope = Scope(
        parts.store,
        survey,
        census,
        parts.clock,
        providers={name: each.provider for name, each in parts.mounts.items()},
        temp_limit=temp_limit(config),
        live=True,
        since=parts.clock(),
        pinned=parts.bounds.pinned,
    )
    return Checkup(scope, mender(engine, survey, census, healer), scrub), rounds


def mender(engine: Engine, survey: StoreSurvey, census: Census, healer: Healer) -> Mender:
    parts = engine.parts
    return Mender(
        store=parts.store,
        index=parts.index,
        ledger=parts.ledger,
        survey=survey,
        census=census,
        clock=parts.clock,
        pinned=parts.bounds.pinned,
        repos=parts.mounts,
        refetch=healer.refetch,
    )


def temp_limit(config: Config) -> int:
    """Bytes that temporary files may hold: bodies on their way, and rendered documents."""
    return config.limits.temp_bytes + config.limits.memo_file_bytes


def scrubbing(engine: Engine, data: Path, config: Config) -> tuple[Healer, Scrub, Rounds]:
    """What gets damaged blobs back, by command and in the background."""
    parts, limits = engine.parts, config.limits
    healer = Healer(engine, parts.store, parts.index, parts.ledger, parts.observer, parts.clock)
    position = Position(data / "scrub.json")
    scrub = Scrub(parts.store, parts.ledger, healer, parts.observer, position, parts.clock)
    rounds = Rounds(
        scrub, position, parts.observer, parts.clock, rate=limits.scrub_rate, every=limits.scrub_every
    )
    return healer, scrub, rounds


def _observations(config: Config) -> Observations:
    fd = None
    if config.log.file is not None:
        fd = os.open(config.log.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    limits = config.limits
    log = JsonLog(2 if fd is None else fd, every=limits.log_every, size=limits.log_bytes)
    return Observations(log, Metrics(config.remotes))


def mount(remote: Remote) -> Mount:
    return Mount(
        name=remote.name,
        provider=PROVIDERS[remote.provider](remote.site),
        policy=remote.policy,
        limits=remote.limits,
        upstreams=remote.upstreams,
        cold_ranges=remote.cold_ranges,
    )


def _access(remote: Remote) -> RemoteAccess:
    return RemoteAccess(
        origins=remote.upstreams,
        credentials=dict.fromkeys(remote.upstreams, remote.auth) if remote.auth else {},
        plain=tuple(host for host in remote.site.file_hosts if host.startswith("http://")),
        allow_private=remote.allow_private,
        egress=remote.egress.proxy or "",
        no_proxy=remote.egress.no_proxy,
        ca=str(remote.egress.ca) if remote.egress.ca else "",
        limits=remote.limits,
        via=VIA,
    )


def _hashing_threads() -> Executor | None:
    """One thread per core; with a single core hashing in the loop is faster (measured)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="hash") if cores > 1 else None


def _allow_open_files(connections: int) -> None:
    """Raise this process's own limit where the system's lets us: many shells start at 1,024."""
    from artifactproxy.web.connection import CONNECTIONS_SHARE

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = math.ceil(connections / CONNECTIONS_SHARE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    with suppress(OSError, ValueError):  # macOS refuses what is above a limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stop_signals() -> asyncio.Future[None]:
    """Resolves at the first SIGINT or SIGTERM; the second kills at once."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if stopping.done():
            os._exit(1)
        stopping.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return stopping


def _tls_context(config: Config, observer: Observer) -> ssl.SSLContext | None:
    """What the listener speaks TLS with; SIGHUP reads the files again."""
    if config.tls is None:
        return None
    from artifactproxy.web.tls import Certificate

    certificate = Certificate(config.tls.cert, config.tls.key, observer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.reload)
    return certificate.context


def _root(config: Config, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return config.public_url or f"{'https' if config.tls else 'http'}://{shown}:{port}"


def _greeting(config: Config, mounts: Mapping[str, Mount], root: str) -> list[str]:
    """What a new user needs: the address, what is mounted, and how each client uses it."""
    lines = [f"artifactproxy listens on {root}", f"data in {config.data.absolute()}", ""]
    for name, mount in mounts.items():
        upstreams = ", ".join(mount.upstreams) or "no upstream"
        lines.append(f"  {root}/{name}/  ({mount.provider.name} from {upstreams})")
    lines.append("")
    for name, mount in mounts.items():
        for client in mount.provider.clients:
            if client.command:
                command = client.command.replace("{base}", f"{root}/{name}").replace("{origin}", root)
                command = command.replace("{host}", urlsplit(root).hostname or "")
                lines.append(f"  {client.client + ':':9} {command}")
    lines += ["", f"more clients: {root}/setup"]
    return lines


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")
