"""Sending once more: how often, how far apart, and what is done in between.

Waits are 0.1 to 5 s with full jitter. All requests of a process share a stock of further tries, which
successes refill: a bucket that is down is not flooded by everybody's fifth attempt. Where a client waits,
it waits for two silences at most; and while the bucket is known to be silent one client at a time finds out
whether it still is, and the others go elsewhere at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from artifactproxy.errors import StoreAway
from artifactproxy.ports import Observer
from artifactproxy.stores.s3.trouble import Answered, Cure, Unreached, cure_of, is_absent

T = TypeVar("T")
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
STOCK = 100.0
REFILL = 0.2  # of a further try, by each success


class Retries:
    """`renew` makes the next request look for new credentials, `shift` sets the clock by the headers of
    an answer; each is tried once for a request, beside its ordinary tries. `silence` is how long an answer
    is waited for, in seconds."""

    def __init__(
        self,
        tries: int,
        *,
        silence: float,
        renew: Callable[[], None],
        shift: Callable[[Mapping[str, str]], None],
        rng: Callable[[], float],
        observer: Observer | None,
    ) -> None:
        self._tries = tries
        self._patience = 1.5 * silence  # after one of them there is time for another, not for a third
        self._renew = renew
        self._shift = shift
        self._rng = rng
        self._observer = observer
        self._stock = STOCK
        self._away = self._silent = self._probing = False

    async def run(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[T]],
        tries: int | None = None,
        *,
        waited: bool = False,
    ) -> T:
        """The result of the first attempt that succeeds; `waited`: a client waits for it.

        Raises `Answered` for a refusal that trying again cannot change, `StoreAway` when the tries are
        used up, and what is neither as it comes.
        """
        if not (waited and self._silent):
            return await self._run(operation, attempt, tries, waited=waited)
        if self._probing:
            raise StoreAway("the bucket does not answer")
        self._probing = True
        try:
            return await self._run(operation, attempt, tries, waited=waited)
        finally:
            self._probing = False

    async def _run(
        self, operation: str, attempt: Callable[[], Awaitable[T]], tries: int | None, *, waited: bool
    ) -> T:
        began = time.monotonic()
        left, waits, cured = (tries or self._tries) - 1, 0, {Cure.NONE}
        while True:
            try:
                result = await attempt()
            except (Answered, Unreached) as trouble:
                cure = cure_of(trouble)
                if cure in (Cure.RENEW, Cure.SHIFT) and cure not in cured:
                    cured.add(cure)
                    self._mend(cure, trouble)
                    continue
                if cure is Cure.NONE:
                    if isinstance(trouble, Answered) and (is_absent(trouble) or trouble.status in (412, 416)):
                        self._succeeded()  # an answer like any other
                    raise
                late = waited and time.monotonic() - began > self._patience
                if cure is not Cure.AGAIN or left <= 0 or self._stock < 1 or late:
                    if tries != 1:  # whoever asks only once looks what became of it
                        self._report(operation, trouble)
                    raise _away(trouble) from trouble
                left -= 1
                self._stock -= 1
                self._count(operation, trouble)
                await asyncio.sleep(self._rng() * min(LONGEST_WAIT, FIRST_WAIT * 2.0**waits))
                waits += 1
            else:
                self._succeeded()
                return result

    def _mend(self, cure: Cure, trouble: Answered | Unreached) -> None:
        if self._observer is not None:
            self._observer.notice("store_access", kind=trouble.kind, action=cure.value)
        if cure is Cure.RENEW:
            self._renew()
        elif isinstance(trouble, Answered):
            self._shift(trouble.headers)

    def _count(self, operation: str, trouble: Answered | Unreached) -> None:
        if self._observer is not None:
            self._observer.increment("store_retries", op=operation, kind=trouble.kind)

    def _report(self, operation: str, trouble: Answered | Unreached) -> None:
        if not self._away and self._observer is not None:
            self._observer.warning("store_away", op=operation, kind=trouble.kind)
        self._away, self._silent = True, isinstance(trouble, Unreached)

    def _succeeded(self) -> None:
        self._stock = min(STOCK, self._stock + REFILL)
        if self._away:
            self._away = self._silent = False
            if self._observer is not None:
                self._observer.notice("store_back")


def _away(trouble: Answered | Unreached) -> StoreAway:
    if isinstance(trouble, Unreached):
        return StoreAway(f"the bucket does not answer ({trouble.kind})")
    return StoreAway(f"the bucket answers {trouble.kind}")
