"""The bucket on the loopback: requests become operations, and rules come in between."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Container
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from artifactproxy.stores.s3.options import S3Options

from .arriving import arrived
from .contents import Contents, Stored, body_of
from .operations import Asked, execute, operation
from .replies import Refusal, Reply, http_date
from .rules import Action, Rule
from .signing import Key, Signed, verify

BLOCK = 64 * 1024
_DOCUMENTS = ("CompleteMultipartUpload", "DeleteObjects")
_NOTHING = Action()


@dataclass(slots=True)
class Call:
    """One request as it came, and what it was answered: `status` 0 while it is under way or where its
    connection was dropped. `size` bytes of its body were read; header names in lower case."""

    op: str
    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    connection: int
    at: float
    size: int = 0
    status: int = 0
    code: str = ""

    @property
    def upload(self) -> str:
        return self.query.get("uploadId", "")

    @property
    def part(self) -> int:
        return int(self.query.get("partNumber", "0"))


class _Dropped(Exception):
    """The connection is gone, by order or by the client."""


@dataclass
class Bucket:
    """`async with Bucket() as bucket`. `keep=False`: bodies are hashed and forgotten. `part_least`: below
    it no part but the last may be. `lists_uploads=False`: only those of one exact key are listed.
    `ahead`: seconds that its clock is before ours. `seed` drives the shares of rules."""

    name: str = "artifacts"
    region: str = "us-east-1"
    keep: bool = True
    part_least: int = 5 * 2**20
    lists_uploads: bool = True
    ahead: float = 0.0
    seed: int = 0
    clock: Callable[[], float] = time.time
    tls: ssl.SSLContext | None = None
    keys: dict[str, Key] = field(default_factory=lambda: {"access": Key("secret/+word")})
    rules: list[Rule] = field(default_factory=list)
    history: list[Call] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.contents = Contents(self.now, self.part_least)
        self._connections: dict[object, int] = {}
        self._random = random.Random(self.seed)
        self._stopping = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    # --- what a test says and asks

    def rule(
        self,
        op: str,
        action: Action,
        *,
        key: str = "*",
        nth: int | Container[int] | None = None,
        share: float = 1.0,
    ) -> Rule:
        """From now on; the first rule that meets a request has it. `nth`: 0, (0, 2), range(3)."""
        chosen = (nth,) if isinstance(nth, int) else nth
        made = Rule(op, action, key, chosen, share, random=self._random)
        self.rules.append(made)
        return made

    def heal(self) -> None:
        """No more rules. What hangs goes on hanging."""
        self.rules.clear()

    def calls(self, op: str = "", key: str = "") -> list[Call]:
        return [c for c in self.history if op in ("", c.op) and key in ("", c.key)]

    def count(self, op: str = "", key: str = "") -> int:
        return len(self.calls(op, key))

    @property
    def connections(self) -> int:
        """How many were ever opened and used."""
        return len(self._connections)

    @property
    def objects(self) -> dict[str, Stored]:
        return self.contents.objects

    def plant(self, key: str, data: bytes, *, age: float = 0.0) -> Stored:
        """An object that nobody uploaded."""
        stored = self.contents.put(key, body_of(data), {})
        stored.modified -= age
        return stored

    def damage(self, key: str, data: bytes) -> None:
        """Other bytes under the same ETag."""
        stored = self.objects[key]
        stored.data, stored.size = data, len(data)

    def now(self) -> float:
        return self.clock() + self.ahead

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def options(self, **over: Any) -> S3Options:
        """For a store on this bucket, with the first of the keys and few attempts."""
        access, key = next(iter(self.keys.items()))
        known = S3Options(
            bucket=self.name,
            endpoint=self.endpoint,
            region=self.region,
            access_key=access,
            secret_key=key.secret,
            session_token=key.token,
            addressing="path",
            tries=3,
            connect=10.0,
            read=3.0,
        )
        return replace(known, **over)

    # --- life

    async def start(self, port: int = 0) -> Self:
        """Listen; on `port` again after a stop, if given."""
        self._stopping.clear()
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Refuse new connections and end the open ones; contents and history stay."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # --- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        call = self._called(request)
        self.history.append(call)
        rule = next((rule for rule in self.rules if rule.meets(call.op, call.key)), None)
        action = rule.action if rule else _NOTHING
        try:
            try:
                reply = await self._reply(request, call, action)
            except Refusal as refusal:
                reply = refusal.reply
            return await self._send(request, call, reply, action)
        except (_Dropped, ConnectionError):
            return web.Response(status=500)  # to nobody

    def _called(self, request: web.BaseRequest) -> Call:
        path, _, query = request.raw_path.partition("?")
        host = request.headers.get("Host", "").partition(":")[0]
        place, key = unquote(path.removeprefix("/")), ""
        if host.startswith(f"{self.name}."):
            place = f"{self.name}/{place}"
        place, _, key = place.partition("/")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in request.headers.items()}
        op = operation(request.method, key, asked, headers) if place == self.name else "NoSuchBucket"
        number = self._connections.setdefault(request.protocol, len(self._connections) + 1)
        return Call(op, request.method, key, asked, headers, number, time.monotonic())

    async def _reply(self, request: web.BaseRequest, call: Call, action: Action) -> Reply:
        if action.seconds:
            await self._silence(request, action.seconds)
        has_body = request.body_exists
        if action.then and not action.executed and (action.after is None or has_body):
            await self._read(request, call, action.after or 0)
            await self._drop(request, action)
        if action.reply is not None and not action.executed:
            await self._drain(request, call)
            return action.reply()
        signed = Signed(call.method, request.scheme, request.raw_path, call.headers)
        try:
            verify(signed, self.keys, self.region, self.now())
            if call.op == "NoSuchBucket":
                raise Refusal(404, "NoSuchBucket")
            if not call.op:
                raise Refusal(501, "NotImplemented")
        except Refusal:
            await self._drain(request, call)
            raise
        return await self._executed(request, call, action)

    async def _executed(self, request: web.BaseRequest, call: Call, action: Action) -> Reply:
        keep = self.keep or call.op in _DOCUMENTS
        try:
            body = await arrived(self._blocks(request, call), call.headers, keep=keep)
        except Refusal:
            await self._drain(request, call)
            raise
        headers = {name: value for name, value in call.headers.items() if name not in action.ignored}
        asked = Asked(call.op, call.key, call.query, headers, body, self._fails)
        reply = execute(self.contents, asked, lists_uploads=self.lists_uploads, bucket=self.name)
        if action.executed and action.reply is not None:
            return action.reply()
        if action.alter is not None:
            action.alter(reply)
        return reply

    def _fails(self, key: str) -> str:
        """Rules of `DeleteObjects.Key` are about one key of a DeleteObjects."""
        for rule in self.rules:
            if rule.meets("DeleteObjects.Key", key) and rule.action.reply is not None:
                return rule.action.reply().code
        return ""

    async def _blocks(self, request: web.BaseRequest, call: Call) -> AsyncIterator[bytes]:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.body_exists:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async for block in request.content.iter_any():
                call.size += len(block)
                yield block
        except (web.RequestPayloadError, asyncio.IncompleteReadError):
            raise _Dropped from None

    async def _drain(self, request: web.BaseRequest, call: Call) -> None:
        if request.body_exists:
            async for _ in self._blocks(request, call):
                pass

    async def _read(self, request: web.BaseRequest, call: Call, size: int) -> None:
        """About so many bytes of the body."""
        blocks = self._blocks(request, call)
        while call.size < size and await anext(blocks, b""):
            pass

    async def _send(
        self, request: web.BaseRequest, call: Call, reply: Reply, action: Action
    ) -> web.StreamResponse:
        after = action.after if action.then else None
        if action.then and after is None:
            await self._drop(request, action)
        head = web.StreamResponse(status=reply.status, headers=reply.headers)
        head.headers["Date"] = http_date(self.now())
        head.headers["Server"] = "bucket"
        has_body = call.method != "HEAD" and reply.status not in (204, 304)
        size = reply.size if reply.size is not None and not has_body else len(reply.body)
        if reply.status not in (204, 304):
            head.content_length = size
        if after is None:
            call.status, call.code = reply.status, reply.code
        await head.prepare(request)
        body = reply.body if has_body else b""
        for at in range(0, len(body) if after is None else min(after, len(body)), BLOCK):
            stop = at + BLOCK if after is None else min(at + BLOCK, after)
            await head.write(body[at:stop])
        if after is not None and has_body:
            await self._drop(request, action)
        await head.write_eof()
        return head

    async def _drop(self, request: web.BaseRequest, action: Action) -> None:
        """Nothing more is said on this connection."""
        if action.then == "stall":
            await self._silence(request, 3600)
        elif request.transport is not None:
            await asyncio.sleep(0.02)  # let the bytes out: a reset throws away what is unsent
            if action.then == "reset":
                with contextlib.suppress(OSError):
                    sock = request.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort() if action.then == "reset" else request.transport.close()
        raise _Dropped

    async def _silence(self, request: web.BaseRequest, seconds: float) -> None:
        """Until then, or until nobody waits any more."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stopping.is_set() or request.transport is None or request.transport.is_closing():
                raise _Dropped
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(left, 0.05))
