"""One life of one worker, as its supervisor sees it."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from artifactproxy.channel import Lines, line_of
from artifactproxy.config import Config
from artifactproxy.errors import Fault

WAITING_MAX = 16 * 2**20  # bytes for a worker that does not read


class WorkerFailed(Fault):
    """A worker could not start; the detail is its own sentence."""

    code = "worker_failed"


@dataclass(slots=True)
class Life:
    """The process, and the line to it. `born` in monotonic seconds; `config` is what it began with."""

    number: int
    pid: int
    line: socket.socket
    born: float
    config: Config
    lines: Lines = field(default_factory=Lines)
    waiting: bytearray = field(default_factory=bytearray)
    listening: bool = False
    failed: dict[str, Any] | None = None

    def say(self, message: dict[str, Any]) -> None:
        """Never waits: to a worker that does not read, news are lost."""
        if len(self.waiting) < WAITING_MAX:
            self.waiting += line_of(message)
            self.flush()

    def flush(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.waiting:
                del self.waiting[: self.line.send(self.waiting)]

    def hear(self) -> list[dict[str, Any]]:
        """All that has come, without waiting."""
        heard: list[dict[str, Any]] = []
        with suppress(BlockingIOError, ConnectionResetError):
            while data := self.line.recv(1 << 16):
                heard += self.lines.feed(data)
        return heard


def counters_of(numbers: dict[str, Any]) -> dict[str, Any]:
    """Without what is only true of a process that runs."""
    process = {name: value for name, value in numbers["process"].items() if name.endswith("cpu_seconds")}
    return numbers | {"gauges": [], "process": process}


def how_ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
