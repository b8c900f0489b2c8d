"""What an administrator asks: explain a path, purge, totals. Never on the way of a request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from packageurl import PackageURL

from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.janitor import Janitor
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Tools
from artifactproxy.errors import BadRequest, Fault, no_repository
from artifactproxy.model import ArtifactKey, Ask, CacheEntry, Kind, Reply
from artifactproxy.ports import Bulletin, Outcome
from artifactproxy.rules.bulletin import CHANGED, EVERYTHING, changed
from artifactproxy.rules.freshness import decide, fresh_for

FAILURES_MAX = 1000


class Failures:
    """Why recent fills failed, for `explain`; the causes are for administrators only."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    def note(self, outcome: Outcome, now: float) -> None:
        slot = (outcome.repo, outcome.path)
        if outcome.result != "failed":
            self._last.pop(slot, None)
            return
        self._last[slot] = {
            "at": now,
            "error": outcome.error,
            "cause": outcome.cause,
            "upstream": outcome.upstream_url,
            "upstream_status": outcome.upstream_status,
        }
        while len(self._last) > FAILURES_MAX:
            self._last.popitem(last=False)

    def of(self, key: ArtifactKey) -> dict[str, Any] | None:
        return self._last.get((key.repo, key.path))


class Desk:
    """Answers in plain JSON values."""

    def __init__(
        self,
        mounts: Mapping[str, Mount],
        tools: Tools,
        fills: FillTable,
        janitor: Janitor,
        failures: Failures,
        bulletin: Bulletin | None = None,
    ) -> None:
        self._mounts = mounts
        self._tools = tools
        self._fills = fills
        self._janitor = janitor
        self._failures = failures
        self._bulletin = bulletin

    async def explain(self, ask: Ask) -> dict[str, Any]:
        """Route, row, decision and reason for this path, without fetching anything."""
        mount = self._mount(ask.repo)
        report: dict[str, Any] = {"repository": mount.name, "provider": mount.provider.name, "path": ask.path}
        try:
            route = mount.provider.classify(ask)
        except Fault as fault:
            return report | {"decision": "Refuse", "reason": fault.detail, "status": fault.status}
        if isinstance(route, Reply):
            return report | {
                "decision": "Local",
                "reason": "answered by the provider",
                "status": route.status,
            }
        report["route"] = _plain(route)
        if route.kind is not Kind.PASS:
            found = await self._tools.index.find(route.key)
            report["row"] = _plain(found.entry)
            report["promise"] = _plain(found.promise)
            now = self._tools.clock()
            decision = decide(found, route, ask, mount.policy, now)
            report["decision"] = type(decision).__name__
            report["reason"] = decision.reason
            if found.entry is not None:
                report["fresh_for_seconds"] = fresh_for(found.entry, now)
        else:
            report |= {"decision": "Relay", "reason": "this path is relayed and never stored"}
        running = self._fills.running(route.key)
        if running is not None:
            report["fill"] = {"id": running.id, "readers": running.readers}
            if running.peer:
                report["fill"]["peer"] = running.peer
        failure = self._failures.of(route.key)
        if failure is not None:
            report["last_failure"] = failure
        return report

    async def purge(self, repo: str, *, path: str = "", package: str = "") -> dict[str, Any]:
        """Forget a path, a package (a name or a package URL), or with neither all of a repository:
        rows, and what they taught. Blobs that nobody else names follow after the grace."""
        mount, ledger = self._mount(repo), self._tools.ledger
        if mount.local:
            raise BadRequest(
                f"{repo} takes pushes: what is in it exists nowhere else; delete it there by name"
            )
        path = _canonical(mount, path) if path else ""
        purl = _purl(mount, package) if package else ""
        entries = await ledger.entries(repo, path=path, purl=purl)
        refs = await ledger.forget([entry.key for entry in entries], promises=True)
        unlearned = await ledger.unlearn(repo, path=path, purl=purl)
        self._tell(entries, whole=unlearned > 0)
        doomed = await ledger.doom([ref.sha256 for ref in refs], self._tools.clock())
        freed = sum(ref.size for ref in refs if ref.sha256 in set(doomed))
        return {"repository": repo, "entries": len(entries), "blobs": len(doomed), "bytes": freed}

    def _tell(self, entries: Sequence[CacheEntry], *, whole: bool) -> None:
        """Let the other processes look anew; `whole`: also at keys that are not among these, and so for
        an index, whose promises went with it."""
        if self._bulletin is None or not (entries or whole):
            return
        whole = whole or any(entry.kind is Kind.INDEX for entry in entries)
        self._bulletin.tell(CHANGED, EVERYTHING if whole else changed(entry.key for entry in entries))

    async def gc(self, *, run: bool) -> dict[str, Any]:
        return await self._janitor.gc(run=run)

    async def stats(self) -> dict[str, Any]:
        totals = await self._tools.ledger.totals()
        return asdict(totals) | {"running": self._fills.states()}

    def _mount(self, repo: str) -> Mount:
        mount = self._mounts.get(repo)
        if mount is None:
            raise no_repository(repo)
        return mount


def _canonical(mount: Mount, path: str) -> str:
    path, _, query = path.partition("?")
    route = mount.provider.classify(Ask(mount.name, path, query=query))
    return path if isinstance(route, Reply) else route.key.path


def _purl(mount: Mount, package: str) -> str:
    try:
        if package.startswith("pkg:"):
            return str(PackageURL.from_string(package).to_string())
        name, _, version = package.partition("==")
        return str(PackageURL(mount.provider.name, name=name, version=version or None).to_string())
    except ValueError as error:
        raise BadRequest(f"{package!r} is not a package name or package URL") from error


def _plain(value: object) -> Any:
    """A value of the model as JSON; empty fields are left out."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, _plain(getattr(value, field.name))) for field in fields(value))
        return {name: plain for name, plain in pairs if plain not in (None, "", (), [], {})}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
