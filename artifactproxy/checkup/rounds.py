"""The scrub in the background: one paced round after another while the server runs.

Of all processes that share an index one begins a round in its time, and of those that share a data
folder, and so its position, one walks. If that one dies the others go on where it was; if the folder is
gone too, the next round begins at most one round's time after this one did.
"""

from __future__ import annotations

import asyncio

from artifactproxy.checkup.pace import Pace
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.scrub import Round, Scrub
from artifactproxy.ports import Clock, Observer

REST = 60.0  # before the first round, and after one that broke
SAVE_EVERY = 2.0
TURN = 0.9  # of the time between rounds: whoever comes a little early must not miss its turn
LONGEST_SLEEP = 3600.0  # the wall clock says when a round is due, and it may be set


class Rounds:
    """One loop per process. A round begins at most once in `every` seconds, and goes on where the
    process before stopped; `rate` in bytes a second, 0 for no bound."""

    def __init__(
        self,
        scrub: Scrub,
        position: Position,
        observer: Observer,
        clock: Clock,
        *,
        rate: int,
        every: float,
        rest: float = REST,
        save_every: float = SAVE_EVERY,
    ) -> None:
        self._scrub = scrub
        self._position = position
        self._observer = observer
        self._clock = clock
        self._rate = rate
        self._every = every
        self._rest = min(rest, every)
        self._save_every = save_every
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Needs the running loop. With `every` 0 there are no rounds."""
        if self._position.finished_at is not None:
            self._observer.gauge("scrub_finished", self._position.finished_at)
        if self._every:
            self._task = asyncio.create_task(self._run(), name="scrub rounds")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._rest)
            await asyncio.sleep(min(self._due_in(), LONGEST_SLEEP))
            try:
                with self._position.claimed() as ours:
                    self._position.reload()
                    if ours and not self._due_in() and await self._is_our_turn():
                        await self._round()
            except Exception as error:  # noqa: BLE001 - the scrub's loop outlives one bad round
                self._observer.warning("scrub_failed", cause=f"{type(error).__name__}: {error}")

    async def _is_our_turn(self) -> bool:
        """Whether this process goes on with its folder's round, or begins the next one."""
        if self._position.begun:
            return True
        if not await self._scrub.turn("round", self._every * TURN):
            return False
        if not await self._position.begins():  # it stays ours if it ends before its first step
            self._observer.warning("scrub_position_lost")
        return True

    async def _keep(self, after: str) -> None:
        if after != self._position.after and not await self._position.passed(after):
            self._observer.warning("scrub_position_lost")

    def _due_in(self) -> float:
        """Seconds until the next round; 0 for one that was interrupted."""
        finished_at = self._position.finished_at
        if finished_at is None or self._position.begun:
            return 0.0
        # A clock that was set back does not put a round off for longer than it may take.
        return min(max(0.0, finished_at + self._every - self._clock()), self._every)

    async def _round(self) -> None:
        round_ = Round(Pace(self._rate or None), after=self._position.after)
        walk = asyncio.create_task(self._scrub.walk(round_, patient=True), name="scrub")
        try:
            while not walk.done():
                await asyncio.wait((walk,), timeout=self._save_every)
                round_.found.clear()
                await self._keep(round_.after)
            await walk
        finally:
            walk.cancel()
            await asyncio.wait((walk,))
            if round_.after:
                await self._keep(round_.after)
        await self._scrub.finish()
        self._observer.notice(
            "scrubbed",
            blobs=round_.tally.checked["blobs"],
            bytes=round_.tally.checked["bytes"],
            found=round_.tally.found,
            healed=round_.tally.repaired,
            rested=round(round_.pace.rested, 1),
        )
