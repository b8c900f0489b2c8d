"""What the processes of one cluster ask of each other: `GET /internal/fill`.

Nothing is told to whoever has no pass. These requests are no client's: they are counted apart and
stand in no request log. The body is that of a running fill, sent like any other that is arriving.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

from artifactproxy.engine.answer import Answer, Body, Bytes, Chunks, Nothing
from artifactproxy.engine.offer import Offered, Wanted
from artifactproxy.errors import BadRequest, Blocked, MethodRefused, NotServed, PeerGone
from artifactproxy.ports import Clock, Observer, Outcome
from artifactproxy.rules.passes import HEADER, holds
from artifactproxy.rules.peers import FOLLOWED, HEAD, is_name
from artifactproxy.web.door import Entry

FIRST_SEGMENT = "internal"
_DIGITS = 19


class OfferLike(Protocol):
    async def open(self, wanted: Wanted) -> Offered:
        """Raises `PeerGone`."""


class ReachedLike(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def length(self) -> int | None: ...
    @property
    def chunks(self) -> AsyncIterator[bytes]: ...


class PeersLike(Protocol):
    def through(
        self, address: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[ReachedLike]:
        """The answer of another process to this very request. Raises `PeerGone`."""


class Internal:
    """`secret` is what passes are made with. Where several workers answer at one address, `worker` is
    our number, and a request that names another is handed on to its socket in `sockets`."""

    def __init__(
        self,
        offer: OfferLike,
        secret: str,
        observer: Observer,
        clock: Clock,
        *,
        peers: PeersLike | None = None,
        worker: int = 0,
        sockets: Path | None = None,
    ) -> None:
        self._offer = offer
        self._secret = secret
        self._observer = observer
        self._clock = clock
        self._peers = peers
        self._worker = worker
        self._sockets = sockets

    async def answer(self, entry: Entry, method: str) -> Answer:
        """Raises `Blocked` for a request without a pass, whatever it asks for."""
        query = {name: values[-1] for name, values in parse_qs(entry.address.query).items()}
        name, headers = query.get("key", ""), entry.headers
        if not holds(self._secret, headers.get(HEADER.lower(), ""), "GET", name, self._clock()):
            self._observer.increment("rejected", reason="peer_pass")
            raise Blocked("this address is for other processes of this cluster", code="no_pass")
        if method != "GET":
            raise MethodRefused("this is only read", allow="GET")
        if entry.address.path != "fill" or not is_name(name):
            raise NotServed("there is no such page")
        try:
            number = _number(query.get("worker", "0"))
            if number not in (0, self._worker):
                return await self._handed_on(number, query, headers)
            offered = await self._offer.open(_wanted(name, headers))
        except PeerGone as gone:
            self._observer.increment("peer_fills", result="gone")
            return _answer(404, [("X-Proxy-Error", gone.code)], Bytes(b""))
        self._observer.increment("peer_fills", result="told" if isinstance(offered.body, Nothing) else "read")
        body = Bytes(b"") if isinstance(offered.body, Nothing) else offered.body
        return _answer(200, [(HEAD, offered.word)], body)

    async def _handed_on(self, number: int, query: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        if self._peers is None or self._sockets is None:
            raise PeerGone("there is no such worker here")
        asked = {name: value for name, value in query.items() if name != "worker"}
        stack = AsyncExitStack()
        address = f"unix:{(self._sockets / f'{number}.sock').absolute()}"
        reached = await stack.enter_async_context(self._peers.through(address, asked, headers))
        self._observer.increment("peer_fills", result="handed_on")
        word = reached.headers.get(HEAD.lower())
        fields = [(HEAD, word)] if word is not None else []
        return _answer(reached.status, fields, Chunks(_Through(reached.chunks, stack), reached.length))


class _Through:
    """The chunks of an answer that is handed on; it ends with them, however they end."""

    def __init__(self, chunks: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        self._chunks = chunks
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        await self._stack.aclose()


def _answer(status: int, fields: list[tuple[str, str]], body: Body) -> Answer:
    headers = [("Content-Type", "application/octet-stream"), ("Cache-Control", "no-store"), *fields]
    return Answer(status, headers, body, Outcome("request", result="local"))


def _wanted(name: str, headers: Mapping[str, str]) -> Wanted:
    start = _start(headers.get("range", ""))
    return Wanted(name, start, headers.get(FOLLOWED, ""), headers.get("if-range", ""))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise BadRequest("a number is not one")
    return int(text)


def _start(text: str) -> int:
    """Of the one kind of range that followers ask for: `bytes=N-`."""
    if not text:
        return 0
    if not (text.startswith("bytes=") and text.endswith("-")):
        raise BadRequest("only the rest of a body can be asked for")
    return _number(text[len("bytes=") : -1])
