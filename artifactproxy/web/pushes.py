"""Requests to repositories that take pushes: their bodies are read piece by piece, by whoever stores
them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Protocol

from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, BodySlow
from artifactproxy.hosted.kit import Inflow
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Operation
from artifactproxy.web.bodies import SLOWEST


class RegistryLike(Protocol):
    """Repositories that take pushes, as wide as the web floor needs them."""

    @property
    def locals(self) -> Collection[str]: ...

    def operation(self, ask: Ask) -> Operation: ...

    async def handle(self, ask: Ask, body: Inflow) -> Answer: ...

    async def catalog(self, ask: Ask) -> Answer: ...


class PushBody:
    """`go_on` tells a client that waits for `100 Continue` to send. A client may be slow, not silent, and
    not slower than a kibibyte a second; time that the store takes does not count."""

    def __init__(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        limits: Limits,
        go_on: Callable[[], None],
    ) -> None:
        self._request = request
        self._patience = limits.keepalive
        self._go_on = go_on
        self.waits = "expect" in headers and request.can_read_body
        self.length = request.content_length if request.can_read_body else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises `BadRequest` where it breaks off, `BodySlow`."""
        if not self._request.can_read_body:
            return
        if self.waits:
            self.waits = False
            self._go_on()
        clock, waited, taken = asyncio.get_running_loop().time, 0.0, 0
        while True:
            before = clock()
            piece = await self._piece()
            waited += clock() - before
            taken += len(piece)
            if waited > self._patience + taken / SLOWEST:
                raise BodySlow("the request body arrives too slowly")
            if not piece:
                return
            yield piece

    async def _piece(self) -> bytes:
        content = self._request.content
        if content.is_eof() and content.at_eof():
            return b""
        try:
            async with asyncio.timeout(self._patience):
                if self.length is None:  # chunked: whatever sizes the client chose
                    return await content.readany()
                # As it came from the socket: `readany` copies several into one.
                return (await content.readchunk())[0]
        except TimeoutError as error:
            raise BodySlow("the request body did not arrive in time") from error
        except web.RequestPayloadError as error:
            raise BadRequest("the framing of the request body is broken") from error
