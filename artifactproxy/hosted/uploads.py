"""Uploads in pieces: each PATCH is a durable piece and a row, so that any process can go on with it.

A piece is stored under its own sha256. An upload of one piece, as most clients make it, ends without
looking at its bytes again: the piece is the blob. Of several the blob is made by reading them once more
through the ingest, whoever received them. OCI distribution specification 1.1, "Pushing blobs".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.receiving import nothing
from artifactproxy.errors import BrokenPromise
from artifactproxy.hosted.blobs import Blobs, row_of
from artifactproxy.hosted.keys import blob_key, part_key
from artifactproxy.hosted.kit import Call, Kit, empty
from artifactproxy.hosted.refusals import Refused, bad_digest, bad_upload, no_upload, other_bytes
from artifactproxy.model import CacheEntry, Digest, Header, Span
from artifactproxy.ports.hosting import PART, Session
from artifactproxy.rules.oci import operations as ops

_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?")
_PAGE = 1000


class Uploads:
    def __init__(self, kit: Kit, blobs: Blobs) -> None:
        self._kit = kit
        self._blobs = blobs

    async def begin(self, call: Call, wanted: ops.Uploads) -> Answer:
        """POST: an empty upload, or with `digest` the whole blob, or with `mount` one that is here."""
        if wanted.digest is not None:
            return await self._blobs.push(call, wanted.digest)
        if wanted.mount is not None:
            mounted = await self._blobs.mount(call, wanted.mount, wanted.origin)
            if mounted is not None:
                return mounted
        now, limits = self._kit.tools.clock(), self._kit.tools.limits
        session = Session(
            secrets.token_hex(16), call.repo, call.name, call.ask.caller, started=now, touched=now
        )
        if not await self._kit.hosting.open_session(session, most=limits.upload_sessions):
            raise Refused("toomanyrequests", 429, "too many uploads are open; finish or cancel some")
        return self._progress(call, 202, session)

    async def status(self, call: Call, upload: ops.Upload) -> Answer:
        return self._progress(call, 204, await self._session(call, upload))

    async def cancel(self, call: Call, upload: ops.Upload) -> Answer:
        session = await self._session(call, upload)
        if not await self._kit.hosting.close_session(session):
            raise no_upload()
        return empty(call, 204, "cancelled")

    async def append(self, call: Call, upload: ops.Upload) -> Answer:
        """PATCH: the next piece."""
        return self._progress(call, 202, await self._append(call, upload))

    async def finish(self, call: Call, upload: ops.Upload) -> Answer:
        """PUT with `digest`: the last piece, if there is one, and the name for the whole."""
        wanted = upload.digest
        if wanted is None:
            raise bad_digest("an upload ends with the digest of the whole, as ?digest=")
        session = await self._unless_ended(call, upload, wanted)
        if session is None:
            return self._blobs.created(call, wanted, "it was here already")
        try:
            if call.body.length != 0:
                if not session.parts:
                    return await self._whole(call, session, wanted)
                session = await self._append(call, upload)
            return await self._joined(call, session, wanted)
        except BrokenPromise as fault:
            self._kit.tools.observer.increment("integrity_failures", where="push")
            await self._kit.hosting.close_session(session)
            raise other_bytes(fault) from fault

    # --- one station each -----------------------------------------------------------------------

    async def _session(self, call: Call, upload: ops.Upload) -> Session:
        session = await self._kit.hosting.session(upload.session)
        if session is None or (session.repo, session.name) != (call.repo, call.name):
            raise no_upload()
        return session

    async def _unless_ended(self, call: Call, upload: ops.Upload, wanted: Digest) -> Session | None:
        """The session; None where an earlier try of the same ended it, whose answer was lost."""
        try:
            return await self._session(call, upload)
        except Refused:
            if await self._kit.hosting.committed(blob_key(call.repo, call.name, wanted)) is None:
                raise
            return None

    async def _append(self, call: Call, upload: ops.Upload) -> Session:
        limits, session = self._kit.tools.limits, await self._session(call, upload)
        self._judge_range(call, session)
        received = await self._kit.receiving.receive(
            call.body.chunks(),
            repo=call.repo,
            name=call.name,
            length=call.body.length,
            most=max(0, limits.blob_bytes - session.size),
        )
        grown: Session | None = session
        if received.ref.size:
            key = part_key(call.repo, call.name, session.id, session.parts)
            part = row_of(self._kit, key, received.ref, Digest("sha256", received.ref.sha256))
            grown = await self._kit.hosting.advance(session, part, self._kit.tools.clock())
        await self._kit.receiving.release(received.hold)
        if grown is None:
            raise self._out_of_order(call, await self._session(call, upload))
        return grown

    async def _whole(self, call: Call, session: Session, wanted: Digest) -> Answer:
        """All of it in the last request: as if it had been pushed in one."""
        self._judge_range(call, session)
        entry = await self._kit.held(blob_key(call.repo, call.name, wanted))
        if call.body.waits and entry is not None and entry.ref and await self._blobs.is_there(entry.ref):
            await self._kit.hosting.close_session(session)
            return self._blobs.created(call, wanted, "it was here already")
        try:
            received = await self._blobs.receive(call, wanted)
        except Refused:
            await self._kit.hosting.close_session(session)
            raise
        row = self._blobs.row(call, wanted, received.ref)
        ended = await self._kit.hosting.close_session(session, [row])
        await self._kit.receiving.release(received.hold)
        return await self._settled(call, wanted, ended=ended)

    async def _joined(self, call: Call, session: Session, wanted: Digest) -> Answer:
        """The blob that the pieces make."""
        of = f"{PART}{session.id}:"
        parts = await self._kit.hosting.variants(call.repo, call.name, of, limit=session.parts + 1)
        if len(parts) != session.parts:
            return await self._settled(call, wanted, ended=False)
        if len(parts) == 1 and wanted.algorithm == "sha256" and parts[0].ref is not None:
            if parts[0].ref.sha256 != wanted.hex:
                raise BrokenPromise("the piece has another digest")
            row = self._blobs.row(call, wanted, parts[0].ref)
            return await self._settled(
                call, wanted, ended=await self._kit.hosting.close_session(session, [row])
            )
        received = await self._kit.receiving.receive(
            self._reread(parts) if parts else nothing(),
            repo=call.repo,
            name=call.name,
            digests=(wanted,),
            length=session.size,
            most=self._kit.tools.limits.blob_bytes,
        )
        row = self._blobs.row(call, wanted, received.ref)
        ended = await self._kit.hosting.close_session(session, [row])
        await self._kit.receiving.release(received.hold)
        return await self._settled(call, wanted, ended=ended)

    async def _reread(self, parts: list[CacheEntry]) -> AsyncIterator[bytes]:
        for part in parts:
            if part.ref is not None:
                async for chunk in await self._kit.tools.store.open(part.ref, Span(0, part.ref.size)):
                    yield chunk

    async def _settled(self, call: Call, wanted: Digest, *, ended: bool) -> Answer:
        """Not `ended` by us: it was finished, as we would have, or cancelled, or it grew beside us."""
        key = blob_key(call.repo, call.name, wanted)
        if not ended and await self._kit.hosting.committed(key) is None:
            raise no_upload()
        return self._blobs.created(call, wanted, "pushed in pieces")

    def _judge_range(self, call: Call, session: Session) -> None:
        """Pieces come in order. A range is only needed where the client sent one."""
        text = call.ask.headers.get("content-range")
        if text is None:
            return
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise bad_upload("a Content-Range of an upload is FIRST-LAST")
        first, last = int(found[1]), int(found[2])
        if first != session.size:
            raise self._out_of_order(call, session)
        if last < first or call.body.length not in (None, last - first + 1):
            raise Refused("size_invalid", 400, "the Content-Range is not as long as the body")

    def _out_of_order(self, call: Call, session: Session) -> Refused:
        return Refused(
            "blob_upload_invalid",
            416,
            f"the next piece of this upload begins at {session.size}",
            headers=tuple(self._place(call, session)),
        )

    def _place(self, call: Call, session: Session) -> list[Header]:
        return [
            ("Location", call.address(f"blobs/uploads/{session.id}")),
            ("Range", f"0-{max(0, session.size - 1)}"),
            ("Docker-Upload-UUID", session.id),
        ]

    def _progress(self, call: Call, status: int, session: Session) -> Answer:
        return empty(call, status, "an upload", *self._place(call, session))


async def sweep_uploads(kit: Kit) -> int:
    """End uploads that nobody went on with, and let go what pushes left that died; how many rows left."""
    now, limits = kit.tools.clock(), kit.tools.limits
    ended = 0
    while sessions := await kit.hosting.idle_sessions(now - limits.upload_idle, _PAGE):
        for session in sessions:
            await kit.hosting.close_session(session)
        ended += len(sessions)
    while keys := await kit.hosting.strays(now - limits.upload_idle, _PAGE):
        ended += await kit.hosting.withdraw(keys)
    return ended
