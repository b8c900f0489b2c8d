"""One object on its way into the bucket: in one piece, or in parts that become visible together.

Remembered as an intent before it exists, created, sent part by part, completed. Whatever happens before
Complete was asked for ends in an abort that nobody waits for; after it the object itself is looked at,
and nothing is taken back. What cannot be cleared up at once is left to `tidying`, by its intent.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from artifactproxy import failpoints
from artifactproxy.errors import IndexUnavailable, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import Clock, Intent, Intents, Observer
from artifactproxy.rules.multipart import Part, Plan, plan
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.s3.budget import Budget
from artifactproxy.stores.s3.copying import renew
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.replies import Thing, date_of, told_in
from artifactproxy.stores.s3.sources import Marks, Source, measure
from artifactproxy.stores.s3.trouble import Answered
from artifactproxy.stores.s3.wire import Wire

ABORT_SECONDS = 30.0
OLD_SECONDS = 60.0
"""Some stores date an object from when its upload began; older than this it is made young."""
_REFUSED = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "EntityTooLarge"})


class UploadLost(Exception):
    """The bucket does not know the upload any more, or does not take its parts: begin another."""


@dataclass
class Dock:
    """What all uploads of a store share. `live` holds the intents of those that run here."""

    wire: Wire
    budget: Budget
    intents: Intents
    owner: str
    clock: Clock
    rng: Callable[[], float]
    observer: Observer | None
    live: set[str] = field(default_factory=set)
    detached: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def options(self) -> S3Options:
        return self.wire.options

    def detach(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in a task of its own, whatever becomes of who asked."""
        task = asyncio.create_task(work)
        self.detached.add(task)
        task.add_done_callback(self.detached.discard)

    def warn(self, event: str, **facts: str | float) -> None:
        if self.observer is not None:
            self.observer.warning(event, **facts)

    async def put(self, ref: BlobRef, source: Source) -> None:
        """The whole body in one request. Raises `Answered`, `StoreAway`, `SourceFailed`."""
        headers, key = {}, blob_path(ref.sha256)
        if self.options.checksums == "when_supported":
            headers["x-amz-checksum-sha256"] = b64encode(bytes.fromhex(ref.sha256)).decode()
        marks = Marks(sha256=ref.sha256) if self.options.sign_payload else None
        async with self.budget.part(ref.size):
            try:
                await self.wire.put(key, source, (0, ref.size), headers=headers, marks=marks)
            except Answered as trouble:
                if trouble.status != 412 or not await self._stored(ref):
                    raise

    async def _stored(self, ref: BlobRef) -> bool:
        """A bucket that lets nobody overwrite says that the name is taken: by the same bytes?"""
        thing = await self.wire.head(blob_path(ref.sha256))
        if thing is not None and thing.size != ref.size:
            self.warn("store_conflict", sha256=ref.sha256, size=thing.size, wanted=ref.size)
        return thing is not None and thing.size == ref.size


