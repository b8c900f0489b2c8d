"""The bodies of answers as one kind of function, `Read`: the next piece, b"" at the end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from artifactproxy.engine.answer import Body, Chunks, File, Tail
from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import Span

PIECE = 256 * 1024

Read = Callable[[], Awaitable[bytes]]


async def close_body(body: Body) -> None:
    """Free what an answer holds, also when not a byte of it was sent."""
    match body:
        case File():
            os.close(body.file.fd)
        case Tail():
            body.reader.close()
        case Chunks():
            aclose = getattr(body.chunks, "aclose", None)
            if aclose is not None:
                await aclose()
        case _:
            pass


def read_span(body: File) -> bytes:
    try:
        content = os.pread(body.file.fd, body.span.size, body.span.start)
    except OSError as error:
        raise StoreUnavailable("the stored file cannot be read") from error
    if len(content) != body.span.size:
        raise StoreUnavailable("the stored file is shorter than its record")
    return content


def reading_file(fd: int, span: Span) -> Read:
    at = span.start

    async def read() -> bytes:
        nonlocal at
        if at == span.stop:
            return b""
        try:
            piece = os.pread(fd, min(PIECE, span.stop - at), at)
        except OSError as error:
            raise StoreUnavailable("the stored file cannot be read") from error
        if not piece:
            raise StoreUnavailable("the stored file is shorter than its record")
        at += len(piece)
        return piece

    return read


def reading(chunks: AsyncIterator[bytes]) -> Read:
    async def read() -> bytes:
        async for piece in chunks:
            if piece:
                return piece
        return b""

    return read
