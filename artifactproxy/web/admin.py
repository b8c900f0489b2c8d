"""Pages about this instance: health, metrics, setup, and the list of repositories."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from numbers import Real
from typing import Any
from urllib.parse import parse_qs

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import NotServed
from artifactproxy.model import Operation, Right
from artifactproxy.rules.access import may_see
from artifactproxy.rules.addresses import address_of
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.web import setup
from artifactproxy.web.answers import bytes_answer, json_answer, text_answer
from artifactproxy.web.contract import EngineLike, SiblingsLike, WebObserver
from artifactproxy.web.door import Entry
from artifactproxy.web.gate import BASIC, Admitted, Gate
from artifactproxy.web.login import Login

READINESS_SECONDS = 5.0

QUIET = frozenset({"livez", "readyz", "metrics", "favicon.ico", "robots.txt"})

_Page = Callable[[Entry, Admitted], Awaitable[Answer]]


class Pages:
    """Answers for reserved first segments; `draining` makes the instance unready."""

    def __init__(
        self,
        engine: EngineLike,
        observer: WebObserver,
        gate: Gate,
        login: Login,
        connections: Callable[[], int],
        *,
        siblings: SiblingsLike | None = None,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self._gate = gate
        self._login = login
        self._connections = connections
        self._siblings = siblings
        self.draining = False
        self._pages: dict[str, _Page] = {
            "": self._index,
            "livez": self._livez,
            "readyz": self._readyz,
            "metrics": self._metrics,
            "setup": self._setup,
            "robots.txt": self._robots,
        }

    async def answer(self, entry: Entry, admitted: Admitted, body: bytes = b"") -> Answer:
        """Raises `NotServed` for a reserved name without a page."""
        name, path, *_ = entry.address
        if name == ROOT:
            return await self._login.answer(entry, admitted, body)
        page = self._pages.get(name)
        if page is None or (path and name != "setup"):
            raise NotServed("there is no such page")
        return await page(entry, admitted)

    async def _index(self, entry: Entry, admitted: Admitted) -> Answer:
        lines = [
            f"{entry.visit.root}/{name}/  ({mount.provider.name})"
            for name, mount in sorted(self._seen(entry, admitted).items())
        ]
        return text_answer("\n".join([*lines, f"{entry.visit.root}/setup", ""]))

    def _seen(self, entry: Entry, admitted: Admitted) -> dict[str, Mount]:
        """What this caller may know of. Raises as `Gate.judge` where a nobody may know of nothing."""
        if not admitted.scopes:
            raise self._gate.refused(entry, admitted.caller, BASIC)
        mounts = self._engine.mounts().items()
        return {name: mount for name, mount in mounts if may_see(admitted.scopes, name)}

    async def _livez(self, entry: Entry, admitted: Admitted) -> Answer:
        del entry, admitted
        return text_answer("ok\n")

    async def _readyz(self, entry: Entry, admitted: Admitted) -> Answer:
        """Whether requests should come here: what is degraded but bearable is told and answered 200."""
        del entry, admitted
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

    async def _metrics(self, entry: Entry, admitted: Admitted) -> Answer:
        self._gate.access.judge_admin(entry.visit)
        self._gate.judge(admitted, Operation(Right.READ), entry)
        self.note_states()
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        if self._siblings is None:
            return bytes_answer(200, self._observer.exposition(), media_type)
        # What is shown is what the siblings keep for us: after our end nothing may go down.
        mine = self._observer.numbers()
        others = await self._siblings.numbers(mine)
        return bytes_answer(200, self._observer.exposition([mine, *others]), media_type)

    def note_states(self) -> None:
        """Bring the gauges up to date."""
        self._observer.gauge("connections", self._connections())
        for name, value in self._engine.states().items():
            if isinstance(value, Real):
                self._observer.gauge(name, float(value))
            elif isinstance(value, dict):
                for label, number in value.items():
                    self._observer.gauge(name, float(number), label=str(label))

    async def _setup(self, entry: Entry, admitted: Admitted) -> Answer:
        mounts, root = self._seen(entry, admitted), entry.visit.root
        client = entry.address.path.rstrip("/")
        if not client:
            return text_answer(setup.list_clients(mounts, root))
        chosen = parse_qs(entry.address.query).get("repo", [""])[-1]
        only = address_of(f"/{chosen}") if chosen else None
        return text_answer(
            setup.client_text(mounts, client, root, only, closed=not self._gate.access.open_reading)
        )

    async def _robots(self, entry: Entry, admitted: Admitted) -> Answer:
        del entry, admitted
        return text_answer("User-agent: *\nDisallow: /\n")
