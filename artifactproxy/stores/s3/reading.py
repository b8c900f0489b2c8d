"""A blob, or a span of it, as it comes from the bucket.

One GET; a body that breaks off is continued by Range and If-Match. A whole blob is hashed on its way and
its last 64 KiB wait for the result, so that nobody ever holds a complete wrong one, unless whoever reads
it does that himself. What is found to be another object than its name says is set aside.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp

from artifactproxy.errors import BlobMissing, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.rules.http import parse_content_range
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.s3.trouble import Answered, is_absent, told
from artifactproxy.stores.s3.wire import Wire

HOLD = 64 * 1024
RESUMES = 3
PROGRESS = 8 * 2**20  # bytes after which a break counts as the first again
SKIPPED = 16 * 2**20  # bytes that are read for nothing where the bucket ignores a Range
_PIECE = 256 * 1024

Expel = Callable[[BlobRef], Awaitable[bool]]


async def open_blob(
    wire: Wire, ref: BlobRef, span: Span, expel: Expel, *, verify: bool = True
) -> AsyncIterator[bytes]:
    """The chunks of `span`. `expel` sets the blob aside and tells whether it did; without `verify` only
    for its size.

    Raises `BlobMissing` before any byte, `StoreAway`; the chunks raise `StoreUnavailable`.
    """
    reading = Reading(wire, ref, span, expel, verify=verify)
    async with AsyncExitStack() as undo:  # also where the client leaves while the bucket is silent
        undo.push_async_callback(reading.close)
        with told("read a blob"):
            await reading.begin()
        if reading.verified and ref.size <= HOLD:
            return _one(await reading.all())
        chunks = reading.chunks()
        # Enter the generator, so that its connection is freed even if nobody reads a byte of it.
        await anext(chunks)
        undo.pop_all()
    return chunks


class Reading:
    def __init__(self, wire: Wire, ref: BlobRef, span: Span, expel: Expel, *, verify: bool) -> None:
        self._wire = wire
        self._ref = ref
        self._span = span
        self._expel = expel
        self._key = blob_path(ref.sha256)
        self._at = span.start
        self._skip = 0
        self._etag = ""
        self._reply: aiohttp.ClientResponse | None = None
        self._place = AsyncExitStack()
        self.whole = span == Span(0, ref.size)
        self.verified = self.whole and verify

    async def begin(self) -> None:
        """Ask, and judge the head. Raises `BlobMissing`, `Answered`, `StoreAway`."""
        await self._place.enter_async_context(self._wire.reader())
        try:
            await self._ask({} if self.whole else self._range())
        except Answered as trouble:
            if is_absent(trouble):
                raise BlobMissing(self._ref.sha256) from trouble
            if trouble.status == 416:
                await self._wrong_size(None)
            raise

    def _range(self) -> dict[str, str]:
        return {"Range": f"bytes={self._at}-{self._span.stop - 1}"}

    async def _ask(self, headers: dict[str, str]) -> None:
        self._reply = reply = await self._wire.get(self._key, headers)
        self._etag = reply.headers.get("ETag", "")
        if not self._etag:
            raise StoreAway("something answers for the bucket that is none")  # a portal, a balancer
        if reply.status == 206:
            parsed = parse_content_range(reply.headers.get("Content-Range", ""))
            if parsed is None or parsed[1] is None:
                raise StoreAway("the bucket answered a range without saying which")
            span, total = parsed
            await self._wrong_size(total)
            if span != Span(self._at, self._span.stop):
                raise StoreAway("the bucket answered another range than was asked for")
            return
        length = reply.headers.get("Content-Length", "")
        await self._wrong_size(int(length) if length.isdecimal() else self._ref.size)
        self._skip = self._at  # a bucket that ignores ranges
        if self._skip > SKIPPED:
            raise StoreAway("the bucket ignores ranges")

    async def _wrong_size(self, size: int | None) -> None:
        """Set aside an object of another size, and say so."""
        if size != self._ref.size:
            raise BlobMissing(self._ref.sha256, damaged=await self._expel(self._ref))

    async def close(self) -> None:
        if self._reply is not None:
            self._reply.close()
        await self._place.aclose()

    # --- the body ---------------------------------------------------------------------------

    async def all(self) -> bytes:
        """A small whole blob. Raises `BlobMissing` if it is not what its name says."""
        try:
            body = b"".join([piece async for piece in self.pieces()])
        finally:
            await self.close()
        if hashlib.sha256(body).hexdigest() != self._ref.sha256:
            raise BlobMissing(self._ref.sha256, damaged=await self._expel(self._ref))
        return body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b""  # taken by `open_blob`
            pieces = self._verified() if self.verified else self.pieces()
            async for piece in pieces:
                yield piece
        finally:
            await self.close()

    async def _verified(self) -> AsyncGenerator[bytes, None]:
        digest = hashlib.sha256()
        held: deque[bytes] = deque()
        size = 0
        async for piece in self.pieces():
            digest.update(piece)
            held.append(piece)
            size += len(piece)
            while size - len(held[0]) >= HOLD:
                size -= len(held[0])
                yield held.popleft()
        if digest.hexdigest() != self._ref.sha256:
            await self._expel(self._ref)
            raise StoreUnavailable("a blob in the bucket is not what its name says")
        for piece in held:
            yield piece

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Exactly the span, over as many connections as that takes."""
        left, mark = RESUMES, self._at
        while True:
            cause: Exception | None = None
            try:
                async for piece in self._received():
                    yield piece
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                cause = error
            if self._at >= self._span.stop:
                return
            if self._at - mark >= PROGRESS:
                left, mark = RESUMES, self._at
            if not left:
                raise StoreAway("the bucket broke off a blob again and again") from cause
            left -= 1
            await self._resume()

    async def _received(self) -> AsyncGenerator[bytes, None]:
        """What this connection gives, up to the end of the span."""
        assert self._reply is not None
        async for received in self._reply.content.iter_any():
            piece = received
            if self._skip:
                skipped = min(self._skip, len(piece))
                self._skip -= skipped
                piece = piece[skipped:]
            piece = piece[: self._span.stop - self._at]
            for start in range(0, len(piece), _PIECE):
                part = piece[start : start + _PIECE]
                self._at += len(part)
                yield part
            if self._at >= self._span.stop:
                return

    async def _resume(self) -> None:
        """Ask for the rest, of the same object."""
        if self._reply is not None:
            self._reply.close()
        with told("read a blob"):
            try:
                await self._ask({**self._range(), "If-Match": self._etag})
            except Answered as trouble:
                if trouble.status == 412 and self.whole:
                    # Put again meanwhile: the same bytes, which the digest will tell.
                    await self._resume_anyway()
                elif trouble.status == 412 or is_absent(trouble):
                    raise StoreUnavailable("a blob was replaced or removed while it was read") from trouble
                else:
                    raise
            except BlobMissing as error:
                raise StoreUnavailable("a blob was replaced while it was read") from error

    async def _resume_anyway(self) -> None:
        try:
            await self._ask(self._range())
        except (Answered, BlobMissing) as error:
            raise StoreUnavailable("a blob was replaced or removed while it was read") from error


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    if body:
        yield body
