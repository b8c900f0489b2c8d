"""A put whose bytes come once and are kept nowhere: each part waits in memory until the bucket has it.

Parts leave while later ones arrive. What may lie in memory is bounded for the whole process, so a bucket
that is slower than the source stops the source. A body that fits one part is sent in one piece, after it
has been verified.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from artifactproxy.errors import Busy, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.rules.multipart import Part, plan
from artifactproxy.stores.s3.sources import MemorySource, SourceFailed
from artifactproxy.stores.s3.trouble import told
from artifactproxy.stores.s3.upload import Dock, Filing, Upload, UploadLost

ROOM_SECONDS = 120.0
"""For which a body waits until others have left it the memory for a part."""


class S3Reception:
    """`length` None: not announced."""

    def __init__(self, dock: Dock, sha256: str, length: int | None) -> None:
        self._dock = dock
        self._sha256 = sha256
        self._length = length
        self._cut = plan(length, dock.options.part_size)
        self._filing = Filing(dock, sha256)
        self._upload: Upload | None = None
        self._opening: asyncio.Task[Upload] | None = None
        self._number = 1
        self._received = 0
        self._filling: MemorySource | None = None
        self._room = AsyncExitStack()
        self._turns = asyncio.Semaphore(dock.options.parts)
        self._sending: set[asyncio.Task[None]] = set()
        self._fault: StoreUnavailable | None = None

    async def write(self, chunk: bytes) -> None:
        """Raises `StoreUnavailable` for what any part met, `Busy` where there is no room for another."""
        left = memoryview(chunk)
        while left:
            self._raise_fault()
            part = self._cut.part(self._number)
            if self._filling is None:
                await self._make_room(part)
                self._filling = MemorySource(part.start)
                if self._length is not None and self._length > part.stop:
                    self._begin_opening()  # while the first part arrives
            taken = min(len(left), part.stop - self._received)
            self._filling.add(left[:taken])
            self._received += taken
            left = left[taken:]
            if self._received == part.stop and self._received != self._length:
                body, self._filling = self._filling, None
                await self._dispatch(part, body)

    async def finish(self, ref: BlobRef) -> None:
        """Make it visible: all of it has been written, and verified to be `ref`."""
        if (ref.sha256, ref.size) != (self._sha256, self._received):
            raise StoreUnavailable("a body is not the one that was announced")
        try:
            with told("store a blob"):
                if self._upload is None:
                    await self._dock.put(ref, self._filling or MemorySource(0))
                else:
                    await self._complete(self._upload, ref)
        except (UploadLost, SourceFailed) as error:
            raise StoreAway("the bucket lost an upload; send it again") from error
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Forget what is not visible. Never raises."""
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        if self._opening is not None:
            await asyncio.wait({self._opening})
            if not self._opening.cancelled():
                self._opening.exception()  # told where it was waited for
        await self._filing.drop()
        await self._room.aclose()
        self._filling = None

    async def _complete(self, upload: Upload, ref: BlobRef) -> None:
        if self._filling is not None:
            last = Part(self._number, self._received - self._filling.size, self._received)
            await upload.part(self._filling, last)
        while self._sending:
            await asyncio.wait(self._sending)
        self._raise_fault()
        await upload.complete(ref.size)

    async def _make_room(self, part: Part) -> None:
        size = part.size if self._length is None else min(part.size, self._length - part.start)
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                await self._room.enter_async_context(self._dock.budget.piece(max(size, 1)))
        except TimeoutError as error:
            raise Busy("too many bodies are on their way to the bucket", code="store_busy") from error

    async def _dispatch(self, part: Part, body: MemorySource) -> None:
        """Send a part that is full; its room goes with it."""
        room, self._room = self._room, AsyncExitStack()
        self._number += 1
        async with room:
            await self._turns.acquire()
            with told("store a blob"):
                upload = await self._opened()
            kept = room.pop_all()
        task = asyncio.create_task(self._send(upload, part, body, kept))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _opened(self) -> Upload:
        """The upload, begun with the first part at the latest. Whoever leaves meanwhile leaves it to `abandon`, which
        can only end what it knows the id of."""
        if self._upload is None:
            self._upload = await asyncio.shield(self._begin_opening())
        return self._upload

    def _begin_opening(self) -> asyncio.Task[Upload]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return self._opening

    async def _open(self) -> Upload:
        await self._filing.place(early=self._dock.budget.has_early)
        return await self._filing.begin(self._cut)

    async def _send(self, upload: Upload, part: Part, body: MemorySource, room: AsyncExitStack) -> None:
        async with room:
            try:
                with told("store a blob"):
                    await upload.part(body, part)
            except StoreUnavailable as fault:
                self._fault = self._fault or fault
            except (UploadLost, SourceFailed) as error:
                lost = StoreAway("the bucket lost an upload; send it again")
                lost.__cause__ = error
                self._fault = self._fault or lost
            finally:
                self._turns.release()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault
