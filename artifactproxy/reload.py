"""A configuration that is read again while the program runs comes into force as a whole, or not at all.

Everything is read, judged and built anew before one reference is swapped. Requests go on with what
they began with. What a running process cannot change is named, and the rest applies.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from artifactproxy import wiring
from artifactproxy.config import Config, Log
from artifactproxy.config.strict import BYTES_MAX
from artifactproxy.engine.engine import Engine
from artifactproxy.errors import ConfigError
from artifactproxy.limits import Limits
from artifactproxy.observe.metrics import Observations
from artifactproxy.web.access import AccessRules
from artifactproxy.web.app import WebServer
from artifactproxy.web.tls import Certificate

Reread = Callable[[], Config]
"""Reads every layer again. Raises `ConfigError` with all that is wrong."""

# Made once at the start, or agreed upon with other processes.
_FIXED = ("listen", "data", "data_limit", "workers", "index", "coordination", "cluster", "locals")
_FREE = ("public_url", "trusted_proxies", "allowed_hosts", "read", "oci_default")
_FREE_LIMITS = frozenset({"drain", "drain_notice"})
_CHARACTER_BYTES = 4  # at most, in UTF-8


@dataclass(frozen=True, slots=True)
class Change:
    """`config` is what may come into force now; `changed` and `restart` are keys, as they are written."""

    config: Config
    changed: tuple[str, ...]
    restart: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        return {"result": "accepted", "changed": list(self.changed), "needs_restart": list(self.restart)}


def rejected(error: Exception) -> dict[str, Any]:
    return {"result": "rejected", "reasons": str(error).splitlines()}


def compare(old: Config, new: Config) -> Change:
    """What of the `new` configuration a process that runs with the `old` one can take."""
    changed = [_WRITTEN.get(name, name) for name in _FREE if getattr(old, name) != getattr(new, name)]
    restart = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    changed += [
        f"remotes.{name}"
        for name in sorted(old.remotes.keys() | new.remotes.keys())
        if old.remotes.get(name) != new.remotes.get(name)
    ]
    tls = new.tls
    if (old.tls is None) != (new.tls is None):
        restart.append("tls")
        tls = old.tls
    elif old.tls != new.tls:
        changed.append("tls")
    if old.log.level != new.log.level:
        changed.append("log.level")
    if old.log.file != new.log.file:
        restart.append("log.file")
    store = _store(old, new, changed, restart)
    limits = _limits(old.limits, new.limits, changed, restart)
    kept = {name: getattr(old, name) for name in _FIXED}
    log = Log(old.log.file, new.log.level)
    config = replace(new, **kept, tls=tls, log=log, store=store, limits=limits)
    return Change(config, tuple(changed), tuple(restart))


_WRITTEN = {"read": "access.read"}


def _store(old: Config, new: Config, changed: list[str], restart: list[str]) -> Any:
    store = old.store
    bounds: dict[str, Any]
    if old.store is not None and new.store is not None:
        wanted = new.store.options
        bounds = {"uploads": wanted.uploads, "part_memory": wanted.part_memory}
        changed += [f"store.{name}" for name, n in bounds.items() if getattr(old.store.options, name) != n]
        store = replace(old.store, options=replace(old.store.options, **bounds))
    if store != new.store:
        restart.append("store")
    return store


def _limits(old: Limits, new: Limits, changed: list[str], restart: list[str]) -> Limits:
    taken: dict[str, Any] = {}
    for name in (field.name for field in fields(Limits)):
        value = getattr(new, name)
        if value == getattr(old, name):
            continue
        if name in _FREE_LIMITS:
            taken[name] = value
            changed.append(f"limits.{name}")
        else:
            restart.append(f"limits.{name}")
    return replace(old, **taken)


def judge_file(path: Path | None) -> None:
    """Before it is read beside running requests: nothing endless, and nothing that makes us wait.
    Raises `ConfigError`."""
    if path is None:
        return
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: cannot be read: {why}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: is not an ordinary file")
    if found.st_size > BYTES_MAX * _CHARACTER_BYTES:
        raise ConfigError(f"{path}: is longer than {BYTES_MAX} characters")


def fresh(reread: Reread, old: Config) -> Change:
    """Read, judge and try everything; nothing has changed afterwards. Raises `ConfigError`."""
    change = compare(old, reread())
    _build(change.config)
    for remote in change.config.remotes.values():
        wiring.probe(remote)
    return change


def packed(config: Config) -> str:
    """For the workers, which are the same program; it holds secrets."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpacked(text: str) -> Config:
    config = pickle.loads(base64.b64decode(text))  # noqa: S301  our own supervisor wrote it
    assert isinstance(config, Config)
    return config


@dataclass(frozen=True, slots=True)
class _Built:
    mounts: dict[str, Any]
    ways: dict[str, Any]
    access: AccessRules


def access_rules(config: Config) -> AccessRules:
    """Raises ValueError."""
    return AccessRules(
        config.public_url,
        config.trusted_proxies,
        config.allowed_hosts,
        config.oci_default or "",
        open_reading=config.read == "open",
    )


def _build(config: Config) -> _Built:
    """Raises `ConfigError`."""
    try:
        return _Built(
            wiring.mounts(config),
            {name: wiring.way(remote) for name, remote in config.remotes.items()},
            access_rules(config),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


class Running:
    """One process and the `config` in force in it."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        observations: Observations,
        server: WebServer,
        certificate: Certificate | None,
    ) -> None:
        self.config = config
        self._engine = engine
        self._observations = observations
        self._server = server
        self._certificate = certificate

    def apply(self, config: Config) -> None:
        """Swap what follows the configuration. Raises `ConfigError` before anything has changed."""
        built = _build(config)
        if self._certificate is not None and config.tls is not None:
            self._certificate.follow(config.tls.cert, config.tls.key)
        wiring.swap(self._engine, config, built.mounts, built.ways)
        self._observations.metrics.repos = frozenset([*config.remotes, *config.locals])
        self._observations.log.level = config.log.level
        self._server.admit(built.access)
        self.config = config

    def note(self, told: dict[str, Any]) -> None:
        """Log and count what came of a reload, once for all workers."""
        self._observations.increment("config_reload", result=told["result"])
        facts = {name: "; ".join(value) for name, value in told.items() if isinstance(value, list) and value}
        tell = self._observations.notice if told["result"] == "accepted" else self._observations.warning
        tell("config_reload", result=told["result"], **facts)


class Reload:
    """For a process that serves alone; one at a time."""

    def __init__(self, running: Running, reread: Reread | None) -> None:
        self._running = running
        self._reread = reread
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()

    async def __call__(self) -> dict[str, Any]:
        """What came of it: `result`, and `reasons`, or `changed` and `needs_restart`."""
        async with self._turn:
            old = self._running.config
            try:
                change = await asyncio.to_thread(fresh, self._reread or (lambda: old), old)
                self._running.apply(change.config)
            except ConfigError as error:
                told = rejected(error)
            else:
                told = change.told()
            self._running.note(told)
        return told

    def by_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
