"""The web server: listeners, and for each request one answer.

Everything that can go wrong before the first byte becomes a page here; afterwards `respond.py` resets.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, Busy, Fault, HeadSlow, MethodRefused
from artifactproxy.limits import Limits
from artifactproxy.model import Ask
from artifactproxy.ports import Clock
from artifactproxy.providers._base import Page
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.web import login, sockets
from artifactproxy.web.access import AccessRules
from artifactproxy.web.admin import Pages
from artifactproxy.web.connection import CLOSED, ClientGone, Connection, Listener, descriptors, parser_name
from artifactproxy.web.contract import (
    CheckupLike,
    EngineLike,
    KeysLike,
    Numbers,
    SiblingsLike,
    TokenDeskLike,
    WebObserver,
)
from artifactproxy.web.control import Control, Reload
from artifactproxy.web.door import Door
from artifactproxy.web.faults import error_answer, plain_page
from artifactproxy.web.front import Front, TurnedAway
from artifactproxy.web.gate import Gate
from artifactproxy.web.head import SERVER
from artifactproxy.web.internal import Internal
from artifactproxy.web.pushes import RegistryLike
from artifactproxy.web.respond import Exchange, Line, VersionRefused

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
        siblings: SiblingsLike | None = None,
        reload: Reload | None = None,
        internal: Internal | None = None,
        keys: KeysLike | None = None,
        registry: RegistryLike | None = None,
        tokens: TokenDeskLike | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._engine = engine
        self._internal = internal
        self._observer = observer
        self._limits = limits
        self._ssl = ssl
        self._door = Door(limits, access, via)
        self._gate = Gate(access, keys, limits.failed_logins)
        self._registry = registry
        self._closing = False
        self._clients: set[Connection] = set()  # who was there when we began to close
        prefix = secrets.token_hex(4)
        self._ids = (f"{prefix}{n:08x}" for n in itertools.count(1))
        self._servers: list[asyncio.AbstractServer] = []
        self._own_sockets: list[Path] = []
        self._repositories = Listener(
            *(self._serve, self._refuse, self._report, limits),
            crowded=self._crowded,
            turned_away=lambda: observer.increment("rejected", reason="connections"),
        )
        self._commands = Listener(self._serve_command, self._refuse, self._report, limits)
        # Siblings take no places away from clients.
        self._family = Listener(self._serve, self._refuse, self._report, limits)
        entrance = login.Login(self._gate, keys, clock, self._takes_pushes)
        self._pages = Pages(
            *(engine, observer, self._gate, entrance),
            lambda: len(self._repositories.connections),
            siblings=siblings,
        )
        self._front = Front(
            *(engine, limits, self._door, self._gate, self._pages),
            internal=internal,
            registry=registry,
            is_turned_away=lambda connection: self._closing and connection not in self._clients,
        )
        self._control = Control(
            *(engine, access, checkup),
            siblings=siblings,
            reload=reload,
            ready=self._pages.readiness,
            tokens=tokens,
        )

    async def start(
        self, host: str, port: int, *, inherited: Sequence[socket.socket] = ()
    ) -> tuple[str, int]:
        """Listen, on the `inherited` sockets if there are any; returns the (first) bound address.
        Raises OSError."""
        places: list[dict[str, Any]] = [{"sock": sock} for sock in inherited]
        places = places or [{"host": host, "port": port, "reuse_address": True}]
        bound = [await self._listen(place) for place in places]
        self._tell_listening(bound[0])
        return bound[0]

    async def _listen(self, place: dict[str, Any]) -> tuple[str, int]:
        if self._ssl is not None:
            # A handshake is what comes before a request's head, and as patiently waited for.
            place |= {
                "ssl": self._ssl,
                "ssl_handshake_timeout": self._limits.keepalive,
                "ssl_shutdown_timeout": self._limits.lingering or MOMENT,
            }
        server = await asyncio.get_running_loop().create_server(
            cast("Callable[[], asyncio.Protocol]", self._repositories), backlog=sockets.BACKLOG, **place
        )
        self._servers.append(server)
        host, port, *_ = server.sockets[0].getsockname()
        return str(host), int(port)

    def _tell_listening(self, bound: tuple[str, int]) -> None:
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

    async def start_unix(self, path: str, *, inherited: socket.socket | None = None) -> None:
        """Listen for commands at `path`, for this user only, or on a socket that is bound already and
        whose name is its maker's. Raises OSError."""
        await self._listen_unix(Path(path), self._commands, inherited)

    async def start_family(self, path: Path) -> None:
        """Listen for the other processes of this instance at `path`. Raises OSError."""
        await self._listen_unix(path, self._family, None)

    async def _listen_unix(self, path: Path, listener: Listener, inherited: socket.socket | None) -> None:
        if inherited is None:
            sock = sockets.unix(path)
            self._own_sockets.append(path)
        else:
            sock = inherited
        server = await asyncio.get_running_loop().create_unix_server(
            cast("Callable[[], asyncio.Protocol]", listener), sock=sock
        )
        self._servers.append(server)

    def admit(self, access: AccessRules) -> None:
        """Judge by these rules from the next request on."""
        self._door.access = self._gate.access = self._control.access = access

    async def explain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The command of that name, as far as this process knows. Raises `Fault`."""
        return await self._control.explain(arguments)

    def numbers(self) -> Numbers:
        """What this process has counted, as `WebObserver.numbers`."""
        self._pages.note_states()
        return self._observer.numbers()

    async def drain(self, notice: float, timeout: float) -> None:  # noqa: ASYNC109  (a stage of its own)
        """Stop in order: unready for `notice` seconds, then no new clients, then `timeout` seconds for
        answers under way; what is left is reset."""
        self._pages.draining = True
        await asyncio.sleep(notice)
        self._closing = True
        self._clients = set(self._all_connections())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    if not self._is_followed():
                        self._stop_listening()
                    if not self._close_idle():
                        break
                    await asyncio.sleep(_POLL)
        await self.close()

    def _is_followed(self) -> bool:
        """Whether other processes may still read along with what is filled here for our last clients."""
        return self._internal is not None and bool(self._engine.states().get("fills"))

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Stop now; answers under way are reset."""
        self._closing = self._pages.draining = True
        self._stop_listening()
        for connection in self._all_connections():
            connection.reset()
        while self._all_connections():  # noqa: ASYNC110  (aiohttp has no event for it)
            await asyncio.sleep(_POLL)
        for path in self._own_sockets:
            sockets.remove(path)

    def _all_connections(self) -> list[Connection]:
        return [
            connection
            for listener in (self._repositories, self._commands, self._family)
            for connection in listener.open_connections()
        ]

    def _close_idle(self) -> int:
        """Close clients' connections without a request; returns how many connections have one."""
        busy = 0
        for connection in self._all_connections():
            if connection.is_idle():
                if connection in self._clients:  # a process that follows us is about to ask
                    connection.force_close()
            else:
                busy += 1
        return busy

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._exchange(request, self._front.answer, self._front.page)

    async def _serve_command(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._exchange(request, self._command, self._control.page)

    async def _exchange(
        self, request: web.BaseRequest, route: _Route, page: Callable[[Fault, Ask], Page]
    ) -> web.StreamResponse:
        exchange = self._new_exchange(request)
        try:
            try:
                return await exchange.send(await route(request, exchange))
            except TurnedAway:
                exchange.abandon()
                return CLOSED
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
                self._front.bodies.give_back(len(exchange.ask.body))
            exchange.finish()

    def _new_exchange(self, request: web.BaseRequest) -> Exchange:
        line = Line(request.method, request.version < (1, 1), next(self._ids))
        keep = bool(request.keep_alive) and not self._closing
        connection = cast("Connection", request.protocol)
        exchange = Exchange(connection, line, self._observer, stall=self._limits.send_stall, keep=keep)
        if request.raw_path.startswith("/v2/"):
            exchange.ask = Ask(ROOT, "")  # whatever is refused of it, is in its clients' words
        return exchange

    def _takes_pushes(self) -> bool:
        if self._registry is not None and self._registry.locals:
            return True
        return any("PUT" in mount.provider.methods for mount in self._engine.mounts().values())

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
