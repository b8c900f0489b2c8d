"""Indexes read on behalf of an artifact: to learn its promise, or to make a sidecar of it."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

from artifactproxy.engine.bodies import Bodies, reading
from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.temps import disk_fault
from artifactproxy.engine.terms import Opened, Plan, Source, Tools, seen_in, vouched, withheld
from artifactproxy.errors import BlobMissing, Fault, IndexUnavailable, StoreUnavailable
from artifactproxy.model import Ask, BlobRef, Fetch, Found, Kind, Promise, Reply, Revalidate, Route
from artifactproxy.rules.freshness import decide


class Teachers:
    """Joins the fills of other routes of the same repository, like any other reader."""

    def __init__(self, tools: Tools, fills: FillTable, bodies: Bodies) -> None:
        self._tools = tools
        self._bodies = bodies
        self._fills = fills

    async def teach(self, mount: Mount, route: Route) -> Promise | None:
        """The promise for `route` after reading the indexes that would make it; None if they do
        not list it. Raises their fault when one cannot be read: cannot tell is not no, unless the
        route says that the artifact may do without."""
        try:
            return await self._teach(mount, route)
        except Fault as fault:
            if not route.taught_if_possible:
                raise
            self._tools.observer.notice(
                "untaught", repo=mount.name, path=route.key.path, error=fault.code, detail=fault.detail
            )
            return None

    async def _teach(self, mount: Mount, route: Route) -> Promise | None:
        for ask in route.teachers:
            teacher = mount.provider.classify(ask)
            if isinstance(teacher, Reply) or teacher.kind is not Kind.INDEX:
                continue
            await self._read(mount, teacher)
            promise = await self._promised(route)
            if promise is None and await self._read_again(mount, teacher):
                promise = await self._promised(route)
            if promise is not None:
                return promise
        return None

    async def _promised(self, route: Route) -> Promise | None:
        found = await self._tools.index.find(route.key)
        return found.promise if vouched(found.promise) else None

    async def _read_again(self, mount: Mount, teacher: Route) -> bool:
        """Learn once more from the index as it is held: its promises may have been forgotten."""
        entry = (await self._tools.index.find(teacher.key)).entry
        if entry is None or entry.ref is None:
            return False
        try:
            promises = await self._tools.learn(mount, teacher, Source(entry.ref, entry.source))
        except BlobMissing:
            await self._tools.ledger.forget_blob(entry.ref.sha256)
            return False
        await self._tools.index.learn(promises)
        return bool(promises)

    async def _read(self, mount: Mount, route: Route) -> None:
        # The index is held but does not list the file: it may be older than the file.
        ask = Ask(mount.name, route.key.path, headers={"cache-control": "no-cache"})
        try:
            found = await self._tools.index.find(route.key)
        except IndexUnavailable:
            found = Found(uncertain=True)  # read all the same: what it promises is remembered meanwhile
        decision = decide(found, route, ask, mount.policy, self._tools.clock())
        if not isinstance(decision, Fetch | Revalidate):
            return
        held = decision.entry if isinstance(decision, Revalidate) else None
        why, seen = "read for a file that it should list", seen_in(found)
        plan = Plan(why, held, promise=found.promise, seen=seen, withhold=withheld(found))
        fill, _ = self._fills.join(mount, route, plan)
        try:
            if isinstance(await asyncio.shield(fill.opened), Opened):
                await asyncio.shield(fill.done)
        finally:
            fill.leave()

    async def derive(self, mount: Mount, route: Route) -> bytes | None:
        """The document of `route` out of the artifact it belongs to, fetched if need be."""
        source = mount.provider.classify(Ask(mount.name, route.derived_from))
        if isinstance(source, Reply):
            return None
        file = await self._artifact(mount, source)
        if file is None:
            return None
        with file:
            return await asyncio.to_thread(mount.provider.derive, route, file)

    async def _artifact(self, mount: Mount, route: Route) -> BinaryIO | None:
        found = await self._tools.index.find(route.key)
        if found.entry is not None and found.entry.ref is not None:
            try:
                return await self._held(found.entry.ref)
            except BlobMissing:
                await self._tools.ledger.forget_blob(found.entry.ref.sha256)
        plan = Plan("fetched for its metadata", promise=found.promise, seen=seen_in(found))
        fill, _ = self._fills.join(mount, route, plan)
        try:
            opened = await asyncio.shield(fill.opened)
            if isinstance(opened, Opened):
                await asyncio.shield(fill.done)
                return reading(opened.spool)  # whatever becomes of storing it
            ref = opened.entry.ref
            return None if ref is None else await self._held(ref)
        except BlobMissing as error:
            raise StoreUnavailable("the file was not kept, so nothing can be read from it") from error
        except OSError as error:
            raise disk_fault(error) from error
        finally:
            fill.leave()

    async def _held(self, ref: BlobRef) -> BinaryIO:
        try:
            return await self._bodies.reading(ref)
        except OSError as error:
            raise disk_fault(error) from error
