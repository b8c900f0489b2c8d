"""Boards on which the processes of a cluster tell each other what each should hear soon.

Here is what all boards share: who listens to what, which messages still count for those who come
later (M3), and the form in which they travel. `LocalBulletin` has nobody to tell; `ChannelBulletin`
speaks through whatever carries bytes to the other processes of this machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

Hear = Callable[[str], None]

KEPT_MAX = 1000
FRAME_MAX = 1 << 20  # bytes
_TOPIC_MAX = 64  # characters
_SECONDS_MAX = 86_400.0
_HELLO = "hello"  # a topic of the boards themselves: somebody is new here


@dataclass(frozen=True, slots=True)
class Frame:
    """A message on its way. `sender` and `number` together are its name; `seconds` are left of the
    time in which it counts, 0 for one that counts only now."""

    sender: str
    number: int
    topic: str
    text: str
    seconds: float = 0.0

    @property
    def name(self) -> tuple[str, int]:
        return self.sender, self.number

    def lasting(self, seconds: float) -> Frame:
        return replace(self, seconds=min(seconds, _SECONDS_MAX))

    def encode(self) -> bytes:
        """ASCII JSON, also of text that no other encoding takes."""
        fields = {"v": 1, "from": self.sender, "n": self.number, "topic": self.topic, "text": self.text}
        return json.dumps(fields | ({"seconds": self.seconds} if self.seconds else {})).encode("ascii")


def decode(raw: bytes) -> Frame | None:
    """None for whatever `Frame.encode` of this version did not write."""
    if len(raw) > FRAME_MAX:
        return None
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("v") != 1:
        return None
    sender, number, topic, text = (said.get(name) for name in ("from", "n", "topic", "text"))
    seconds = said.get("seconds", 0)
    if not (isinstance(sender, str) and isinstance(topic, str) and isinstance(text, str)):
        return None
    if not 0 < len(topic) <= _TOPIC_MAX or len(sender) > _TOPIC_MAX or type(number) is not int:
        return None
    if type(seconds) not in (int, float) or not 0 <= seconds <= _SECONDS_MAX:
        return None
    return Frame(sender, number, topic, text, float(seconds))


class Kept:
    """Messages that still count, `most` of them: those that end soonest go first. `clock` is
    monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = KEPT_MAX) -> None:
        self._clock = clock
        self._most = most
        self._frames: dict[tuple[str, int], tuple[float, Frame]] = {}

    def keep(self, frame: Frame) -> bool:
        """False if it is here already. One without `seconds` is not kept."""
        if frame.name in self._frames:
            return False
        if frame.seconds > 0:
            self._frames[frame.name] = self._clock() + frame.seconds, frame
        if len(self._frames) > self._most:
            self._forget()
        return True

    def __iter__(self) -> Iterator[Frame]:
        """With the seconds that are left of each."""
        now = self._clock()
        for until, frame in list(self._frames.values()):
            if until > now:
                yield frame.lasting(until - now)

    def _forget(self) -> None:
        """To nine tenths, so that a flood is sorted seldom."""
        latest = sorted(self._frames.items(), key=lambda pair: pair[1][0], reverse=True)
        now = self._clock()
        self._frames = {name: kept for name, kept in latest[: self._most * 9 // 10] if kept[0] > now}


class LocalBulletin:
    """The board of a process that is alone: there is nobody to tell. The others build on it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.me = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._listeners: dict[str, list[Hear]] = {}
        self._kept = Kept(clock)

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None:
        """Nobody else is here."""

    def listen(self, topic: str, hear: Hear) -> None:
        self._listeners.setdefault(topic, []).append(hear)
        for frame in self._kept:
            if frame.topic == topic and frame.sender != self.me:
                _soon(hear, frame.text)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def _frame(self, topic: str, message: str, seconds: float) -> Frame:
        """A message of ours; those that still count are kept for who asks."""
        counts = min(seconds, _SECONDS_MAX) if math.isfinite(seconds) and seconds > 0 else 0.0
        frame = Frame(self.me, next(self._numbers), topic, message, counts)
        self._kept.keep(frame)
        return frame

    def _take_in(self, frame: Frame) -> None:
        """What came from outside: heard once, and never by its teller."""
        if frame.sender != self.me and self._kept.keep(frame):
            self._hear(frame.topic, frame.text)

    def _hear(self, topic: str, text: str) -> None:
        for hear in self._listeners.get(topic, ()):
            _soon(hear, text)


class ChannelBulletin(LocalBulletin):
    """Between processes that one channel joins. `send` brings bytes to all the others, whole or not at
    all, and neither blocks nor fails; what the others sent goes into `receive`, in the event loop.
    `start` asks for what still counts."""

    def __init__(self, send: Callable[[bytes], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._pass_on = send

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None:
        self._send(self._frame(topic, message, seconds))

    async def start(self) -> None:
        self._send(self._frame(_HELLO, "", 0.0))

    def receive(self, raw: bytes) -> None:
        """Never raises, whatever it is."""
        frame = decode(raw)
        if frame is None:
            return
        if frame.topic != _HELLO:
            self._take_in(frame)
        elif frame.sender != self.me:
            for kept in self._kept:  # all of it: who told it first may be gone
                self._send(kept)

    def _send(self, frame: Frame) -> None:
        raw = frame.encode()
        if len(raw) <= FRAME_MAX:
            with suppress(OSError):
                self._pass_on(raw)


def _soon(hear: Hear, text: str) -> None:
    """By the loop, which reports what a listener raises and goes on with the next."""
    asyncio.get_running_loop().call_soon(hear, text)
