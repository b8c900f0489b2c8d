"""One attempt to send a span of a body: straight to the socket of a plain connection, from a file or from
memory, else in slices.

Measured: for 1 GiB in parts of 8 MiB, slices cost a third more CPU than sendfile, of which most is the kernel's.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from aiohttp import ClientConnectionResetError, Payload
from aiohttp.abc import AbstractStreamWriter

from artifactproxy.stores.s3.sources import SLICE, MemorySource, Source, SourceFailed

_CALL = 1024 * 1024
Give = Callable[[int, int, int], int]
"""Hands a socket what it takes of the span between two places; how much that was."""
_BROKEN = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT})


class Sending:
    """Its deadline moves with every slice that the socket took."""

    def __init__(self, source: Source, start: int, stop: int, stall: float) -> None:
        self._source = source
        self._at = start
        self._stop = stop
        self._stall = stall
        self.deadline: asyncio.Timeout | None = None
        self.failure: SourceFailed | None = None
        self._ended = False
        self._turn: asyncio.Future[None] | None = None

    def end(self) -> None:
        """The source may go now: a connection that is being closed reads no further slice."""
        self._ended = True
        if self._turn is not None:
            _settle(self._turn)

    def data(self) -> Payload | bytes:
        return _Body(self) if self._stop > self._at else b""

    async def send(self, writer: AbstractStreamWriter) -> None:
        """The head that waits in `writer`, then the span. Raises `SourceFailed` and OSError."""
        fd = self._source.descriptor
        views = self._source.views if isinstance(self._source, MemorySource) else None
        # Less leaves in one packet with the head.
        if (fd >= 0 or views) and self._stop - self._at > SLICE:
            transport = await _plain(writer)
            if transport is not None:
                await self._send_straight(
                    partial(_from_file, fd) if views is None else _from(views), transport
                )
        while self._at < self._stop and not self._ended:
            self._moved()
            end = min(self._at + SLICE, self._stop)
            try:
                piece = self._source.read(self._at, end)
            except SourceFailed as failure:
                self.failure = failure
                raise
            await writer.write(piece)
            self._at = end
        self._moved()

    async def _send_straight(self, give: Give, transport: asyncio.WriteTransport) -> None:
        """As much of the span as leaves so: what a source or a connection cannot do, slices can or tell."""
        with _own_descriptor(transport) as out:
            while self._at < self._stop and not self._ended:
                if transport.is_closing():
                    raise ClientConnectionResetError("the connection was closed")
                self._moved()
                try:
                    sent = give(out, self._at, min(self._at + _CALL, self._stop))
                except (BlockingIOError, InterruptedError):
                    await self._writable(out)
                    continue
                except OSError as error:
                    if error.errno in _BROKEN:
                        raise
                    return
                if not sent:
                    return
                self._at += sent
                if self._at < self._stop:  # after the last the answer may be there before our turn
                    # A bucket on this machine never makes the socket full; others must get theirs.
                    await asyncio.sleep(0)

    async def _writable(self, out: int) -> None:
        """Wait until the connection takes bytes, or for the end."""
        loop = asyncio.get_running_loop()
        self._turn = loop.create_future()
        loop.add_writer(out, _settle, self._turn)
        try:
            await self._turn
        finally:
            loop.remove_writer(out)
            self._turn = None

    def _moved(self) -> None:
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self._stall)


class _Body(Payload):
    """What the HTTP client asks to write itself; sent once."""

    _consumed = True  # of a span that went half way nothing may be sent again over this request

    def __init__(self, sending: Sending) -> None:
        super().__init__(sending)
        self._sending = sending

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self._sending.send(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        del content_length  # that of the span
        await self._sending.send(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del encoding, errors
        raise TypeError("a body on its way to the bucket is no text")


async def _plain(writer: AbstractStreamWriter) -> asyncio.WriteTransport | None:
    """The transport, once the head has left it, if bytes can be given to its socket past it."""
    writer.send_headers()
    transport = writer.transport
    if transport is None or transport.get_extra_info("ssl_object") is not None:
        return None
    for _ in range(3):  # turns of the loop: a transport may write at the end of one
        if not transport.get_write_buffer_size():
            return None if transport.is_closing() else transport
        await asyncio.sleep(0)
    return None


@contextmanager
def _own_descriptor(transport: asyncio.WriteTransport) -> Iterator[int]:
    """Another descriptor of the socket: a loop watches that of a transport for the transport alone."""
    out = os.dup(transport.get_extra_info("socket").fileno())
    try:
        yield out
    finally:
        os.close(out)


def _from_file(fd: int, out: int, start: int, stop: int) -> int:
    return os.sendfile(out, fd, start, stop - start)


def _from(views: Callable[[int, int], list[memoryview]]) -> Give:
    return lambda out, start, stop: os.writev(out, views(start, stop))


def _settle(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
