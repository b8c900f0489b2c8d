"""The door: every request is judged here, on its raw form, before anything else looks at it.

Nothing is cleaned. What the parser lets through and RFC 9112 does not (versions, Host values,
foreign absolute targets) is refused here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from artifactproxy.errors import BadRequest, Busy, Fault, LoopDetected, Misdirected
from artifactproxy.limits import Limits
from artifactproxy.rules.addresses import Address, address_of
from artifactproxy.web.access import AccessRules, Visit
from artifactproxy.web.connection import Connection, parser_name
from artifactproxy.web.framing import judge_framing
from artifactproxy.web.respond import VersionRefused

_REMEMBERED = 512  # targets up to this length; they are judged once

# Probes reach an instance by whatever address their platform gave it, peers by the one it advertises.
_ANY_HOST = frozenset({"livez", "readyz", "internal"})


class ExpectationFailed(Fault):
    """An Expect that is not 100-continue: 417."""

    status = 417
    code = "expectation"


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that may come in; whether its method may is a question for whom it is for."""

    address: Address
    headers: dict[str, str]
    visit: Visit
    method: str = "GET"


class Door:
    """`own_via` is the pseudonym that we write into Via towards upstream."""

    def __init__(self, limits: Limits, access: AccessRules, own_via: str) -> None:
        self._limits = limits
        self.access = access
        self._own_via = own_via.lower()
        self._chunks = parser_name() == "c"

    def judge(self, request: web.BaseRequest, connection: Connection) -> Entry:
        """Raises a `Fault` whose detail repeats nothing of the request."""
        if connection.refused:
            raise Busy("all connections are taken", code="connections")
        if request.version[0] != 1 or request.version[1] > 1:
            raise VersionRefused("only HTTP/1.0 and HTTP/1.1 are spoken here")
        headers = self._fields(request)
        judge_framing(request.version[1], headers, chunks=self._chunks)
        raw = request.raw_path
        address = _address_known(raw) if len(raw) <= _REMEMBERED else address_of(raw)
        visit = self._visit(request, connection, headers)
        if address.repo not in _ANY_HOST:
            self.access.judge(visit)
        if "via" in headers and self._own_via in _received_by(headers["via"]):
            raise LoopDetected("this request has been here before")
        if headers.get("expect", "100-continue").lower() != "100-continue":
            raise ExpectationFailed("only 100-continue can be expected")
        return Entry(address, headers, visit, request.method)

    def _fields(self, request: web.BaseRequest) -> dict[str, str]:
        """Header fields by lower-case name, repeated ones joined (RFC 9110 section 5.3)."""
        fields: dict[str, str] = {}
        total = 0
        for spelled, value in request.headers.items():
            name = spelled.lower()
            total += len(name) + len(value)
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        if total > self._limits.head_total:
            raise BadRequest("the request head is too large", code="head_too_large")
        return fields

    def _visit(self, request: web.BaseRequest, connection: Connection, headers: dict[str, str]) -> Visit:
        raw = request.raw_path
        host = headers.get("host")
        if host is None:
            if request.version[1] == 1:
                raise BadRequest("the Host header is missing", code="bad_host")
            host = _own_address(request)
        if raw[:1] != "/" and urlsplit(raw).netloc.lower() != host.lower():
            raise Misdirected("the request target names another host than the Host header")
        return self.access.visit(connection.peer, host, headers, secure=connection.secure)


def _received_by(via: str) -> set[str]:
    """The names in a Via field (RFC 9110 section 7.6.3), lower-cased."""
    hops = (hop.split() for hop in via.lower().split(","))
    return {hop[1] for hop in hops if len(hop) > 1}


def _own_address(request: web.BaseRequest) -> str:
    """How an HTTP/1.0 client that sends no Host has reached us."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    if not isinstance(name, tuple):
        return "localhost"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


@lru_cache(maxsize=8192)
def _address_known(raw: str) -> Address:
    return address_of(raw)
