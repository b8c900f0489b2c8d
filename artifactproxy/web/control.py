"""Commands for the running server, as JSON over its Unix socket; the file's mode is the access rule.

`POST /purge {repo, path, package}`, `POST /gc {run}`, `GET /explain?url=&accept=`, `GET /stats`, `GET /ping`,
`GET /ready`, `POST /reload`, `POST /token/create {name, scopes, seconds}`, `GET /token/list`,
`POST /token/revoke {name}`.
`POST /fsck {full, repair}` and `POST /scrub {rate}` answer line by line while they work; a failure after
the first line is a line of its own: `{"failed": "..."}`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from artifactproxy.engine.answer import Answer, Chunks
from artifactproxy.errors import BadRequest, Fault, MethodRefused, NotServed
from artifactproxy.model import Ask
from artifactproxy.ports import Outcome
from artifactproxy.providers._base import Page
from artifactproxy.rules.addresses import written
from artifactproxy.web.access import AccessRules
from artifactproxy.web.answers import json_answer
from artifactproxy.web.containers import Containers
from artifactproxy.web.contract import CheckupLike, EngineLike, SiblingsLike, TokenDeskLike

BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
LINES = "application/x-ndjson"
_RUNNING = frozenset({"fill", "last_failure"})  # of a report: known to the process that fills

Reload = Callable[[], Awaitable[dict[str, Any]]]
"""Read the configuration again; what came of it, as `result`, and `reasons` or what has changed."""

Ready = Callable[[], Awaitable[dict[str, Any]]]
"""`ready`, `mode`, and one verdict for each of `dependencies`."""

_Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_Stream = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]


class Control:
    """One method for each command; arguments come from the query or from a JSON object.

    A command runs in whichever process took it; what only the others can know is asked of `siblings`.
    """

    def __init__(
        self,
        engine: EngineLike,
        access: AccessRules,
        checkup: CheckupLike | None = None,
        *,
        siblings: SiblingsLike | None = None,
        reload: Reload | None = None,
        ready: Ready | None = None,
        tokens: TokenDeskLike | None = None,
    ) -> None:
        self._engine = engine
        self.access = access
        self._checkup = checkup
        self._siblings = siblings
        self._reload = reload
        self._readiness = ready
        self._tokens = tokens
        self._streams: dict[str, _Stream] = {"fsck": self._fsck, "scrub": self._scrub} if checkup else {}
        self._commands: dict[str, tuple[str, _Command]] = {
            "ping": ("GET", self._ping),
            "ready": ("GET", self._ready),
            "stats": ("GET", self._stats),
            "explain": ("GET", self._explain),
            "purge": ("POST", self._purge),
            "gc": ("POST", self._gc),
            "reload": ("POST", self._read_again),
            "token/create": ("POST", self._create_token),
            "token/list": ("GET", self._list_tokens),
            "token/revoke": ("POST", self._revoke_token),
        }

    async def answer(self, request: web.BaseRequest) -> Answer:
        """Raises `Fault`."""
        path, _, query = request.raw_path.partition("?")
        name = path.strip("/")
        if name in self._streams:
            method, command = "POST", None
        else:
            method, command = self._commands.get(name, ("", None))
        if not method:
            raise NotServed("no such command")
        if request.method != method:
            raise MethodRefused(f"use {method}", allow=method)
        arguments = await _json_body(request) if method == "POST" else _query(query)
        if command is None:
            lines = _lines(self._streams[name](arguments))
            return Answer(
                200, [("Content-Type", LINES)], Chunks(lines, None), Outcome("request", result="local")
            )
        return json_answer(await command(arguments))

    def page(self, fault: Fault, ask: Ask) -> Page:
        del ask
        body = json.dumps({"error": fault.detail, "code": fault.code}).encode() + b"\n"
        return Page(body, "application/json")

    async def _ping(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        return {"ok": True}

    async def _ready(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        if self._readiness is None:
            raise NotServed("readiness is not told here")
        return await self._readiness()

    async def _stats(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        told = await self._engine.stats()
        if self._siblings is not None:
            told["running"] = _added([told["running"], *await self._siblings.ask("running")])
        return told

    async def _explain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        report = await self.explain(arguments)
        if self._siblings is not None and not report.keys() >= _RUNNING:
            asked = {"url": _text(arguments, "url"), "accept": _text(arguments, "accept")}
            for other in await self._siblings.ask("explain", asked):
                report |= {name: other[name] for name in _RUNNING - report.keys() if name in other}
        return report

    async def explain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As far as this process knows. Raises `Fault`."""
        return await self._engine.explain(self._ask_of(_text(arguments, "url"), _text(arguments, "accept")))

    async def _read_again(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        if self._reload is None:
            raise NotServed("the configuration cannot be read again here")
        return await self._reload()

    async def _purge(self, arguments: dict[str, Any]) -> dict[str, Any]:
        repo = _text(arguments, "repo")
        if not repo:
            raise BadRequest("purge needs a repo")
        path, package = _text(arguments, "path"), _text(arguments, "package")
        return await self._engine.purge(repo, path=path, package=package)

    async def _gc(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._engine.gc(run=_flag(arguments, "run"))

    async def _create_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        scopes, seconds = arguments.get("scopes"), arguments.get("seconds")
        if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
            raise BadRequest("scopes is a list of texts")
        if seconds is not None and type(seconds) not in (int, float):
            raise BadRequest("seconds is a number")
        return await self._desk().create(_text(arguments, "name"), scopes, seconds)

    async def _list_tokens(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        return await self._desk().list()

    async def _revoke_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._desk().revoke(_text(arguments, "name"))

    def _desk(self) -> TokenDeskLike:
        if self._tokens is None:
            raise NotServed("there are no tokens here")
        return self._tokens

    def _fsck(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._checkup is None:
            raise NotServed("there is nothing to check")
        return self._checkup.fsck(full=_flag(arguments, "full"), repair=_flag(arguments, "repair"))

    def _scrub(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        rate = arguments.get("rate")
        if self._checkup is None:
            raise NotServed("there is nothing to check")
        if rate is not None and (type(rate) is not int or rate <= 0):
            raise BadRequest("rate is a number of bytes a second")
        return self._checkup.scrub(rate=rate)

    def _ask_of(self, text: str, accept: str) -> Ask:
        """An address as a client writes it: a URL of ours, or the path of one."""
        root, address = written(text, self.access.public_url)
        address = Containers().behind(address, self._engine.mounts(), self.access.registry)
        headers = {"accept": accept} if accept else {}
        return Ask(
            address.repo,
            address.path,
            query=address.query,
            headers=headers,
            base=address.base(root),
            caller="control",
        )


async def _lines(told: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The status has left before the first line, so a failure can only be a line. Whoever leaves
    ends the work."""
    try:
        async with aclosing(told) as lines:  # type: ignore[type-var]
            async for line in lines:
                yield json.dumps(line).encode() + b"\n"
    except Fault as fault:
        yield json.dumps({"failed": fault.detail}).encode() + b"\n"


async def _json_body(request: web.BaseRequest) -> dict[str, Any]:
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while piece := await request.content.readany():
                body += piece
                if len(body) > BODY_BYTES:
                    raise BadRequest("the command is too long")
        value = json.loads(body or b"{}")
    except TimeoutError as error:
        raise BadRequest("the command did not arrive in time") from error
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        raise BadRequest("the command is not JSON") from error
    if not isinstance(value, dict):
        raise BadRequest("the command is not a JSON object")
    return value


def _added(counts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum(each.get(name, 0) for each in counts) for name in counts[0]}


def _query(text: str) -> dict[str, Any]:
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name) or ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is text")
    return value


def _flag(arguments: dict[str, Any], name: str) -> bool:
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is true or false")
    return value
