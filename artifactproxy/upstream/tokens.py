"""Tokens that registries want to see, and where they come from: the dance of `WWW-Authenticate`.

A request goes out as we believe it must; a 401 says what is wanted, and it goes out once more. What
was learnt is remembered for what it was told of (remote, origin, repository name), so that later
requests need no 401. Credentials are shown to the upstream's own origin, and to the token servers that
it may name: its own origin, hosts of its domain, and those the administrator lists.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from artifactproxy.errors import UpstreamBlocked, UpstreamBroken, UpstreamFault
from artifactproxy.rules.challenges import Challenge, Grant, challenges, grant_of, may_give, token_url
from artifactproxy.upstream.auth import Basic, Credential
from artifactproxy.upstream.guard import host_of, origin_of

TOKENS_MAX = 10_000
_NAME = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+\Z")

Ask = Callable[[str, str, Credential | None], Awaitable[tuple[int, bytes]]]
"""Asks a token server: remote, URL, credential; gives status and body."""


@dataclass(slots=True)
class _Known:
    """How requests of one kind go out: with this until then (the loop's clock)."""

    header: str = field(repr=False)
    until: float


class Tokens:
    """`ask` sends a request to a token server through the same guard as any other."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()
        self._granted: dict[tuple[str, str], tuple[Grant, float]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Grant]] = {}

    def header(self, remote: str, url: str) -> str:
        """The `Authorization` of a request to an upstream's own origin, "" for none."""
        known = self._known.get(_place(remote, url))
        return known.header if known is not None and known.until > _now() else ""

    async def satisfy(
        self,
        remote: str,
        url: str,
        challenge: str,
        sent: str,
        credential: Credential | None,
        listed: tuple[str, ...],
    ) -> bool:
        """Whether a request that went out with the header `sent` and was answered with this `challenge`
        is worth another try. Others may have satisfied it meanwhile.

        `listed` are origins of token servers that the administrator trusts. Raises what asking one
        raises, `UpstreamBlocked` for one that is not to be asked, `UpstreamBroken` for one that
        gives no token.
        """
        place = _place(remote, url)
        wanted = {found.scheme: found for found in reversed(challenges(challenge))}
        if bearer := wanted.get("bearer"):
            grant = await self._grant(remote, url, bearer, credential, listed, refused=sent)
            self._keep(place, f"Bearer {grant.token}", _now() + grant.seconds)
            return sent != f"Bearer {grant.token}"
        if "basic" in wanted and isinstance(credential, Basic) and not sent:
            self._keep(place, credential.header(), float("inf"))
            return True
        return False

    def forget(self) -> None:
        """Credentials may be others now."""
        self._known.clear()
        self._granted.clear()

    def _keep(self, place: tuple[str, str, str], header: str, until: float) -> None:
        self._known[place] = _Known(header, until)
        self._known.move_to_end(place)
        while len(self._known) > TOKENS_MAX:
            self._known.popitem(last=False)

    async def _grant(
        self,
        remote: str,
        url: str,
        challenge: Challenge,
        credential: Credential | None,
        listed: tuple[str, ...],
        *,
        refused: str,
    ) -> Grant:
        """A token of this realm, service and scope, asked for once for all who want it now."""
        address = token_url(challenge)
        if not address:
            raise UpstreamBroken(f"{host_of(url)} wants a token and names no server for it", code="no_token")
        judge_realm(address, url, listed)
        key = (remote, address)
        held = self._granted.get(key)
        if held is not None and held[1] > _now() and refused != f"Bearer {held[0].token}":
            return held[0]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._fetched(key, credential))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def _fetched(self, key: tuple[str, str], credential: Credential | None) -> Grant:
        remote, address = key
        status, body = await self._ask(remote, address, credential)
        grant = grant_of(body) if status == 200 else None
        if grant is None:
            raise _refused(address, status, anonymous=credential is None)
        if len(self._granted) >= TOKENS_MAX:
            self._granted.clear()
        self._granted[key] = (grant, _now() + grant.seconds)
        return grant

    def _ended(self, key: tuple[str, str], done: asyncio.Task[Grant]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has heard it


def _refused(address: str, status: int, *, anonymous: bool) -> UpstreamFault:
    said = f"the token server {host_of(address)} gave no token (status {status})"
    if status not in (401, 403):
        return UpstreamBroken(said, code="no_token")
    code = "upstream_forbidden" if anonymous else "upstream_denied"
    fault = UpstreamFault(said, code=code, upstream_status=status)
    fault.status = 403 if anonymous else 502
    return fault


def judge_realm(address: str, upstream: str, listed: tuple[str, ...]) -> None:
    """Raise `UpstreamBlocked` unless the token server may be shown credentials."""
    realm, home = origin_of(address), origin_of(upstream)
    if realm == home or realm in listed or may_give(realm, home):
        return
    raise UpstreamBlocked(
        f"{host_of(upstream)} names a token server on another host, {host_of(address)}; "
        "list it in file_hosts if it is meant to be used",
        code="token_realm",
    )


def _place(remote: str, url: str) -> tuple[str, str, str]:
    """What a token holds for, as far as an address tells."""
    path = url.partition("://")[2].partition("/")[2].partition("?")[0]
    name = _NAME.search(f"/{path}")
    return remote, origin_of(url), name[1] if name else ""


def _now() -> float:
    return asyncio.get_running_loop().time()
