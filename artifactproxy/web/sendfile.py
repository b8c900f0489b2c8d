"""A span of a file to a plain socket without a copy, on any event loop.

Measured: uvloop has no sendfile of its own, and aiohttp's fall-back costs three times the CPU.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import Span
from artifactproxy.web.connection import ClientGone, Connection

_CALL = 1024 * 1024
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSOCK})
_MORE = getattr(socket, "MSG_MORE", 0)


async def send_head(connection: Connection, own: socket.socket, head: bytes, stall: float) -> None:
    """The head goes out in one packet with the first bytes of the file. Raises `ClientGone`."""
    view = memoryview(head)
    while view:
        try:
            view = view[own.send(view, _MORE) :]
        except (BlockingIOError, InterruptedError):
            await writable(connection, own, stall)
        except OSError as error:
            raise ClientGone("client_left") from error


async def send_span(
    connection: Connection,
    own: socket.socket,
    fd: int,
    span: Span,
    stall: float,
    count: Callable[[int], None],
) -> int:
    """Send `span` of `fd`; `count` hears of every piece that left.

    Returns where it stopped: before `span.stop` only if this kind of file cannot be sent so.
    Raises `ClientGone`, and `StoreUnavailable` when the file is shorter than promised or unreadable.
    """
    at = span.start
    while at < span.stop:
        try:
            sent = os.sendfile(own.fileno(), fd, at, min(_CALL, span.stop - at))
        except (BlockingIOError, InterruptedError):
            await writable(connection, own, stall)
            continue
        except ConnectionError as error:
            raise ClientGone("client_left") from error
        except OSError as error:
            if error.errno in _UNSUPPORTED and at == span.start:
                return at
            raise StoreUnavailable("the stored file cannot be read") from error
        if not sent:
            raise StoreUnavailable("the stored file is shorter than its record")
        at += sent
        count(sent)
        # A client on this machine never makes the socket full; others must get their turn.
        await asyncio.sleep(0)
    return at


async def writable(connection: Connection, own: socket.socket, stall: float) -> None:
    """Wait until the socket takes bytes. Raises `ClientGone` after `stall` seconds in which the
    client acknowledged nothing."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = own.fileno()
    loop.add_writer(fd, _settle, ready)
    try:
        pending = connection.pending()
        while not (await asyncio.wait((ready,), timeout=stall))[0]:
            left = connection.pending()
            if left >= pending:
                raise ClientGone("client_slow")
            pending = left
    finally:
        loop.remove_writer(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
