"""Request bodies: the few that are relayed are taken in whole, all others are thrown away.

aiohttp has no bound on how large or how slow a body may be; both bounds are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from artifactproxy.errors import BadRequest, BodySlow, BodyTooLarge, Busy
from artifactproxy.limits import Limits

DRAINED_BYTES = 64 * 1024
SLOWEST = 1024  # bytes a second, beyond the first `keepalive` seconds
AT_ONCE = 16  # bodies of the largest size that may be in memory together


class Bodies:
    """`held` is how many bytes of request bodies are in memory now."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0

    async def take(
        self, request: web.BaseRequest, headers: Mapping[str, str], go_on: Callable[[], None]
    ) -> bytes:
        """The whole body as it was sent; `give_back` its length once it is no longer needed.

        `go_on` tells a client that waits for `100 Continue` to send. Raises `BodyTooLarge`,
        `BodySlow`, `Busy`, and `BadRequest` for broken framing.
        """
        if (request.content_length or 0) > self._limits.request_body:
            raise self._too_large()
        if request.can_read_body and "expect" in headers:
            go_on()
        body, whole = bytearray(), False
        try:
            await self._read(request, body)
            whole = True
        finally:
            if not whole:
                self.give_back(len(body))
        return bytes(body)

    def give_back(self, size: int) -> None:
        self.held -= size

    async def _read(self, request: web.BaseRequest, body: bytearray) -> None:
        patience, clock = self._limits.keepalive, asyncio.get_running_loop().time
        start = clock()
        try:
            async with asyncio.timeout(patience) as deadline:
                while piece := await request.content.readany():
                    body += piece
                    self.held += len(piece)
                    if len(body) > self._limits.request_body:
                        raise self._too_large()
                    if self.held > AT_ONCE * self._limits.request_body:
                        raise Busy("too many request bodies at once", code="request_bodies")
                    deadline.reschedule(min(clock(), start + len(body) / SLOWEST) + patience)
        except TimeoutError as error:
            raise BodySlow("the request body did not arrive in time") from error
        except web.RequestPayloadError as error:
            raise _broken() from error

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request body is larger than {self._limits.request_body} bytes")


async def drained(request: web.BaseRequest, headers: Mapping[str, str], seconds: float) -> bool:
    """Take in the body that a GET should not have; False if this connection must end instead.

    A client that waits for `100 Continue` is not told to go on: nobody wants its body. Raises
    `BadRequest` for a body with broken framing.
    """
    if not request.can_read_body:
        return True
    if "expect" in headers or (request.content_length or 0) > DRAINED_BYTES:
        return False
    taken = 0
    try:
        async with asyncio.timeout(seconds):
            while piece := await request.content.readany():
                taken += len(piece)
                if taken > DRAINED_BYTES:
                    return False
    except TimeoutError:
        return False
    except web.RequestPayloadError as error:
        raise _broken() from error
    return True


def _broken() -> BadRequest:
    return BadRequest("the framing of the request body is broken")
