"""Hashing every blob again, setting damaged ones aside and fetching them anew.

First what the index names, in order of the sha256, so that a round can go on where it stopped; a
blob that is missing shows here too. Then what nothing names, for it lies on the same disk and tells as
much of it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from artifactproxy import failpoints
from artifactproxy.checkup.findings import Finding, Tally
from artifactproxy.checkup.heal import Healer
from artifactproxy.checkup.pace import Pace
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.reading import drop_cached, sha256_of
from artifactproxy.engine.recheck import UNREADABLE
from artifactproxy.errors import BlobMissing, Busy, Fault, StoreUnavailable
from artifactproxy.model import BlobRef, Span
from artifactproxy.ports import BlobStore, Clock, Ledger, LocalFile, Observer

PAGE = 500
TELL_EVERY = 0.5
UNREADABLE_MOST = 16
"""Unreadable blobs that are set aside in one round. More of them are the disk's trouble, and moving
every blob of it out of reach would turn that into an empty cache."""

_SENTENCES = {
    "missing": "the index names it, the store does not hold it",
    "size": "it is not a file of {size} bytes",
    "digest": "its bytes do not hash to its name",
    "unreadable": "its bytes cannot be read",
}
_INVARIANTS = {"missing": "I01", "size": "I01", "digest": "I02", "unreadable": "I02"}


@dataclass(slots=True)
class Round:
    """One walk over all blobs: how far it came and what it saw. `found` is emptied by its reader."""

    pace: Pace
    after: str = ""
    tally: Tally = field(default_factory=Tally)
    found: deque[Finding] = field(default_factory=deque)
    unreadable: int = 0


class Scrub:
    """`scrub` is the command; `walk` is one round of it, for the background as well."""

    def __init__(
        self,
        store: BlobStore,
        ledger: Ledger,
        healer: Healer,
        observer: Observer,
        position: Position,
        clock: Clock,
        *,
        tell_every: float = TELL_EVERY,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._healer = healer
        self._observer = observer
        self._position = position
        self._clock = clock
        self._tell_every = tell_every
        self._nobody_asks = asyncio.Event()
        self._nobody_asks.set()

    async def scrub(self, rate: int | None) -> AsyncGenerator[dict[str, Any], None]:
        """One whole round, told as it goes (`web.contract.CheckupLike`). Raises `Fault`: `Busy`
        beside another one; `StoreUnavailable` and `IndexUnavailable` where nothing can be judged."""
        if not self._nobody_asks.is_set():
            raise Busy("a scrub is already running; wait for its end or stop it")
        self._nobody_asks.clear()
        try:
            round_ = Round(Pace(rate))
            total = (await self._ledger.totals()).bytes
            yield _progress(round_, total)
            async with self._walking(round_) as walk:
                while not walk.done():
                    await asyncio.wait((walk,), timeout=self._tell_every)
                    while round_.found:
                        yield {"finding": round_.found.popleft().as_dict()}
                    yield _progress(round_, total)
                await walk
            await self.finish()
            yield {"summary": round_.tally.as_dict()}
        finally:
            self._nobody_asks.set()

    @asynccontextmanager
    async def _walking(self, round_: Round) -> AsyncIterator[asyncio.Task[None]]:
        walk = asyncio.create_task(self.walk(round_), name="scrub")
        try:
            yield walk
        finally:
            walk.cancel()
            await asyncio.wait((walk,))

    async def turn(self, name: str, every: float) -> bool:
        """As `Ledger.turn`: of all that scrub what this index names."""
        return await self._ledger.turn(f"scrub {name}", every)

    async def finish(self) -> None:
        """A round has come to its end."""
        now = self._clock()
        if not await self._position.finished(now):
            self._observer.warning("scrub_position_lost")
        self._observer.gauge("scrub_finished", now)

    async def walk(self, round_: Round, *, patient: bool = False) -> None:
        """Judge everything after `round_.after`. A patient walk stands still while one by hand
        runs. Raises `Fault` where the store or the index cannot tell."""
        while page := await self._ledger.named(round_.after, PAGE):
            for ref in page:
                if patient:
                    await self._nobody_asks.wait()
                await self._judge(ref, round_, named=True)
                round_.after = ref.sha256
        batch: list[BlobRef] = []
        async for ref, _ in self._store.scan():
            batch.append(ref)
            if len(batch) == PAGE:
                await self._unnamed(batch, round_)
                batch = []
        await self._unnamed(batch, round_)

    async def _unnamed(self, batch: list[BlobRef], round_: Round) -> None:
        lost = set(await self._ledger.orphans([ref.sha256 for ref in batch]))
        for ref in batch:
            if ref.sha256 in lost:
                await self._judge(ref, round_, named=False)

    # --- one blob ---

    async def _judge(self, ref: BlobRef, round_: Round, *, named: bool) -> None:
        kind, aside = await self._look(ref, round_)
        if kind == "missing" and not (named and await self._is_named(ref)):
            return  # evicted since it was listed
        round_.tally.checked["blobs"] += 1
        self._observer.increment("scrub_blobs")
        if not kind:
            return
        detail = _SENTENCES[kind].format(size=ref.size)
        if aside:
            failpoints.hit("scrub.aside")
            healed = await self._healer.restore(ref)
            detail += "; fetched again" if healed else "; it could not be fetched again"
        else:
            healed = False
            detail += "; it could not be set aside"
        self._tell(Finding(_INVARIANTS[kind], kind, ref.sha256, detail, healed), round_)

    async def _is_named(self, ref: BlobRef) -> bool:
        near = await self._ledger.named(ref.sha256[:-1], 16)
        return any(other.sha256 == ref.sha256 for other in near)

    def _tell(self, finding: Finding, round_: Round) -> None:
        round_.tally.add(finding)
        round_.found.append(finding)
        self._observer.increment("scrub_bad", kind=finding.kind)
        if finding.kind != "missing":
            self._observer.increment("integrity_failures", where="local")
        self._observer.warning(
            "missing_blob" if finding.kind == "missing" else "damaged_blob",
            sha256=finding.subject,
            kind=finding.kind,
            healed=bool(finding.repaired),
            caller="scrub",
        )

    async def _look(self, ref: BlobRef, round_: Round) -> tuple[str, bool]:
        """What is wrong with a blob ("": nothing), and whether that is out of the way."""
        try:
            located = await self._store.locate(ref)
        except BlobMissing as missing:
            return ("size" if missing.damaged else "missing"), True
        except StoreUnavailable as fault:
            if not _lost(fault):
                raise
            return "unreadable", await self._set_aside(ref, None, "unreadable", round_)
        if not isinstance(located, LocalFile):
            return await self._look_from_afar(ref, round_)
        try:
            kind = await self._wrong(ref, located, round_)
            return kind, not kind or await self._set_aside(ref, located, kind, round_)
        finally:
            os.close(located.fd)

    async def _wrong(self, ref: BlobRef, local: LocalFile, round_: Round) -> str:
        """Read twice before it is condemned: memory and cables fail more often than disks."""
        kind = ""
        for _ in range(2):
            try:
                if await sha256_of(local, lambda size: self._before(size, round_)) == ref.sha256:
                    return ""
                kind = "digest"
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise StoreUnavailable("a blob could not be read just now") from error
                kind = "unreadable"
            drop_cached(local)
        return kind

    async def _before(self, size: int, round_: Round) -> None:
        await round_.pace.take(size)
        round_.tally.checked["bytes"] += size
        self._observer.increment("scrub_bytes", size)

    async def _look_from_afar(self, ref: BlobRef, round_: Round) -> tuple[str, bool]:
        """A store without local files."""
        hasher = hashlib.sha256()
        try:
            async for chunk in await self._store.open(ref, Span(0, ref.size)):
                await self._before(len(chunk), round_)
                await asyncio.to_thread(hasher.update, chunk)
        except BlobMissing as missing:
            return ("size" if missing.damaged else "missing"), True
        if hasher.hexdigest() == ref.sha256:
            return "", True
        return "digest", await self._set_aside(ref, None, "digest", round_)

    async def _set_aside(self, ref: BlobRef, opened: LocalFile | None, kind: str, round_: Round) -> bool:
        if kind == "unreadable":
            round_.unreadable += 1
            if round_.unreadable > UNREADABLE_MOST:
                return False
        try:
            await self._store.set_aside(ref, opened)
        except Fault as fault:
            self._observer.warning("not_set_aside", sha256=ref.sha256, error=fault.code, detail=fault.detail)
            return False
        return True


def _lost(fault: StoreUnavailable) -> bool:
    """Whether opening failed because of this blob, not for want of descriptors or of the disk."""
    cause = fault.__cause__
    return isinstance(cause, OSError) and cause.errno in UNREADABLE | {errno.EACCES, errno.EPERM}


def _progress(round_: Round, total: int) -> dict[str, Any]:
    done = round_.tally.checked["bytes"]
    return {"progress": {"step": "scrub", "done": done, "total": max(done, total)}}
