"""What becomes of an origin here, told to the log and to the other processes; and what they tell.

Theirs is judged before it counts: the origin has to be spelt as we spell one, the seconds are
bounded twice (by the message's rules and by our own limits), and only so many strange origins
are remembered.
"""

from __future__ import annotations

import asyncio

from artifactproxy.errors import UpstreamBlocked
from artifactproxy.ports import Bulletin, Clock, Observer
from artifactproxy.rules.bulletin import BREAKER, PAUSE, heard, told
from artifactproxy.upstream.gate import Gate, Gates, Hearsay
from artifactproxy.upstream.guard import origin_of


class News:
    """Tells and listens from the start; without a bulletin there is only the log."""

    def __init__(
        self, gates: Gates, bulletin: Bulletin | None, observer: Observer | None, clock: Clock
    ) -> None:
        self._gates = gates
        self._bulletin = bulletin
        self._observer = observer
        self._clock = clock
        if bulletin is not None:
            bulletin.listen(PAUSE, self._hear_pause)
            bulletin.listen(BREAKER, self._hear_breaker)

    def paused(self, gate: Gate, seconds: float) -> None:
        """Upstream asked for it; also who comes later has to know."""
        if self._observer is not None:
            self._observer.warning("upstream_gate", origin=gate.origin, seconds=seconds)
        if self._bulletin is not None:
            self._bulletin.tell(PAUSE, told(gate.origin, seconds, self._clock()), seconds=seconds)

    def opened(self, gate: Gate) -> None:
        seconds = gate.state(_now()).retry_after
        if self._observer is not None:
            self._observer.warning("upstream_breaker_open", origin=gate.origin, seconds=seconds)
        if self._bulletin is not None:
            self._bulletin.tell(BREAKER, told(gate.origin, seconds, self._clock()))

    def recovered(self, origin: str) -> None:
        if self._bulletin is not None:
            self._bulletin.tell(BREAKER, told(origin, 0.0, self._clock()))

    def _hear_pause(self, text: str) -> None:
        said = self._judged(text)
        if said is not None and said[1] > 0:
            self._gates.heed(said[0], Hearsay(pause_until=_now() + said[1]), _now())

    def _hear_breaker(self, text: str) -> None:
        said = self._judged(text)
        if said is not None:
            self._gates.heed(said[0], Hearsay(failing=said[1] > 0), _now())

    def _judged(self, text: str) -> tuple[str, float] | None:
        said = heard(text, self._clock())
        try:
            return said if said is not None and origin_of(said[0]) == said[0] else None
        except UpstreamBlocked:
            return None


def _now() -> float:
    return asyncio.get_running_loop().time()
