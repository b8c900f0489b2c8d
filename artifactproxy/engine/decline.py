"""Pointing out an index that lists much less than the one it replaces, or that went back in time.

It is served all the same: upstream may have good reasons, and the body before it is kept for
`superseded_keep`. Runs after the clients have their answer.
"""

from __future__ import annotations

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Source, Tools
from artifactproxy.errors import BlobMissing, Fault
from artifactproxy.model import CacheEntry, Route
from artifactproxy.rules.shrink import may_have_shrunk, shrank, went_back


async def point_out(
    tools: Tools, mount: Mount, route: Route, held: CacheEntry, entry: CacheEntry, listed: int
) -> None:
    """Compare what was `held` with the `entry` that took its place and lists `listed` files."""
    if went_back(held.validator_modified, entry.validator_modified):
        tools.observer.increment("index_went_back", repo=mount.name)
        tools.observer.warning(
            "index_went_back",
            repo=mount.name,
            path=route.key.path,
            before=held.validator_modified,
            now=entry.validator_modified,
        )
    if held.ref is None or entry.ref is None or not may_have_shrunk(held.ref.size, entry.ref.size):
        return
    try:
        before = len(await tools.learn(mount, route, Source(held.ref, held.source)))
    except (Fault, BlobMissing):
        return  # what cannot be read any more cannot be compared
    if shrank(before, listed):
        tools.observer.increment("index_shrank", repo=mount.name)
        tools.observer.warning(
            "index_shrank", repo=mount.name, path=route.key.path, before=before, now=listed
        )
