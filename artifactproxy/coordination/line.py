"""The one connection that all looks of a process share, and the decision to leave Redis alone.

What tasks ask in the same moment goes out together and is answered in order, so a crowd costs no
crowd of connections, and what was asked later is never done earlier. Who gives up waiting
disturbs nobody. After a failure, or an answer that came too late, everybody is refused at once
until one probe in the background went well, so no request waits twice for the same trouble.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from artifactproxy.coordination.link import SENTENCES, Broken, Command, Link, cause_of, end
from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.scripts import EXTEND, GIVE_BACK, TAKE, Script
from artifactproxy.errors import StoreUnavailable
from artifactproxy.ports import Observer

_BATCH = 500  # commands under way at once
_QUEUE = 10_000
_SHORTEST_REST = 0.01
_PROBES = 3  # of which one in time is enough: the loop has other work too


class Away(Exception):
    """Redis is not asked now, or does not answer. `sent`: what was asked may be done all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


@dataclass(slots=True, eq=False)
class _Call:
    command: Command
    reply: asyncio.Future[Any]


class Line:
    """`start` before use, `close` at the end."""

    def __init__(self, options: RedisOptions, observer: Observer | None = None) -> None:
        self._options = options
        self._observer = observer
        self._link = Link(options)
        self._probe_key = f"{options.prefix}v1:check:{secrets.token_hex(8)}"
        self._queue: list[_Call] = []
        self._wake = asyncio.Event()
        self._cause = "away"
        self._up = False
        self._answered = 0.0  # when Redis last did, in the loop's time
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._up

    async def start(self) -> None:
        """A Redis that is away is waited for in the background. Raises `ConfigError` for an address or
        credentials that no waiting mends."""
        try:
            await self._probe()
        except Broken as broken:
            if (wrong := broken.wrong()) is not None:
                raise wrong from broken
            self._leave(broken.cause)
        self._task = asyncio.create_task(self._run(), name="redis")

    async def close(self) -> None:
        self._up = False
        if self._task is not None:
            await end(self._task)
        self._refuse_waiting()
        await self._link.close()

    async def check(self) -> None:
        """Raises `StoreUnavailable`, after `connect` seconds at most."""
        with suppress(Away):
            await self.ask(TAKE, self._probe_key, "check/", 1000, "check/", within=self._options.connect)
            return
        raise StoreUnavailable(
            f"the Redis that coordinates downloads {SENTENCES[self._cause]}", code="coordination_unavailable"
        )

    async def ask(self, script: Script, key: str, *arguments: str | int, within: float) -> Any:
        """What the script answers; raises `Away` after `within` seconds at the latest, twice as many if
        it was not Redis that was slow: this process stood still, or asked a great deal at once."""
        if not self._up or len(self._queue) >= _QUEUE:
            raise Away(sent=False)
        loop = asyncio.get_running_loop()
        call = _Call(Command((key, *arguments), script), loop.create_future())
        self._queue.append(call)
        self._wake.set()
        began = loop.time()
        await asyncio.wait((call.reply,), timeout=within)
        if not call.reply.done() and (self._answered > began or loop.time() - began > 1.5 * within):
            await asyncio.wait((call.reply,), timeout=within)
        if not call.reply.done():
            self.doubt("slow")
            raise Away(sent=True)
        answer = call.reply.result()
        if isinstance(answer, Away):
            raise answer
        if isinstance(answer, exceptions.ResponseError):
            self.doubt(cause_of(answer))
            raise Away(sent=False)
        return answer

    def doubt(self, cause: str) -> None:
        """Leave Redis alone for a while, and say so."""
        if self._observer is not None:
            if cause == "slow":
                self._observer.increment("redis_timeouts")
            else:
                self._observer.increment("redis_errors", cause=cause)
        if self._up:
            self._leave(cause)

    def _leave(self, cause: str) -> None:
        self._up, self._cause = False, cause
        self._refuse_waiting()
        self._wake.set()
        if self._observer is not None:
            self._observer.gauge("degraded", 1, dependency="coordination")
            self._observer.warning(
                "coordination_away",
                cause=cause,
                detail=f"Redis {SENTENCES[cause]}",
                action="every process fetches for itself meanwhile",
                seconds=self._options.rest,
            )

    def _refuse_waiting(self) -> None:
        waiting, self._queue = self._queue, []
        _refuse(waiting, sent=False)

    async def _run(self) -> None:
        while True:
            if not self._up:
                await asyncio.sleep(max(self._options.rest, _SHORTEST_REST))
                try:
                    await self._probe()
                except Broken as broken:
                    self._cause = broken.cause
                continue
            await self._wake.wait()
            self._wake.clear()
            if self._queue:
                await self._exchange()

    async def _exchange(self) -> None:
        batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
        if self._queue:
            self._wake.set()
        try:
            answers = await self._link.exchange([call.command for call in batch])
        except Broken as broken:
            _refuse(batch, sent=True)
            if self._up:  # else whoever waited has said so
                self.doubt(broken.cause)
            return
        self._answered = asyncio.get_running_loop().time()
        for call, answer in zip(batch, answers, strict=True):
            if not call.reply.done():
                call.reply.set_result(answer)

    async def _probe(self) -> None:
        """A whole lease, taken and given back, in the time that a request has. Raises `Broken`."""
        loop = asyncio.get_running_loop()
        key, lease = self._probe_key, "check/"
        commands = [
            Command((key, lease, 1000, lease), TAKE),
            Command((key, lease, 1000), EXTEND),
            Command((key, lease), GIVE_BACK),
        ]
        await self._link.open()
        for _ in range(_PROBES):
            began = loop.time()
            answers = await self._link.exchange(commands)
            for answer in answers:
                if isinstance(answer, exceptions.ResponseError):
                    raise Broken(cause_of(answer), self._link.where) from answer
            if answers != [1, 1, 1]:
                raise Broken("odd", self._link.where)
            if loop.time() - began <= self._options.budget:
                self._return()
                return
        raise Broken("slow", self._link.where)

    def _return(self) -> None:
        was_away = self._task is not None and not self._up
        self._up = True
        if self._observer is not None:
            self._observer.gauge("degraded", 0, dependency="coordination")
            if was_away:
                self._observer.notice("coordination_back")


def _refuse(calls: list[_Call], *, sent: bool) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_result(Away(sent=sent))
