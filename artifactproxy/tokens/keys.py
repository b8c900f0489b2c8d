"""Who showed this token? Remembered for a moment, and never longer than it is right.

Here a revocation counts with the next request: it is made through `Desk`, which tells. Elsewhere it is
heard of on the bulletin, and without one within `recheck` seconds, because nothing is believed longer than
that without having been looked up. While the index is away, what was known a short while ago still counts:
then nobody can have revoked anything there, and builds go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace

from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import Right, Scope
from artifactproxy.ports import Bulletin, Clock
from artifactproxy.ports.tokens import Token, TokenStore
from artifactproxy.rules.access import parse_scope
from artifactproxy.rules.bulletin import TOKENS
from artifactproxy.rules.credentials import (
    TICKET_SECONDS,
    Ticket,
    fingerprint,
    is_ticket,
    open_ticket,
    seal_ticket,
    token_id,
)

RECHECK = 1.0  # seconds
UNSURE = 300.0  # seconds that a look-up counts while the index is away
USED_EVERY = 300.0  # seconds between two notes of one token's use
REMEMBERED = 10_000

_NONE_SUCH = "0" * 64  # the fingerprint of nothing: an unknown token costs what a known one does


@dataclass(frozen=True, slots=True)
class Caller:
    """Who was proved to ask; no `name`: nobody. `scopes` are all that the token holds, of which no right
    above `most` may be used by way of this ticket. `why` tells a nobody why what they showed does not
    count; a ticket may be that of a nobody and count."""

    name: str = ""
    id: str = ""
    scopes: tuple[Scope, ...] = ()
    most: Right = Right.ADMIN
    by_ticket: bool = False
    why: str = ""


NOBODY = Caller()
_UNKNOWN = Caller(why="this token is not known here")


@dataclass(frozen=True, slots=True)
class _Known:
    """A look-up at `at`, by the wall clock; `token` None: there is none."""

    token: Token | None
    scopes: tuple[Scope, ...]
    at: float


class Keys:
    """Belongs to one event loop. `pepper` is mixed into the key of tickets: who can read the index alone
    cannot make any."""

    def __init__(
        self,
        store: TokenStore,
        clock: Clock,
        *,
        bulletin: Bulletin | None = None,
        pepper: str = "",
        recheck: float = RECHECK,
    ) -> None:
        self._store = store
        self._clock = clock
        self._bulletin = bulletin
        self._pepper = pepper
        self._recheck = recheck
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._ids: dict[str, str] = {}  # of tokens that were right once, by fingerprint
        self._asking: dict[str, asyncio.Task[_Known]] = {}
        self._epoch = 0  # of what is remembered: a look-up that began in an older one is not kept
        self._key = b""
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()
        if bulletin is not None:
            bulletin.listen(TOKENS, self._hear)

    async def close(self) -> None:
        """What is under way ends: look-ups, and notes of use, which are written."""
        if under_way := {*self._notes, *self._asking.values()}:
            await asyncio.wait(under_way)

    # --- who asks ---------------------------------------------------------------------------

    async def caller_of(self, secret: str) -> Caller:
        """Whose token or ticket this is. Raises `IndexUnavailable` where that cannot be told."""
        if is_ticket(secret):
            return await self._by_ticket(secret)
        shown = fingerprint(secret)
        id_ = self._ids.get(shown) or token_id(secret)
        known = await self._look_up(id_) if id_ else None
        token = known.token if known else None
        same = hmac.compare_digest(shown, token.fingerprint if token else _NONE_SUCH)
        if known is None or token is None or not same:
            return _UNKNOWN
        if len(self._ids) >= REMEMBERED:
            self._ids.clear()
        self._ids[shown] = id_
        return self._judged(token, known.scopes)

    def knows(self, secret: str) -> bool:
        """Whether this token was right when it was last shown here. Tickets are judged by their seal, so
        that no wrong one costs a look-up."""
        return is_ticket(secret) or fingerprint(secret) in self._ids

    async def _by_ticket(self, secret: str) -> Caller:
        now = self._clock()
        ticket = open_ticket(await self._signing(), secret, now)
        if ticket is None:
            return Caller(why="this ticket is over, or was not given here")
        if not ticket.id:
            return Caller(by_ticket=True)
        known = await self._look_up(ticket.id)
        if known.token is None:
            return _UNKNOWN
        return replace(self._judged(known.token, known.scopes), most=ticket.most, by_ticket=True)

    def _judged(self, token: Token, scopes: tuple[Scope, ...]) -> Caller:
        """Only who has shown the right secret is told why it does not count."""
        now = self._clock()
        if token.revoked is not None:
            return Caller(why=f"the token {token.name} was revoked")
        if token.expires is not None and token.expires <= now:
            return Caller(why=f"the token {token.name} has expired")
        self._note_use(token, now)
        return Caller(token.name, token.id, scopes)

    # --- tickets ----------------------------------------------------------------------------

    async def ticket_for(self, caller: Caller, most: Right) -> str:
        """For `TICKET_SECONDS`; for a nobody too, who may do with it what everybody may."""
        held = Ticket(caller.id, min(most, caller.most))
        return seal_ticket(await self._signing(), held, self._clock() + TICKET_SECONDS)

    async def _signing(self) -> bytes:
        if not self._key:
            kept = await self._store.seal(secrets.token_hex(32))
            self._key = hmac.new(self._pepper.encode(), kept.encode(), hashlib.sha256).digest()
        return self._key

    # --- what is remembered -----------------------------------------------------------------

    def forget(self, id_: str) -> None:
        """Look this token up anew, here and (soon) elsewhere."""
        self._drop(id_)
        if self._bulletin is not None:
            self._bulletin.tell(TOKENS, id_)

    def _hear(self, message: str) -> None:
        self._drop(message)

    def _drop(self, id_: str) -> None:
        self._epoch += 1
        self._known.pop(id_, None)
        self._asking.pop(id_, None)

    async def _look_up(self, id_: str) -> _Known:
        now = self._clock()
        known = self._known.get(id_)
        if known is not None and 0 <= now - known.at < self._recheck:
            return known
        epoch = self._epoch
        try:
            return await self._ask(id_, now)
        except IndexUnavailable:
            if known is None or epoch != self._epoch or not 0 <= now - known.at < UNSURE:
                raise
            return known

    async def _ask(self, id_: str, now: float) -> _Known:
        """All who ask for one token at once wait for one look-up; who leaves does not end it."""
        task = self._asking.get(id_)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find(id_, now), name="token")
            self._asking[id_] = task
            task.add_done_callback(lambda done: self._asked(id_, done))
        return await asyncio.shield(task)

    def _asked(self, id_: str, task: asyncio.Task[_Known]) -> None:
        if self._asking.get(id_) is task:
            del self._asking[id_]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear it

    async def _find(self, id_: str, now: float) -> _Known:
        epoch = self._epoch
        token = await self._store.find(id_)
        fresh = _Known(token, _scopes_of(token), now)
        if epoch == self._epoch:
            self._known[id_] = fresh
            self._known.move_to_end(id_)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return fresh

    # --- last use ---------------------------------------------------------------------------

    def _note_use(self, token: Token, now: float) -> None:
        """Nobody waits for it."""
        last = max(token.used or 0.0, self._noted.get(token.id, 0.0))
        if 0 <= now - last < USED_EVERY:
            return
        if len(self._noted) >= REMEMBERED:
            self._noted.clear()
        self._noted[token.id] = now
        task = asyncio.get_running_loop().create_task(self._write_use(token.id, now), name="token-use")
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, id_: str, now: float) -> None:
        with suppress(IndexUnavailable):  # then the next note tells
            await self._store.use([id_], now)


def _scopes_of(token: Token | None) -> tuple[Scope, ...]:
    """What a later version may have written grants nothing here."""
    scopes = []
    for text in token.scopes.split() if token else ():
        try:
            scopes.append(parse_scope(text))
        except ValueError:
            continue
    return tuple(scopes)
