"""What was held and is damaged, brought in once more: an ordinary fill that nobody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Opened, Plan, Tools, ref_of, seen_in
from artifactproxy.errors import (
    BrokenPromise,
    NotServed,
    OfflineMiss,
    StoreAway,
    StoreUnavailable,
    UpstreamAbsent,
    no_repository,
)
from artifactproxy.model import ArtifactKey, Ask, CacheEntry, Digest, Found, Kind, Promise, Reply, Route


class Again:
    """Joins the fill of the key as a request does, reads nothing of it and counts as no use."""

    def __init__(self, mounts: Mapping[str, Mount], tools: Tools, fills: FillTable) -> None:
        self._mounts = mounts
        self._tools = tools
        self._fills = fills

    async def refetch(self, key: ArtifactKey, lost: CacheEntry | None, *, caller: str) -> None:
        """Fetch this document, whose blob is gone; `lost` is its row, None if that is gone too. Of an
        artifact only the bytes of the row, or those that were promised, will do. Returns when it is
        held again, else raises the `Fault` that says why it is not. `caller` is named in the log."""
        mount = self._mounts.get(key.repo)
        if mount is None:
            raise no_repository(key.repo)
        if mount.policy.offline:
            raise OfflineMiss("the remote is offline")
        route = _route(mount, key, lost.media_type if lost else "")
        found = await self._tools.index.find(key)
        promise = found.promise or route.promise
        if lost is not None and lost.kind is Kind.ARTIFACT:
            promise = _demanding(lost, promise)
        plan = Plan(
            "fetched again: what was held is damaged",
            promise=promise,
            caller=caller,
            lost=lost,
            seen=seen_in(found),
        )
        fill, _ = self._fills.join(mount, route, plan)
        try:
            opened = await asyncio.shield(fill.opened)
            if not isinstance(opened, Opened):
                if opened.how == "absent":
                    raise UpstreamAbsent("upstream does not have it any more", status=opened.entry.status)
                raise opened.fault or StoreUnavailable("it was checked, not fetched")
            row = await asyncio.shield(fill.done)
            if lost is not None and lost.kind is Kind.ARTIFACT and row.ref != lost.ref:
                raise BrokenPromise("upstream has other bytes than those that were held under this name")
            if not await asyncio.shield(fill.ended):
                raise StoreUnavailable("it was fetched but could not be stored")
        finally:
            fill.leave()


def instead(found: Found, why: StoreAway, ask: Ask) -> Plan:
    """What is held, but cannot be had from a store that is away, once more from upstream: unstored, and
    of an artifact nothing but the same bytes."""
    held = found.entry
    promise = found.promise
    if held is not None and held.kind is Kind.ARTIFACT:
        promise = _demanding(held, promise)
    reason = f"{why.detail}: passed through unstored"
    return Plan(reason, promise=promise, request_id=ask.request_id, lost=held, withhold=why.code)


def _route(mount: Mount, key: ArtifactKey, media_type: str) -> Route:
    """The route that leads to this key. Raises `NotServed` where the provider knows none any more."""
    path, _, query = key.path.partition("?")
    for accept in ("", media_type):  # a variant is chosen by its media type
        route = mount.provider.classify(Ask(mount.name, path, query=query, headers={"accept": accept}))
        if not isinstance(route, Reply) and route.key == key:
            return route
    raise NotServed("no request leads to this row any more")


def _demanding(lost: CacheEntry, known: Promise | None) -> Promise:
    """What is known of the artifact, and the sha256 of the bytes that were held."""
    ref = ref_of(lost)
    exact = Digest("sha256", ref.sha256)
    if known is None:
        return Promise(
            lost.key,
            (exact,),
            size=ref.size,
            taught_by=lost.taught_by,
            released=lost.released,
            released_from=lost.released_from,
            purl=lost.purl,
        )
    others = tuple(digest for digest in known.digests if digest.algorithm != "sha256")
    return replace(known, digests=(exact, *others), size=ref.size)
