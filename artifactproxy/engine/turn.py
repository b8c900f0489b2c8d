"""Whose turn it is to ask upstream for one key: ours, or that of another process, which then is asked.

Advisory, as every lock is here: whatever the coordinator says, bytes are verified before anybody
gets the last of them. What can be lost is a duplicate download.
"""

from __future__ import annotations

import asyncio
import random

from artifactproxy.engine.terms import Plan, Tools, sha256_of
from artifactproxy.errors import Fault, IndexUnavailable
from artifactproxy.model import ArtifactKey, CacheEntry
from artifactproxy.ports import Holder, Lease
from artifactproxy.rules.peers import lease_name
from artifactproxy.rules.retry import backoff

ROW_POLL = 0.25  # seconds before the second look for the row that another process is about to write
ROW_POLL_LONGEST = 2.0  # seconds, once that has taken long: its store may be away, and many may wait
SILENCE = 2.0  # seconds without a byte after which it is asked whether a process that is followed still leads
_FIRST = 0.05  # seconds before whoever was left alone asks whose turn it is, doubled each time
_LONGEST = 1.0


class PassedOn(Exception):
    """What the process that fills was refused by upstream: asking again would tell the same."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class Turn:
    """`peer` is the address of the process that fills this key, "" where it is us. `leads` says that
    nobody but upstream is asked, so that others may follow us; `followed` that it was not always so."""

    def __init__(self, tools: Tools, key: ArtifactKey) -> None:
        self.peer = ""
        self.leads = False
        self.followed = False
        self._tools = tools
        self._key = key
        self._lease: Lease | None = None
        self._attempts = 0
        self._until = 0.0

    async def take(self) -> None:
        await self._ask(self._tools.limits.lease_wait)

    async def again(self) -> None:
        """The process that was followed does not go on. Its lease may outlive it for a while; after
        `takeover_wait` seconds without a byte from anybody we go ahead without one."""
        loop, limits = asyncio.get_running_loop(), self._tools.limits
        if not self._attempts:
            self._until = loop.time() + limits.takeover_wait
        pause = min(backoff(self._attempts, _FIRST, 1.0), _LONGEST)
        self._attempts += 1
        # Those who followed one process lose it at one moment; they need not all ask at once.
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        left = self._until - loop.time()
        if left <= 0:
            self.alone()
        else:
            await self._ask(min(left, limits.lease_wait))

    async def fell_to_us(self) -> bool:
        """Whether the lease of the process that is followed has ended, which makes it ours. Where the
        coordinator cannot tell it has not."""
        held = await self._tools.coordinator.acquire(lease_name(self._key), wait=0)
        if held is None or isinstance(held, Holder):
            return False
        self._lease = held
        self.alone()
        return True

    def took_over(self) -> None:
        """We ask upstream for what another process had begun."""
        self._tools.observer.increment("takeovers")

    def moved(self) -> None:
        """Bytes came: whoever is followed lives."""
        self._attempts = 0

    def alone(self) -> None:
        """Go to upstream, whoever else may do so."""
        self.peer, self.leads = "", True

    async def release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.release()

    async def _ask(self, wait: float) -> None:
        held = await self._tools.coordinator.acquire(lease_name(self._key), wait=wait)
        if isinstance(held, Holder):
            self.peer, self.leads, self.followed = held.address, False, True
            return
        self._lease = held
        self.alone()

    # --- rows that others write ---

    async def landed(self, plan: Plan) -> CacheEntry | None:
        """A newer row than the one that `plan` was made on: what was to be fetched is there."""
        if not self._tools.coordinator.shared or plan.lost is not None or plan.withhold:
            return None
        entry = await self._row()
        if entry is None or entry.generation <= plan.seen:
            return None
        wanted = sha256_of(plan.promise)
        return entry if not wanted or entry.ref is None or entry.ref.sha256 == wanted else None

    async def recorded(self, plan: Plan) -> bool:
        """Wait for the row that the followed process writes. False where storing falls to us: its
        lease ended without a row, or nobody can tell."""
        loop, limits, led = asyncio.get_running_loop(), self._tools.limits, self.leads
        until, pause = loop.time() + limits.store_retry, ROW_POLL
        while loop.time() < until:
            free = self.leads or await self._is_free()
            entry = await self._row()  # after the lease: whoever gave it up has written it before
            if entry is not None and entry.generation > plan.seen:
                return True
            if free and (led or self._lease is not None):
                return False
            if free:  # without a coordinator the row may still come
                until = min(until, loop.time() + limits.lease_wait)
            await asyncio.sleep(pause)
            pause = min(1.25 * pause, ROW_POLL_LONGEST)
        self.alone()
        return False

    async def _is_free(self) -> bool:
        held = await self._tools.coordinator.acquire(lease_name(self._key), wait=0)
        if isinstance(held, Holder):
            return False
        self._lease = held
        if held is not None:
            self.alone()
        return True

    async def _row(self) -> CacheEntry | None:
        index = self._tools.index
        index.suspect([self._key])
        try:
            found = await index.find(self._key)
        except IndexUnavailable:
            return None
        return None if found.uncertain else found.entry
