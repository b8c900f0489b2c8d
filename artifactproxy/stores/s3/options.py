"""How the bucket is reached and what an upload may cost: sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class S3Options:
    """`endpoint` None: the one of the region. Without keys the SDK's chain finds credentials.
    `prefix` ends in `/` unless it is empty. `ca` is a PEM file trusted beside the system's.

    `checksums` and `sign_payload` are for stores that demand what our own sha256 makes needless: a
    checksum header on what we send, and a signature over the body. `uploads` run at once in a process,
    with `parts` of each in flight; `part_memory` bounds what all of them hold, `push_memory`
    what lies in memory of bodies that are pushed. `connections` is the size
    of the pool, `tries` how often one request is sent before the store counts as away.
    """

    bucket: str
    endpoint: str | None = None
    region: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca: str = ""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    sign_payload: bool = False
    uploads: int = 16
    parts: int = 4
    part_size: int = 8 * 2**20
    part_memory: int = 32 * 2**20
    push_memory: int = 64 * 2**20
    connections: int = 64
    tries: int = 5
    connect: float = 3.0
    read: float = 20.0