class Upload:
    """One multipart upload."""

    def __init__(self, dock: Dock, sha256: str, cut: Plan) -> None:
        self._dock = dock
        self._sha256 = sha256
        self._key = blob_path(sha256)
        self.cut = cut
        self.id = secrets.token_hex(16)
        self._upload = ""
        self._etags: dict[int, str] = {}
        self._sums: dict[int, str] = {}
        self._began = 0.0  # by the server's clock
        self._completing = False
        self._over = False
        dock.live.add(self.id)

    @property
    def opened(self) -> bool:
        return bool(self._upload)

    def has(self, part: Part) -> bool:
        return part.number in self._etags

    @property
    def _named(self) -> dict[str, Any]:
        return {"Key": self._dock.options.prefix + self._key, "UploadId": self._upload}

    async def open(self) -> None:
        """Remember it, create it, remember its id. Raises `Answered`, `StoreAway`."""
        dock = self._dock
        more: dict[str, Any] = {}
        if dock.options.checksums == "when_supported":
            more["ChecksumAlgorithm"] = "CRC32"
        started, tries = dock.clock(), []
        await self._intend(self.id, "", started)
        failpoints.hit("upload.intended")
        answer = await dock.wire.call(
            "create_multipart_upload",
            sending=lambda: tries.append(1),
            Key=dock.options.prefix + self._key,
            **more,
        )
        failpoints.hit("upload.created")
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        self._began = date_of(headers, "date", 0.0)
        self._upload = told_in(answer, "UploadId")
        if len(tries) > 1:
            # The answer to another may have been lost: whoever tidies up looks for it under the key.
            await self._intend(secrets.token_hex(16), "", started)
        await self._intend(self.id, self._upload, started)

    async def _intend(self, name: str, upload: str, started: float) -> None:
        """Storing does not wait for an index that is away: what is lost then is only that somebody
        knows of this upload if this process dies too."""
        dock = self._dock
        try:
            await dock.intents.intend(Intent(name, self._sha256, upload, dock.owner, started))
        except IndexUnavailable as fault:
            dock.warn("upload_unrecorded", sha256=self._sha256, error=fault.code)

    async def send(self, source: Source, parts: Iterable[Part]) -> None:
        """Send those that are missing, some at a time. Raises `UploadLost`, `Answered`, `StoreAway`,
        `SourceFailed`; then nothing reads from `source` any more."""
        missing = iter([part for part in parts if not self.has(part)])

        async def work() -> None:
            for part in missing:
                await self.part(source, part)

        workers = [asyncio.create_task(work()) for _ in range(self._dock.options.parts)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)

    async def part(self, source: Source, part: Part) -> None:
        dock, options = self._dock, self._dock.options
        checked = options.checksums == "when_supported"
        query = {"partNumber": str(part.number), "uploadId": self._upload}
        async with dock.budget.part(part.size):
            marks = Marks()
            if checked or options.sign_payload:
                marks = await asyncio.to_thread(
                    measure, source, part.start, part.stop, sha256=options.sign_payload, crc32=checked
                )
            headers = {"x-amz-checksum-crc32": marks.crc32} if checked else {}
            try:
                answer = await dock.wire.put(
                    self._key, source, (part.start, part.stop), query=query, headers=headers, marks=marks
                )
            except Answered as trouble:
                if trouble.code == "NoSuchUpload":
                    raise UploadLost from trouble
                raise
        self._sums[part.number] = marks.crc32
        self._etags[part.number] = answer["etag"]
        failpoints.hit("upload.part")

    async def complete(self, length: int) -> None:
        """Make the object of `length` bytes visible. Raises `UploadLost`, `Answered`, `StoreAway`."""
        dock, there = self._dock, None
        self._completing = True
        for attempt in range(dock.options.tries):
            if attempt:
                await asyncio.sleep(dock.rng() * min(5.0, 0.1 * 2.0**attempt))
            failpoints.hit("upload.sent")
            answer = await self._ask_complete()
            failpoints.hit("upload.completed")
            thing = await dock.wire.head(self._key)
            if thing is not None and thing.size != length:
                thing = None
            if thing is not None and answer == "taken":
                self.drop()
                return
            if thing is not None and (answer == "done" or self._ours(thing)):
                if answer != "unknown" or await self._is_gone():
                    await self._settle(thing, sure=True)
                    return
                there = thing  # but this upload is open: the object is somebody else's
            elif answer in ("done", "taken"):
                raise StoreUnavailable("the bucket made another object of an upload than was sent")
            elif answer == "lost":
                raise UploadLost
        if there is None:
            raise StoreAway("the bucket does not complete an upload")
        await self._settle(there, sure=False)

    async def _ask_complete(self) -> str:
        """`done`, `lost` (no such upload), `taken` (nobody may overwrite), or `unknown`."""
        parts = [self._described(number) for number in sorted(self._etags)]
        try:
            answer = await self._dock.wire.call(
                "complete_multipart_upload", tries=1, MultipartUpload={"Parts": parts}, **self._named
            )
            told_in(answer, "ETag")
        except StoreAway:
            return "unknown"
        except Answered as trouble:
            if trouble.code in _REFUSED:
                self._completing = False
                raise UploadLost from trouble
            if trouble.code == "NoSuchUpload":
                return "lost"
            if trouble.status == 412:
                self._completing = False
                return "taken"
            raise
        return "done"

    def _described(self, number: int) -> dict[str, str | int]:
        told: dict[str, str | int] = {"PartNumber": number, "ETag": self._etags[number]}
        if self._sums[number]:
            told["ChecksumCRC32"] = self._sums[number]
        return told

    def _ours(self, thing: Thing) -> bool:
        """Whether an object can be what this upload made: one that lay there before is older."""
        return thing.modified >= self._began - 2.0

    async def _settle(self, thing: Thing, *, sure: bool) -> None:
        """The object is there. If not `sure`, this upload may still be open: then its intent stays, for
        whoever tidies up."""
        self._over = True
        with suppress(StoreUnavailable, Answered):
            if thing.age > OLD_SECONDS:
                await renew(self._dock.wire, self._key, thing)
        if sure:
            await self._forget()
        self._dock.live.discard(self.id)

    async def _is_gone(self) -> bool:
        """Whether the bucket knows this upload no more."""
        try:
            await self._dock.wire.call("list_parts", tries=1, MaxParts=1, **self._named)
        except Answered as trouble:
            return trouble.code == "NoSuchUpload"
        except StoreUnavailable:
            return False
        return False

    async def _forget(self) -> None:
        self._dock.live.discard(self.id)
        with suppress(IndexUnavailable):
            await self._dock.intents.fulfil([self.id])

    def drop(self) -> None:
        """It is not wanted any more. Nothing is waited for."""
        if self._over:
            return
        self._over = True
        if self._completing or not self._upload:
            # It may be an object by now, or be created yet: whoever tidies up looks later.
            self._dock.live.discard(self.id)
        else:
            self._dock.detach(self._abort())

    async def _abort(self) -> None:
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await abort(self._dock.wire, self._dock.options.prefix + self._key, self._upload)
                await self._forget()
        except (StoreUnavailable, Answered, TimeoutError):
            self._dock.warn("upload_not_aborted", sha256=self._sha256)
        finally:
            self._dock.live.discard(self.id)


