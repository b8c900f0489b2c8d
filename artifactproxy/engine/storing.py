"""One verified body on its way into the store, and what is sent there before it is verified.

With a promised sha256 the store may take the body in while it arrives (design: into S3); it becomes
visible only after `finish`. No client waits here: all have been served, so a store that is away is
tried again from the temp file while the fill may still be joined.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from artifactproxy.engine.ingest import Ingest
from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Tools, cause_of, ref_of
from artifactproxy.errors import Busy, Fault, StoreAway, StoreUnavailable
from artifactproxy.model import BlobRef, CacheEntry, Promise
from artifactproxy.ports import Intake
from artifactproxy.rules.retry import backoff

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Kept:
    """Whether the next request finds it, and the code of what failed on the way ("": nothing did)."""

    stored: bool
    error: str = ""


class Arriving:
    """The `Growing` of one spool, up to the point where the spool starts over."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._round = spool.round
        self._over: Fault | None = None

    @property
    def length(self) -> int | None:
        return self.spool.length

    @property
    def written(self) -> int:
        return self.spool.written if self._over is None and self._round == self.spool.round else 0

    @property
    def fault(self) -> Fault | None:
        if self._over is None and self._round != self.spool.round:
            self.end()
        return self._over or self.spool.fault

    def peek(self, start: int, stop: int) -> bytes:
        if self.fault is not None:
            raise OSError(errno.ESTALE, "this body is not what it was")
        return self.spool.peek(start, stop)

    async def changed(self) -> None:
        if self.fault is None:
            await self.spool.changed()

    def end(self) -> None:
        self._over = Busy("nobody stores this body any more", code="cancelled")


class Storing:
    """Of one fill. `vacate` gives the spool's file back where another body needs the room."""

    def __init__(
        self, tools: Tools, mount: Mount, ingest: Ingest, keeper: Keeper, vacate: Callable[[], bool]
    ) -> None:
        self._tools = tools
        self._mount = mount
        self._ingest = ingest
        self._keeper = keeper
        self._vacate = vacate
        self._sha256 = ""
        self._body: Arriving | None = None
        self._taking: asyncio.Task[Intake | None] | None = None

    # --- while the body arrives ---

    def begin(self, spool: Spool, promise: Promise | None) -> None:
        """Once its sha256 is promised, whenever that is; again where the spool starts over."""
        sha256 = promise.digest("sha256") if promise else None
        body = self._body
        if body is not None and body.fault is None and sha256 is not None and sha256.hex == self._sha256:
            return
        self.abandon()
        if sha256 is None or spool.sealed:
            return
        self._sha256, self._body = sha256.hex, Arriving(spool)
        self._taking = asyncio.create_task(self._take_in(sha256.hex, self._body))

    async def _take_in(self, sha256: str, body: Arriving) -> Intake | None:
        while body.spool.in_memory:
            if body.fault is not None:
                return None
            await body.changed()
        try:
            return await self._tools.store.begin(sha256, body)
        except Fault as fault:  # it is stored as a whole later
            self._tools.observer.increment("store_errors", kind=fault.code)
            return None

    def abandon(self) -> None:
        """Forget what was sent. Never waits."""
        taking, body = self._taking, self._body
        self._taking, self._body = None, None
        if taking is None or body is None:
            return
        body.end()
        self._tools.waiting.aside(_undo(taking))

    def _taken(self, ref: BlobRef) -> Intake | None:
        """What has been taken in of these very bytes."""
        taking, body = self._taking, self._body
        if taking is None or body is None or not taking.done() or self._sha256 != ref.sha256:
            self.abandon()
            return None
        self._taking, self._body = None, None
        return taking.result()

    # --- once it is verified ---

    async def finish(self, spool: Spool, entry: CacheEntry) -> Kept:
        """The blob, then its row. What fails costs the cache entry and nothing else."""
        try:
            await self._put(spool, ref_of(entry))
        except StoreUnavailable as fault:
            self._tools.observer.warning(
                "store_failed",
                repo=self._mount.name,
                path=entry.key.path,
                error=fault.code,
                detail=fault.detail,
                cause=cause_of(fault),
            )
            return Kept(False, fault.code)
        return Kept(*await self._keeper.enter(entry))

    async def _put(self, spool: Spool, ref: BlobRef) -> None:
        await self._keeper.spare(ref)
        intake = self._taken(ref)
        try:
            await self._send(spool, ref, intake)
        except StoreAway as fault:
            away = fault
        else:
            return
        stored = False
        try:
            await self._later(spool, ref, intake, away)
            stored = True
        finally:
            if intake is not None and not stored:
                self._tools.waiting.aside(intake.abandon())

    async def _send(self, spool: Spool, ref: BlobRef, intake: Intake | None) -> None:
        if intake is None or spool.path is None:
            await self._ingest.store(spool, ref)
            return
        await intake.finish(ref, spool.path)
        spool.moved()

    async def _later(self, spool: Spool, ref: BlobRef, intake: Intake | None, away: StoreAway) -> None:
        """Again and again from the temp file. Raises the last fault when the time is over."""
        tools, patience = self._tools, self._tools.limits.store_retry
        if not patience:
            raise away
        tools.observer.warning(
            "store_waits",
            repo=self._mount.name,
            sha256=ref.sha256,
            error=away.code,
            cause=cause_of(away),
            seconds=patience,
        )
        ends = time.monotonic() + patience
        place = tools.waiting.enter(spool, self._vacate)
        number = 0
        try:
            while (left := ends - time.monotonic()) > 0:
                tools.observer.increment("store_errors", kind=away.code)
                if not await place.rest(min(_pause(number, patience), left)):
                    break
                number += 1
                await self._keeper.spare(ref)
                try:
                    if await place.attempt(self._send(spool, ref, intake)):
                        return
                except StoreAway as fault:
                    away = fault
        finally:
            tools.waiting.leave(place)
        if place.given_up.done():
            raise StoreAway("its room was needed for others before the store was back") from away
        raise away


def _pause(number: int, patience: float) -> float:
    """Half of it is chance, so that those that failed together do not return together."""
    first = min(FIRST_PAUSE, patience / 100)
    jitter = 0.5 + random.random() / 2  # noqa: S311 - jitter
    return min(backoff(number, first, jitter), LONGEST_PAUSE)


async def _undo(taking: asyncio.Task[Intake | None]) -> None:
    """End an intake that has begun, or may do so yet."""
    if not taking.done():
        taking.cancel()
        await asyncio.wait((taking,))
    if taking.cancelled() or taking.exception() is not None:
        return
    intake = taking.result()
    if intake is not None:
        await intake.abandon()
