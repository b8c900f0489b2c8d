"""How Redis is reached, how long a lease lasts, and how a process is found by the others; seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """`url` may hold a password. `budget` bounds each look on the way of a request; after a failure
    Redis is left alone for `rest`. A lease ends `lease` seconds after its last renewal, which is due
    every `renew`. `prefix` begins every key, so that several clusters can share one Redis."""

    url: str = field(repr=False)
    prefix: str = "artifactproxy:"
    budget: float = 0.25
    connect: float = 1.0
    rest: float = 10.0
    lease: float = 10.0
    renew: float = 3.0


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """`advertise` is the address under which the other replicas reach this one; `secret` authenticates
    them to each other; `ca` is a PEM file trusted beside the system's for `https`."""

    advertise: str
    secret: str = field(repr=False)
    ca: str = ""
