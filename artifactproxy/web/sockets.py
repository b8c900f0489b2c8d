"""Sockets to listen on, made before there is an event loop: a supervisor hands them to its workers."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

BACKLOG = 1024
NAME_MAX = 107  # bytes of sun_path on Linux, without the closing NUL


def tcp(host: str, port: int) -> list[socket.socket]:
    """One listening socket for each address of `host`, as an event loop would make them ("": all of
    this machine). Raises OSError."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return bound


def shares(first: list[socket.socket], number: int) -> list[tuple[socket.socket, ...]]:
    """The sockets of `tcp` for so many processes, each with queues of its own among which the kernel
    divides what comes (Linux; elsewhere all share one). On one shared queue whoever wakes first takes
    nearly all of a burst: 184 of 256 connections, measured with four processes. Raises OSError.

    The first sockets listened alone, so a port in use was found; from here on others may join.
    """
    found = [tuple(first)]
    while len(found) < number:
        found.append(tuple(_beside(sock) for sock in first))
    return found


def _beside(sock: socket.socket) -> socket.socket:
    if sys.platform != "linux":
        return sock.dup()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other = socket.socket(sock.family, sock.type, sock.proto)
    try:
        other.setblocking(False)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(sock.getsockname())
        other.listen(BACKLOG)
    except OSError:
        other.close()
        raise
    return other


def unix(place: Path) -> socket.socket:
    """A Unix socket at `place`, for this user only, not listening yet; a leftover of a process that
    died goes. Raises OSError.

    The name of one is at most 107 bytes long, so a deep folder is reached through its descriptor (Linux).
    """
    remove(place)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    old = os.umask(0o177)
    try:
        short = len(os.fsencode(place)) <= NAME_MAX
        sock.bind(str(place) if short else f"/proc/self/fd/{folder}/{place.name}")
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old)
        os.close(folder)
    return sock


def remove(path: Path) -> None:
    """The leftover of a process that died, or our own; never anything else."""
    if path.is_socket():
        path.unlink(missing_ok=True)
