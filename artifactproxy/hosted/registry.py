"""Local repositories as the floors above see them: what a request would do, and its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import parse_qsl

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import Fault, MethodRefused, NotServed
from artifactproxy.hosted.blobs import Blobs
from artifactproxy.hosted.kit import Call, Inflow, Kit
from artifactproxy.hosted.listings import Listings
from artifactproxy.hosted.local import Local
from artifactproxy.hosted.manifests import Manifests
from artifactproxy.hosted.names import Target, target_of
from artifactproxy.hosted.uploads import Uploads, sweep_uploads
from artifactproxy.model import Ask, Operation, Right

SWEEP_TURN = "uploads"
_READ = ("GET", "HEAD")
_RIGHTS = {
    "GET": Right.READ,
    "HEAD": Right.READ,
    "POST": Right.PUSH,
    "PUT": Right.PUSH,
    "PATCH": Right.PUSH,
    "DELETE": Right.DELETE,
}
_METHODS: dict[str, tuple[str, ...]] = {
    "catalog": _READ,
    "tags": _READ,
    "referrers": _READ,
    "manifest": (*_READ, "PUT", "DELETE"),
    "blob": (*_READ, "PUT", "DELETE"),
    "begin": ("POST",),
    "session": ("GET", "PATCH", "PUT", "DELETE"),
}


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

    def target(self, ask: Ask) -> Target:
        """What the request names, for the judgement whether its caller may. Raises `Refused`,
        `NotServed`, `MethodRefused`."""
        if ask.repo not in self._locals:
            raise NotServed(f"there is no repository named {ask.repo!r} here")
        target = target_of(ask.path)
        methods = _METHODS[target.what]
        if ask.method not in methods:
            raise MethodRefused("this is not done with that", allow=", ".join(methods))
        return target

    def operation(self, ask: Ask) -> Operation:
        """What the request would do. An upload is cancelled by whoever may push. Never raises: what cannot
        be read is judged as if it were for the repository as a whole."""
        right = _RIGHTS.get(ask.method, Right.ADMIN)
        try:
            target = target_of(ask.path)
        except Fault:
            return Operation(right, ask.repo)
        if target.what == "session":
            right = Right.PUSH
        return Operation(right, ask.repo, target.name)

    async def handle(self, ask: Ask, body: Inflow) -> Answer:
        """Raises `Fault`; whoever takes the answer closes its body."""
        query = dict(parse_qsl(ask.query, keep_blank_values=True))
        call = Call(self._locals[ask.repo], self.target(ask), ask, body, query)
        reading = ask.method in _READ
        match call.target.what:
            case "catalog":
                return await self._listings.catalog(call)
            case "tags":
                return await self._listings.tags(call)
            case "referrers":
                return await self._listings.referrers(call)
            case "manifest" if reading:
                return await self._manifests.get(call)
            case "blob" if reading:
                return await self._blobs.get(call)
            case "begin":
                return await self._uploads.begin(call)
            case "session":
                return await self._upload(call)
            case "manifest":
                is_put = ask.method == "PUT"
                return await (self._manifests.put(call) if is_put else self._manifests.delete(call))
            case _:
                if ask.method == "PUT":
                    return await self._blobs.push(call, call.target.reference)
                return await self._blobs.delete(call)

    async def _upload(self, call: Call) -> Answer:
        uploads = self._uploads
        stations = {"GET": uploads.status, "PATCH": uploads.append, "PUT": uploads.finish}
        return await stations.get(call.ask.method, uploads.cancel)(call)

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
        every = max(1.0, min(600.0, tools.limits.upload_idle / 4))
        while True:
            await asyncio.sleep(every)
            with contextlib.suppress(Fault):
                if await tools.ledger.turn(SWEEP_TURN, every * 0.9):
                    count = await sweep_uploads(self._kit)
                    if count:
                        tools.observer.notice("uploads_swept", rows=count)
