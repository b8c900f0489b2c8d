"""Serving, as one process or as one of several: start, signals, TLS, greeting, stop in order."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifactproxy import backends, wiring
from artifactproxy.channel import KEEP_EVERY, Channel
from artifactproxy.config import Config
from artifactproxy.engine.engine import Engine
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import ConfigError
from artifactproxy.observe.loopwatch import LoopWatch
from artifactproxy.observe.metrics import Observations
from artifactproxy.place import Place
from artifactproxy.reload import Reload, Reread, Running, access_rules, rejected, unpacked
from artifactproxy.web.app import WebServer
from artifactproxy.web.connection import CONNECTIONS_SHARE
from artifactproxy.web.contract import Numbers
from artifactproxy.web.internal import Internal
from artifactproxy.web.tls import Certificate

STOPPING = "stopping: waiting for answers under way; once more to stop at once"

Announce = Callable[[str], None]


def serve(config: Config, *, announce: Announce, reread: Reread | None = None) -> int:
    """Run until SIGINT or SIGTERM; a second signal ends at once. Returns the exit code. `reread` gives
    the configuration anew, for SIGHUP and the command `reload`.

    Raises OSError if the address cannot be bound, `Fault` if the data folder cannot be used.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_alone(config, announce, reread))


def work(config: Config, place: Place) -> int:
    """The same as one of several workers, until the supervisor says so. Raises as `serve`."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_as_worker(config, place))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _alone(config: Config, announce: Announce, reread: Reread | None) -> int:
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()
    _on_stop_signals(stopping)
    async with wiring.running(config) as (engine, observations, folder):
        serving = _Serving(config, engine, observations, folder.path)
        reload = serving.reload = Reload(serving.running, reread)
        loop.add_signal_handler(signal.SIGHUP, reload.by_signal)
        try:
            host, port = await serving.server.start(config.listen.host, config.listen.port)
            await serving.server.start_unix(str(folder.control_socket))
            serving.start()
            for line in greeting(config, engine.mounts(), root_of(config, host, port)):
                announce(line)
            await stopping
            announce(STOPPING)
            await serving.drain(loopback=is_loopback(host))
        finally:
            await serving.close()
    return 0


async def _as_worker(config: Config, place: Place) -> int:
    channel, loop = place.channel, asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopping.done():
            stopping.set_result(None)

    channel.stopped = stop
    channel.broken = lambda: os._exit(1)
    loop.add_signal_handler(signal.SIGTERM, stop)
    await channel.open()
    async with wiring.running(config, place=place) as (engine, observations, folder):
        _succeed(observations, place)
        serving = _Serving(config, engine, observations, folder.path, place)
        serving.reload = channel.reload
        _answer_siblings(channel, serving)
        try:
            host, _ = await serving.server.start("", 0, inherited=place.listeners)
            await serving.server.start_unix("", inherited=place.control)
            await serving.server.start_family(place.socket_path)
            serving.start()
            channel.say({"is": "listening"})
            keeping = loop.create_task(_keep(channel, observations), name="keep")
            await stopping
            keeping.cancel()
            await serving.drain(loopback=is_loopback(host))
        finally:
            await serving.close()
        channel.keep(observations.numbers())
    return 0


def _succeed(observations: Observations, place: Place) -> None:
    """What the worker before this one had counted goes on here, so that no counter goes down."""
    if place.kept is not None:
        observations.metrics.add(dict(place.kept), counters_only=True)
    if place.again:
        observations.increment("workers_restarted")


async def _keep(channel: Channel, observations: Observations) -> None:
    while True:
        await asyncio.sleep(KEEP_EVERY)
        channel.keep(observations.numbers())


def _answer_siblings(channel: Channel, serving: _Serving) -> None:
    """And the supervisor, which hands a new configuration on."""
    server, running = serving.server, serving.running

    async def numbers(_: Any) -> Numbers:
        return server.numbers()

    async def under_way(_: Any) -> dict[str, Any]:
        return serving.engine.states()

    async def reload(text: str) -> dict[str, Any]:
        try:
            running.apply(unpacked(text))
        except ConfigError as error:
            return rejected(error)
        return {"result": "accepted"}

    async def reloaded(told: dict[str, Any]) -> None:
        running.note(told)

    channel.answer("numbers", numbers)
    channel.answer("running", under_way)
    channel.answer("explain", server.explain)
    channel.answer("reload", reload)
    channel.answer("reloaded", reloaded)


class _Serving:
    """The web floor over a running graph, and what runs beside it."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        observations: Observations,
        data: Path,
        place: Place | None = None,
    ) -> None:
        """Raises `ConfigError` where the certificate is no good."""
        _allow_open_files(config.limits.connections)
        certificate = None
        if config.tls is not None:
            certificate = Certificate(config.tls.cert, config.tls.key, observations)
        self.engine = engine
        self._checks, self._rounds = wiring.checkup(engine, data, config)
        self._watch = LoopWatch(observations, blocked=config.limits.loop_blocked)
        self._watch.start()
        self._keys, desk = wiring.tokens(engine, config)
        self._registry = wiring.registry(engine, config)
        self.server = WebServer(
            engine,
            observations,
            config.limits,
            access_rules(config),
            certificate.context if certificate else None,
            via=wiring.VIA,
            checkup=self._checks,
            siblings=place.channel if place else None,
            reload=self._read_again,
            internal=_internal(config, engine, observations, place),
            keys=self._keys,
            registry=self._registry,
            tokens=desk,
            clock=engine.parts.clock,
        )
        self.running = Running(config, engine, observations, self.server, certificate)
        self.reload: Callable[[], Awaitable[dict[str, Any]]] = Reload(self.running, None)

    async def _read_again(self) -> dict[str, Any]:
        return await self.reload()

    def start(self) -> None:
        self.engine.start()
        self._registry.start()
        self._rounds.start()

    async def drain(self, *, loopback: bool) -> None:
        self._checks.stop()
        await self._rounds.close()
        limits = self.running.config.limits
        # A loopback listener has no balancer in front that must notice first.
        await self.server.drain(0.0 if loopback else limits.drain_notice, limits.drain)

    async def close(self) -> None:
        await self._rounds.close()
        await self.server.close()
        await self._registry.close()
        await self._checks.close()
        await self._keys.close()
        self._watch.close()


