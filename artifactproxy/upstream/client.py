"""The `Upstream` port over aiohttp: one request, its redirects followed by hand, its bounds.

A redirect is a new request with a fresh header set: what the caller named stays on its own
origin, only what describes the wanted bytes crosses to another. Nothing is retried here, except
that a request may find its pooled connection closed under it (RFC 9112 9.3.1) and then goes out
once more on a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
from yarl import URL

from artifactproxy import __version__
from artifactproxy.errors import (
    Busy,
    Fault,
    PeerGone,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamFault,
    UpstreamUnreachable,
)
from artifactproxy.model import Header, UpstreamHead
from artifactproxy.ports import Bulletin, Clock, Observer, UpstreamReply, UpstreamRequest
from artifactproxy.rules.http import parse_retry_after
from artifactproxy.upstream import faults
from artifactproxy.upstream.access import RemoteAccess, normal, way_of
from artifactproxy.upstream.auth import Basic, Bearer, Credential
from artifactproxy.upstream.gate import Gate, Gates, OriginState
from artifactproxy.upstream.guard import (
    Lookup,
    host_of,
    judge_scheme,
    judge_url,
    next_hop,
    origin_of,
)
from artifactproxy.upstream.news import News
from artifactproxy.upstream.peers import PeerClient
from artifactproxy.upstream.pool import Attempt, Sessions
from artifactproxy.upstream.tokens import Tokens
from artifactproxy.upstream.transfer import Transfer, read_head

AGENT = f"artifactproxy/{__version__}"
TOKEN_BYTES = 256 * 1024
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
# What describes the wanted bytes; nothing else follows a redirect to another origin.
_CROSSING = frozenset(
    ("accept", "accept-encoding", "if-modified-since", "if-none-match", "if-range", "range")
)


class UpstreamClient:
    """Everything that leaves towards upstream, for all remotes of this process.

    State of origins (breaker, pauses, queues) is shared by all remotes that use them, and by `bulletin`
    with other processes. `lookup` replaces the system's resolver.
    """

    def __init__(
        self,
        remotes: Mapping[str, RemoteAccess],
        *,
        total_connections: int = 128,
        observer: Observer | None = None,
        clock: Clock,
        lookup: Lookup | None = None,
        bulletin: Bulletin | None = None,
        peers: PeerClient | None = None,
    ) -> None:
        self._peers = peers
        self._remotes = {name: normal(access) for name, access in remotes.items()}
        self._gates = Gates(total_connections)
        self._sessions = Sessions(lookup, self._heard_noise)
        self._observer = observer
        self._clock = clock
        self._closed = False
        self._news = News(self._gates, bulletin, observer, clock)
        self._tokens = Tokens(self._ask_token)

    @asynccontextmanager
    async def open(self, request: UpstreamRequest) -> AsyncIterator[UpstreamReply]:
        """Raises any `UpstreamFault`, and `Busy` when too many requests wait already."""
        if request.peer:
            async with self._followed(request) as reply:
                yield reply
            return
        try:
            transfer = await self._arrive(request, self._remotes[request.remote])
        except Fault as fault:
            if not request.spare or not isinstance(fault, Busy):
                self._report(request.remote, fault)
            raise
        try:
            yield transfer
        except UpstreamFault as fault:
            self._report(request.remote, fault)
            raise
        finally:
            transfer.close()

    def _followed(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamReply]:
        """Another process that asks upstream for us; its faults are no upstream's."""
        if self._peers is None:
            raise PeerGone("no other process is known here")
        return self._peers.open(request, self._remotes[request.remote].limits)

    @property
    def peers(self) -> PeerClient | None:
        """The way to the other processes, for who hands a request on to one of them."""
        return self._peers

    async def check(self) -> None:
        """No single upstream makes the program unready; `states` tells about each."""
        if self._closed:
            raise UpstreamUnreachable("the upstream client is closed", code="closed")

    async def close(self) -> None:
        self._closed = True
        await self._sessions.close()
        if self._peers is not None:
            await self._peers.close()

    def states(self) -> dict[str, OriginState]:
        """Every origin that was asked since the start, by `scheme://host:port`."""
        now = _now()
        return {gate.origin: gate.state(now) for gate in self._gates}

    def replace(self, remotes: Mapping[str, RemoteAccess]) -> None:
        """Reach them so from the next request on; transfers under way go on over their connections. A
        remote that is gone stays known to those that still speak with it. Files of authorities are
        read anew."""
        self._remotes |= {name: normal(access) for name, access in remotes.items()}
        self._sessions.renew()
        self._tokens.forget()

    def recover(self, origin: str) -> bool:
        """Forget an origin's failures and pauses; False if it was never asked."""
        gate = self._gates.find(origin_of(origin))
        if gate is not None:
            gate.recover()
            self._news.recovered(gate.origin)
        return gate is not None

    async def _arrive(self, request: UpstreamRequest, access: RemoteAccess) -> Transfer:
        """Follow redirects to the answer that is not one."""
        url = request.at or request.url
        seen = {request.url, url}
        follows = request.method in ("GET", "HEAD")
        while True:
            judge_scheme(url, access.origins, access.plain)
            judge_url(url, access.origins, access.allow_private)
            transfer = await self._admitted(request, access, url)
            location = transfer.head.headers.get("location", "")
            if not (follows and location and transfer.head.status in _REDIRECTS):
                transfer.at = "" if url == request.url else url
                return transfer
            try:
                target = next_hop(url, location)
                if target in seen or len(seen) > access.limits.redirects:
                    raise UpstreamBlocked(f"{host_of(url)} redirects without end", code="redirects")
                await transfer.drain()
            finally:
                transfer.close()
            url = target
            seen.add(url)

    async def _admitted(self, request: UpstreamRequest, access: RemoteAccess, url: str) -> Transfer:
        """One hop, and once more with the token that its answer asks for."""
        sent = self._tokens.header(request.remote, url)
        transfer = await self._ask(request, access, url)
        challenge = transfer.head.headers.get("www-authenticate", "")
        home = origin_of(url)
        if not (access.tokens and transfer.head.status == 401 and challenge and home in access.origins):
            return transfer
        try:
            await transfer.drain()
        finally:
            transfer.close()  # it keeps no place from the token server; of a refusal the head is enough
        credential = access.credentials.get(home)
        if await self._tokens.satisfy(request.remote, url, challenge, sent, credential, access.realms):
            return await self._ask(request, access, url)
        return transfer

    async def _ask_token(self, remote: str, url: str, credential: Credential | None) -> tuple[int, bytes]:
        access = replace(self._remotes[remote], credentials={}, tokens=False)
        judge_scheme(url, access.origins, access.plain)
        judge_url(url, access.origins, access.allow_private)
        headers: list[Header] = [("accept", "application/json")]
        if isinstance(credential, Basic):
            headers.append(("authorization", credential.header()))
        request = UpstreamRequest(remote, url, headers=tuple(headers), max_bytes=TOKEN_BYTES)
        transfer = await self._ask(request, access, url)
        try:
            return transfer.head.status, b"".join([chunk async for chunk in transfer.chunks()])
        finally:
            transfer.close()

    async def _ask(self, request: UpstreamRequest, access: RemoteAccess, url: str) -> Transfer:
        """One hop: a place, one exchange, and what it says about the origin."""
        await self.check()
        gate = self._gates.of(origin_of(url), access.limits, _now())
        gate.refuse(_now())  # at once rather than after a turn in the queue
        with ExitStack() as stack:
            if request.spare:
                self._gates.take_spare(gate, access.max_per_host)
            else:
                await self._gates.take(gate, access.limits)
            stack.callback(self._gates.give, gate)
            if request.on_leave is not None:
                request.on_leave()
            with gate.attempt(_now()):
                head, response = await self._judged(gate, request, access, url)
            return Transfer(
                head,
                response,
                host=host_of(url),
                limits=access.limits,
                max_bytes=request.max_bytes,
                release=stack.pop_all(),
            )

    async def _judged(
        self, gate: Gate, request: UpstreamRequest, access: RemoteAccess, url: str
    ) -> tuple[UpstreamHead, aiohttp.ClientResponse]:
        try:
            response = await self._exchange(request, access, url)
            # A redirect's query may be a signature, and heads end up in logs and rows.
            shown = url if url == request.url else url.partition("?")[0]
            try:
                head = read_head(response, shown, host_of(url))
            except UpstreamBroken:
                response.close()
                raise
        except UpstreamBlocked:
            raise  # it was never contacted
        except UpstreamFault:
            self._count_failure(gate)
            raise
        self._count_status(gate, head, request.method)
        self._note_rate(request.remote, head)
        return head, response

    async def _exchange(
        self, request: UpstreamRequest, access: RemoteAccess, url: str
    ) -> aiohttp.ClientResponse:
        way = way_of(access, url)
        session = await self._sessions.get(way)
        limits, host = access.limits, host_of(url)
        tries = 2 if request.method in ("GET", "HEAD") else 1
        while True:
            tries -= 1
            try:
                async with asyncio.timeout(None) as deadline:
                    attempt = Attempt(deadline, limits.first_byte)
                    return await session.request(
                        request.method,
                        URL(url, encoded=True),
                        headers=[*_headers(request, access, url), *self._credentials(request, access, url)],
                        data=request.body,
                        allow_redirects=False,
                        proxy=way.egress or None,
                        timeout=aiohttp.ClientTimeout(
                            total=None,
                            connect=limits.lookup + limits.connect,
                            sock_connect=limits.connect,
                        ),
                        trace_request_ctx=attempt,
                    )
            except faults.BEFORE_HEAD as exc:
                if faults.is_ours(exc):
                    raise Busy("no connection can be opened at the moment", code="descriptors") from exc
                fault = faults.before_head(exc, host)
                if not (tries and attempt.reused and fault.code == "no_answer"):
                    raise fault from exc

    def _credentials(self, request: UpstreamRequest, access: RemoteAccess, url: str) -> list[Header]:
        """What proves who we are, to the configured origins only. Where tokens are asked for, a password
        is for their server, unless it turned out that upstream itself wants it."""
        credential = access.credentials.get(origin_of(url))
        if any(name.lower() == "authorization" for name, _ in request.headers):
            return []
        header = credential.header() if credential is not None else ""
        if access.tokens and not isinstance(credential, Bearer):
            header = self._tokens.header(request.remote, url) if origin_of(url) in access.origins else ""
        return [("Authorization", header)] if header else []

    def _note_rate(self, remote: str, head: UpstreamHead) -> None:
        """What upstream says is left of what it gives us (`RateLimit-*`, as registries write it)."""
        for name in ("limit", "remaining"):
            number = head.headers.get(f"ratelimit-{name}", "").partition(";")[0].strip()
            if self._observer is not None and number.isascii() and number.isdigit():
                self._observer.gauge(f"upstream_ratelimit_{name}", float(number[:15]), remote=remote)

    def _count_failure(self, gate: Gate) -> None:
        if gate.failed(_now()):
            self._news.opened(gate)

    def _count_status(self, gate: Gate, head: UpstreamHead, method: str) -> None:
        asked = head.headers.get("retry-after", "")
        if head.status == 429 or (head.status == 503 and asked):
            wait = parse_retry_after(asked, self._clock())
            self._news.paused(gate, gate.pause(_now(), wait or 0.0))
        elif head.status >= 500:
            # A service beside the files (an audit) may be broken for days; the files are not.
            if method in ("GET", "HEAD"):
                self._count_failure(gate)
        elif gate.succeeded(_now()):
            self._news.recovered(gate.origin)

    def _heard_noise(self, host: str) -> None:
        if self._observer is not None:
            self._observer.increment("upstream_errors", remote="", kind="unsolicited")
            self._observer.warning("unsolicited_bytes", host=host, action="its connection is not used again")

    def _report(self, remote: str, fault: Fault) -> None:
        if self._observer is not None:
            self._observer.increment("upstream_errors", remote=remote, kind=fault.code)
            if isinstance(fault, UpstreamBlocked):
                self._observer.warning("upstream_blocked", remote=remote, detail=fault.detail)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _headers(request: UpstreamRequest, access: RemoteAccess, url: str) -> list[Header]:
    """The header set of one hop, built from nothing (ports U4)."""
    origin = origin_of(url)
    home = origin == origin_of(request.url)
    sent = [h for h in request.headers if home or h[0].lower() in _CROSSING]
    names = {name.lower() for name, _ in sent}
    if "accept-encoding" not in names:
        sent.append(("Accept-Encoding", "identity"))
    if "user-agent" not in names:
        sent.append(("User-Agent", AGENT))
    sent.append(("Via", f"1.1 {access.via}"))
    return sent
