"""Files that one upstream gives under several names: what it gave under another one is not brought again.

That bytes are here says nothing about who may have them under which name, so upstream is asked, by HEAD,
whether it has them under this one (design: a blob is read where it is confirmed). Only bytes that came
from this very upstream count: it cannot open what others have given us.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from artifactproxy.engine.keeper import Keeper
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.rows import begin_row
from artifactproxy.engine.terms import Tools
from artifactproxy.errors import Fault
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Route, UpstreamHead
from artifactproxy.ports import UpstreamRequest

CONFIRMED = "upstream has it under this name too, and it is here"


class Shared:
    """One question at a time about one name, whoever wants to know."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._asking: dict[ArtifactKey, asyncio.Task[CacheEntry | None]] = {}

    async def confirmed(self, mount: Mount, route: Route) -> CacheEntry | None:
        """The row of this name, of bytes that are here; None: they have to be fetched. Never raises."""
        if (
            not (route.shared and route.sources)
            or route.promise is None
            or route.promise.digest("sha256") is None
        ):
            return None
        task = self._asking.get(route.key)
        if task is None:
            task = asyncio.create_task(self._confirm(mount, route), name=f"share {route.key.path}")
            self._asking[route.key] = task
            task.add_done_callback(lambda _: self._asking.pop(route.key, None))
        return await asyncio.shield(task)

    async def _confirm(self, mount: Mount, route: Route) -> CacheEntry | None:
        try:
            ref = await self._known(mount, route)
            head = await self._head(mount, route, ref) if ref is not None else None
        except Fault:  # whoever fetches it meets it again, and can say so
            return None
        if ref is None or head is None:
            return None
        keeper = Keeper(self._tools, mount)
        generation = await keeper.fence()
        row = begin_row(route, head, route.promise, ttl=None, now=self._tools.clock(), generation=generation)
        row = replace(row, ref=ref, verified_by="digest")
        await keeper.spare(ref)
        await keeper.record(row)
        return row

    async def _known(self, mount: Mount, route: Route) -> BlobRef | None:
        """What this upstream gave under another name, verified, and is still here."""
        wanted = route.promise.digest("sha256") if route.promise else None
        if wanted is None:
            return None
        for row in await self._tools.ledger.naming(wanted.hex):
            ref = row.ref
            if ref is None or row.key.repo != mount.name or row.verified_by != "digest":
                continue
            if await self._tools.store.size(ref.sha256) == ref.size:
                return ref
        return None

    async def _head(self, mount: Mount, route: Route, ref: BlobRef) -> UpstreamHead | None:
        """What upstream says of it under this name; None unless that is that it has just this. Whatever else
        it says is judged where the file is fetched."""
        request = UpstreamRequest(mount.name, route.sources[0], "HEAD", route.headers)
        async with self._tools.upstream.open(request) as reply:
            head = reply.head
        named = head.headers.get(route.digest_header.lower(), "") if route.digest_header else ""
        same = not named or (route.promise is not None and named in map(str, route.promise.digests))
        return head if head.status == 200 and head.length in (None, ref.size) and same else None

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
