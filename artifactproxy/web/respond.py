"""Answers to bytes on the wire. Nothing else in the program writes a response body.

Two measured facts rule this file. After the head has left, a second response would become content
of the first, and a clean end of a short body looks whole: so from then on every failure is a reset.
A body after HEAD, 204 or 304 would be read as the next response: so those take a path on which no
body is ever touched.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
import traceback
from dataclasses import dataclass
from typing import assert_never

from aiohttp import web

from artifactproxy.engine.answer import Answer, Bytes, Chunks, File, Nothing, Reader, Tail
from artifactproxy.errors import Fault, StoreUnavailable
from artifactproxy.model import Ask, Span
from artifactproxy.ports import Observer, Outcome
from artifactproxy.web.connection import CLOSED, KEPT, ClientGone, Connection, own_socket
from artifactproxy.web.head import body_length, is_silent, render
from artifactproxy.web.reads import PIECE, Read, close_body, read_span, reading, reading_file
from artifactproxy.web.sendfile import send_head, send_span

ONE_WRITE = 64 * 1024  # a file up to this size is read at once and leaves with its head
_SPOOL_MEMORY = 1024 * 1024
SPOOL_BYTES = 64 * 1024 * 1024

_NOTHING_ASKED = Ask("", "")


class VersionRefused(Fault):
    """Something that this HTTP version cannot carry, or a version that we do not speak: 505."""

    status = 505
    code = "http_version"


class ShortBody(Exception):
    """A body that is not as long as its head said."""


@dataclass(frozen=True, slots=True)
class Line:
    """The parts of a request that shape its answer; `old` says that it is HTTP/1.0."""

    method: str
    old: bool
    request_id: str


class Exchange:
    """One request and its one answer; `outcome` becomes the record of it.

    `keep` is False once this connection must end with the answer; `quiet` answers are not logged
    when they succeed (health checks), `internal` ones are no client's and never logged.
    """

    __slots__ = (
        "_outcome",
        "_stall",
        "ask",
        "connection",
        "first_byte",
        "head_sent",
        "internal",
        "keep",
        "line",
        "observer",
        "quiet",
        "started",
        "written",
    )

    def __init__(
        self, connection: Connection, line: Line, observer: Observer, *, stall: float, keep: bool = False
    ) -> None:
        self.connection = connection
        self.line = line
        self.keep = keep
        self.quiet = False
        self.internal = False
        self.ask = _NOTHING_ASKED
        self.observer = observer
        self._outcome: Outcome | None = None
        self.started = time.monotonic()
        self.first_byte = 0.0
        self.head_sent = False
        self.written = 0
        self._stall = stall

    @property
    def outcome(self) -> Outcome:
        """The engine's own record once there is an answer, else one of ours."""
        if self._outcome is None:
            self._outcome = Outcome("request")
        return self._outcome

    @outcome.setter
    def outcome(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def send(self, answer: Answer) -> web.StreamResponse:
        """Send the whole answer, or reset the connection.

        Raises only before the first byte has left: a `Fault`, or what the body raised, and then
        another answer may be sent. The body is closed in any case.
        """
        self.outcome.status = answer.status
        try:
            await self._send(answer)
        except asyncio.CancelledError:
            self._fail("client_left" if self._client_left() else "shutdown")
            raise
        except ClientGone as gone:
            self._fail(gone.reason)
            return CLOSED
        except Exception as error:
            if not self.head_sent:
                raise
            self._fail(error.code if isinstance(error, Fault) else "internal")
            if not isinstance(error, Fault):
                self.report_bug("answer_broken", error)
            return CLOSED
        finally:
            await close_body(answer.body)
        return KEPT if self.keep else CLOSED

    def report_bug(self, event: str, error: Exception) -> None:
        """A failure that is ours: its traceback goes to the log, never to the client."""
        text = "".join(traceback.format_exception(error))
        self.observer.warning(
            event, request_id=self.line.request_id, error=repr(error), traceback=text[-8000:]
        )

    def go_on(self) -> None:
        """The interim answer to `Expect: 100-continue`, which HTTP/1.0 does not know."""
        transport = self.connection.transport
        if not self.line.old and transport is not None and not transport.is_closing():
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send_at_once(self, answer: Answer) -> None:
        """Write an answer in memory where nothing can be awaited. Raises `ClientGone`."""
        body = answer.body.body if isinstance(answer.body, Bytes) else b""
        self.outcome.status = answer.status
        self._write(self._head(answer, len(body)) + body, len(body))

    def abandon(self) -> None:
        """The request was cancelled before it had an answer."""
        self._fail("client_left" if self._client_left() else "shutdown")

    def finish(self) -> None:
        """Complete the outcome and hand it to the observer."""
        outcome = self.outcome
        if self.internal:
            return
        if self.quiet and outcome.status < 400 and not outcome.error:
            return
        outcome.method = self.line.method
        outcome.request_id = self.line.request_id
        outcome.repo = outcome.repo or self.ask.repo
        outcome.path = outcome.path or self.ask.path
        outcome.caller = outcome.caller or self.ask.caller
        outcome.bytes = self.written
        outcome.first_byte_seconds = self.first_byte
        outcome.seconds = time.monotonic() - self.started
        self.observer.outcome(outcome)

    async def _send(self, answer: Answer) -> None:
        body = answer.body
        length = body_length(body)
        # A client that pipelines and does not read must not fill our memory with answers.
        await self._room()
        if is_silent(answer, self.line.method):
            self._write(self._head(answer, length), 0)
            return
        match body:
            case Bytes():
                self._write(self._head(answer, length) + body.body, len(body.body))
            case File() if body.span.size <= ONE_WRITE:
                content = read_span(body)
                self._write(self._head(answer, length) + content, len(content))
            case File():
                await self._send_file(answer, body)
            case Tail():
                await self._send_tail(answer, body)
            case Chunks():
                await self._stream(answer, reading(body.chunks), body.length)
            case Nothing():
                pass
            case _:
                assert_never(body)
        if self.written > ONE_WRITE:
            await self.connection.flushed(self._stall)

    async def _send_file(self, answer: Answer, body: File) -> None:
        transport = self.connection.transport
        if transport is None:
            raise ClientGone("client_left")
        own = None if self.connection.secure else own_socket(transport)
        if own is None:
            await self._stream(answer, reading_file(body.file.fd, body.span), body.span.size)
            return
        with own:
            head = self._head(answer, body.span.size)
            await self.connection.flushed(self._stall)
            self._mark_head()
            await send_head(self.connection, own, head, self._stall)
            stopped = await send_span(self.connection, own, body.file.fd, body.span, self._stall, self._count)
        if stopped < body.span.stop:
            read = reading_file(body.file.fd, body.span)
            await self._pump(await read(), read, body.span.size)

    async def _send_tail(self, answer: Answer, body: Tail) -> None:
        """A growing file leaves by sendfile as well, as far as it lies in a file."""
        transport, reader, length = self.connection.transport, body.reader, body.length
        if transport is None:
            raise ClientGone("client_left")
        if length is None and self.line.old:
            length = await reader.whole()
        own = None if self.connection.secure else own_socket(transport)
        if own is None:
            await self._stream(answer, reader.read, length)
            return
        with own:
            if length is None:
                await self._send_chunked(answer, reader, own)
                return
            window = await reader.window()
            if window is None:
                await self._stream(answer, reader.read, length)
                return
            head = self._head(answer, length)
            await self.connection.flushed(self._stall)
            self._mark_head()
            await send_head(self.connection, own, head, self._stall)
            while window is not None:
                fd, span = window
                stopped = await send_span(self.connection, own, fd, span, self._stall, self._count)
                reader.advance(stopped - span.start)
                window = await reader.window() if stopped == span.stop else None
        if self.written < length:
            await self._pump(await reader.read(), reader.read, length - self.written)

    async def _send_chunked(self, answer: Answer, reader: Reader, own: socket.socket) -> None:
        """The same where the length is not known: what lies in memory is copied, a window of the
        file is one chunk. A thousand slow readers then hold nothing of the body in memory."""
        lead = piece = b""
        while True:
            window = await reader.window()
            if window is None and not (piece := await reader.read()):
                break
            lead = lead if self.head_sent else self._head(answer, None)
            if window is None:
                self._write(b"%b%x\r\n%b\r\n" % (lead, len(piece), piece), len(piece))
                lead = piece = b""
                await self._room()
                continue
            fd, span = window
            await self.connection.flushed(self._stall)
            self._mark_head()
            await send_head(self.connection, own, b"%b%x\r\n" % (lead, span.size), self._stall)
            stopped = await send_span(self.connection, own, fd, span, self._stall, self._count)
            if stopped < span.stop:
                read = reading_file(fd, Span(stopped, span.stop))
                await self._pump(await read(), read, span.stop - stopped)
            reader.advance(span.size)
            lead = b"\r\n"
        self._write((lead if self.head_sent else self._head(answer, None)) + b"0\r\n\r\n", 0)

    async def _stream(self, answer: Answer, read: Read, length: int | None) -> None:
        """A body that arrives piece by piece. Its first piece is awaited before the head leaves,
        so that a transfer without any byte still ends in a proper status."""
        if length is None and self.line.old:
            await self._spooled(answer, read)
            return
        first = await read()
        head = self._head(answer, length)
        if length is not None:
            await self._pump(first, read, length, head)
            return
        piece = first
        while piece:
            self._write(b"%b%x\r\n%b\r\n" % (head, len(piece), piece), len(piece))
            head = piece = b""  # a slow client must not keep it here as well
            await self._room()
            piece = await read()
        self._write(head + b"0\r\n\r\n", 0)

    async def _pump(self, piece: bytes, read: Read, length: int, head: bytes = b"") -> None:
        """Exactly `length` bytes, or a `ShortBody`."""
        left = length
        while True:
            if len(piece) > left or (left and not piece):
                if head and not self.head_sent:
                    raise StoreUnavailable("the body is not as long as announced", code="length")
                raise ShortBody(f"{left} of {length} bytes are left, the next piece has {len(piece)}")
            if head and len(piece) > ONE_WRITE:
                self._write(head, 0)
                head = b""
            self._write(head + piece if head else piece, len(piece))
            head = b""
            left -= len(piece)
            if not left:
                return
            piece = b""
            await self._room()
            piece = await read()

    async def _spooled(self, answer: Answer, read: Read) -> None:
        """HTTP/1.0 cannot tell a cut body from a whole one, so the length is found out first."""
        with tempfile.SpooledTemporaryFile(_SPOOL_MEMORY) as spool:
            while piece := await read():
                if spool.tell() + len(piece) > SPOOL_BYTES:
                    raise VersionRefused("a document of unknown length is too large for HTTP/1.0")
                spool.write(piece)
            length = spool.tell()
            spool.seek(0)

            async def again() -> bytes:
                return spool.read(PIECE)

            await self._pump(await again(), again, length, self._head(answer, length))

    def _head(self, answer: Answer, length: int | None) -> bytes:
        line = self.line
        return render(
            answer,
            method=line.method,
            length=length,
            keep=self.keep,
            old=line.old,
            request_id=line.request_id,
        )

    def _write(self, piece: bytes, content: int) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ClientGone("client_left")
        self._mark_head()
        transport.write(piece)
        self.written += content

    async def _room(self) -> None:
        if self.connection.writing_paused:
            await self.connection.room(self._stall)

    def _mark_head(self) -> None:
        if not self.head_sent:
            self.head_sent = True
            self.first_byte = time.monotonic() - self.started

    def _count(self, sent: int) -> None:
        self.written += sent

    def _client_left(self) -> bool:
        transport = self.connection.transport
        return transport is None or transport.is_closing()

    def _fail(self, code: str) -> None:
        """Nothing more may be said on this connection."""
        transport = self.connection.transport
        if transport is not None:
            self.written = max(0, self.written - transport.get_write_buffer_size())
        self.outcome.result = "error"
        self.outcome.error = code
        self.connection.reset()
