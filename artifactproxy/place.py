"""What a supervisor hands to a worker; a process that serves alone has no place."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifactproxy.channel import Channel
from artifactproxy.datadir import DataFolder

FOLDER = "workers"  # in the data folder


@dataclass(frozen=True, slots=True)
class Place:
    """`number` counts from 1. The `folder` is locked by the supervisor; `listeners` are bound, and
    this worker's share; `control` is that of all. `secret` is common to the workers of one start. `clean` tells
    whether the instance had ended well before it. `kept` is what the worker before it had counted, None
    for the first of its number."""

    number: int
    folder: DataFolder
    channel: Channel
    listeners: tuple[socket.socket, ...]
    control: socket.socket
    secret: str
    clean: bool
    kept: Mapping[str, Any] | None = None
    again: bool = False

    @property
    def sockets(self) -> Path:
        """The folder of the workers' own sockets, for this user only."""
        return self.folder.path / FOLDER

    @property
    def socket_path(self) -> Path:
        """Where this worker answers its siblings."""
        return self.sockets / f"{self.number}.sock"

    @property
    def address(self) -> str:
        """The same as a holder of leases is named."""
        return f"unix:{self.socket_path}"
