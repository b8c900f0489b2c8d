"""Where clients of container registries log in: `/v2/`, which they ask first, and `/v2/token`, where they
get a ticket for a token (the Docker registry's token authentication, and its OAuth2 form).

Whoever may push somewhere must be asked at `/v2/` already: clients do not offer a token later. So with a
repository that takes pushes, or where reading is not open, it answers 401, and a nobody gets a ticket of
a nobody where reading is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qs

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BadRequest, NotServed, Unauthorized
from artifactproxy.model import Operation, Right
from artifactproxy.ports import Clock
from artifactproxy.rules.addresses import Address
from artifactproxy.rules.credentials import TICKET_SECONDS, secret_in
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.tokens.keys import Caller
from artifactproxy.web import containers
from artifactproxy.web.answers import json_answer
from artifactproxy.web.contract import KeysLike
from artifactproxy.web.door import Entry
from artifactproxy.web.gate import BASIC, NOTHING, Admitted, Gate

TOKEN = "token"  # noqa: S105  the last segment of an address
CATALOG = "_catalog"
PATHS = frozenset({"", TOKEN, CATALOG})
"""Behind `/v2/`, of nobody's repository."""
METHODS = frozenset({"GET", "HEAD", "POST"})
_PARAMETERS_MAX = 100
_RIGHTS = {"pull": Right.READ, "push": Right.PUSH, "delete": Right.DELETE, "*": Right.ADMIN}
_BEFORE_KIND = re.compile(r"\A(.+?)/(?:manifests|blobs|tags|referrers)/")

_Fields = Mapping[str, list[str]]


class Login:
    """`keys` None: there are no tokens here, and no tickets. `takes_pushes` tells whether any repository
    does now."""

    def __init__(
        self, gate: Gate, keys: KeysLike | None, clock: Clock, takes_pushes: Callable[[], bool]
    ) -> None:
        self._gate = gate
        self._keys = keys
        self._clock = clock
        self._takes_pushes = takes_pushes

    async def answer(self, entry: Entry, admitted: Admitted, body: bytes) -> Answer:
        """Raises `NotServed` for any other address under `/v2/`, and `Fault`."""
        if not entry.address.path:
            return self._ping(entry, admitted)
        if self._keys is None or not is_token(entry.address):
            self._gate.judge(admitted, unmounted(entry.address), entry)
            raise NotServed(NOTHING)
        self._gate.access.judge_admin(entry.visit)
        return await self._token(self._keys, entry, admitted.caller, body)

    def _ping(self, entry: Entry, admitted: Admitted) -> Answer:
        caller = admitted.caller
        believed = bool(caller.name) or caller.by_ticket
        open_to_all = self._gate.access.open_reading
        if caller.why or not (believed or (open_to_all and not self._takes_pushes())):
            raise self._gate.refused(entry, caller, self._gate.challenge(entry))
        return containers.ping()

    async def _token(self, keys: KeysLike, entry: Entry, caller: Caller, body: bytes) -> Answer:
        fields = _fields(entry.address.query if not body else body.decode("utf-8", "replace"))
        shown = secret_in(entry.headers.get("authorization", ""))
        if body:
            shown = _granted(fields)
            caller = await self._gate.caller_of(keys, shown, entry)
        if caller.by_ticket:
            raise Unauthorized("a ticket is not given for another one; show the token", challenge=BASIC)
        if caller.why or not (caller.name or self._gate.access.open_reading):
            raise self._gate.refused(entry, caller, BASIC)
        most = _asked(fields) if caller.name else Right.READ
        ticket = await keys.ticket_for(caller, most)
        issued = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {"token": ticket, "access_token": ticket, "expires_in": TICKET_SECONDS, "issued_at": issued}
        if caller.name and _is_offline(fields):
            # What stands for the user from now on is the token itself: it can be revoked.
            told["refresh_token"] = shown or ""
        if body:
            told["scope"] = " ".join(fields.get("scope", ()))
        return json_answer(told)


def is_token(address: Address) -> bool:
    """The one address under `/v2/` that is no repository's, by whatever default."""
    return address.repo == ROOT and address.path == TOKEN


def unmounted(address: Address) -> Operation:
    """What is asked of a repository that is not here, as it would be if it were."""
    if address.repo != ROOT:
        return Operation(Right.READ, address.repo)
    name = _BEFORE_KIND.match(address.path)
    repo, _, image = (name[1] if name else address.path).partition("/")
    return Operation(Right.READ, repo, image)


def _fields(text: str) -> _Fields:
    try:
        return parse_qs(text, max_num_fields=_PARAMETERS_MAX)
    except ValueError as error:
        raise BadRequest(f"more than {_PARAMETERS_MAX} parameters") from error


def _granted(fields: _Fields) -> str:
    """What a form offers for a ticket. Raises `BadRequest`."""
    kind = fields.get("grant_type", [""])[-1]
    if kind not in ("password", "refresh_token"):
        raise BadRequest("grant_type is password or refresh_token")
    secret = fields.get(kind, [""])[-1]
    if not secret:
        raise BadRequest(f"the form has no {kind}")
    return secret


def _is_offline(fields: _Fields) -> bool:
    return fields.get("offline_token", [""])[-1] in ("true", "1") or "offline" in fields.get(
        "access_type", ()
    )


def _asked(fields: _Fields) -> Right:
    """The highest right of all scopes, `TYPE:NAME:ACTION,...`; none asked for is reading. What is asked
    for on which name does not matter: the token itself says what it may do where."""
    scopes: Iterable[str] = (scope for value in fields.get("scope", ()) for scope in value.split())
    actions = (action for scope in scopes for action in scope.rpartition(":")[2].split(","))
    return max((_RIGHTS.get(action, Right.READ) for action in actions), default=Right.READ)
