"""StoreSurvey for a bucket: what lies below the prefix, judged and put in order.

With an empty prefix the bucket may hold things of others, and only what lies below `blobs/` is judged.
Temporary files are on the local disk and none of this room's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp

from artifactproxy import failpoints
from artifactproxy.errors import StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Observer
from artifactproxy.ports.checkup import Content, Oddity
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.s3.copying import QUARANTINE, move, set_aside
from artifactproxy.stores.s3.listing import BLOBS, blob_of, keys
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.reading import Reading
from artifactproxy.stores.s3.trouble import Answered, Keyless, Unreached, sentence, told
from artifactproxy.stores.s3.wire import Wire

_AT_ONCE = 16
_HEX = frozenset("0123456789abcdef")


class S3Survey:
    """Connects when first asked."""

    def __init__(self, options: S3Options, *, observer: Observer | None = None) -> None:
        self._options = options
        self._wire = Wire(options, observer=observer, rng=random.random)
        self._starting: asyncio.Lock = asyncio.Lock()
        self._started = False

    async def close(self) -> None:
        await self._wire.close()

    async def _ready(self) -> Wire:
        async with self._starting:
            if not self._started:
                try:
                    await self._wire.start()
                except (Answered, Unreached, Keyless) as trouble:
                    raise StoreUnavailable(sentence(trouble, self._options)) from trouble
                self._started = True
        return self._wire

    # --- looking ----------------------------------------------------------------------------

    async def sizes(self, sha256s: Sequence[str]) -> list[int | None]:
        wire, turns = await self._ready(), asyncio.Semaphore(_AT_ONCE)

        async def size(sha256: str) -> int | None:
            try:
                key = blob_path(sha256)
            except (ValueError, TypeError):
                return None
            async with turns:
                thing = await wire.head(key)
            return None if thing is None else thing.size

        with told("look up blobs"):
            return await asyncio.gather(*map(size, sha256s))

    async def read(self, sha256: str, told: Callable[[int], None]) -> Content | None:
        (size,) = await self.sizes([sha256])
        if size is None:
            return None
        try:
            return await self._hashed(BlobRef(sha256, size), told)
        except OSError as error:
            return Content(size, "", os.strerror(error.errno or 0))
        except StoreAway as fault:
            # One object that cannot be had while others can is trouble of that object.
            await self._answers()
            return Content(size, "", fault.detail)

    async def _hashed(self, ref: BlobRef, heard: Callable[[int], None]) -> Content:
        digest = hashlib.sha256()
        if ref.size:
            reading = Reading(await self._ready(), ref, Span(0, ref.size), _leave, verify=False)
            reading.whole = False  # right or wrong, it is told
            try:
                with told("read a blob"):
                    await reading.begin()
                    async for piece in reading.pieces():
                        failpoints.hit("survey.read")
                        digest.update(piece)
                        heard(len(piece))
            finally:
                await reading.close()
        return Content(ref.size, digest.hexdigest())

    async def _answers(self) -> None:
        with told("list its objects"):
            await (await self._ready()).probe()

    async def temp_bytes(self) -> int:
        return 0

    async def oddities(self) -> AsyncIterator[Oddity]:
        wire = await self._ready()
        with told("list its objects"):
            async for listed in keys(wire, "" if self._options.prefix else "blobs/"):
                kind, detail = _judged(listed.key)
                if kind:
                    yield Oddity(kind, listed.key, detail)

    async def is_odd(self, oddity: Oddity) -> bool:
        if _judged(oddity.name)[0] != oddity.kind:
            return False
        with told("look again"):
            return await (await self._ready()).head(oddity.name) is not None

    # --- putting in order -------------------------------------------------------------------

    async def set_aside(self, sha256: str) -> None:
        with told("set a blob aside"):
            await set_aside(await self._ready(), blob_path(sha256))

    async def mend(self, oddity: Oddity) -> bool:
        if await self.is_odd(oddity):
            wire = await self._ready()
            with told("put its objects in order"):
                if not await self._brought_home(wire, oddity.name):
                    await set_aside(wire, oddity.name)
        return not await self.is_odd(oddity)

    async def _brought_home(self, wire: Wire, key: str) -> bool:
        """An object that is what its name says goes to its place, if that is free."""
        name = key.rpartition("/")[2]
        if not _is_digest(name) or await wire.head(blob_path(name)) is not None:
            return False
        thing = await wire.head(key)
        if thing is None:
            return True
        digest = hashlib.sha256()
        async with wire.reader():
            reply = await wire.get(key, {})
            try:
                async for piece in reply.content.iter_any():
                    digest.update(piece)
            except (aiohttp.ClientError, OSError) as error:
                raise StoreAway("the bucket broke off an object") from error
            finally:
                reply.close()
        return digest.hexdigest() == name and await move(wire, key, blob_path(name)) is not None


async def _leave(ref: BlobRef) -> bool:
    del ref
    return False


def _is_digest(name: str) -> bool:
    return len(name) == 64 and set(name) <= _HEX


def _judged(key: str) -> tuple[str, str]:
    """What is odd about a key below the prefix: kind and detail, ("", "") if nothing is."""
    if blob_of(key) is not None or key.startswith(QUARANTINE):
        return "", ""
    name = key.rpartition("/")[2]
    if key.startswith(BLOBS) and _is_digest(name):
        return "misplaced", f"it belongs to {blob_path(name)}"
    return "stray", "it is none of ours"
