"""The web floor's front: a request comes in through the door, one answer goes out.

No router and no middleware: the first segment of the judged path says who answers. Everything
that can go wrong before the first byte becomes a page here; afterwards `respond.py` resets.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
import ssl as tls
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, Busy, Fault, HeadSlow, MethodRefused
from artifactproxy.limits import Limits
from artifactproxy.model import Ask
from artifactproxy.providers._base import Page
from artifactproxy.rules.paths import RESERVED
from artifactproxy.web.access import AccessRules
from artifactproxy.web.admin import QUIET, Pages
from artifactproxy.web.bodies import Bodies, drained
from artifactproxy.web.connection import ClientGone, Connection, Listener, descriptors, parser_name
from artifactproxy.web.contract import CheckupLike, EngineLike, WebObserver
from artifactproxy.web.control import Control
from artifactproxy.web.door import Door, Entry
from artifactproxy.web.faults import error_answer, plain_page
from artifactproxy.web.head import SERVER
from artifactproxy.web.respond import Exchange, Line, VersionRefused
from artifactproxy.web.setup import judge_format

READING = frozenset({"GET", "HEAD"})
RELAYING = READING | {"POST"}  # all that any provider may be asked about
BACKLOG = 1024
SOCKET_NAME_MAX = 107  # bytes of sun_path on Linux, without the closing NUL
MOMENT = 0.1
_POLL = 0.02

# Of requests that never came as far as the door.
_UNREAD: dict[int, Callable[[], Fault]] = {
    400: lambda: BadRequest("the request is not well-formed HTTP/1.1"),
    408: lambda: HeadSlow("the request did not arrive in time"),
}

_Route = Callable[[web.BaseRequest, Exchange], Awaitable[Answer]]


class WebServer:
    """Repositories on TCP (with TLS if `ssl` is given) and control on a Unix socket.

    `via` is the pseudonym that this instance writes into Via towards upstream; a request that
    carries it has come round in a circle.
    """

    def __init__(
        self,
        engine: EngineLike,
        observer: WebObserver,
        limits: Limits,
        access: AccessRules,
        ssl: tls.SSLContext | None = None,
        *,
        via: str = SERVER,
        checkup: CheckupLike | None = None,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self._limits = limits
        self._ssl = ssl
        self._door = Door(limits, access, via)
        self._bodies = Bodies(limits)
        self._control = Control(engine, access, checkup)
        self._closing = False
        prefix = secrets.token_hex(4)
        self._ids = (f"{prefix}{n:08x}" for n in itertools.count(1))
        self._servers: list[asyncio.AbstractServer] = []
        self._socket_path: Path | None = None
        self._repositories = Listener(
            *(self._serve, self._refuse, self._report, limits),
            crowded=self._crowded,
            turned_away=lambda: observer.increment("rejected", reason="connections"),
        )
        self._commands = Listener(self._serve_command, self._refuse, self._report, limits)
        self._pages = Pages(engine, observer, access, lambda: len(self._repositories.connections))

    async def start(self, host: str, port: int, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen, on `sock` if one was inherited; returns the bound address. Raises OSError."""
        loop = asyncio.get_running_loop()
        place: dict[str, Any] = (
            {"sock": sock} if sock is not None else {"host": host, "port": port, "reuse_address": True}
        )
        if self._ssl is not None:
            # A handshake is what comes before a request's head, and as patiently waited for.
            place |= {
                "ssl": self._ssl,
                "ssl_handshake_timeout": self._limits.keepalive,
                "ssl_shutdown_timeout": self._limits.lingering or MOMENT,
            }
        server = await loop.create_server(
            cast("Callable[[], asyncio.Protocol]", self._repositories), backlog=BACKLOG, **place
        )
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        parser = parser_name()
        if self._repositories.places < self._limits.connections:
            self._observer.notice(
                "connections_lowered",
                wanted=self._limits.connections,
                connections=self._repositories.places,
                open_files=descriptors() or 0,
            )
        self._observer.notice(
            "listening", host=bound[0], port=bound[1], aiohttp=aiohttp.__version__, parser=parser
        )
        if parser != "c":
            self._observer.warning(
                "slow_parser",
                parser=parser,
                chunked_bodies="refused",
                fix="install aiohttp with its C extensions",
            )
        return str(bound[0]), int(bound[1])

    async def start_unix(self, path: str) -> None:
        """Listen for commands at `path`, for this user only. Raises OSError."""
        place = Path(path)
        _remove_socket(place)
        server = await asyncio.get_running_loop().create_unix_server(
            cast("Callable[[], asyncio.Protocol]", self._commands), sock=_bound(place)
        )
        self._servers.append(server)
        self._socket_path = place

    async def drain(self, notice: float, timeout: float) -> None:  # noqa: ASYNC109  (a stage of its own)
        """Stop in order: unready for `notice` seconds, then no new connections, then `timeout`
        seconds for answers under way; what is left is reset."""
        self._pages.draining = True
        await asyncio.sleep(notice)
        self._closing = True
        for server in self._servers:
            server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._close_idle():  # noqa: ASYNC110  (connections end by themselves)
                    await asyncio.sleep(_POLL)
        await self.close()

    async def close(self) -> None:
        """Stop now; answers under way are reset."""
        self._closing = self._pages.draining = True
        for server in self._servers:
            server.close()
        for connection in self._all_connections():
            connection.reset()
        while self._all_connections():  # noqa: ASYNC110  (aiohttp has no event for it)
            await asyncio.sleep(_POLL)
        if self._socket_path is not None:
            _remove_socket(self._socket_path)

    def _all_connections(self) -> list[Connection]:
        return self._repositories.open_connections() + self._commands.open_connections()

    def _close_idle(self) -> int:
        """Close connections without a request; returns how many have one."""
        busy = 0
        for connection in self._all_connections():
            if connection.is_idle():
                connection.force_close()
            else:
                busy += 1
        return busy

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._exchange(request, self._answer, self._page)

    async def _serve_command(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._exchange(request, self._command, self._control.page)

    async def _exchange(
        self, request: web.BaseRequest, route: _Route, page: Callable[[Fault, Ask], Page]
    ) -> web.StreamResponse:
        exchange = self._new_exchange(request)
        try:
            try:
                return await exchange.send(await route(request, exchange))
            except Fault as fault:
                answer = self._fault_answer(fault, exchange, page)
            except MemoryError:
                answer = self._fault_answer(_no_memory(), exchange, page)
            except Exception as error:  # noqa: BLE001  (the web boundary)
                exchange.report_bug("request_failed", error)
                answer = self._fault_answer(_bug(exchange), exchange, page)
            exchange.keep = exchange.keep and not request.can_read_body
            return await exchange.send(answer)
        except asyncio.CancelledError:
            if not exchange.head_sent:
                exchange.abandon()
            raise
        finally:
            if exchange.ask.body:
                self._bodies.give_back(len(exchange.ask.body))
            exchange.finish()

    def _new_exchange(self, request: web.BaseRequest) -> Exchange:
        line = Line(request.method, request.version < (1, 1), next(self._ids))
        keep = bool(request.keep_alive) and not self._closing
        connection = cast("Connection", request.protocol)
        return Exchange(connection, line, self._observer, stall=self._limits.send_stall, keep=keep)

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> Answer:
        entry = self._door.judge(request, exchange.connection)
        address, method = entry.address, exchange.line.method
        exchange.ask = self._ask(entry, exchange)
        if "upgrade" in entry.headers:
            # Declined; what aiohttp's parser has read behind such a request it may forget.
            exchange.keep = False
        if "x-request-id" in entry.headers:
            exchange.outcome.extra["client_request_id"] = entry.headers["x-request-id"][:128]
        if address.format:
            judge_format(address, self._engine.mounts())
        if method not in READING:
            self._judge_method(method, address.repo)
            body = await self._bodies.take(request, entry.headers, exchange.go_on)
            exchange.ask = replace(exchange.ask, body=body)
        elif request.can_read_body and not await drained(request, entry.headers, self._limits.lingering):
            exchange.keep = False
        if not address.repo or address.repo in RESERVED:
            exchange.quiet = address.repo in QUIET
            return await self._pages.answer(entry)
        answer = await self._engine.handle(exchange.ask)
        if "x-request-id" in entry.headers:
            answer.outcome.extra["client_request_id"] = exchange.outcome.extra["client_request_id"]
        exchange.outcome = answer.outcome
        return answer

    def _judge_method(self, method: str, repo: str) -> None:
        """Anything but reading is for repositories whose provider relays it."""
        mount = self._engine.mounts().get(repo)
        methods = mount.provider.methods & RELAYING if mount else READING
        if method not in methods:
            what = "this repository can only be read" if mount else "this method is not answered here"
            raise MethodRefused(what, allow=", ".join(sorted(methods)))

    def _ask(self, entry: Entry, exchange: Exchange) -> Ask:
        (repo, path, query, prefix, _), visit = entry.address, entry.visit
        return Ask(
            repo=repo,
            path=path,
            method=exchange.line.method,
            query=query,
            headers=entry.headers,
            base=f"{visit.root}{prefix}/{repo}",
            request_id=exchange.line.request_id,
            caller=visit.caller,
        )

    async def _command(self, request: web.BaseRequest, exchange: Exchange) -> Answer:
        exchange.keep = False
        exchange.quiet = True
        return await self._control.answer(request)

    def _fault_answer(self, fault: Fault, exchange: Exchange, page: Callable[[Fault, Ask], Page]) -> Answer:
        # What follows a request that we did not understand is not trusted to be a request.
        if isinstance(fault, BadRequest | MethodRefused | VersionRefused) or exchange.connection.refused:
            exchange.keep = False
        try:
            body = page(fault, exchange.ask)
        except Exception as error:  # noqa: BLE001  (the web boundary)
            exchange.report_bug("error_page_failed", error)
            body = plain_page(fault)
        return error_answer(fault, body, exchange.outcome)

    def _page(self, fault: Fault, ask: Ask) -> Page:
        return self._engine.problem(fault, ask) if ask.repo else plain_page(fault)

    def _refuse(self, connection: Connection, status: int) -> None:
        """Answer what aiohttp's parser refused."""
        line = Line("GET", old=False, request_id=next(self._ids))
        exchange = Exchange(connection, line, self._observer, stall=self._limits.send_stall)
        fault = _UNREAD[status]() if status in _UNREAD else _bug(exchange)
        with suppress(ClientGone):
            exchange.send_at_once(error_answer(fault, plain_page(fault), exchange.outcome))
        exchange.finish()

    def _report(self, text: str) -> None:
        self._observer.warning("connection_failed", error=text)

    def _crowded(self) -> None:
        self._observer.warning("connections_full", connections=self._repositories.places)


def _no_memory() -> Fault:
    return Busy("not enough memory for this at the moment", code="memory", retry_after=5.0)


def _bug(exchange: Exchange) -> Fault:
    return Fault(f"something went wrong here; the log knows request {exchange.line.request_id}")


def _remove_socket(path: Path) -> None:
    """The leftover of a process that died, or our own; never anything else."""
    if path.is_socket():
        path.unlink(missing_ok=True)


def _bound(place: Path) -> socket.socket:
    """A Unix socket at `place`, for this user only. The name of one is at most 107 bytes long, so a
    deep folder is reached through its descriptor (Linux)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    old = os.umask(0o177)
    try:
        short = len(os.fsencode(place)) <= SOCKET_NAME_MAX
        sock.bind(str(place) if short else f"/proc/self/fd/{folder}/{place.name}")
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old)
        os.close(folder)
    return sock
