"""How one remote reaches its upstreams: what is allowed, and which way an address is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from artifactproxy.limits import Download, RemoteLimits
from artifactproxy.upstream.auth import Credential
from artifactproxy.upstream.guard import Network, origin_of, split_origin
from artifactproxy.upstream.pool import Way


@dataclass(frozen=True, slots=True)
class RemoteAccess:
    """How one remote reaches its upstreams.

    `origins` (`scheme://host[:port]`, or any URL on them) are allowed at whatever address;
    `credentials` go to their own origin only. `plain` are origins without TLS that documents of
    upstreams with TLS may name all the same. `allow_private` are networks that hosts named by
    documents or redirects may resolve to. `egress` is the URL of a forward proxy, used except for
    `no_proxy` (host, `.suffix`, network or `*`). `ca` is a PEM file trusted beside the system's.
    `max_per_host` bounds connections that are spare. With
    `tokens` upstream may ask for tokens, of servers at `realms` (origins) beside its own.
    """

    origins: tuple[str, ...]
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    allow_private: tuple[Network, ...] = ()
    egress: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    ca: str = ""
    limits: RemoteLimits = field(default_factory=RemoteLimits)
    max_per_host: int = Download().max_per_host
    via: str = "artifactproxy"
    tokens: bool = False
    realms: tuple[str, ...] = ()


def normal(access: RemoteAccess) -> RemoteAccess:
    """The same, with every URL reduced to its origin."""
    return replace(
        access,
        origins=tuple(origin_of(url) for url in access.origins),
        plain=tuple(origin_of(url) for url in access.plain),
        realms=tuple(origin_of(url) for url in access.realms),
        credentials={origin_of(url): credential for url, credential in access.credentials.items()},
    )


def way_of(access: RemoteAccess, url: str) -> Way:
    """Which session a URL takes: through the egress proxy or direct, guarded or not."""
    host = split_origin(url)[1]
    if access.egress and not any(_matches(host, pattern) for pattern in access.no_proxy):
        return Way(access.egress, access.ca, guarded=False, allow=())
    if origin_of(url) in access.origins:
        return Way("", access.ca, guarded=False, allow=())
    return Way("", access.ca, guarded=True, allow=access.allow_private)


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower()
    if pattern in ("*", host):
        return True
    if pattern.startswith((".", "*.")):
        return host.endswith(pattern.removeprefix("*")) or host == pattern.lstrip("*.")
    try:
        return ip_address(host) in ip_network(pattern)
    except ValueError:
        return False
