"""Reading along with another process of the cluster; see `rules.peers` for what it says.

Addresses come from our own coordinator, never from a client or an upstream, so no guard judges
them; no proxy is used and no redirect followed. Whatever goes wrong with a peer is a `PeerGone`: it
tells nothing of upstream and is counted apart.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp

from artifactproxy.errors import ConfigError, Fault, PeerGone, TooLarge, UpstreamFault
from artifactproxy.limits import RemoteLimits
from artifactproxy.model import UpstreamHead
from artifactproxy.ports import Clock, Observer, UpstreamRequest
from artifactproxy.rules import passes
from artifactproxy.rules.peers import FOLLOWED, HEAD, HEAD_MAX, HOLD, PATH, fill_name, read_word
from artifactproxy.upstream import faults
from artifactproxy.upstream.pool import KEEPALIVE, Pool, tls_context
from artifactproxy.upstream.transfer import Transfer

CONNECT = 1.0  # seconds; peers are near
_NAME_MAX = 107  # bytes of sun_path on Linux, without the closing NUL
_ADDRESS = re.compile(r"\A(?:unix:/[^?\x00-\x1f]+|https?://[\x21-\x7e]+)\Z")
# A machine that is gone without a word is found out in about as long as its leases last.
_ALIVE = (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
# What a relay hands on of a request, and of its answer.
ASKED = ("range", "if-range", FOLLOWED, passes.HEADER)


@dataclass(frozen=True, slots=True)
class Reached:
    """An answer on the way through: its status, its fields by lower-case name, its body in chunks."""

    status: int
    headers: Mapping[str, str]
    length: int | None
    chunks: AsyncIterator[bytes]


class PeerTransfer:
    """`UpstreamReply` of a peer: any end but the right one is a `PeerGone`."""

    def __init__(self, head: UpstreamHead, transfer: Transfer) -> None:
        self.head = head
        self.at = ""
        self._transfer = transfer

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._transfer.chunks():
                yield chunk
        except TooLarge:
            raise
        except UpstreamFault as fault:
            raise PeerGone("the process that fills this broke off") from fault


class PeerClient:
    """`secret` authenticates us to the others; `ca` is a PEM file trusted beside the system's; `connect`
    and `hold` are seconds. `sessions` are made when first needed and closed by `close`."""

    def __init__(
        self,
        secret: str,
        *,
        ca: str = "",
        clock: Clock,
        observer: Observer | None = None,
        connect: float = CONNECT,
        hold: float = HOLD,
    ) -> None:
        self._secret = secret
        self._ca = ca
        self._clock = clock
        self._observer = observer
        self._connect = connect
        self._hold = hold
        self._context: ssl.SSLContext | None = None
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._folders: list[int] = []

    @asynccontextmanager
    async def open(self, request: UpstreamRequest, limits: RemoteLimits) -> AsyncIterator[PeerTransfer]:
        """The holder's word and body. Raises the fault that it passes on, or `PeerGone`."""
        if request.key is None or not _ADDRESS.match(request.peer):
            raise PeerGone("that is no address of a process of ours")
        name = fill_name(request.key)
        if request.on_leave is not None:
            request.on_leave()
        with ExitStack() as stack:
            try:
                head, transfer = await self._arrive(request, name, limits, stack)
            except PeerGone as gone:
                self._count(gone)
                raise
            yield PeerTransfer(head, transfer)

    async def close(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()
        while self._folders:
            os.close(self._folders.pop())

    async def _arrive(
        self, request: UpstreamRequest, name: str, limits: RemoteLimits, stack: ExitStack
    ) -> tuple[UpstreamHead, Transfer]:
        """Ask until there is something to tell: the holder says so when it still waits itself."""
        named = {field.lower(): value for field, value in request.headers}
        waited = False
        while True:
            named[passes.HEADER] = passes.seal(self._secret, "GET", name, self._clock())
            response = await self._ask(request.peer, {"key": name}, named)
            word = _word(response)
            if word is not None:
                break
            waited = True
            response.release()  # nothing follows such a word, unless it is no process of ours
        if isinstance(word, UpstreamHead) and word.told is not None and waited:
            # Upstream's body had not ended when we first asked.
            word = replace(word, told=replace(word.told, ended=False))
        if isinstance(word, Fault):
            response.close()
            raise word
        transfer = Transfer(
            word,
            response,
            host="the process that fills this",
            limits=_patient(limits),
            max_bytes=request.max_bytes,
            release=ExitStack(),
        )
        stack.callback(transfer.close)
        return word, transfer

    @asynccontextmanager
    async def through(
        self, address: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncIterator[Reached]:
        """Hand a follower's request on to a sibling as it is, and give back what that says. Raises
        `PeerGone`."""
        asked = {name: headers[name.lower()] for name in ASKED if name.lower() in headers}
        response = await self._ask(address, query, asked)
        try:
            told = {name.lower(): value for name, value in response.headers.items()}
            yield Reached(response.status, told, response.content_length, _through(response))
        finally:
            response.close()

    async def _ask(
        self, address: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect, sock_connect=self._connect)
        try:
            session, url = await self._way(address, query)
            async with asyncio.timeout(self._connect + 2 * self._hold):
                return await session.get(url, headers=headers, allow_redirects=False, timeout=timeout)
        except (*faults.BEFORE_HEAD, ConfigError) as error:
            raise PeerGone("the process that fills this cannot be reached") from error

    async def _way(self, address: str, query: Mapping[str, str]) -> tuple[aiohttp.ClientSession, str]:
        """The address may name one of several workers behind it: `?worker=N`."""
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            base = "http://localhost"
            session = self._sessions.get(path) or self._session(
                path, aiohttp.UnixConnector(self._short(path))
            )
        else:
            parts = urlsplit(address)
            query = {**dict(parse_qsl(parts.query)), **query}
            base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
            context = await self._trust()
            session = self._sessions.get("") or self._session("", _tcp(context))
        return session, f"{base}{PATH}?{urlencode(query)}"

    async def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = await asyncio.to_thread(tls_context, self._ca)
        return self._context

    def _session(self, place: str, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        session = self._sessions[place] = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            max_field_size=HEAD_MAX,
        )
        return session

    def _short(self, path: str) -> str:
        """A socket in a deep folder is reached through the folder's descriptor (Linux)."""
        if len(os.fsencode(path)) <= _NAME_MAX:
            return path
        folder, name = os.path.split(path)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PeerGone("the process that fills this has gone") from error
        self._folders.append(fd)
        return f"/proc/self/fd/{fd}/{name}"

    def _count(self, fault: PeerGone) -> None:
        if self._observer is not None:
            cause = type(fault.__cause__).__name__ if fault.__cause__ is not None else fault.detail
            self._observer.increment("peer_errors")
            self._observer.notice("peer_gone", cause=cause)


def _word(response: aiohttp.ClientResponse) -> UpstreamHead | Fault | None:
    try:
        return read_word(response.headers.get(HEAD, "") if response.status == 200 else "")
    except PeerGone:
        response.close()
        raise


def _patient(limits: RemoteLimits) -> RemoteLimits:
    """The holder waits for upstream as we would, and resumes; its silence may last that much longer."""
    idle = limits.idle + limits.connect + limits.first_byte
    return RemoteLimits(idle=idle, min_rate=0, min_rate_window=idle)


async def _through(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        while block := await response.content.readany():
            yield block
    except faults.IN_BODY as error:
        raise PeerGone("the process that fills this broke off") from error


def _tcp(context: ssl.SSLContext) -> aiohttp.TCPConnector:
    return Pool(ssl=context, limit=0, limit_per_host=0, keepalive_timeout=KEEPALIVE, socket_factory=_socket)


def _socket(info: tuple[int, int, int, str, object]) -> socket.socket:
    sock = socket.socket(family=info[0], type=info[1], proto=info[2])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE:
        if hasattr(socket, name):  # macOS names them otherwise
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
