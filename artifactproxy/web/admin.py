"""Pages about this instance: health, metrics, setup, and the list of repositories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from numbers import Real
from typing import Any
from urllib.parse import parse_qs

from artifactproxy.engine.answer import Answer, Bytes
from artifactproxy.errors import NotServed
from artifactproxy.ports import Outcome
from artifactproxy.rules.addresses import address_of
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.web import containers, setup
from artifactproxy.web.access import AccessRules
from artifactproxy.web.contract import EngineLike, SiblingsLike, WebObserver
from artifactproxy.web.door import Entry

READINESS_SECONDS = 5.0
PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"

QUIET = frozenset({"livez", "readyz", "metrics", "favicon.ico", "robots.txt"})

_Page = Callable[[Entry], Awaitable[Answer]]


class Pages:
    """Answers for reserved first segments; `draining` makes the instance unready."""

    def __init__(
        self,
        engine: EngineLike,
        observer: WebObserver,
        access: AccessRules,
        connections: Callable[[], int],
        *,
        siblings: SiblingsLike | None = None,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self.access = access
        self._connections = connections
        self._siblings = siblings
        self.draining = False
        self._pages: dict[str, _Page] = {
            "": self._index,
            "livez": self._livez,
            "readyz": self._readyz,
            "metrics": self._metrics,
            "setup": self._setup,
            ROOT: self._registry,
            "robots.txt": self._robots,
        }

    async def answer(self, entry: Entry) -> Answer:
        """Raises `NotServed` for a reserved name without a page."""
        name, path, *_ = entry.address
        page = self._pages.get(name)
        if page is None or (path and name != "setup"):
            raise NotServed("there is no such page")
        return await page(entry)

    async def _index(self, entry: Entry) -> Answer:
        lines = [
            f"{entry.visit.root}/{name}/  ({mount.provider.name})"
            for name, mount in sorted(self._engine.mounts().items())
        ]
        return text_answer("\n".join([*lines, f"{entry.visit.root}/setup", ""]))

    async def _livez(self, entry: Entry) -> Answer:
        del entry
        return text_answer("ok\n")

    async def _readyz(self, entry: Entry) -> Answer:
        """Whether requests should come here: what is degraded but bearable is told and answered 200."""
        del entry
        found, ready = await self._looked()
        return json_answer(found, 200 if ready else 503)

    async def readiness(self) -> dict[str, Any]:
        """The same for the control socket, where the answer is no status."""
        found, ready = await self._looked()
        mode = found.pop("mode", "unknown")
        return {"ready": ready, "mode": mode, "dependencies": found}

    async def _looked(self) -> tuple[dict[str, str], bool]:
        try:
            async with asyncio.timeout(READINESS_SECONDS):
                readiness = await self._engine.readiness()
        except TimeoutError:
            silent = f"no answer from the dependencies within {READINESS_SECONDS:g} s"
            return {"server": silent}, False
        found = {**readiness.verdicts, "mode": readiness.mode}
        if self.draining:
            found["server"] = "draining"
        return found, readiness.ready and not self.draining

    async def _metrics(self, entry: Entry) -> Answer:
        self.access.judge_admin(entry.visit)
        self.note_states()
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        if self._siblings is None:
            return _answer(200, self._observer.exposition(), media_type)
        # What is shown is what the siblings keep for us: after our end nothing may go down.
        mine = self._observer.numbers()
        others = await self._siblings.numbers(mine)
        return _answer(200, self._observer.exposition([mine, *others]), media_type)

    def note_states(self) -> None:
        """Bring the gauges up to date."""
        self._observer.gauge("connections", self._connections())
        for name, value in self._engine.states().items():
            if isinstance(value, Real):
                self._observer.gauge(name, float(value))
            elif isinstance(value, dict):
                for label, number in value.items():
                    self._observer.gauge(name, float(number), label=str(label))

    async def _setup(self, entry: Entry) -> Answer:
        mounts, root = self._engine.mounts(), entry.visit.root
        client = entry.address.path.rstrip("/")
        if not client:
            return text_answer(setup.list_clients(mounts, root))
        chosen = parse_qs(entry.address.query).get("repo", [""])[-1]
        only = address_of(f"/{chosen}") if chosen else None
        return text_answer(setup.client_text(mounts, client, root, only))

    async def _registry(self, entry: Entry) -> Answer:
        del entry
        return containers.ping()

    async def _robots(self, entry: Entry) -> Answer:
        del entry
        return text_answer("User-agent: *\nDisallow: /\n")


def text_answer(text: str) -> Answer:
    return _answer(200, text.encode(), PLAIN)


def json_answer(value: object, status: int = 200) -> Answer:
    return _answer(status, json.dumps(value, indent=1, default=str).encode() + b"\n", _JSON)


def _answer(status: int, body: bytes, media_type: str) -> Answer:
    headers = [("Content-Type", media_type), ("Cache-Control", "no-store")]
    return Answer(status, headers, Bytes(body), Outcome("request", result="local"))
