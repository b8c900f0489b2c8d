"""One address of a body that is read in parts: what identifies it there, and where its redirects lead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from artifactproxy.model import Header, Span
from artifactproxy.ports import UpstreamReply

EXPIRED = frozenset({400, 401, 403, 404, 410})  # of an address that a redirect gave: it was good for a while

Ask = Callable[[str, list[Header], str, bool], AbstractAsyncContextManager[UpstreamReply]]
"""Opens a request: the address, what to ask for, where redirects led before, whether it is spare."""


@dataclass(slots=True, eq=False)
class Mirror:
    """`mark` is the validator of the body there, for If-Range; "" if the digest alone will tell. `at` is
    where redirects led, `direct` whether it is known that there are none."""

    url: str
    mark: str = ""
    at: str = field(default="", repr=False)
    direct: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def part(self, stack: AsyncExitStack, ask: Ask, span: Span, *, spare: bool) -> UpstreamReply:
        """The answer to a request for this part, open as long as the stack is. Redirects are followed once
        for all parts, and again when what they gave has expired. Raises as the port says."""
        at = self.at
        if at or self.direct:
            inner = AsyncExitStack()
            reply = await inner.enter_async_context(self._asked(ask, span, at, spare))
            if not at or reply.head.status not in EXPIRED:
                stack.push_async_exit(inner)
                return reply
            await inner.aclose()
        async with self.lock:
            if self.at == at:  # nobody else has asked the way meanwhile
                self.at = ""
            reply = await stack.enter_async_context(self._asked(ask, span, self.at, spare))
            self.at, self.direct = reply.at or self.at, not reply.at
        return reply

    def _asked(
        self, ask: Ask, span: Span, at: str, spare: bool
    ) -> AbstractAsyncContextManager[UpstreamReply]:
        headers: list[Header] = [("range", f"bytes={span.start}-{span.stop - 1}")]
        if self.mark:
            headers.append(("if-range", self.mark))
        return ask(self.url, headers, at, spare)
