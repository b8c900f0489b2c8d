"""BlobStore on a bucket of any S3: `<prefix>blobs/sha256/<2 hex>/<64 hex>`, one name, one content.

A put always writes, also where the object exists: it makes a blob young again, and it mends one that is
not what it should be; the bytes are the same, so readers under way do not notice. What is visible has
been verified before it was sent (one PUT) or before it was completed (parts). Ages are judged by the
clock of the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from artifactproxy.errors import BlobMissing, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import Clock, Growing, Intents, LocalFile, Observer
from artifactproxy.rules.http import content_disposition
from artifactproxy.rules.multipart import LARGEST
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.s3 import listing, tidying
from artifactproxy.stores.s3.budget import Budget
from artifactproxy.stores.s3.copying import set_aside
from artifactproxy.stores.s3.intake import S3Intake
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.owner import this_owner
from artifactproxy.stores.s3.reading import open_blob
from artifactproxy.stores.s3.reception import S3Reception
from artifactproxy.stores.s3.sources import BytesSource, FileSource, SourceFailed, remove, unreadable
from artifactproxy.stores.s3.trouble import Answered, Keyless, Unreached, is_absent, sentence, told
from artifactproxy.stores.s3.upload import Dock, Filing
from artifactproxy.stores.s3.wire import Wire

LONGEST_ADDRESS = 7 * 86400
NOBODYS = "nobodys"  # a key that is never written
RESTING = 64
REST_SECONDS = 1800.0
CLOSING_SECONDS = 5.0


class S3Store:
    """`intents` remembers open uploads; `owner` names this process among them ("": by host and
    process id). `budget` may be resized while uploads run."""

    def __init__(
        self,
        options: S3Options,
        *,
        intents: Intents,
        owner: str = "",
        observer: Observer | None = None,
        clock: Clock = time.time,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.budget = Budget(options.uploads, options.part_memory, options.push_memory)
        self._options = options
        self._observer = observer
        self._wire = Wire(options, observer=observer, rng=rng)
        self._dock = Dock(self._wire, self.budget, intents, owner or this_owner(), clock, rng, observer)
        self._resting: dict[str, tuple[Filing, float]] = {}
        self._busy: set[asyncio.Task[object]] = set()
        self._closed = False

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the connections, and look whether the bucket is there and lets us in.

        Raises `StoreUnavailable` (`StoreAway` where the bucket does not answer) with a sentence for
        whoever starts the program.
        """
        try:
            await self._wire.start()
            await self._wire.probe()
        except (Answered, Unreached, Keyless) as trouble:
            await self._wire.close()
            kind = StoreAway if isinstance(trouble, Unreached) else StoreUnavailable
            raise kind(sentence(trouble, self._options), retry_after=None) from trouble
        except StoreUnavailable as fault:
            await self._wire.close()
            fault.retry_after = None
            raise

    async def check(self) -> None:
        """One short request, sent once, of the kind that clients wait for: they never wait for a list."""
        self._refuse_closed()
        try:
            (await self._wire.get(NOBODYS, {}, tries=1)).close()
        except (Answered, Keyless) as trouble:
            if not (isinstance(trouble, Answered) and is_absent(trouble)):
                raise StoreAway(sentence(trouble, self._options)) from trouble

    async def close(self) -> None:
        """Puts and aborts under way may end, for a few seconds."""
        self._closed = True
        for filing, _ in list(self._resting.values()):
            await filing.drop()
        self._resting.clear()
        until = time.monotonic() + CLOSING_SECONDS
        while (running := [*self._busy, *self._dock.detached]) and time.monotonic() < until:
            await asyncio.wait(running, timeout=until - time.monotonic())
        for task in self._dock.detached:
            task.cancel()
        await self._wire.close()

    # --- writing ----------------------------------------------------------------------------

    async def put(self, ref: BlobRef, path: Path) -> None:
        """The file is gone afterwards, unless this raises `StoreAway`: then it can be put again."""
        blob_path(ref.sha256)
        filing, _ = self._resting.pop(ref.sha256, (None, 0.0))
        await self._take(ref, path, filing or Filing(self._dock, ref.sha256))

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        self._refuse_closed()
        source = BytesSource(body)
        if source.size != ref.size:
            raise StoreUnavailable("a body has another size than it should")
        filing = Filing(self._dock, ref.sha256)
        with self._working():
            try:
                with told("store a blob"):
                    await filing.store(ref, source)
            finally:
                await filing.drop()

    async def begin(self, sha256: str, body: Growing) -> S3Intake | None:
        """None where one PUT of the whole will do."""
        self._refuse_closed()
        blob_path(sha256)
        if body.length is not None and body.length <= self._options.part_size:
            return None
        return S3Intake(self._dock, sha256, body, self._take)

    async def receive(self, sha256: str, length: int | None) -> S3Reception:
        self._refuse_closed()
        blob_path(sha256)
        if (length or 0) > LARGEST:
            raise StoreUnavailable("an object has at most 5 TiB", code="too_large")
        return S3Reception(self._dock, sha256, length)

    async def _take(self, ref: BlobRef, path: Path, filing: Filing) -> None:
        """Store a file; it stays, and what is uploaded too, if the bucket is away."""
        away = False
        if self._resting.get(ref.sha256, (None, 0.0))[0] is filing:
            del self._resting[ref.sha256]  # nobody else goes on with it meanwhile, or ends it as old
        try:
            with self._working():
                await self._file(ref, path, filing)
        except StoreAway:
            away = True
            raise
        finally:
            if away and not self._closed:
                await self._rest(ref.sha256, filing)
            else:
                await filing.drop()
            if not away:
                remove(path)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Told to `close`, which waits."""
        self._refuse_closed()
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            yield
        finally:
            self._busy.discard(task)

    async def _file(self, ref: BlobRef, path: Path, filing: Filing) -> None:
        try:
            source = FileSource(path)
            try:
                if source.size != ref.size:
                    raise StoreUnavailable("a file has another size than it should")
                with told("store a blob"):
                    await filing.store(ref, source)
            finally:
                source.close()
        except SourceFailed as error:
            raise unreadable(error) from error

    async def _rest(self, sha256: str, filing: Filing) -> None:
        """Keep the parts that are there for a while: somebody may try again."""
        await filing.release()
        if filing.upload is None or sha256 in self._resting:
            await filing.drop()
            return
        self._resting[sha256] = (filing, time.monotonic())
        await self._drop_old(RESTING)

    async def _drop_old(self, most: int) -> None:
        for sha256, (filing, since) in list(self._resting.items()):
            if len(self._resting) > most or time.monotonic() - since > REST_SECONDS:
                del self._resting[sha256]
                await filing.drop()

    async def delete(self, sha256: str, *, older_than: float = 0.0) -> None:
        """A put between the look at the age and the deletion is lost (the bucket has no condition for
        it): who collects holds the row, and a reader who finds nothing fetches anew."""
        self._refuse_closed()
        key = blob_path(sha256)
        with told("delete a blob"):
            if older_than > 0:
                thing = await self._wire.head(key)
                if thing is None or thing.age < older_than:
                    return
            await self._wire.call("delete_object", Key=self._options.prefix + key)

    async def set_aside(self, ref: BlobRef, opened: LocalFile | None = None) -> bool:
        """Copy the object below `quarantine/`, then delete it."""
        del opened  # there are no local files here
        self._refuse_closed()
        return await self._expel(ref)

    async def _expel(self, ref: BlobRef) -> bool:
        with told("set a blob aside"):
            thing = await set_aside(self._wire, blob_path(ref.sha256))
        if thing is not None:
            self._dock.warn("blob_set_aside", sha256=ref.sha256, size=thing.size, wanted=ref.size)
        return thing is not None

    # --- reading ----------------------------------------------------------------------------

    async def locate(self, ref: BlobRef) -> None:
        """Nothing of a bucket is on this machine."""

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]:
        """A whole blob is verified on its way; its last 64 KiB leave when it is right."""
        return await self._open(ref, span, verify=True)

    async def fetch(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]:
        """Like `open`, for a caller that hashes what it gets and holds back its end itself."""
        return await self._open(ref, span, verify=False)

    async def _open(self, ref: BlobRef, span: Span, *, verify: bool) -> AsyncIterator[bytes]:
        self._refuse_closed()
        try:
            key = blob_path(ref.sha256)
        except ValueError as error:
            raise BlobMissing(ref.sha256) from error
        if span.size:
            return await open_blob(self._wire, ref, span, self._expel, verify=verify)
        with told("open a blob"):
            thing = await self._wire.head(key)
        if thing is None:
            raise BlobMissing(ref.sha256)
        if thing.size != ref.size:
            raise BlobMissing(ref.sha256, damaged=await self._expel(ref))
        return _nothing()

    async def address(self, ref: BlobRef, *, seconds: float, media_type: str, filename: str) -> str | None:
        """Looks first whether the blob is there; raises `BlobMissing` as `open` does."""
        self._refuse_closed()
        try:
            key = blob_path(ref.sha256)
        except ValueError as error:
            raise BlobMissing(ref.sha256) from error
        with told("give the address of a blob"):
            thing = await self._wire.head(key)
            if thing is None:
                raise BlobMissing(ref.sha256)
            if thing.size != ref.size:
                raise BlobMissing(ref.sha256, damaged=await self._expel(ref))
            shown = {}
            if media_type:
                shown["ResponseContentType"] = media_type
            if filename:
                shown["ResponseContentDisposition"] = content_disposition(filename)
            life = int(min(max(seconds, 1.0), LONGEST_ADDRESS))
            return await self._wire.presigned(key, life, **shown)

    async def size(self, sha256: str) -> int | None:
        self._refuse_closed()
        try:
            key = blob_path(sha256)
        except ValueError:
            return None
        with told("look up a blob"):
            thing = await self._wire.head(key)
        return None if thing is None else thing.size

    async def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        self._refuse_closed()
        with told("list blobs"):
            async for found in listing.blobs(self._wire):
                yield found

    # --- upkeep -----------------------------------------------------------------------------

    async def tidy(self) -> int:
        """Also raises `IndexUnavailable`: only the index knows what is open."""
        self._refuse_closed()
        await self._drop_old(RESTING)
        with told("abort uploads"):
            count = await tidying.tidy(self._dock)
        if count and self._observer is not None:
            self._observer.notice("uploads_aborted", uploads=count)
        return count

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreUnavailable("the blob store is closed")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
