"""The line between a worker and its supervisor: one JSON object a line, over a pair of sockets.

Through it a worker hears that it is to stop, and speaks with its siblings: news for all of them
(the bulletin), and questions whose answers the supervisor gathers. When the supervisor is gone
the line breaks, and the worker ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from artifactproxy.errors import Busy, Fault

LINE_MAX = 16 * 2**20
WAITING_MAX = 16 * 2**20  # bytes for a supervisor that does not read
PATIENCE = 5.0  # seconds for the supervisor, which may be reading a configuration
RELOAD_PATIENCE = 120.0
KEEP_EVERY = 5.0  # seconds between two tellings of what a process has counted

Answerer = Callable[[Any], Awaitable[Any]]


def line_of(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Bytes in, whole messages out. Raises ValueError at what is no message of ours."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > LINE_MAX:
                raise ValueError("a line without end")
            return []
        *whole, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [json.loads(line) for line in whole]


class Channel(asyncio.Protocol):
    """A worker's end. `stopped` is called when the supervisor wants the worker to end, `broken` when
    it is gone. Begin with `open`, in the running loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._spare = sock.dup()  # for a last word, when the loop is over
        self._lines = Lines()
        self._transport: asyncio.WriteTransport | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._answerers: dict[str, Answerer] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._heard: Callable[[bytes], None] = lambda _: None
        self.stopped: Callable[[], None] = lambda: None
        self.broken: Callable[[], None] = lambda: None

    async def open(self) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=self._sock)

    # --- the bulletin -----------------------------------------------------------------------

    def tell(self, message: bytes) -> None:
        """To all siblings. Never blocks and never raises; what cannot leave is lost."""
        self.say({"is": "news", "text": message.decode("latin-1")})

    def listen(self, heard: Callable[[bytes], None]) -> None:
        """To what the siblings `tell`."""
        self._heard = heard

    # --- questions --------------------------------------------------------------------------

    def answer(self, what: str, answerer: Answerer) -> None:
        """From now on a question `what` of a sibling, or of the supervisor, is answered by this. What
        it returns is a JSON value; a `Fault` of it is no answer."""
        self._answerers[what] = answerer

    async def ask(self, what: str, value: object = None) -> list[Any]:
        """The siblings' answers; whoever does not answer soon is left out."""
        said = await self.request({"is": "ask", "what": what, "value": value})
        return list(said.get("values", []))

    async def numbers(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """What each sibling has counted, and what one that is silent or has died had when it was last
        heard; the supervisor keeps `mine` for the same purpose. Raises `Busy` rather than show less."""
        self.keep(mine)
        said = await self.request({"is": "ask", "what": "numbers", "value": None})
        if not said:
            raise Busy("the other processes cannot be asked")
        return list(said["values"])

    def keep(self, numbers: dict[str, Any]) -> None:
        """For the supervisor to hand on to this worker's successor."""
        self.say({"is": "numbers", "value": numbers})

    async def request(self, message: dict[str, Any], *, patience: float = PATIENCE) -> dict[str, Any]:
        """What the supervisor says to this; {} if it says nothing for `patience` seconds."""
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.say(message | {"id": number})
            async with asyncio.timeout(patience):
                said: dict[str, Any] = await future
        except TimeoutError:
            return {}
        finally:
            del self._asked[number]
        return said

    async def reload(self) -> dict[str, Any]:
        """What came of it: the supervisor reads the configuration, and hands it to every worker."""
        told = await self.request({"is": "reload"}, patience=RELOAD_PATIENCE)
        if not told:
            raise Busy("the supervisor does not answer")
        return dict(told["value"])

    def say(self, message: dict[str, Any]) -> None:
        """To a supervisor that does not read for long, messages are lost: nothing here is more than help."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > WAITING_MAX:
            return
        transport.write(line_of(message))

    def last_word(self, message: dict[str, Any]) -> None:
        """The same where there is no loop, or none any more."""
        with suppress(OSError):
            self._spare.sendall(line_of(message))

    # --- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        for message in self._lines.feed(data):
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.broken()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind == "news":
            self._heard(message["text"].encode("latin-1"))
        elif kind == "stop":
            self.stopped()
        elif kind == "ask":
            task = asyncio.get_running_loop().create_task(self._respond(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif kind == "said" and (future := self._asked.get(message["id"])) and not future.done():
            future.set_result(message)

    async def _respond(self, message: dict[str, Any]) -> None:
        answerer = self._answerers.get(message["what"])
        said: dict[str, Any] = {"is": "said", "id": message["id"], "what": message["what"]}
        try:
            if answerer is not None:
                said["value"] = await answerer(message["value"])
        except Fault as fault:
            said["fault"] = fault.detail
        self.say(said)
