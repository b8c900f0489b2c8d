"""Indexes that are revalidated behind the request that was answered from them (RFC 5861)."""

from __future__ import annotations

import asyncio

from artifactproxy.engine.fill import Fill
from artifactproxy.engine.fills import FillTable, StaleMemory
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Plan, Settled, seen_in
from artifactproxy.errors import Fault
from artifactproxy.model import Ask, Found, Route


class Behind:
    """Nobody waits for such a fill, so it reads as one of its readers."""

    def __init__(self, fills: FillTable, stale: StaleMemory) -> None:
        self._fills = fills
        self._stale = stale
        self._tasks: set[asyncio.Task[None]] = set()

    def refresh(self, mount: Mount, route: Route, ask: Ask, found: Found) -> None:
        """Unless that failed a moment ago, or somebody does already."""
        if self._stale.recently_failed(route.key) or self._fills.running(route.key) is not None:
            return
        why, seen = "refreshed behind a request", seen_in(found)
        plan = Plan(why, found.entry, True, found.promise, ask.request_id, seen=seen)
        fill, _ = self._fills.join(mount, route, plan)
        task = asyncio.create_task(self._wait(fill, route))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, fill: Fill, route: Route) -> None:
        try:
            opened = await asyncio.shield(fill.opened)
            if isinstance(opened, Settled) and opened.how == "stale":
                self._stale.failed(route.key)
            await asyncio.wait((fill.ended,))
        except Fault:
            self._stale.failed(route.key)
        finally:
            fill.leave()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
