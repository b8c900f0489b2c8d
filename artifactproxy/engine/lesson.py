"""What is promised of the file of one fill: known from the start, or told by its teachers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Tools, wants_teaching
from artifactproxy.errors import Fault, IndexUnavailable
from artifactproxy.model import Promise, Route


class Lesson:
    """`promise` is what is known so far. `optional`: nothing is stored, so that where no index can be
    asked the framing is enough; never for what lies on a foreign host."""

    def __init__(
        self, tools: Tools, mount: Mount, route: Route, known: Promise | None, *, optional: bool = False
    ) -> None:
        self.promise = known
        self._optional = optional and not route.foreign
        self._tools = tools
        self._mount = mount
        self._route = route
        self._teaching: asyncio.Task[Promise | None] | None = None

    def begin(self, told: Callable[[Promise], None]) -> None:
        """Ask the teachers, if they are needed; `told` hears what they promise, as soon as they do."""

        def spoke(done: asyncio.Task[Promise | None]) -> None:
            # The fill may fail by itself before it ever asks what the teachers said.
            if done.cancelled() or done.exception() is not None:
                return
            promise = done.result()
            if promise is not None:
                told(promise)

        if wants_teaching(self._route, self.promise):
            self._teaching = asyncio.create_task(self._tools.teach(self._mount, self._route))
            self._teaching.add_done_callback(spoke)

    async def learnt(self) -> Promise | None:
        """The promise, once the teachers have spoken. Raises their fault: cannot tell is not no."""
        if self._teaching is not None:
            try:
                self.promise = await asyncio.shield(self._teaching) or self.promise
            except IndexUnavailable:
                if not self._optional:
                    raise
        return self.promise

    async def again(self) -> None:
        """The bytes were others than promised: the teachers may be the stale party."""
        if not self._route.teachers:
            return
        try:
            self.promise = await self._tools.teach(self._mount, self._route) or self.promise
        except Fault as fault:
            self._tools.observer.warning("teacher_failed", repo=self._mount.name, error=fault.code)

    def end(self) -> None:
        if self._teaching is not None and not self._teaching.done():
            self._teaching.cancel()
