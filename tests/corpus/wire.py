"""Answers as a strict client reads them: what does not follow RFC 9112 to the letter is a failure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE = 15.0
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([ -~]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([ -~]*)")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """`head` is the whole of it as it came; interim answers are replies without a body."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    head: bytes

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in self.fields if key == name.lower()), "")


class NotHttp(AssertionError):
    """Bytes that no strict client takes for an answer."""


async def exchange(port: int, data: bytes) -> bytes:
    """Send everything, and read until the other side ends the connection. Raises TimeoutError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            sending = asyncio.create_task(_send(writer, data))
            try:
                while piece := await reader.read(65536):
                    got += piece
            except ConnectionError:
                pass
            await sending
    finally:
        writer.transport.abort()
    return bytes(got)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    try:
        await writer.drain()
    except ConnectionError:
        pass


def replies(got: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """All answers in `got`, which must hold nothing else. `methods` are those of the requests, GET
    where it ends."""
    found: list[Reply] = []
    expected = list(methods)
    while got:
        reply, got = _take(got, expected[0] if expected else "GET")
        found.append(reply)
        if reply.status >= 200 and expected:
            del expected[0]
    return found


def _take(got: bytes, method: str) -> tuple[Reply, bytes]:
    head, end, rest = got.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    line = _STATUS.fullmatch(first)
    fields = [_FIELD.fullmatch(field) for field in lines]
    if not end or not line or not all(fields):
        raise NotHttp(f"no head of an answer: {head[:400]!r}")
    named = tuple((f[1].decode().lower(), f[2].decode()) for f in fields if f)
    status = int(line[1])
    body, rest = _body(status, named, method, rest)
    return Reply(status, named, body, head), rest


def _body(status: int, fields: tuple[tuple[str, str], ...], method: str, rest: bytes) -> tuple[bytes, bytes]:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise NotHttp(f"framed twice: {fields}")
    if status < 200 or status in (204, 304) or method == "HEAD":
        return b"", rest
    if codings == ["chunked"]:
        return _chunks(rest)
    if not lengths or not re.fullmatch("[0-9]+", lengths[0]):
        raise NotHttp(f"not framed: {fields}")
    size = int(lengths[0])
    if len(rest) < size:
        raise NotHttp(f"{size} bytes announced, {len(rest)} came")
    return rest[:size], rest[size:]


def _chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = bytearray()
    while True:
        match = _CHUNK.match(rest)
        if not match:
            raise NotHttp(f"no chunk: {rest[:100]!r}")
        size = int(match[1], 16)
        piece, rest = rest[match.end() : match.end() + size], rest[match.end() + size :]
        if len(piece) < size or rest[:2] != b"\r\n":
            raise NotHttp("a chunk that is cut")
        body += piece
        rest = rest[2:]
        if not size:
            return bytes(body), rest
