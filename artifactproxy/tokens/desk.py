"""Making, listing and ending tokens: what `artifactproxy token` does, in a server or without one."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from artifactproxy.errors import BadRequest, Fault
from artifactproxy.model import Scope
from artifactproxy.ports import Clock
from artifactproxy.ports.tokens import Token, TokenStore
from artifactproxy.rules.access import parse_scope, scope_text
from artifactproxy.rules.credentials import NOISE_BYTES, fingerprint, mint, token_id
from artifactproxy.tokens.keys import Keys

KEPT = 90 * 86400.0
"""Seconds that a revoked or expired token is still listed: as long as the ledger names it."""
LONGEST = 100 * 366 * 86400.0

_SCOPES_MAX = 100
_NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9._@+-]{0,63}\Z")
_OURS = frozenset({"control", "anonymous"})  # who asks in logs, where no token does


class NameTaken(Fault):
    status = 409
    code = "name_taken"


class NoSuchToken(Fault):
    status = 404
    code = "no_such_token"


class Desk:
    """`keys` is told of what ends, where there is a server."""

    def __init__(self, store: TokenStore, clock: Clock, keys: Keys | None = None) -> None:
        self._store = store
        self._clock = clock
        self._keys = keys

    async def create(self, name: str, scopes: Sequence[str], seconds: float | None) -> dict[str, Any]:
        """`name`, `token`, `scopes` and `expires` (RFC 3339, or None): the token itself is told here and
        never again. Raises `BadRequest`, `NameTaken`, `IndexUnavailable`."""
        written = _judged(name, scopes, seconds)
        now = self._clock()
        secret = mint(secrets.token_bytes(NOISE_BYTES))
        token = Token(
            token_id(secret),
            name,
            fingerprint(secret),
            " ".join(written),
            created=now,
            expires=None if seconds is None else now + seconds,
        )
        if not await self._store.add(token, before=now - KEPT):
            raise NameTaken(f"there is a token {name} already: revoke it first, or choose another name")
        return {"name": name, "token": secret, "scopes": written, "expires": _moment(token.expires)}

    async def list(self) -> dict[str, Any]:
        now = self._clock()
        return {"tokens": [_shown(token, now) for token in await self._store.tokens()]}

    async def revoke(self, name: str) -> dict[str, Any]:
        """It does not count any more when this returns: here at once, elsewhere within a second. Raises
        `NoSuchToken`, `IndexUnavailable`."""
        token = await self._store.revoke(name, self._clock())
        if token is None:
            raise NoSuchToken(f"there is no token {name} that could be revoked; see artifactproxy token list")
        if self._keys is not None:
            self._keys.forget(token.id)
        return {"name": name, "revoked": _moment(token.revoked)}


def _judged(name: str, scopes: Sequence[str], seconds: float | None) -> list[str]:
    """The scopes as they are kept. Raises `BadRequest`."""
    if not _NAME.match(name) or name in _OURS:
        raise BadRequest(
            "a token's name begins with a letter and has up to 64 letters, digits and any of . _ @ + -"
            f" ({', '.join(sorted(_OURS))} are taken)"
        )
    if not 0 < len(scopes) <= _SCOPES_MAX:
        raise BadRequest(f"a token has 1 to {_SCOPES_MAX} scopes, such as read, push:images/* or admin")
    if seconds is not None and not 0 < seconds <= LONGEST:
        raise BadRequest("a token expires after a second at least and a hundred years at most")
    try:
        parsed: dict[Scope, None] = dict.fromkeys(parse_scope(text) for text in scopes)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    return [scope_text(scope) for scope in parsed]


def _shown(token: Token, now: float) -> dict[str, Any]:
    state = "in force"
    if token.revoked is not None:
        state = "revoked"
    elif token.expires is not None and token.expires <= now:
        state = "expired"
    moments = {name: _moment(getattr(token, name)) for name in ("created", "expires", "revoked", "used")}
    return {"name": token.name, "state": state, "scopes": token.scopes.split(), **moments}


def _moment(at: float | None) -> str | None:
    """RFC 3339, UTC, whole seconds."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
