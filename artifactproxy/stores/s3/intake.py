"""A put that begins while its body arrives: parts leave as soon as they are written.

Nothing that fails here matters before `finish`, which sends what is missing from the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import Growing
from artifactproxy.rules.multipart import Part, plan
from artifactproxy.stores.s3.sources import GrowingSource, SourceFailed, remove
from artifactproxy.stores.s3.trouble import Answered, Keyless
from artifactproxy.stores.s3.upload import Dock, Filing, Upload, UploadLost

EARLY_PARTS = 1
"""In flight while the body arrives: nobody waits for the upload, but somebody for the body. Measured with
the bucket on the same two cores, 256 MiB: four made the client wait 1.77 x as long as a folder does, one
1.18 x. What a fast body leaves behind goes out several at a time once it is whole."""
T = TypeVar("T")
Take = Callable[[BlobRef, Path, Filing], Awaitable[None]]


class S3Intake:
    """`take` stores a file by a filing that may have begun."""

    def __init__(self, dock: Dock, sha256: str, body: Growing, take: Take) -> None:
        self._dock = dock
        self._sha256 = sha256
        self._body = body
        self._length = body.length
        self._take = take
        self._filing = Filing(dock, sha256)
        self._ending = asyncio.Event()
        self._news = asyncio.Event()
        self._parts: set[asyncio.Task[None]] = set()
        self._run = asyncio.create_task(self._begin())
        self._listening = asyncio.create_task(self._listen())

    async def finish(self, ref: BlobRef, path: Path) -> None:
        """After `StoreAway` a put of the same file goes on where this stopped."""
        try:
            await self._quiet()
        except asyncio.CancelledError:
            self._dock.detach(self.abandon())
            remove(path)
            raise
        if ref.sha256 != self._sha256:
            await self._filing.drop()
            self._filing = Filing(self._dock, ref.sha256)
        await self._take(ref, path, self._filing)

    async def abandon(self) -> None:
        for part in self._parts:
            part.cancel()
        await self._quiet()
        await self._filing.drop()

    async def _quiet(self) -> None:
        """Begin nothing more, and wait until nothing reads the body."""
        self._ending.set()
        self._listening.cancel()
        if not self._run.done():
            await asyncio.wait({self._run})
        if self._parts:
            await asyncio.wait(self._parts)

    async def _begin(self) -> None:
        """Fails without a word: whatever is missing is sent by `finish`."""
        cut = plan(self._length, self._dock.options.part_size)
        try:
            if not self._dock.budget.has_early or not await self._written(cut.part(1).stop):
                return
            if await self._unless_ending(self._filing.place(early=True)) is None:
                return
            await self._feed(await self._filing.begin(cut))
        except (StoreUnavailable, Answered, Keyless):
            return

    async def _feed(self, upload: Upload) -> None:
        turns = asyncio.Semaphore(EARLY_PARTS)
        number, start = 1, 0
        while self._length is None or start < self._length:
            part = upload.cut.part(number)
            if self._length is not None:
                part = Part(number, part.start, min(part.stop, self._length))
            if not await self._written(part.stop) or not await self._unless_ending(turns.acquire()):
                return
            task = asyncio.create_task(self._send(upload, part, turns))
            self._parts.add(task)
            task.add_done_callback(self._parts.discard)
            number, start = number + 1, part.stop

    async def _send(self, upload: Upload, part: Part, turns: asyncio.Semaphore) -> None:
        try:
            await upload.part(GrowingSource(self._body), part)
        except (StoreUnavailable, Answered, Keyless, SourceFailed, UploadLost):
            self._ending.set()  # the store is in trouble: the rest waits for `finish`
        finally:
            turns.release()

    async def _written(self, stop: int) -> bool:
        """Wait until so much of the body is there; False: it will not be waited for."""
        while not self._ending.is_set() and self._body.fault is None:
            self._news.clear()
            if self._body.written >= stop:
                return True
            await self._unless_ending(self._news.wait())
        return False

    async def _listen(self) -> None:
        """Always: what grows between a look and the wait for more must not be missed."""
        while self._body.fault is None:
            await self._body.changed()
            self._news.set()

    async def _unless_ending(self, work: Awaitable[T]) -> T | None:
        """The result, or None if the end came first."""
        task = asyncio.ensure_future(work)
        end = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            end.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return None if task.cancelled() else task.result()
