"""What a request passes on its way in: the door, the gate, its body, and whoever answers it.

No router and no middleware: the first segment of the judged path says who answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aiohttp import web

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import Fault, MethodRefused, NotServed
from artifactproxy.limits import Limits
from artifactproxy.model import Ask, Operation, Right
from artifactproxy.providers._base import Page
from artifactproxy.rules.access import may_see
from artifactproxy.rules.addresses import Address
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.rules.paths import RESERVED
from artifactproxy.web import containers, login
from artifactproxy.web.admin import QUIET, Pages
from artifactproxy.web.bodies import Bodies, drained
from artifactproxy.web.connection import Connection
from artifactproxy.web.containers import Containers, namespace
from artifactproxy.web.contract import EngineLike
from artifactproxy.web.door import Door, Entry
from artifactproxy.web.faults import plain_page
from artifactproxy.web.gate import NOTHING, UNKNOWN, Admitted, Gate
from artifactproxy.web.internal import FIRST_SEGMENT, Internal
from artifactproxy.web.pushes import PushBody, RegistryLike
from artifactproxy.web.respond import Exchange
from artifactproxy.web.setup import judge_alias

READING = frozenset({"GET", "HEAD"})
RELAYING = READING | {"POST"}  # all that any provider may be asked about


class TurnedAway(Exception):
    """A client that came while we listen for processes that follow us only. Without an answer, as if
    nobody listened: balancers then ask another replica."""


class Front:
    """`is_turned_away` tells whether this connection's requests are not for us any more."""

    def __init__(
        self,
        engine: EngineLike,
        limits: Limits,
        door: Door,
        gate: Gate,
        pages: Pages,
        *,
        internal: Internal | None,
        registry: RegistryLike | None = None,
        is_turned_away: Callable[[Connection], bool],
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._registry = registry
        self._door = door
        self._gate = gate
        self._pages = pages
        self._internal = internal
        self._is_turned_away = is_turned_away
        self._containers = Containers()
        self.bodies = Bodies(limits)

    async def answer(self, request: web.BaseRequest, exchange: Exchange) -> Answer:
        """Raises `Fault`, and `TurnedAway`. Whoever calls gives back what the ask's body holds."""
        entry, lost = self._at_home(self._door.judge(request, exchange.connection))
        if "upgrade" in entry.headers:
            # Declined; what aiohttp's parser has read behind such a request it may forget.
            exchange.keep = False
        if "x-request-id" in entry.headers:
            exchange.outcome.extra["client_request_id"] = entry.headers["x-request-id"][:128]
        if entry.address.repo == FIRST_SEGMENT and self._internal is not None:
            exchange.ask = _ask(entry, exchange, UNKNOWN)
            exchange.internal = True
            return await self._internal.answer(entry, exchange.line.method)
        admitted = await self._admit(entry, exchange)
        if lost is not None:
            self._gate.judge(admitted, login.unmounted(entry.address), entry)
            raise lost
        if not entry.address.repo or entry.address.repo in RESERVED:
            return await self._own(request, entry, admitted, exchange)
        if self._registry is not None and entry.address.repo in self._registry.locals:
            return await self._push(self._registry, request, entry, admitted, exchange)
        self._gate.judge(admitted, self._operation(exchange.ask), entry)
        if entry.address.prefix:
            judge_alias(entry.address, self._engine.mounts())
        await self._take_in(request, entry, exchange)
        if exchange.line.method in READING and self._is_turned_away(exchange.connection):
            raise TurnedAway
        answer = await self._engine.handle(exchange.ask)
        if exchange.outcome.extra:
            answer.outcome.extra.update(exchange.outcome.extra)
        answer.headers += namespace(entry.address)
        exchange.outcome = answer.outcome
        return answer

    async def _own(
        self, request: web.BaseRequest, entry: Entry, admitted: Admitted, exchange: Exchange
    ) -> Answer:
        """What belongs to no repository."""
        if self._registry is not None and _is_catalog(entry.address) and exchange.line.method in READING:
            self._gate.judge(admitted, Operation(Right.READ), entry)
            return await self._registry.catalog(exchange.ask)
        await self._take_in(request, entry, exchange)
        exchange.quiet = entry.address.repo in QUIET
        return await self._pages.answer(entry, admitted, exchange.ask.body)

    async def _push(
        self,
        registry: RegistryLike,
        request: web.BaseRequest,
        entry: Entry,
        admitted: Admitted,
        exchange: Exchange,
    ) -> Answer:
        """A repository that takes pushes reads the body itself, as far as it wants it."""
        ask = exchange.ask
        if not ask.path:
            return await self._ping(entry, admitted)
        self._gate.judge(admitted, registry.operation(ask), entry)
        if entry.address.prefix:
            judge_alias(entry.address, self._engine.mounts())
        if ask.method in READING and self._is_turned_away(exchange.connection):
            raise TurnedAway
        body = PushBody(request, entry.headers, self._limits, exchange.go_on)
        answer = await registry.handle(ask, body)
        if request.can_read_body:
            exchange.keep = False
        answer.outcome.extra.update(exchange.outcome.extra)
        exchange.outcome = answer.outcome
        return answer

    async def _ping(self, entry: Entry, admitted: Admitted) -> Answer:
        """What clients ask first, where this repository is all that they know."""
        answer = await self._pages.answer(replace(entry, address=Address(ROOT, "", "")), admitted)
        if not may_see(admitted.scopes, entry.address.repo):
            raise NotServed(NOTHING)
        judge_alias(entry.address, self._engine.mounts())
        return answer

    def _at_home(self, entry: Entry) -> tuple[Entry, NotServed | None]:
        """With the repository that an address of a registry's API is of, or why there is none: who may
        hear that is for the gate."""
        if entry.address.repo == ROOT and entry.address.path in login.PATHS:
            return entry, None
        rules, mounts = self._door.access, self._engine.mounts()
        try:
            address = self._containers.behind(entry.address, mounts, rules.registry)
        except NotServed as absent:
            return entry, absent
        return (entry if address is entry.address else replace(entry, address=address)), None

    async def _admit(self, entry: Entry, exchange: Exchange) -> Admitted:
        """From here on a caller with a token goes by its name; the log keeps the address beside it."""
        try:
            admitted = await self._gate.admit(entry)
        except Fault:
            exchange.ask = _ask(entry, exchange, UNKNOWN)
            raise
        exchange.ask = _ask(entry, exchange, admitted)
        if admitted.caller.name:
            exchange.outcome.extra["address"] = entry.visit.caller
        return admitted

    def _operation(self, ask: Ask) -> Operation:
        """A method that this repository does not know is judged as reading: then it is refused by name."""
        mount = self._engine.mounts().get(ask.repo)
        if mount is None or ask.method not in mount.provider.methods:
            return Operation(Right.READ, ask.repo)
        return mount.provider.operation(ask)

    async def _take_in(self, request: web.BaseRequest, entry: Entry, exchange: Exchange) -> None:
        """The body, where somebody wants it."""
        method = exchange.line.method
        if method not in READING:
            self._judge_method(method, entry.address)
            body = await self.bodies.take(request, entry.headers, exchange.go_on)
            exchange.ask = replace(exchange.ask, body=body)
        elif request.can_read_body and not await drained(request, entry.headers, self._limits.lingering):
            exchange.keep = False

    def _judge_method(self, method: str, address: Address) -> None:
        """Anything but reading is for repositories whose provider relays it, and for logging in."""
        mount = self._engine.mounts().get(address.repo)
        methods = mount.provider.methods & RELAYING if mount else READING
        if login.is_token(address):
            methods = login.METHODS
        if method not in methods:
            what = "this repository can only be read" if mount else "this method is not answered here"
            raise MethodRefused(what, allow=", ".join(sorted(methods)))

    def page(self, fault: Fault, ask: Ask) -> Page:
        """In the language of the repository's clients; that of one which the caller may not know of would
        give it away."""
        if not ask.repo:
            return plain_page(fault)
        if ask.repo == ROOT:
            return containers.page(fault)
        if may_see(ask.scopes, ask.repo):
            return self._engine.problem(fault, ask)
        if _is_under_root(ask):
            return containers.page(fault)
        return self._engine.problem(fault, replace(ask, repo=""))


def _is_under_root(ask: Ask) -> bool:
    """By an address that begins with `/v2/`, which says nothing of what is mounted."""
    return ask.base.endswith(f"/{ROOT}/{ask.repo}") or (
        ask.base.endswith(f"/{ROOT}") and not ask.base.endswith(f"/{ask.repo}/{ROOT}")
    )


def _is_catalog(address: Address) -> bool:
    return (address.repo, address.path) == (ROOT, login.CATALOG)


def _ask(entry: Entry, exchange: Exchange, admitted: Admitted) -> Ask:
    address, visit = entry.address, entry.visit
    return Ask(
        repo=address.repo,
        path=address.path,
        method=exchange.line.method,
        query=address.query,
        headers=entry.headers,
        base=address.base(visit.root),
        request_id=exchange.line.request_id,
        caller=admitted.caller.name or visit.caller,
        scopes=admitted.scopes,
    )
