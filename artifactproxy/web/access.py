"""Who is asking, and by which address they know us.

The order of trust for our own address: the configured public URL, then what a trusted proxy says
(RFC 7239 `Forwarded`, else the `X-Forwarded-*` family), then scheme and Host of the connection.
A forwarded header counts only from a peer in `trusted_proxies`, read from the right, one hop for
each trusted proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from artifactproxy.errors import BadRequest, Misdirected

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>\d{1,5}))?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_PAIR = re.compile(
    r"[ \t]*+(?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r"=(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<token>[^\s\",;]*+)))?+[ \t]*+(?P<end>[;,]|$)"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Visit:
    """`root` is our external address without a trailing slash; `caller` the client's address."""

    root: str
    host: str
    caller: str


@dataclass(frozen=True, slots=True)
class _Hop:
    """What one proxy says of the connection it accepted; "" where it says nothing."""

    address: str = ""
    proto: str = ""
    host: str = ""


class AccessRules:
    """Addresses and hosts that this instance trusts and answers for.

    `public_url` may hold a path. `trusted_proxies` are addresses or CIDRs. `allowed_hosts` are
    `name` (any port) or `name:port`; none means any well-formed Host. `registry` is the repository that
    is meant by an address under `/v2/` that names none. `open_reading`: everybody may read who gets here.
    Raises ValueError on text that is not what it should be.
    """

    def __init__(
        self,
        public_url: str | None = None,
        trusted_proxies: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        registry: str = "",
        *,
        open_reading: bool = True,
    ) -> None:
        self.registry = registry
        self.open_reading = open_reading
        self.public_url = (public_url or "").rstrip("/")
        self.public_host = ""
        if self.public_url:
            parts = urlsplit(self.public_url)
            if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(parts.netloc):
                raise ValueError(f"not a public URL: {public_url}")
            self.public_host = parts.netloc.lower()
        self._trusted: tuple[_Network, ...] = tuple(ip_network(n, strict=False) for n in trusted_proxies)
        self._allowed = frozenset(h.lower() for h in allowed_hosts)

    def visit(self, peer: str, host: str, headers: Mapping[str, str], *, secure: bool) -> Visit:
        """Read one request. `host` is the Host header, `headers` are lower-cased.

        Raises `BadRequest` for a malformed Host or forwarded header.
        """
        scheme = "https" if secure else "http"
        caller, prefix = peer, ""
        if self._trusted and self._trusts(peer):
            hop = self._outermost(headers)
            scheme = hop.proto or scheme
            host = hop.host or host
            caller = hop.address or peer
            prefix = _forwarded_prefix(headers)
        judge_host(host)
        root = self.public_url or f"{scheme}://{host.lower()}{prefix}"
        return Visit(root, host.lower(), caller)

    def judge(self, visit: Visit) -> None:
        """Raises `Misdirected` for a Host that is not in `allowed_hosts` (nor the public one)."""
        if self._allowed and not self._is_named(visit.host):
            raise Misdirected("this server does not answer for that host")

    def judge_admin(self, visit: Visit) -> None:
        """The stricter rule for pages about this instance. Raises `Misdirected`.

        With no `allowed_hosts` a foreign *name* is refused, because a page in a browser could
        have pointed its own name at us; addresses and single-label names cannot be rebound.
        """
        self.judge(visit)
        if self._allowed or visit.host == self.public_host:
            return
        name = _split_host(visit.host)[0]
        if name.startswith("[") or "." not in name or _address(name):
            return
        raise Misdirected("this page is only served by address or by the public host name")

    def _is_named(self, host: str) -> bool:
        return host in self._allowed or host == self.public_host or _split_host(host)[0] in self._allowed

    def _trusts(self, address: str) -> bool:
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._trusted)

    def _outermost(self, headers: Mapping[str, str]) -> _Hop:
        """The hop written by the trusted proxy that is farthest from us."""
        text = headers.get("forwarded", "")
        hops = _forwarded(text) if text else _x_forwarded(headers)
        chosen = _Hop()
        for hop in hops:
            chosen = _Hop(hop.address or chosen.address, hop.proto or chosen.proto, hop.host or chosen.host)
            if not self._trusts(hop.address):
                break
        return chosen


@lru_cache(maxsize=1024)
def judge_host(host: str) -> None:
    """RFC 9110 section 7.2, with the underscores that container names have. Raises `BadRequest`."""
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 65535:
        raise BadRequest("the Host header is missing or malformed", code="bad_host")


def loopback(root: str) -> bool:
    """Does this external address point at the caller's own machine?"""
    name = urlsplit(root).hostname or ""
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _split_host(host: str) -> tuple[str, str]:
    match = _HOST.fullmatch(host)
    return (match["name"], match["port"] or "") if match else ("", "")


@lru_cache(maxsize=1024)
def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _node(text: str) -> str:
    """The address of an RFC 7239 node or of an X-Forwarded-For element; "" for hidden ones."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return text if _address(text) else ""


def _proto(text: str) -> str:
    text = text.strip().lower()
    if text and text not in _DEFAULT_PORTS:
        raise BadRequest("a forwarded scheme is neither http nor https")
    return text


def _forwarded(text: str) -> list[_Hop]:
    """Elements of `Forwarded`, nearest proxy first. Raises `BadRequest` if it is malformed."""
    hops: list[_Hop] = []
    pairs: dict[str, str] = {}
    at = 0
    while at <= len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise BadRequest("the Forwarded header is malformed")
        if match["name"]:
            value = match["quoted"] if match["quoted"] is not None else match["token"]
            pairs[match["name"].lower()] = value.replace("\\", "")
        if match["end"] != ";":
            hops.append(
                _Hop(_node(pairs.get("for", "")), _proto(pairs.get("proto", "")), pairs.get("host", ""))
            )
            pairs = {}
        at = match.end() if match["end"] else len(text) + 1
    return hops[::-1]


def _x_forwarded(headers: Mapping[str, str]) -> list[_Hop]:
    """The same from the X-Forwarded family; lists may be of different lengths."""
    addresses = _backwards(headers, "x-forwarded-for")
    protos = _backwards(headers, "x-forwarded-proto")
    hosts = _backwards(headers, "x-forwarded-host")
    ports = _backwards(headers, "x-forwarded-port")
    hops = []
    for index in range(max(map(len, (addresses, protos, hosts, ports)))):
        proto = _proto(_nth(protos, index))
        host = _with_port(_nth(hosts, index), _nth(ports, index), proto)
        hops.append(_Hop(_node(_nth(addresses, index)), proto, host))
    return hops


def _backwards(headers: Mapping[str, str], name: str) -> list[str]:
    text = headers.get(name, "")
    return [part.strip() for part in reversed(text.split(","))] if text else []


def _nth(parts: list[str], index: int) -> str:
    return parts[index] if index < len(parts) else ""


def _with_port(host: str, port: str, proto: str) -> str:
    if not host or not port.isdecimal() or _split_host(host)[1] or _DEFAULT_PORTS.get(proto) == port:
        return host
    return f"{host}:{port}"


def _forwarded_prefix(headers: Mapping[str, str]) -> str:
    prefix = headers.get("x-forwarded-prefix", "").rpartition(",")[2].strip().rstrip("/")
    if _PREFIX.fullmatch(prefix) is None or ".." in prefix.split("/") or "." in prefix.split("/"):
        raise BadRequest("the X-Forwarded-Prefix header is malformed")
    return prefix
