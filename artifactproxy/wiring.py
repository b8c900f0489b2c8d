"""The only place that picks adapters and builds the graph; start, serve and stop in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from artifactproxy.config import Config, Remote
from artifactproxy.coordination.local import LocalCoordinator
from artifactproxy.datadir import DataFolder
from artifactproxy.engine.engine import Engine, Parts
from artifactproxy.engine.janitor import Bounds
from artifactproxy.engine.mounts import Mount
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.observe.logs import JsonLog
from artifactproxy.observe.metrics import Metrics, Observations
from artifactproxy.ports import Observer
from artifactproxy.providers import PROVIDERS
from artifactproxy.stores.fs import FsStore
from artifactproxy.upstream.client import RemoteAccess, UpstreamClient

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
    async with running(config) as (engine, observations, folder):
        access = AccessRules(config.public_url, config.trusted_proxies, config.allowed_hosts)
        context = _tls_context(config, observations)
        server = WebServer(engine, observations, config.limits, access, context, via=VIA)
        try:
            host, port = await server.start(config.listen.host, config.listen.port)
            await server.start_unix(str(folder.control_socket))
            engine.start()
            for line in _greeting(config, engine.mounts(), _root(config, host, port)):
                announce(line)
            await stopping
            announce("stopping: waiting for answers under way; once more to stop at once")
            # A loopback listener has no balancer in front that must notice first.
            notice = 0.0 if _is_loopback(host) else config.limits.drain_notice
            await server.drain(notice, config.limits.drain)
        finally:
            await server.close()
    return 0


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[Engine, Observations, DataFolder]]:
    """The whole graph below the web floor, started; closed in reverse order."""
    async with AsyncExitStack() as stack:
        folder = DataFolder(config.data)
        stack.callback(folder.close)
        observations = _observations(config)
        stack.callback(observations.close)
        store = FsStore(folder.path)
        stack.push_async_callback(store.close)
        await store.start()
        index = SqliteIndex(
            folder.path / "index.sqlite3",
            negative_keys=config.limits.negative_keys,
            superseded_keep=config.limits.superseded_keep,
            ledger_keep=config.limits.ledger_keep,
        )
        await index.start()
        stack.push_async_callback(index.close)
        upstream = UpstreamClient(
            {name: _access(remote) for name, remote in config.remotes.items()},
            total_connections=config.limits.upstream_connections,
            observer=observations,
            clock=time.time,
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
                mounts={name: _mount(remote) for name, remote in config.remotes.items()},
                store=store,
                index=index,
                ledger=index,
                coordinator=coordinator,
                upstream=upstream,
                observer=observations,
                clock=time.time,
                limits=config.limits,
                bounds=Bounds(config.data_limit, store.free, store.pinned),
                new_path=store.temp_path,
                executor=executor,
                recheck=not index.was_clean,
            )
        )
        stack.push_async_callback(engine.close, STORING_SECONDS)
        yield engine, observations, folder


@asynccontextmanager
async def offline(config: Config) -> AsyncIterator[Engine]:
    """The engine without a server, for commands. Raises `StoreUnavailable` beside a running one."""
    async with running(config) as (engine, _, _):
        yield engine


def _observations(config: Config) -> Observations:
    fd = None
    if config.log.file is not None:
        fd = os.open(config.log.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    limits = config.limits
    log = JsonLog(2 if fd is None else fd, every=limits.log_every, size=limits.log_bytes)
    return Observations(log, Metrics(config.remotes))


def _mount(remote: Remote) -> Mount:
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
