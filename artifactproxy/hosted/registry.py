"""Local repositories as the floors above see them: what a request would do, and its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import Fault, MethodRefused, NotServed
from artifactproxy.hosted.blobs import Blobs
from artifactproxy.hosted.kit import Call, Inflow, Kit, Nobody
from artifactproxy.hosted.listings import Listings
from artifactproxy.hosted.local import Local
from artifactproxy.hosted.manifests import Manifests
from artifactproxy.hosted.uploads import Uploads, sweep_uploads
from artifactproxy.model import Ask, Digest, Operation, Right
from artifactproxy.rules.oci import operations as ops

SWEEP_TURN = "uploads"
_SWEEP_MOST = 600.0  # seconds between two looks for uploads that nobody went on with


class Registry:
    """`locals_` by name. Requests come with the path behind `/v2/` and the repository."""

    def __init__(self, kit: Kit, locals_: Mapping[str, Local]) -> None:
        self._kit = kit
        self._locals = dict(locals_)
        self._blobs = Blobs(kit)
        self._uploads = Uploads(kit, self._blobs)
        self._manifests = Manifests(kit)
        self._listings = Listings(kit, self._manifests)
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def locals(self) -> Mapping[str, Local]:
        return self._locals

    def operation(self, ask: Ask) -> Operation:
        """What the request would do, for the judgement whether its caller may. Never raises: what cannot
        be read is judged as something that is done with the repository as a whole."""
        try:
            operation = ops.operation_of(ask.method, ask.path, ask.query)
        except Fault:
            reading, deleting = ask.method in ops.READING, ask.method == "DELETE"
            return Operation(Right.READ if reading else Right.DELETE if deleting else Right.PUSH, ask.repo)
        return Operation(operation.right, ask.repo, operation.name)

    async def handle(self, ask: Ask, body: Inflow) -> Answer:
        """Raises `Fault`; whoever takes the answer closes its body."""
        operation = ops.operation_of(ask.method, ask.path, ask.query)
        call = Call(self._locals[ask.repo], operation, ask, body)
        if operation.right is Right.DELETE and not call.local.deletes:
            taken = ", ".join(method for method in ops.METHODS[type(operation.target)] if method != "DELETE")
            raise MethodRefused("nothing is deleted from this repository (deletes: false)", allow=taken)
        match operation.target:
            case ops.Ping():
                raise NotServed("this is answered at the front")
            case ops.Uploads() as beginning:
                return await self._uploads.begin(call, beginning)
            case ops.Upload() as upload:
                return await self._upload(call, upload)
            case ops.Manifest() as manifest:
                return await self._manifest(call, manifest)
            case ops.Blob(_, digest):
                return await self._blob(call, digest)
            case listed:
                return await self._list(call, listed)

    async def catalog(self, ask: Ask) -> Answer:
        """Names of all repositories, as `/v2/` knows them. Raises `Fault`."""
        operation = ops.operation_of(ask.method, "_catalog", ask.query)
        assert isinstance(operation.target, ops.Catalog)
        call = Call(Local(""), operation, ask, Nobody())
        return await self._listings.everything(call, sorted(self._locals), operation.target.page)

    async def _list(self, call: Call, listed: ops.Catalog | ops.Tags | ops.Referrers) -> Answer:
        match listed:
            case ops.Catalog(page):
                return await self._listings.catalog(call, page)
            case ops.Tags(_, page):
                return await self._listings.tags(call, page)
            case ops.Referrers():
                return await self._listings.referrers(call, listed)

    async def _blob(self, call: Call, digest: Digest) -> Answer:
        if call.ask.method in ops.READING:
            return await self._blobs.get(call, digest)
        if call.ask.method == "PUT":
            return await self._blobs.push(call, digest)
        return await self._blobs.delete(call, digest)

    async def _upload(self, call: Call, upload: ops.Upload) -> Answer:
        match call.ask.method:
            case "PATCH":
                return await self._uploads.append(call, upload)
            case "PUT":
                return await self._uploads.finish(call, upload)
            case "DELETE":
                return await self._uploads.cancel(call, upload)
            case _:
                return await self._uploads.status(call, upload)

    async def _manifest(self, call: Call, manifest: ops.Manifest) -> Answer:
        if call.ask.method in ops.READING:
            return await self._manifests.get(call, manifest)
        if call.ask.method == "PUT":
            return await self._manifests.put(call, manifest)
        return await self._manifests.delete(call, manifest)

    # --- upkeep -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to sweep; needs the running loop."""
        if self._locals:
            self._sweeping = asyncio.create_task(self._sweep(), name="uploads")

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))

    async def _sweep(self) -> None:
        tools = self._kit.tools
        every = min(_SWEEP_MOST, tools.limits.upload_idle / 4)
        while True:
            await asyncio.sleep(every)
            with contextlib.suppress(Fault):
                if await tools.ledger.turn(SWEEP_TURN, every * 0.9):
                    count = await sweep_uploads(self._kit)
                    if count:
                        tools.observer.notice("uploads_swept", rows=count)
