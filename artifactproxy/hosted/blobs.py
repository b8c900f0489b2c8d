"""Blobs of a registry: reading them, bringing them in whole, mounting them from another name.

A blob is read only through a name that it was given to: pushed, or mounted.
"""

from __future__ import annotations

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.receiving import Received
from artifactproxy.errors import BlobMissing, BrokenPromise, StoreUnavailable
from artifactproxy.hosted.keys import blob_key
from artifactproxy.hosted.kit import Call, Kit, empty, route_of
from artifactproxy.hosted.pushed import mount_of
from artifactproxy.hosted.refusals import no_blob, other_bytes
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Header, Kind, Operation, Right
from artifactproxy.rules.access import may

DIGEST_HEADER = "Docker-Content-Digest"


class Blobs:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def get(self, call: Call, digest: Digest) -> Answer:
        entry = await self._kit.held(blob_key(call.repo, call.name, digest))
        if entry is None or entry.ref is None:
            raise no_blob(digest)
        if call.ask.method == "HEAD" and not await self.is_there(entry.ref):
            raise no_blob(digest)  # whoever is about to push mends it
        answer = await served(self._kit, call, entry, "pushed here")
        answer.headers.append((DIGEST_HEADER, str(digest)))
        return answer

    async def delete(self, call: Call, digest: Digest) -> Answer:
        if not await self._kit.hosting.withdraw([blob_key(call.repo, call.name, digest)]):
            raise no_blob(digest)
        return empty(call, 202, "deleted")

    async def push(self, call: Call, digest: Digest) -> Answer:
        """The whole body of one request. One that this name has is answered before it is read, if the
        client waits for that, and else without a second look at its bytes."""
        entry = await self._kit.held(blob_key(call.repo, call.name, digest))
        if entry is not None and entry.ref is not None and await self.is_there(entry.ref):
            await self._read_past(call)
            return self.created(call, digest, "it was here already")
        received = await self.receive(call, digest)
        await self._kit.hosting.publish([self.row(call, digest, received.ref)], instead=[received.hold])
        return self.created(call, digest, "pushed")

    async def receive(self, call: Call, wanted: Digest) -> Received:
        """The body of this request as a blob, not yet given to a name. Raises `Refused`."""
        try:
            return await self._kit.receiving.receive(
                call.body.chunks(),
                repo=call.repo,
                name=call.name,
                digests=(wanted,),
                length=call.body.length,
                most=self._kit.tools.limits.blob_bytes,
            )
        except BrokenPromise as fault:
            self._kit.tools.observer.increment("integrity_failures", where="push")
            raise other_bytes(fault) from fault

    async def mount(self, call: Call, digest: Digest, source: str) -> Answer | None:
        """Give this name a blob that another one has, without its bytes; None: push it. Without a `source`
        it may be any that this caller may read."""
        if source:
            name = self._inside(call, source)
            entry = await self._kit.held(blob_key(call.repo, name, digest)) if name else None
            sources = [entry] if entry is not None else []
        else:
            sources = await self._anywhere(call, digest)
        for entry in sources:
            # As if it were not there, for who may not read it.
            if not may(call.ask.scopes, Operation(Right.READ, call.repo, entry.key.path)):
                continue
            if entry.ref is None or not await self.is_there(entry.ref):
                continue
            row = self.row(call, digest, entry.ref)
            if await self._kit.hosting.publish([row], needs=[entry.key]) is None:
                return self.created(call, digest, f"mounted from {entry.key.path}")
        return None

    async def _anywhere(self, call: Call, digest: Digest) -> list[CacheEntry]:
        """Names of this repository that were given this blob. Only the sha256 of a blob is looked up."""
        if digest.algorithm != "sha256":
            return []
        rows = await self._kit.tools.ledger.naming(digest.hex)
        return [row for row in rows if row.key == blob_key(call.repo, row.key.path, digest)]

    def _inside(self, call: Call, source: str) -> str:
        """A name as this repository has it, "" for one of another: clients that know it below `/v2/` put
        its own before."""
        if call.ask.base.endswith("/v2"):
            return source
        repo, _, name = source.partition("/")
        return name if repo == call.repo else ""

    def row(self, call: Call, digest: Digest, ref: BlobRef) -> CacheEntry:
        return row_of(self._kit, blob_key(call.repo, call.name, digest), ref, digest)

    def created(self, call: Call, digest: Digest, reason: str) -> Answer:
        where: Header = ("Location", call.address(f"blobs/{digest}"))
        return empty(call, 201, reason, where, (DIGEST_HEADER, str(digest)))

    async def is_there(self, ref: BlobRef) -> bool:
        """Whether the store has it. Not knowing raises: nothing is ever put over a good blob by mistake,
        but a client that is told of a blob does not push it."""
        return await self._kit.tools.store.size(ref.sha256) == ref.size

    async def _read_past(self, call: Call) -> None:
        if call.body.waits:
            return
        async for _ in call.body.chunks():
            pass


def row_of(
    kit: Kit,
    key: ArtifactKey,
    ref: BlobRef,
    digest: Digest,
    *,
    media_type: str = "application/octet-stream",
    kind: Kind = Kind.ARTIFACT,
    generation: int = 0,
    purl: str = "",
) -> CacheEntry:
    """What was pushed, from now on."""
    now = kit.tools.clock()
    return CacheEntry(
        key,
        kind,
        ref,
        media_type=media_type,
        etag=f'"{digest}"',
        fetched_at=now,
        checked_at=now,
        first_seen=now,
        last_used=now,
        verified_by="digest",
        generation=generation,
        purl=purl,
    )


async def served(kit: Kit, call: Call, entry: CacheEntry, reason: str) -> Answer:
    """A row from the store, with ranges, conditions, or the address of the store itself."""
    try:
        return await kit.shelf.held(mount_of(call.local), route_of(entry), call.ask, entry, reason, "hit")
    except BlobMissing as missing:
        kit.tools.observer.warning(
            "pushed_blob_missing", repo=call.repo, path=call.name, sha256=missing.sha256
        )
        raise StoreUnavailable(
            "the store has lost what was pushed; push it again", code="hollow", retry_after=None
        ) from missing
