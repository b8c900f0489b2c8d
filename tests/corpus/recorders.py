"""What must stay silent while an attack is played: listeners, a scripted resolver, and every connect()."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest

from artifactproxy.upstream import guard
from tests.chaos import Chaos

FRIEND = "127.0.0.5"
"""Stands for a public address: the one address that remotes of the corpus allow beside their own."""
HIDDEN = ("127.0.0.1", "127.0.0.2", "::1")
"""Where the recorders are that nobody may reach."""


@dataclass
class Names:
    """A resolver. A name maps to its answers, one list of addresses a look-up, over and over."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int, family: int) -> list[str]:
        del port, family
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        answers = self.answers[host]
        answers.append(answers.pop(0))
        return answers[-1]


@dataclass
class Wire:
    """All that this process connected to, the test's own client included."""

    names: Names
    connects: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def watched(names: Names) -> Iterator[Wire]:
    wire = Wire(names)
    connect = socket.socket.connect

    def recorded(sock: socket.socket, address: object) -> None:
        if isinstance(address, tuple):
            wire.connects.append((address[0], address[1]))
        connect(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "getaddrinfo", names)
        patch.setattr(socket.socket, "connect", recorded)
        yield wire


@dataclass
class Recorders:
    """Listeners on one port of several addresses. `friend` may be reached, the others may not."""

    friend: Chaos
    hidden: list[Chaos]

    @property
    def port(self) -> int:
        return self.friend.port

    def connections(self) -> int:
        return sum(recorder.connections for recorder in self.hidden)


@asynccontextmanager
async def recorders() -> AsyncIterator[Recorders]:
    async with AsyncExitStack() as stack:
        friend = await stack.enter_async_context(Chaos(host=FRIEND))
        hidden = []
        for host in HIDDEN:
            if ":" in host and not _has_ipv6():
                continue
            recorder = Chaos(host=host)
            await recorder.start(friend.port)
            stack.push_async_callback(recorder.stop)
            hidden.append(recorder)
        yield Recorders(friend, hidden)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
