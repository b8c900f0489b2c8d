"""Requests to repositories that take pushes: where they are addressed, and their bodies, which are read
piece by piece by whoever stores them.

`/v2/REPOSITORY/NAME/...` and `/REPOSITORY/v2/NAME/...` are one place; every address in an answer is of
the kind the client came by.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, BodySlow
from artifactproxy.hosted.kit import Inflow
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Operation
from artifactproxy.rules.addresses import Address
from artifactproxy.web.bodies import SLOWEST

V2 = "v2"


class RegistryLike(Protocol):
    """Repositories that take pushes, as wide as the web floor needs them."""

    @property
    def locals(self) -> Collection[str]: ...

    def operation(self, ask: Ask) -> Operation: ...

    async def handle(self, ask: Ask, body: Inflow) -> Answer: ...


def local_address(address: Address, names: Collection[str]) -> Address:
    """The address of a repository that takes pushes where `/v2/` comes first, else as it was."""
    if address.repo != V2:
        return address
    repo, slash, path = address.path.partition("/")
    return Address(repo, path, address.query, f"/{V2}") if slash and repo in names else address


def within(ask: Ask, address: Address) -> Ask | None:
    """The same request with the path behind `/v2/` and the repository; None: it is no address of a
    registry."""
    if address.prefix == f"/{V2}":
        return ask
    first, slash, rest = ask.path.partition("/")
    return replace(ask, path=rest, base=f"{ask.base}/{V2}") if slash and first == V2 else None


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
                return await content.readany()
        except TimeoutError as error:
            raise BodySlow("the request body did not arrive in time") from error
        except web.RequestPayloadError as error:
            raise BadRequest("the framing of the request body is broken") from error
