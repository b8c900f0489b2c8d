"""The gate: who asks, and whether they may. Asked once for every request, on the operation that was
read out of it, whatever the method and by whichever address it came.

401 to somebody who showed nothing that counts, whether or not there is such a thing, and 429 where that
happens too often; 403 to a caller who
may read it but not do this; 404, as for what is not there, to a caller who may not know of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from artifactproxy.errors import Fault, Forbidden, Misdirected, NotServed, TooManyLogins, Unauthorized
from artifactproxy.model import Operation, Right, Scope
from artifactproxy.rules.access import EVERYBODY, lowered, may, may_see
from artifactproxy.rules.attempts import Attempts
from artifactproxy.rules.credentials import secret_in
from artifactproxy.rules.oci.addresses import ROOT
from artifactproxy.rules.oci.operations import operation_of
from artifactproxy.tokens.keys import NOBODY, Caller
from artifactproxy.web.access import AccessRules
from artifactproxy.web.contract import KeysLike
from artifactproxy.web.door import Entry

TOKEN_PATH = "/v2/token"  # noqa: S105  an address
PUBLIC = frozenset({"livez", "readyz", "robots.txt", "favicon.ico"})
"""Pages for everybody, who need not be known: also when that could not be told now."""
BASIC = 'Basic realm="artifactproxy"'
_ACTIONS = {Right.READ: "pull", Right.PUSH: "pull,push", Right.DELETE: "pull,delete", Right.ADMIN: "*"}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A caller, and what is open to them here."""

    caller: Caller
    scopes: tuple[Scope, ...]


UNKNOWN = Admitted(NOBODY, ())
NOTHING = "there is no such repository here"
"""Whether there is none or the caller may not know of it. It repeats nothing of what was asked."""


class Gate:
    """`keys` None: nobody can be known here, so only what is open to everybody is. `failures` are those of
    one address in a minute, 0: without bound; `clock` runs evenly."""

    def __init__(
        self,
        access: AccessRules,
        keys: KeysLike | None,
        failures: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.access = access
        self._clock = clock
        self._keys = keys
        self._attempts = Attempts(failures)
        self._nobody = {True: Admitted(NOBODY, EVERYBODY), False: UNKNOWN}

    async def admit(self, entry: Entry) -> Admitted:
        """Who asks. What was shown and does not count makes a nobody; whether that matters is for
        `judge`. Raises `IndexUnavailable` where it cannot be told."""
        field = entry.headers.get("authorization")
        if field is None or entry.address.repo in PUBLIC:
            return self._nobody[self.access.open_reading]
        caller = await self._known(field, entry)
        scopes = EVERYBODY if self.access.open_reading else ()
        if caller.scopes:
            scopes = (*lowered(caller.scopes, caller.most), *scopes)
        return Admitted(caller, scopes)

    async def _known(self, field: str, entry: Entry) -> Caller:
        if self._keys is None:
            return NOBODY
        secret = secret_in(field)
        if secret is None:
            return Caller(why="the Authorization header holds no token")
        return await self.caller_of(self._keys, secret, entry)

    async def caller_of(self, keys: KeysLike, secret: str, entry: Entry) -> Caller:
        """Whose this is. Where too much has failed only what was right before is looked up: neighbours
        behind one address go on. Raises `IndexUnavailable`."""
        if self._attempts.wait(entry.visit.caller, self._clock()) and not keys.knows(secret):
            return Caller(why="too many logins have failed from this address; this one was not looked at")
        return await keys.caller_of(secret)

    def refused(self, entry: Entry, caller: Caller, challenge: str) -> Fault:
        """What is said to a nobody; if they have shown something, that is one more failure."""
        if not caller.why:
            return Unauthorized("this needs a token", challenge=challenge)
        wait = self._attempts.failed(entry.visit.caller, self._clock())
        if wait:
            told = "too many logins have failed from this address; try again later, with another token"
            return TooManyLogins(told, retry_after=math.ceil(wait))
        return Unauthorized(caller.why, challenge=challenge)

    def judge(self, admitted: Admitted, operation: Operation, entry: Entry) -> None:
        """Raises `Unauthorized`, `Forbidden`, or `NotServed` as for what is not there."""
        if admitted.scopes is EVERYBODY and operation.right is Right.READ:  # by far the most
            return
        if may(admitted.scopes, operation):
            return
        caller = admitted.caller
        if may(caller.scopes, operation):
            raise Unauthorized(
                "this ticket is for less than that; ask for another one",
                challenge=self.challenge(entry, 'error="insufficient_scope"'),
            )
        if not caller.name:
            raise self.refused(entry, caller, self.challenge(entry))
        if not operation.repo:
            raise Forbidden(
                f"the token {caller.name} has no scope without a pattern: this page is about everything"
            )
        if may(admitted.scopes, Operation(Right.READ, operation.repo, operation.name)):
            raise Forbidden(
                f"the token {caller.name} does not include the right to {_does(operation.right)} here"
            )
        if may_see(admitted.scopes, operation.repo):
            raise NotServed("there is no such name here")
        raise NotServed(NOTHING)

    def challenge(self, entry: Entry, error: str = "") -> str:
        """Registries of containers are asked by way of tickets, all others with a password (RFC 7235). So
        are registries by a host name for which no tickets are given."""
        if not _is_registry(entry):
            return BASIC
        try:
            self.access.judge_admin(entry.visit)
        except Misdirected:
            return BASIC
        parts = [f'realm="{entry.visit.root}{TOKEN_PATH}"', f'service="{entry.visit.host}"']
        return "Bearer " + ",".join([*parts, *filter(None, [_wanted(entry), error])])


def _wanted(entry: Entry) -> str:
    """What to ask a ticket for, read out of the form of the address alone: the same for what is not here."""
    path, address = entry.address.path, entry.address
    if address.repo != ROOT and not address.api:
        path = path.removeprefix(f"{ROOT}/")
    if address.repo != ROOT and address.api != f"/{ROOT}":
        path = f"{address.repo}/{path}"
    try:
        operation = operation_of(entry.method, path, address.query)
    except Fault:
        return ""
    if not operation.name or not _PLAIN.issuperset(operation.name):
        return ""
    return f'scope="repository:{operation.name}:{_ACTIONS[operation.right]}"'


def _is_registry(entry: Entry) -> bool:
    """By the form of the address alone, which gives nothing away."""
    address = entry.address
    return address.repo == ROOT or bool(address.api) or address.path.startswith(f"{ROOT}/")


def _does(right: Right) -> str:
    return {Right.READ: "read", Right.PUSH: "push", Right.DELETE: "delete"}.get(right, "administer")
