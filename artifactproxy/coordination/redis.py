"""Coordinator of the processes of several machines: a key in Redis per lease, with an end of its own.

A lease is `SET` with a time to live, prolonged by one task while it is held. Its value begins with
a token of this process and this lease, and only who knows it extends or deletes (compare and
delete); the rest is the address under which its holder answers. Redis may forget, fail over or
stand still at any time: then two fill the same thing, which costs a download and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import secrets
from contextlib import suppress
from typing import Self

from artifactproxy.coordination.line import Away, Line
from artifactproxy.coordination.link import end
from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.scripts import EXTEND, GIVE_BACK, TAKE
from artifactproxy.coordination.turns import Turns
from artifactproxy.errors import ConfigError
from artifactproxy.ports import Holder, Observer

_VALUE = re.compile(r"[0-9a-f]{16}/[0-9]{1,20} (.{0,2000})")
_ADDRESS = re.compile(r"https?://[\x21-\x7e]{1,1900}|unix:/[^\x00-\x1f\x7f\ud800-\udfff]{1,1900}")
_LEFT_OVER = 10_000
_EXTENDED, _TAKEN_ANEW = 1, 2


class RedisLease:
    """Held until `release`; also an async context manager. `until` is the loop's time at which it ends
    unless it is extended; `lost` while another may hold it."""

    def __init__(self, owner: RedisCoordinator, key: str, name: str, value: str, until: float) -> None:
        self.name = name
        self.value = value
        self.until = until
        self.lost = False
        self._owner = owner
        self._key = key
        self._held = True

    async def release(self) -> None:
        """A second call does nothing."""
        if not self._held:
            return
        self._held = False
        await self._owner.give_back(self, self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()


class _Other:
    """Somebody holds it who has no address."""


class RedisCoordinator:
    """`address` is where the other processes reach this one ("": nowhere; then they wait). `poll` is the
    first pause, in seconds, between looks at a lease that is waited for; it doubles up to `poll_max`."""

    def __init__(
        self,
        options: RedisOptions,
        *,
        address: str = "",
        observer: Observer | None = None,
        poll: float = 0.005,
        poll_max: float = 0.1,
    ) -> None:
        if address and not _ADDRESS.fullmatch(address):
            raise ConfigError("cluster.advertise: must be an address such as http://10.0.0.5:8080")
        self._options = options
        self._address = address
        self._observer = observer
        self._poll = poll
        self._poll_max = poll_max
        self._line = Line(options, observer)
        self._turns = Turns()
        self._mine = f"{secrets.token_hex(8)}/"
        self._numbers = itertools.count(1)
        self._held: set[RedisLease] = set()
        self._left_over: dict[str, tuple[str, float]] = {}  # value: name, end
        self._poke = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.shared = True

    async def start(self) -> None:
        """A Redis that is away is waited for in the background. Raises `ConfigError` for an address or
        credentials that no waiting mends."""
        await self._line.start()
        self._keeper = asyncio.create_task(self._keep(), name="leases")

    async def check(self) -> None:
        """Raises `StoreUnavailable`. Nothing depends on Redis but who downloads."""
        await self._line.check()

    async def close(self) -> None:
        """Give back what is held, for `connect` seconds at most; the rest ends by itself."""
        if self._keeper is not None:
            await end(self._keeper)
        for lease in self._held:
            self._leave_over(lease.name, lease.value)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.connect):
                await self._clear()
        await self._line.close()

    async def acquire(self, key: str, *, wait: float) -> RedisLease | Holder | None:
        deadline = asyncio.get_running_loop().time() + wait
        if not await self._turns.take(key, deadline):
            return None
        outcome = None
        try:
            outcome = await self._settle(key, deadline)
        finally:
            if not isinstance(outcome, RedisLease):
                self._turns.give(key)
        return outcome

    async def give_back(self, lease: RedisLease, key: str) -> None:
        """For leases that end. In this process the next may go on also where Redis was not told: it
        writes over what is ours."""
        self._held.discard(lease)
        try:
            await self._line.ask(GIVE_BACK, lease.name, lease.value, within=self._options.budget)
        except Away:
            self._leave_over(lease.name, lease.value)
        except asyncio.CancelledError:
            self._leave_over(lease.name, lease.value)
            raise
        finally:
            self._turns.give(key)

    async def _settle(self, key: str, deadline: float) -> RedisLease | Holder | None:
        loop = asyncio.get_running_loop()
        pause = self._poll
        while True:
            found = await self._look(key)
            if not isinstance(found, _Other):
                return found
            left = deadline - loop.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, self._poll_max)

    async def _look(self, key: str) -> RedisLease | Holder | _Other | None:
        name = self._name(key)
        value = f"{self._mine}{next(self._numbers)} {self._address}"
        until = asyncio.get_running_loop().time() + self._options.lease
        try:
            held = await self._line.ask(
                TAKE, name, value, self._milliseconds(), self._mine, within=self._options.budget
            )
        except Away as away:
            if away.sent:
                self._leave_over(name, value)
            return None
        except asyncio.CancelledError:
            self._leave_over(name, value)  # perhaps it is ours by now
            raise
        if held == 1:
            lease = RedisLease(self, key, name, value, until)
            self._held.add(lease)
            return lease
        return self._judge(held)

    def _judge(self, held: object) -> Holder | _Other | None:
        text = held.decode("utf-8", "replace") if isinstance(held, bytes) else ""
        match = _VALUE.fullmatch(text)
        if match is not None and not match[1]:
            return _Other()
        if match is not None and _ADDRESS.fullmatch(match[1]):
            return Holder(match[1])
        self._count("redis_errors", cause="odd")
        return None

    # --- what is held

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._options.renew
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._poke.wait()
            self._poke.clear()
            await self._clear()
            if loop.time() >= due:
                due = loop.time() + self._options.renew
                await self._renew_all()

    async def _renew_all(self) -> None:
        fates = await asyncio.gather(*(self._renew(lease) for lease in tuple(self._held)))
        if lost := sum(fates):
            self._count("lock_lost", lost)
            if self._observer is not None:
                self._observer.warning("lock_lost", leases=lost, action="their downloads go on")

    async def _renew(self, lease: RedisLease) -> bool:
        """Whether it was found lost just now."""
        if lease not in self._held:  # given back a moment ago: it would be taken anew, for nobody
            return False
        loop = asyncio.get_running_loop()
        until, was_lost, fate = loop.time() + self._options.lease, lease.lost, None
        with suppress(Away):
            fate = await self._line.ask(
                EXTEND, lease.name, lease.value, self._milliseconds(), within=self._options.connect
            )
        if fate in (_EXTENDED, _TAKEN_ANEW):
            lease.until, lease.lost = until, False
        elif fate is not None or loop.time() >= lease.until:
            lease.lost = True
        return not was_lost and (lease.lost or fate == _TAKEN_ANEW) and lease in self._held

    # --- what may be held though nobody wants it

    def _leave_over(self, name: str, value: str) -> None:
        if len(self._left_over) < _LEFT_OVER:
            end = asyncio.get_running_loop().time() + self._options.lease
            self._left_over[value] = name, end
            self._poke.set()

    async def _clear(self) -> None:
        """Delete what is left over; without Redis it ends by itself."""
        now = asyncio.get_running_loop().time()
        self._left_over = {value: left for value, left in self._left_over.items() if left[1] > now}
        await asyncio.gather(*(self._drop(value, name) for value, (name, _) in self._left_over.items()))

    async def _drop(self, value: str, name: str) -> None:
        with suppress(Away):
            await self._line.ask(GIVE_BACK, name, value, within=self._options.connect)
            self._left_over.pop(value, None)

    def _name(self, key: str) -> str:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._options.prefix}v1:lease:{digest}"

    def _milliseconds(self) -> int:
        return max(1, round(self._options.lease * 1000))

    def _count(self, name: str, amount: float = 1, **labels: str) -> None:
        if self._observer is not None:
            self._observer.increment(name, amount, **labels)
