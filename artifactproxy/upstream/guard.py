"""Who may be connected to: schemes, literal addresses, and what a name resolves to.

A configured origin (exact scheme, host and port) is allowed at whatever address. Everything an
upstream names goes through an explicit list of networks; `ipaddress.is_private` is not used, for
it also refuses documentation networks that some resolvers hand out for real hosts. The resolver
judges the very addresses that are then connected to, so a name that changes its answer between
check and use gains nothing. Behind an egress proxy only names and literals can be judged.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from artifactproxy.errors import UpstreamBlocked

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REFUSED: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network, unspecified (RFC 1122)
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598)
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "64:ff9b:1::/48",  # NAT64 of this site only (RFC 8215)
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
_LOW_32 = tuple(ip_network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96", "::/96"))
_6TO4 = ip_network("2002::/16")

# Data stores and control ports above 1023 that no artifact is ever fetched from.
_SERVICE_PORTS = frozenset((2375, 2376, 2379, 2380, 3306, 5432, 6379, 9200, 10250, 11211, 27017))
_NETLOC = re.compile(
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._-]+)?\])(?::(?P<port>[0-9]{1,5}))?"
)
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\<>\"]")
_DEFAULT_PORT = {"http": 80, "https": 443}
DNS_MEMORY = 5.0  # seconds for which a failed look-up is remembered

Lookup = Callable[[str, int, int], Awaitable[list[str]]]


def split_origin(url: str) -> tuple[str, str, int]:
    """Scheme, lower-case host (literals without brackets) and port of an absolute http(s) URL.

    Raises `UpstreamBlocked`: `bad_location` for what is no plain URL (user info, spaces, control
    characters, backslashes, non-ASCII), `downgrade` for a scheme other than http and https.
    """
    if _UNSAFE.search(url) or not url.isascii():
        raise UpstreamBlocked("the address named by upstream is not a valid URL", code="bad_location")
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise UpstreamBlocked(
            "the address named by upstream is not a valid URL", code="bad_location"
        ) from exc
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORT:
        raise UpstreamBlocked(f"only http and https are fetched, not {scheme or 'this'!r}", code="downgrade")
    match = _NETLOC.fullmatch(parts.netloc)
    port = int(match["port"] or _DEFAULT_PORT[scheme]) if match else 0
    if match is None or not 0 < port < 65536:
        raise UpstreamBlocked("the address named by upstream has no plain host and port", code="bad_location")
    return scheme, match["host"].strip("[]").lower(), port


def origin_of(url: str) -> str:
    """`scheme://host:port`, the port always written. Raises as `split_origin`."""
    scheme, host, port = split_origin(url)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def host_of(url: str) -> str:
    """Host and, unless it is the scheme's own, port: how public sentences name an upstream."""
    scheme, host, port = split_origin(url)
    host = f"[{host}]" if ":" in host else host
    return host if port == _DEFAULT_PORT[scheme] else f"{host}:{port}"


def literal(host: str) -> Address | None:
    """The address a host spells, in any form that the C library would take for one."""
    host = host.partition("%")[0].rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def refused(address: Address, allow: Sequence[Network] = ()) -> bool:
    """Whether an address that is not a configured origin must not be connected to."""
    forms = [address, *_embedded(address)]
    if any(form in network for form in forms for network in allow):
        return False
    return any(form in network for form in forms for network in REFUSED)


def _embedded(address: Address) -> Iterable[IPv4Address]:
    if isinstance(address, IPv4Address):
        return
    if any(address in network for network in _LOW_32):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    elif address in _6TO4:
        yield IPv4Address(int(address) >> 80 & 0xFFFFFFFF)


def judge_url(url: str, origins: Iterable[str], allow: Sequence[Network] = ()) -> None:
    """Raise `UpstreamBlocked` unless `url` may be asked, as far as its text tells.

    A name passes here and is judged again, address by address, by `GuardedResolver`.
    """
    origin = origin_of(url)
    if origin in origins:
        return
    _, host, port = split_origin(url)
    if (port < 1024 and port not in (80, 443)) or port in _SERVICE_PORTS:
        raise UpstreamBlocked(f"port {port} of {host} is not one that artifacts are fetched from")
    address = literal(host)
    if address is not None and refused(address, allow):
        raise UpstreamBlocked(f"{host} is an internal address")
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        loopback = IPv4Address("127.0.0.1")
        if refused(loopback, allow):
            raise UpstreamBlocked(f"{host} is an internal address")


def judge_scheme(url: str, origins: Iterable[str], plain: Iterable[str]) -> None:
    """Raise `UpstreamBlocked` (`downgrade`) for plain http in the name of upstreams that are all
    reached over https, unless the administrator listed that very origin in `plain`."""
    origin = origin_of(url)
    if not origin.startswith("http:") or origin in plain:
        return
    if all(known.startswith("https:") for known in origins):
        raise UpstreamBlocked(
            f"{host_of(url)} is named over http by an upstream that speaks https", code="downgrade"
        )


def next_hop(url: str, location: str) -> str:
    """The absolute URL that a `Location` received from `url` means (RFC 9110 10.2.2).

    Escapes stay as they were, since a signature may cover them; raw non-ASCII octets are escaped;
    the fragment is dropped. Raises `UpstreamBlocked`.
    """
    text = quote(location.encode("utf-8", "surrogateescape"), safe="".join(map(chr, range(128))))
    if not text or _UNSAFE.search(text):
        raise UpstreamBlocked(f"{host_of(url)} redirects to something that is not a URL", code="bad_location")
    try:
        target = urljoin(url, text).partition("#")[0]
    except ValueError as exc:
        raise UpstreamBlocked(
            f"{host_of(url)} redirects to something that is not a URL", code="bad_location"
        ) from exc
    if split_origin(url)[0] == "https" and split_origin(target)[0] == "http":
        raise UpstreamBlocked(f"{host_of(url)} redirects from https to http", code="downgrade")
    return target


class GuardedResolver(AbstractResolver):
    """Resolves with the C library and hands on only the addresses that may be connected to.

    `guarded` False (configured origins, egress proxies) hands on everything. A failed look-up is
    remembered for `DNS_MEMORY` seconds. Raises OSError for a failed look-up, `UpstreamBlocked` if
    every address is refused.
    """

    def __init__(self, *, guarded: bool, allow: Sequence[Network] = (), lookup: Lookup | None = None) -> None:
        self._guarded = guarded
        self._allow = tuple(allow)
        self._lookup = lookup or getaddrinfo
        self._failed: dict[str, tuple[float, str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        now = asyncio.get_running_loop().time()
        until, why = self._failed.get(host, (0.0, ""))
        if now < until:
            raise OSError(None, why)
        try:
            found = await self._lookup(host, port, family)
        except (OSError, UnicodeError) as exc:
            self._remember(host, now, str(exc))
            raise OSError(None, str(exc)) from exc
        kept = [a for a in found if not (self._guarded and refused(ip_address(a), self._allow))]
        if found and not kept:
            raise UpstreamBlocked(f"{host} resolves to an internal address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in kept
        ]

    def _remember(self, host: str, now: float, why: str) -> None:
        if len(self._failed) >= 1000:
            self._failed.clear()
        self._failed[host] = (now + DNS_MEMORY, why)

    async def close(self) -> None:
        self._failed.clear()


async def getaddrinfo(host: str, port: int, family: int) -> list[str]:
    """Every address of a name, in the order the system prefers."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
