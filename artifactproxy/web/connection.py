"""One client connection: aiohttp's protocol with our own refusals, write waits and resets.

aiohttp parses and frames requests; what leaves on the socket is written by `respond.py`. Measured
facts this file stands on: aiohttp's own 400 page echoes its input, it never gives up on a client
that stops reading, and closing a transport ends a cut body with a clean FIN.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import http_parser, web
from packaging.version import Version

from artifactproxy.errors import ConfigError
from artifactproxy.limits import Limits
from artifactproxy.web.framing import keep_to_the_letter

_OLDEST = Version("3.14.5")
_LINGER_NONE = struct.pack("ii", 1, 0)
CONNECTIONS_SHARE = 0.6  # of the open files that the system allows
_SIOCOUTQ = 0x5411  # Linux: bytes that the peer has not acknowledged yet


def require_aiohttp(version: str) -> None:
    """Older releases have known request smuggling faults. Raises `ConfigError`."""
    if Version(version) < _OLDEST:
        raise ConfigError(f"aiohttp {version} is too old: {_OLDEST} or newer is needed")


require_aiohttp(aiohttp.__version__)


def parser_name() -> str:
    """`c` or `python`: which request parser aiohttp uses."""
    is_python = http_parser.HttpRequestParser is http_parser.HttpRequestParserPy
    return "python" if is_python else "c"


class ClientGone(Exception):
    """The client closed, or took no byte for too long: `reason` is `client_left` or `client_slow`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Done(web.StreamResponse):
    """Tells aiohttp that the answer has already left; two shared instances, never written to."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep_alive = keep

    async def prepare(self, request: web.BaseRequest) -> None:
        del request

    async def write_eof(self, data: bytes = b"") -> None:
        del data


KEPT = Done(keep=True)
CLOSED = Done(keep=False)


class Connection(web.RequestHandler):
    """A protocol instance; `refused` marks one that came when all places were taken."""

    __slots__ = ("_head_begun", "_in_timer", "_room", "_started", "listener", "peer", "refused", "secure")

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        keep_to_the_letter(self._parser)
        self.listener = listener
        self.peer = ""
        self.secure = False
        self.refused = False
        self._head_begun = False
        self._in_timer = False
        self._started = False
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        taken, places = len(self.listener.connections), self.listener.places
        self.refused = taken > places
        if self.refused:
            self.listener.note_crowd()
        if taken > places + max(16, places // 8):
            self.listener.turned_away()
            self.reset()

    async def start(self) -> None:
        """Aiohttp's loop over the requests; a client that never takes its last answer is cut off."""
        self._started = True
        await super().start()
        self._abort_if_stuck()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Where aiohttp goes on waiting for a request, what came is the beginning of one. On uvloop the
        # first bytes may come before it has begun to wait.
        waits = self._waiter is not None and not self._waiter.done()
        self._head_begun = waits or not (self._started or self._messages)

    def _process_keepalive(self) -> None:
        """Aiohttp's timer of idle connections, which also covers a head that does not end."""
        self._in_timer = True
        super()._process_keepalive()
        self._in_timer = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    async def room(self, stall: float) -> None:
        """Wait until the transport takes more bytes.

        Raises `ClientGone` when the client left, or when for `stall` seconds not one byte was
        acknowledged. The kernel's own queue counts as progress, because a slow reader may need
        minutes before a full socket buffer becomes writable again.
        """
        pending = self.pending()
        while self.writing_paused and self.transport is not None:
            self._room = self._loop.create_future()
            done, _ = await asyncio.wait((self._room,), timeout=stall)
            if not done:
                left = self.pending()
                if left >= pending:
                    raise ClientGone("client_slow")
                pending = left
        if self.transport is None or self.transport.is_closing():
            raise ClientGone("client_left")

    async def flushed(self, stall: float) -> None:
        """Wait until nothing of ours is left in the transport. Raises `ClientGone`."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGone("client_left")
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)
            try:
                await self.room(stall)
            finally:
                transport.set_write_buffer_limits()

    def pending(self) -> int:
        """Bytes written by us that the client's machine has not acknowledged."""
        if self.transport is None:
            return 0
        return self.transport.get_write_buffer_size() + _unacknowledged(self.transport)

    def reset(self) -> None:
        """End the connection so that the client cannot mistake what it has for a whole answer."""
        transport = self.transport
        if transport is None:
            return
        with contextlib.suppress(OSError):
            own = own_socket(transport)
            if own is not None:
                with own:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        transport.abort()

    def force_close(self) -> None:
        """Close once what is written has gone out; a client that takes none of it is cut off."""
        if self._in_timer and self._head_begun:
            self.listener.refuse(self, 408)
            self._hear_out()
            self._loop.call_later(self._lingering_time, self.force_close)
            return
        self._abort_if_stuck()
        super().force_close()

    def _hear_out(self) -> None:
        """Say no more, but take in what still comes: bytes for a closed socket are answered with a
        reset, which would take our last answer away from the client again."""
        self._close = True  # aiohttp throws away what it is given from now on
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def _abort_if_stuck(self) -> None:
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            self._loop.call_later(self.listener.stall, transport.abort)

    def is_idle(self) -> bool:
        return self._current_request is None and not self._request_in_progress and not self._messages

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What aiohttp could not handle goes to our log, not to its logger."""
        cause = kw.get("exc_info")
        if isinstance(cause, web.RequestPayloadError):
            return  # the body behind an answer that is already written: the client's fault, and told
        self.listener.report(repr(cause) if isinstance(cause, Exception) else str(args[:1]))

    def _make_error_handler(
        self, err_info: Any
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """For what aiohttp's parser refused."""

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            del request
            self.listener.refuse(self, err_info.status)
            self._hear_out()
            await asyncio.sleep(self._lingering_time)  # ends early when the client closes
            return CLOSED

        return refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp refuses (its parser's 400s) in our own words, never what the client sent."""
        del request, exc, message
        self.listener.refuse(self, status)
        return CLOSED


class Listener(web.Server):
    """aiohttp's connection factory with a bound on how many there are.

    `refuse(connection, status)` writes the answer to a request that could not be read; `report`
    takes what went wrong inside aiohttp; `crowded` hears when the places begin to be all taken, and
    `turned_away` of every connection that is not even answered.
    """

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        refuse: Callable[[Connection, int], None],
        report: Callable[[str], None],
        limits: Limits,
        *,
        crowded: Callable[[], None] = lambda: None,
        turned_away: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(answer, handler_cancellation=True)
        self.refuse = refuse
        self.report = report
        self.turned_away = turned_away
        self.places = places(limits.connections, descriptors())
        self._crowded = crowded
        self._is_crowded = False
        self.stall = limits.send_stall
        self._options: dict[str, Any] = {
            "auto_decompress": False,
            "keepalive_timeout": limits.keepalive,
            "lingering_time": limits.lingering,
            "max_line_size": limits.request_line,
            "max_field_size": limits.header,
            "max_headers": limits.headers,
            "access_log": None,
        }

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._options)

    def open_connections(self) -> list[Connection]:
        return cast("list[Connection]", self.connections)

    def note_crowd(self) -> None:
        if not self._is_crowded:
            self._is_crowded = True
            self._crowded()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if self._is_crowded and len(self.connections) < self.places - self.places // 8:
            self._is_crowded = False


def places(wanted: int, limit: int | None) -> int:
    """How many connections are taken where this process may have `limit` open files (None: any
    number): files, upstreams and databases need the rest."""
    return wanted if limit is None else max(1, min(wanted, int(limit * CONNECTIONS_SHARE)))


def descriptors() -> int | None:
    """How many files this process may have open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def own_socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    """A duplicate of the transport's socket, which the loop does not watch; the caller closes it.
    None where there is none, or where no descriptor is left for it."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return None
    try:
        own = socket.fromfd(sock.fileno(), sock.family, sock.type)
    except OSError:
        return None
    own.setblocking(False)
    return own


def _unacknowledged(transport: asyncio.BaseTransport) -> int:
    if sys.platform != "linux":
        return 0
    import fcntl

    sock = transport.get_extra_info("socket")
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0"))
    except (OSError, AttributeError):
        return 0
    return int(count)
