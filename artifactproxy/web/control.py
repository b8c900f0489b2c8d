"""Commands for the running server, as JSON over its Unix socket; the file's mode is the access rule.

`POST /purge {repo, path, package}`, `POST /gc {run}`, `GET /explain?url=&accept=`, `GET /stats`, `GET /ping`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, Fault, MethodRefused, NotServed
from artifactproxy.model import Ask
from artifactproxy.providers._base import Page
from artifactproxy.rules.addresses import written
from artifactproxy.web.access import AccessRules
from artifactproxy.web.admin import json_answer
from artifactproxy.web.contract import EngineLike

BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0

_Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """One method for each command; arguments come from the query or from a JSON object."""

    def __init__(self, engine: EngineLike, access: AccessRules) -> None:
        self._engine = engine
        self._access = access
        self._commands: dict[str, tuple[str, _Command]] = {
            "ping": ("GET", self._ping),
            "stats": ("GET", self._stats),
            "explain": ("GET", self._explain),
            "purge": ("POST", self._purge),
            "gc": ("POST", self._gc),
        }

    async def answer(self, request: web.BaseRequest) -> Answer:
        """Raises `Fault`."""
        path, _, query = request.raw_path.partition("?")
        method, command = self._commands.get(path.strip("/"), ("", None))
        if command is None:
            raise NotServed("no such command")
        if request.method != method:
            raise MethodRefused(f"use {method}", allow=method)
        arguments = await _json_body(request) if method == "POST" else _query(query)
        return json_answer(await command(arguments))

    def page(self, fault: Fault, ask: Ask) -> Page:
        del ask
        body = json.dumps({"error": fault.detail, "code": fault.code}).encode() + b"\n"
        return Page(body, "application/json")

    async def _ping(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        return {"ok": True}

    async def _stats(self, arguments: dict[str, Any]) -> dict[str, Any]:
        del arguments
        return await self._engine.stats()

    async def _explain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._engine.explain(self._ask_of(_text(arguments, "url"), _text(arguments, "accept")))

    async def _purge(self, arguments: dict[str, Any]) -> dict[str, Any]:
        repo = _text(arguments, "repo")
        if not repo:
            raise BadRequest("purge needs a repo")
        path, package = _text(arguments, "path"), _text(arguments, "package")
        return await self._engine.purge(repo, path=path, package=package)

    async def _gc(self, arguments: dict[str, Any]) -> dict[str, Any]:
        run = arguments.get("run", False)
        if not isinstance(run, bool):
            raise BadRequest("run is true or false")
        return await self._engine.gc(run=run)

    def _ask_of(self, text: str, accept: str) -> Ask:
        """An address as a client writes it: a URL of ours, or the path of one."""
        root, address = written(text, self._access.public_url)
        headers = {"accept": accept} if accept else {}
        return Ask(
            address.repo,
            address.path,
            query=address.query,
            headers=headers,
            base=address.base(root),
            caller="control",
        )


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


def _query(text: str) -> dict[str, Any]:
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name) or ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is text")
    return value
