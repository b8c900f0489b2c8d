"""An open answer: its head, its body under watch, and the place it occupies until it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

import aiohttp

from artifactproxy.errors import TooLarge, UpstreamBroken, UpstreamFault, UpstreamSlow
from artifactproxy.limits import RemoteLimits
from artifactproxy.model import UpstreamHead
from artifactproxy.upstream import faults

_BODILESS = frozenset((204, 304))
_DRAIN_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0


def read_head(response: aiohttp.ClientResponse, url: str, host: str) -> UpstreamHead:
    """Raises `UpstreamBroken` for a head whose framing cannot be relied upon."""
    headers = flat(response.headers.items())
    coding = headers.get("transfer-encoding", "").strip().lower()
    if coding not in ("", "chunked"):
        raise UpstreamBroken(f"{host} uses a transfer coding we do not know", code="bad_framing")
    if response.status < 200:
        raise UpstreamBroken(f"{host} switched protocols unasked", code="bad_head")
    if response.status in _BODILESS:
        return UpstreamHead(response.status, headers, None, True, url)
    announced = headers.get("content-length", "")
    length = int(announced) if announced.isascii() and announced.isdigit() and not coding else None
    framed = length is not None or bool(coding) or response.method == "HEAD"
    return UpstreamHead(response.status, headers, length, framed, url)


def flat(items: object) -> Mapping[str, str]:
    """Lower-case names; repeated fields joined by a comma (RFC 9110 5.3), cookies dropped."""
    found: dict[str, str] = {}
    for name, value in items:  # type: ignore[attr-defined]
        key = name.lower()
        if key != "set-cookie":
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


class Transfer:
    """`UpstreamReply` over one aiohttp response; `release` gives back what it occupies."""

    def __init__(
        self,
        head: UpstreamHead,
        response: aiohttp.ClientResponse,
        *,
        host: str,
        limits: RemoteLimits,
        max_bytes: int | None,
        release: ExitStack,
    ) -> None:
        self.head = head
        self.at = ""
        self._response = response
        self._host = host
        self._limits = limits
        self._max_bytes = max_bytes
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None
        self._verdict: UpstreamFault | None = None
        self._since = 0.0  # when the read under way began to wait, 0: none
        self._waited = 0.0  # seconds spent waiting in this rate window
        self._window_bytes = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as framed; see `ports.UpstreamReply`. Only time spent waiting for upstream
        counts as slowness: a reader that is slow itself never trips a limit."""
        read, clock, top = self._response.content.readany, self._loop.time, self._max_bytes
        bodiless = self._response.method == "HEAD" or self.head.status in _BODILESS
        length = None if bodiless else self.head.length
        received = 0
        if top is not None and length is not None and length > top:
            raise self._too_large()
        self._watch()
        try:
            while True:
                start = self._since = clock()
                block = await read()
                self._since = 0.0
                if not block:
                    break
                self._waited += clock() - start
                received += len(block)
                self._window_bytes += len(block)
                if top is not None and received > top:
                    raise self._too_large()
                yield block
        except faults.IN_BODY as exc:
            raise self._verdict or faults.in_body(exc, self._host) from exc
        finally:
            self._since = 0.0
            self._unwatch()
        if length is not None and received != length:
            raise UpstreamBroken(f"{self._host} ended the body before it was complete", code="short_body")

    async def drain(self) -> None:
        """Read a small body nobody wants, so that its connection can be used again."""
        if self.head.length is None or self.head.length > _DRAIN_BYTES:
            return
        try:
            async with asyncio.timeout(min(_DRAIN_SECONDS, self._limits.idle)):
                while await self._response.content.readany():
                    pass
        except faults.IN_BODY:
            return

    def close(self) -> None:
        """Free the connection: back to the pool if the body was read to its end, else closed."""
        self._unwatch()
        self._response.close()
        self._release.close()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"{self._host} sends more than the limit of {self._max_bytes} bytes")

    def _watch(self) -> None:
        self._waited, self._window_bytes = 0.0, 0
        tick = min(self._limits.idle, self._limits.min_rate_window)
        self._watchdog = self._loop.call_later(tick, self._check)

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _check(self) -> None:
        """One timer a transfer instead of one a chunk: judge progress, then look again when the
        nearest limit could be reached."""
        limits = self._limits
        pending = self._loop.time() - self._since if self._since else 0.0
        if pending >= limits.idle:
            self._abort(UpstreamSlow(f"{self._host} stopped sending", code="stall"))
            return
        if self._waited + pending >= limits.min_rate_window:
            if self._window_bytes < limits.min_rate * limits.min_rate_window:
                self._abort(UpstreamSlow(f"{self._host} sends too slowly", code="too_slow"))
                return
            # The wait under way is added in full when it ends; what this window used is taken off.
            self._waited, self._window_bytes = -pending, 0
        left = min(limits.idle - pending, limits.min_rate_window - self._waited - pending)
        floor = min(limits.idle, limits.min_rate_window) / 8
        self._watchdog = self._loop.call_later(max(left, floor), self._check)

    def _abort(self, fault: UpstreamFault) -> None:
        self._watchdog = None
        self._verdict = fault
        self._response.close()
