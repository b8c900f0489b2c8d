"""What the rest of the program gets: plain frozen values, every layer merged, nothing left to look up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from artifactproxy.coordination.options import ClusterOptions, RedisOptions
from artifactproxy.hosted.local import Local
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.limits import Limits, Policy, RemoteLimits
from artifactproxy.providers._base import Site
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.upstream.auth import Basic, Bearer

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Listen:
    """`host` without the brackets of IPv6; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for the listener: a certificate with its chain, and the key, not encrypted."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Egress:
    """How requests leave. `proxy` may hold a password; `ca` is a PEM file or None for the system's."""

    proxy: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """`file` None: standard error."""

    file: Path | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class S3:
    """`redirect` sends readers of blobs from `redirect_from` bytes on to the bucket itself, with an
    address that ends after `redirect_for` seconds; `local_tier` bytes of this disk stand in front."""

    options: S3Options
    local_tier: int
    redirect: Literal["never", "blobs", "all"]
    redirect_from: int
    redirect_for: float


@dataclass(frozen=True, slots=True)
class Remote:
    """One repository that pulls through. `provider` is a name in `providers.PROVIDERS`."""

    name: str
    provider: str
    site: Site
    policy: Policy
    limits: RemoteLimits
    cold_ranges: Literal["relay", "wait"] = "relay"
    auth: Basic | Bearer | None = field(default=None, repr=False)
    allow_private: tuple[Network, ...] = ()
    egress: Egress = Egress()

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Resolved base addresses, each ending in `/`, in order of preference."""
        return self.site.upstreams


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `data_limit` in bytes; None keeps `limits.min_free_share` free."""

    listen: Listen
    tls: Tls | None
    public_url: str | None
    trusted_proxies: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    read: Literal["open", "token"]
    data: Path
    data_limit: int | None
    workers: int
    store: S3 | None
    """None: the data folder."""
    index: PostgresOptions | None
    """None: SQLite in the data folder."""
    coordination: RedisOptions | None
    """None: the processes of this machine among themselves."""
    cluster: ClusterOptions | None
    oci_default: str | None
    log: Log
    limits: Limits
    remotes: Mapping[str, Remote]
    locals: Mapping[str, Local] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    def effective(self) -> dict[str, Any]:
        """Every key with its value, in the file's own shape. A secret shows where it is kept; a
        public upstream shows the address it was resolved to."""
        return copy.deepcopy(dict(self.shown))
