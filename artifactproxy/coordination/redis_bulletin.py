"""The board of processes on several machines: a channel in Redis, and a sorted set of what still counts.

Channels forget: who was not connected has missed what was said. So after every new connection the
messages that still count are read, and listeners of `missed` topics are told that something may
have escaped them. What cannot be told now waits for Redis, bounded.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress

from redis.exceptions import ResponseError

from artifactproxy.coordination.bulletin import FRAME_MAX, KEPT_MAX, Frame, LocalBulletin, decode
from artifactproxy.coordination.link import SENTENCES, Broken, Command, Link, cause_of, end
from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.scripts import KEEP, KEPT
from artifactproxy.ports import Observer
from artifactproxy.rules.bulletin import CHANGED, EVERYTHING
from artifactproxy.rules.retry import backoff

_WAITING = 1000  # messages
_BATCH = 50
_FIRST_PAUSE = 0.1


class RedisBulletin(LocalBulletin):
    """`missed` says, by topic, what listeners are told when messages may have been lost. `clock` is
    monotonic."""

    def __init__(
        self,
        options: RedisOptions,
        *,
        observer: Observer | None = None,
        missed: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._options = options
        self._observer = observer
        self._missed = {CHANGED: EVERYTHING} if missed is None else dict(missed)
        self._clock = clock
        self._channel = f"{options.prefix}v1:bulletin"
        self._key = f"{options.prefix}v1:bulletin:kept"
        self._speaking, self._hearing = Link(options), Link(options)
        self._outgoing: deque[tuple[Frame, float]] = deque()  # with the moment it was told
        self._unsaid: set[str] = set()
        self._wake, self._idle, self._tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._away = ""
        self._listening = False
        self._refusals: set[str] = set()

    async def start(self) -> None:
        """Returns when it hears, or has found that it cannot yet: then it will as soon as Redis is there."""
        work: list[Coroutine[None, None, None]] = [self._listen_on(), self._speak_on()]
        self._tasks = [asyncio.create_task(each, name="bulletin") for each in work]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.connect):
                await self._tried.wait()

    async def close(self) -> None:
        """What was told is still sent, for `connect` seconds at most."""
        if self._tasks and not self._away:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.connect):
                    await self._idle.wait()
        await end(*self._tasks)
        await self._speaking.close()
        await self._hearing.close()

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None:
        frame = self._frame(topic, message, seconds)
        if len(frame.encode()) > FRAME_MAX:
            return
        self._outgoing.append((frame, self._clock()))
        self._bound()
        self._idle.clear()
        self._wake.set()

    # --- telling

    def _bound(self) -> None:
        while len(self._outgoing) > _WAITING:
            self._unsaid.add(self._outgoing.popleft()[0].topic)
            self._count("bulletin_dropped")

    async def _speak_on(self) -> None:
        failures = 0
        while True:
            if not self._outgoing:
                self._idle.set()
                await self._wake.wait()
                self._wake.clear()
                continue
            batch = [self._outgoing.popleft() for _ in range(min(_BATCH, len(self._outgoing)))]
            try:
                await self._speak(batch)
            except Broken as broken:
                self._outgoing.extendleft(reversed(batch))
                self._bound()
                self._trouble(broken.cause)
                await asyncio.sleep(self._pause(failures))
                failures += 1
            else:
                failures = 0
                self._make_up()
                if self._away and self._listening:
                    self._back()

    async def _speak(self, batch: list[tuple[Frame, float]]) -> None:
        """A message that Redis refuses is lost; one that is sent twice is heard twice. Raises `Broken`."""
        commands = []
        for frame, at in batch:
            raw = frame.encode()
            if frame.seconds:
                left = frame.seconds - (self._clock() - at)
                if left <= 0:
                    continue  # it counts no more
                raw = frame.lasting(left).encode()
                commands.append(Command((self._key, raw, max(1, round(left * 1000)), KEPT_MAX), KEEP))
            commands.append(Command(("PUBLISH", self._channel, raw)))
        for answer in await self._speaking.exchange(commands):
            if isinstance(answer, ResponseError):
                self._refused(answer)

    def _make_up(self) -> None:
        """Say of what was dropped, once Redis is there again, that something was."""
        unsaid, self._unsaid = self._unsaid, set()
        for topic in unsaid & self._missed.keys():
            self.tell(topic, self._missed[topic])

    # --- hearing

    async def _listen_on(self) -> None:
        failures, gaps = 0, False
        while True:
            try:
                await self._tune_in()
                if gaps:
                    for topic, text in self._missed.items():
                        self._hear(topic, text)
                failures, gaps, self._listening = 0, True, True
                self._back()
                await self._listen_until_broken()
            except Broken as broken:
                gaps, self._listening = True, False
                self._trouble(broken.cause)
            await asyncio.sleep(self._pause(failures))
            failures += 1

    async def _tune_in(self) -> None:
        await self._hearing.subscribe(self._channel)
        reading = Link(self._options)
        try:
            (kept,) = await reading.exchange([Command((self._key,), KEPT)])
        finally:
            await reading.close()
        if isinstance(kept, ResponseError):
            self._refused(kept)
        elif isinstance(kept, list):
            for raw, left in zip(kept[::2], kept[1::2], strict=False):
                self._heard(raw, left)

    async def _listen_until_broken(self) -> None:
        """Raises `Broken`. After some silence Redis is asked whether it is still there."""
        while True:
            said = await self._hearing.receive(self._options.renew)
            if said is None:
                await self._hearing.send("PING")
                said = await self._hearing.receive(self._options.connect)
                if said is None:
                    raise Broken("slow", self._hearing.where)
            if isinstance(said, list) and len(said) == 3 and said[0] == b"message":
                self._heard(said[2], None)

    def _heard(self, raw: object, left: object) -> None:
        """`left`: the milliseconds that Redis says are left of it."""
        frame = decode(raw) if isinstance(raw, bytes) else None
        if frame is None:
            return
        if isinstance(left, bytes) and left.split(b".")[0].isdigit():
            frame = frame.lasting(float(left) / 1000)
        self._take_in(frame)

    # --- trouble

    def _pause(self, failures: int) -> float:
        # No secret: replicas that lost the same Redis shall not return to it as one.
        jitter = random.uniform(0.5, 1.0)  # noqa: S311  not for security
        return min(backoff(failures, _FIRST_PAUSE, jitter), max(self._options.rest, _FIRST_PAUSE))

    def _trouble(self, cause: str) -> None:
        self._tried.set()
        self._count("redis_errors", cause=cause)
        if self._observer is not None and not self._away:
            self._observer.gauge("degraded", 1, dependency="bulletin")
            self._observer.warning(
                "bulletin_away",
                cause=cause,
                detail=f"Redis {SENTENCES[cause]}",
                action="the other processes learn of changes later",
            )
        self._away = cause

    def _refused(self, error: ResponseError) -> None:
        """The rest goes on; said once per cause."""
        cause = cause_of(error)
        self._count("redis_errors", cause=cause)
        if self._observer is not None and cause not in self._refusals:
            self._refusals.add(cause)
            self._observer.warning("bulletin_refused", cause=cause, detail=f"Redis {SENTENCES[cause]}")

    def _back(self) -> None:
        if self._observer is not None:
            self._observer.gauge("degraded", 0, dependency="bulletin")
            if self._away:
                self._observer.notice("bulletin_back")
        self._away = ""
        self._tried.set()

    def _count(self, name: str, **labels: str) -> None:
        if self._observer is not None:
            self._observer.increment(name, 1, **labels)
