"""A repository as the engine sees it: a provider, a policy and the limits of its upstreams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from artifactproxy.limits import Policy, RemoteLimits
from artifactproxy.providers._base import Provider


@dataclass(frozen=True, slots=True)
class Mount:
    """`upstreams` are the resolved base URLs, in order of preference. `local`: it takes pushes, and has
    none."""

    name: str
    provider: Provider
    policy: Policy = field(default_factory=Policy)
    limits: RemoteLimits = field(default_factory=RemoteLimits)
    upstreams: tuple[str, ...] = ()
    cold_ranges: Literal["relay", "wait"] = "relay"
    local: bool = False
