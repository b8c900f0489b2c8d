"""What is known about each origin in this process: its breaker, its wish to be left alone, and the
bounded number of requests that may be under way or waiting. Times are the event loop's.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from artifactproxy.errors import Busy, UpstreamBusy, UpstreamUnreachable
from artifactproxy.limits import RemoteLimits
from artifactproxy.rules.retry import Breaker

HEARSAY = 1000  # origins
_PROBE_WAIT = 1.0  # seconds to wait while another request probes


class Slots:
    """A bounded number of places with a first-come queue."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self.taken < self.size and not self.waiters:
            self.taken += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # Cancelled after the place was handed over: it must go on to the next in line.
            if waiter.done() and not waiter.cancelled():
                self.give()
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise

    def take_spare(self, size: int) -> bool:
        """A place that nobody waits for, while fewer than `size` are taken; False if there is none."""
        if self.waiters or self.taken >= min(self.size, size):
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        """Hand the place to the next in line, or free it."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.taken -= 1


@dataclass(frozen=True, slots=True)
class OriginState:
    """For readiness and metrics. `state` is `closed`, `open`, `half-open` or `waiting` (upstream
    asked for a pause); `retry_after` in seconds, 0 when it may be asked now."""

    state: str
    retry_after: float
    failures: int
    active: int
    queued: int


@dataclass(frozen=True, slots=True)
class Hearsay:
    """`pause_until` in the loop's time; `failing` None where nobody said anything."""

    pause_until: float = 0.0
    failing: bool | None = None

    def joined(self, later: Hearsay) -> Hearsay:
        failing = self.failing if later.failing is None else later.failing
        return Hearsay(max(self.pause_until, later.pause_until), failing)


class Gate:
    """One origin (scheme, host, port): may it be asked now, and what came of it."""

    def __init__(self, origin: str, limits: RemoteLimits) -> None:
        self.origin = origin
        self.limits = limits
        self.slots = Slots(limits.connections_per_host)
        self.breaker = Breaker()
        self._probing = False
        self._answered = -math.inf  # when it last did

    @contextmanager
    def attempt(self, now: float) -> Iterator[None]:
        """Raises what `refuse` raises; else holds the probe of a half-open breaker meanwhile."""
        self.refuse(now)
        probe = self.breaker.opened > 0
        self._probing = self._probing or probe
        try:
            yield
        finally:
            if probe:
                self._probing = False

    def refuse(self, now: float) -> None:
        """Raises `UpstreamBusy` while upstream wants a pause and `UpstreamUnreachable`
        (`breaker_open`) while the breaker is open or its one probe is under way."""
        wait = self.breaker.refuses(now)
        if wait is None and not self._probing:
            return
        host = self.origin.partition("://")[2]
        if self.breaker.gated_until > now:
            raise UpstreamBusy(f"{host} asked to be left alone for a while", retry_after=wait)
        raise UpstreamUnreachable(
            f"{host} failed repeatedly and is not asked for a moment",
            code="breaker_open",
            retry_after=_PROBE_WAIT if wait is None else wait,
        )

    def failed(self, now: float) -> bool:
        """Count a failure of transport or a 5xx; True if that opened the breaker."""
        opened = self.breaker.opened
        self.breaker = self.breaker.after_failure(now, self.limits)
        return self.breaker.opened > opened

    def succeeded(self, now: float) -> bool:
        """It answered; True if that ends failures of which others were told."""
        earned = self.breaker.earned
        self._answered = now
        self.breaker = self.breaker.after_success()
        return earned

    def pause(self, now: float, seconds: float) -> float:
        """It answered, and asked for a pause; returns the seconds after clamping."""
        seconds = min(max(seconds, 1.0), self.limits.retry_after_max)
        self._answered = now
        self.breaker = self.breaker.after_success().gated(now + seconds)
        return seconds

    def heed(self, now: float, told: Hearsay) -> None:
        """What other processes said of it. A pause is as good as one that we were asked for, within our
        own limits; of failures what we saw ourselves counts more."""
        left = min(told.pause_until - now, self.limits.retry_after_max)
        if left > 0:
            self.breaker = self.breaker.gated(now + left)
        if told.failing is False:
            self.breaker = self.breaker.vindicated(now)
        elif told.failing and now - self._answered > self.limits.breaker_open:
            self.breaker = self.breaker.suspected(now)

    def recover(self) -> None:
        """Forget failures and pauses: the next request goes out."""
        self.breaker = Breaker()
        self._probing = False

    def state(self, now: float) -> OriginState:
        breaker, wait = self.breaker, self.breaker.refuses(now)
        if breaker.gated_until > now:
            name = "waiting"
        elif not breaker.opened:
            name = "closed"
        else:
            name = "half-open" if wait is None else "open"
        return OriginState(name, wait or 0.0, breaker.failures, self.slots.taken, len(self.slots.waiters))


class Gates:
    """Every origin seen by this process, and the places that all of them share."""

    def __init__(self, total: int) -> None:
        self.total = Slots(total)
        self._gates: dict[str, Gate] = {}
        self._hearsay: OrderedDict[str, Hearsay] = OrderedDict()

    def of(self, origin: str, limits: RemoteLimits, now: float) -> Gate:
        """The gate of an origin; the limits of the remote that asked first apply to it."""
        gate = self._gates.get(origin)
        if gate is None:
            if len(self._gates) >= 10_000:
                self._forget_idle()
            gate = self._gates[origin] = Gate(origin, limits)
            told = self._hearsay.pop(origin, None)
            if told is not None:
                gate.heed(now, told)
        return gate

    def heed(self, origin: str, told: Hearsay, now: float) -> None:
        """Others spoke of an origin, which may not have been asked here yet: its limits are known when
        it is. Of such origins the last `HEARSAY` are remembered."""
        gate = self._gates.get(origin)
        if gate is not None:
            gate.heed(now, told)
            return
        self._hearsay[origin] = self._hearsay.pop(origin, Hearsay()).joined(told)
        if len(self._hearsay) > HEARSAY:
            self._hearsay.popitem(last=False)

    def find(self, origin: str) -> Gate | None:
        return self._gates.get(origin)

    def __iter__(self) -> Iterator[Gate]:
        return iter(self._gates.values())

    def _forget_idle(self) -> None:
        # Documents of a hostile upstream can name any number of hosts.
        idle = [name for name, g in self._gates.items() if not g.slots.taken and not g.slots.waiters]
        for name in idle:
            del self._gates[name]

    async def take(self, gate: Gate, limits: RemoteLimits) -> None:
        """Wait for a place of the origin and of the process. Raises `Busy` when the queue is full
        or the wait too long. Undo with `give`."""
        full = Busy("too many requests to upstream are waiting", code="upstream_queue")
        if len(gate.slots.waiters) >= limits.queue and gate.slots.taken >= gate.slots.size:
            raise full
        try:
            async with asyncio.timeout(limits.queue_wait):
                await gate.slots.take()
                try:
                    await self.total.take()
                except asyncio.CancelledError:
                    gate.slots.give()
                    raise
        except TimeoutError as exc:
            raise full from exc

    def take_spare(self, gate: Gate, most: int) -> None:
        """A place at once, of an origin that has fewer than `most` taken. Raises `Busy` (`no_spare`).
        Undo with `give`."""
        if gate.slots.take_spare(most):
            if self.total.take_spare(self.total.size):
                return
            gate.slots.give()
        raise Busy("no connection to upstream is to spare", code="no_spare")

    def give(self, gate: Gate) -> None:
        self.total.give()
        gate.slots.give()
