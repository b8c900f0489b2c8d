"""The only place that makes aiohttp sessions: one for each way out (egress, CA, address rules)."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.connector import Connection

from artifactproxy.errors import ConfigError
from artifactproxy.upstream.guard import GuardedResolver, Lookup, Network

KEEPALIVE = 15.0  # seconds an idle connection is kept


class Pool(aiohttp.TCPConnector):
    """A connector that reuses only silent connections.

    Bytes that arrive between two requests would be read as the answer to the next one (response
    queue shift), and a readable socket may also have been closed; either way it is not reused.
    `on_noise` hears of the host whose connection had such bytes.
    """

    on_noise: Callable[[str], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a connection is taken, or about to be."""
        return bool(self._acquired)

    async def _get(self, key: Any, traces: Any) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and _silent(connection.transport):
                return connection
            # It was fit to be reused when it was put back: since then something came.
            heard = protocol is not None and protocol.should_close
            if self.on_noise is not None and (heard or _has_bytes(connection.transport)):
                self.on_noise(key.host)
            connection.close()
        return None


def _busy(session: aiohttp.ClientSession) -> bool:
    connector = session.connector
    return isinstance(connector, Pool) and connector.busy


def _silent(transport: asyncio.Transport | None) -> bool:
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return not poll.poll(0)


def _has_bytes(transport: asyncio.Transport | None) -> bool:
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return False
    peeked = socket.socket(fileno=os.dup(sock.fileno()))
    try:
        return bool(peeked.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
    finally:
        peeked.close()


@dataclass(slots=True)
class Attempt:
    """One try over one connection: its deadline starts when the connection is there."""

    deadline: asyncio.Timeout
    first_byte: float
    reused: bool = False

    def connected(self, *, reused: bool) -> None:
        self.reused = reused
        if not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.first_byte)


@dataclass(frozen=True, slots=True)
class Way:
    """What a session depends on. `guarded` False: whatever address, for configured origins."""

    egress: str
    ca: str
    guarded: bool
    allow: tuple[Network, ...]


class Sessions:
    """Sessions by `Way`, made when first needed. `lookup` replaces the C library's resolver;
    `on_noise` hears of hosts that speak without being asked."""

    def __init__(self, lookup: Lookup | None = None, on_noise: Callable[[str], None] | None = None) -> None:
        self._lookup = lookup
        self._on_noise = on_noise
        self._sessions: dict[Way, aiohttp.ClientSession] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._retired: list[aiohttp.ClientSession] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    async def get(self, way: Way) -> aiohttp.ClientSession:
        """Raises `ConfigError` if the CA file cannot be read."""
        session = self._sessions.get(way)
        if session is not None:
            return session
        async with self._lock:
            session = self._sessions.get(way)
            if session is None:
                session = self._sessions[way] = self._make(way, await self._context(way.ca))
        return session

    def renew(self) -> None:
        """Sessions made from now on read their authorities anew; those in use end with their last
        connection."""
        self._retired += self._sessions.values()
        self._sessions.clear()
        self._contexts.clear()
        idle = [session for session in self._retired if not _busy(session)]
        self._retired = [session for session in self._retired if _busy(session)]
        for session in idle:
            task = asyncio.get_running_loop().create_task(session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _context(self, ca: str) -> ssl.SSLContext:
        if ca not in self._contexts:
            self._contexts[ca] = await asyncio.to_thread(tls_context, ca)
        return self._contexts[ca]

    def _make(self, way: Way, context: ssl.SSLContext) -> aiohttp.ClientSession:
        connector = Pool(
            resolver=GuardedResolver(guarded=way.guarded, allow=way.allow, lookup=self._lookup),
            ssl=context,
            limit=0,  # `Gates` bounds them, with a queue of its own
            limit_per_host=0,
            keepalive_timeout=KEEPALIVE,
        )
        connector.on_noise = self._on_noise
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trace_configs=[_tracing()],
        )
        session._retry_connection = False  # noqa: SLF001  it also repeats requests on fresh connections
        return session

    async def close(self) -> None:
        sessions = [*self._sessions.values(), *self._retired]
        self._sessions.clear()
        self._retired.clear()
        for session in sessions:
            await session.close()


def tls_context(ca: str = "", key: str = "egress.ca") -> ssl.SSLContext:
    """The system's trust, plus the certificates of the file `ca`; TLS 1.2 at least (the default)."""
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{key}: {ca} holds no certificates that can be read") from exc
    return context


def _tracing() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def created(_session: object, ctx: SimpleNamespace, _params: object) -> None:
        ctx.trace_request_ctx.connected(reused=False)

    async def reused(_session: object, ctx: SimpleNamespace, _params: object) -> None:
        ctx.trace_request_ctx.connected(reused=True)

    trace.on_connection_create_end.append(created)
    trace.on_connection_reuseconn.append(reused)
    return trace