async def abort(wire: Wire, key: str, upload: str) -> None:
    """End an upload by its full key; one that is gone already is fine. Raises `Answered`, `StoreAway`."""
    try:
        await wire.call("abort_multipart_upload", Key=key, UploadId=upload)
    except Answered as trouble:
        if trouble.status != 404 or trouble.code == "NoSuchBucket":
            raise


class Filing:
    """One blob being stored, over as many uploads as that takes."""

    def __init__(self, dock: Dock, sha256: str) -> None:
        self._dock = dock
        self._sha256 = sha256
        self._place = AsyncExitStack()
        self._placed = False
        self.upload: Upload | None = None

    async def place(self, *, early: bool = False) -> bool:
        """Wait for a turn among the uploads; it is kept until `release`. Always True."""
        if not self._placed:
            await self._place.enter_async_context(self._dock.budget.upload(early=early))
            self._placed = True
        return True

    async def begin(self, cut: Plan) -> Upload:
        self.upload = Upload(self._dock, self._sha256, cut)
        await self.upload.open()
        return self.upload

    async def store(self, ref: BlobRef, source: Source) -> None:
        """All of it, but for the parts that are there. Raises `Answered`, `StoreAway`, `SourceFailed`."""
        if self.upload is None and ref.size <= self._dock.options.part_size:
            await self._dock.put(ref, source)
            return
        await self.place()
        for last in (False, True):
            try:
                await self._in_parts(ref, source)
            except UploadLost as error:
                self._drop_upload()
                if last:
                    raise StoreAway("the bucket lost an upload twice") from error
            else:
                await self.drop()
                return

    async def _in_parts(self, ref: BlobRef, source: Source) -> None:
        upload = self.upload
        if upload is None or not upload.opened:
            self._drop_upload()
            upload = await self.begin(plan(ref.size, self._dock.options.part_size))
        await upload.send(source, upload.cut.parts(ref.size))
        await upload.complete(ref.size)

    def _drop_upload(self) -> None:
        if self.upload is not None:
            self.upload.drop()
            self.upload = None

    async def release(self) -> None:
        """Give the place back; what is there of the upload stays for another attempt."""
        self._placed = False
        await self._place.aclose()

    async def drop(self) -> None:
        """Give up what is not complete, and the place."""
        self._drop_upload()
        await self.release()