def _internal(
    config: Config, engine: Engine, observations: Observations, place: Place | None
) -> Internal | None:
    """What this process answers those that follow it; None where there are no others."""
    secret = backends.secret_of(config, place)
    if not secret:
        return None
    return Internal(
        engine.offer,
        secret,
        observations,
        engine.parts.clock,
        peers=wiring.peers(engine),
        worker=place.number if place else 0,
        sockets=place.sockets if place else None,
    )


def _allow_open_files(connections: int) -> None:
    """Raise this process's own limit where the system's lets us: many shells start at 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = math.ceil(connections / CONNECTIONS_SHARE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    with suppress(OSError, ValueError):  # macOS refuses what is above a limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _on_stop_signals(stopping: asyncio.Future[None]) -> None:
    """Resolves at the first SIGINT or SIGTERM; the second kills at once."""

    def stop() -> None:
        if stopping.done():
            os._exit(1)
        stopping.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def root_of(config: Config, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return config.public_url or f"{'https' if config.tls else 'http'}://{shown}:{port}"


def greeting(config: Config, mounts: Mapping[str, Mount], root: str) -> list[str]:
    """What a new user needs: the address, what is mounted, and how each client uses it."""
    lines = [f"artifactproxy listens on {root}", f"data in {config.data.absolute()}", ""]
    for name, mount in mounts.items():
        upstreams = ", ".join(mount.upstreams) or "no upstream"
        whence = "takes pushes" if mount.local else f"from {upstreams}"
        lines.append(f"  {root}/{name}/  ({mount.provider.name} {whence})")
    lines.append("")
    for name, mount in mounts.items():
        for client in mount.provider.clients:
            if client.command:
                command = client.command.replace("{base}", f"{root}/{name}").replace("{origin}", root)
                command = command.replace("{host}", urlsplit(root).hostname or "")
                lines.append(f"  {client.client + ':':9} {command}")
    if config.read == "token":
        lines += ["", "reading needs a token: artifactproxy token create NAME --scope read"]
    lines += ["", f"more clients: {root}/setup"]
    return lines


def is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")
