"""When to try again, and when to leave an upstream alone. Seconds; time and chance are passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from artifactproxy.limits import RemoteLimits

_LONGEST: Final = 60.0
_DOUBLINGS: Final = 32  # beyond these both waits have met their limit long ago


def backoff(attempt: int, base: float, jitter: float) -> float:
    """Seconds to wait before retry number `attempt` (the first is 0): exponential, full jitter.

    `jitter` in 0..1 scales the whole wait, so that clients that failed together do not return
    together. Never above a minute.
    """
    return min(base * 2.0 ** min(max(attempt, 0), _DOUBLINGS), _LONGEST) * jitter


@dataclass(frozen=True, slots=True)
class Breaker:
    """What one upstream has earned: a value; every event makes the next one.

    `failures` in a row; `open_until` is set by them, `gated_until` by a Retry-After, which no
    success of another request lifts. `opened` counts how often in a row it opened: while it is
    above zero and the time is over the breaker is half-open, and whoever keeps this value sends
    exactly one request as a probe before any other.
    """

    failures: int = 0
    open_until: float = 0.0
    opened: int = 0
    gated_until: float = 0.0

    def refuses(self, now: float) -> float | None:
        """Seconds to wait before anything may be sent, or None: send."""
        wait = max(self.open_until, self.gated_until) - now
        return wait if wait > 0 else None

    def after_failure(self, now: float, limits: RemoteLimits) -> Breaker:
        """Opens at `breaker_failures` in a row, and again, for twice as long, at a failed probe."""
        if now < self.open_until:
            return self  # sent before it opened: counting it again would double the time
        failures = self.failures + 1
        if not self.opened and failures < limits.breaker_failures:
            return replace(self, failures=failures)
        seconds = min(limits.breaker_open * 2.0 ** min(self.opened, _DOUBLINGS), limits.breaker_max)
        return replace(self, failures=failures, open_until=now + seconds, opened=self.opened + 1)

    def after_success(self) -> Breaker:
        return Breaker(gated_until=self.gated_until)

    def gated(self, until: float) -> Breaker:
        """Upstream asked to be left alone until then (429, Retry-After)."""
        return replace(self, gated_until=max(self.gated_until, until))

    @property
    def earned(self) -> bool:
        """Opened by failures of our own, not only by what others said."""
        return self.opened > 0 and self.failures > 0

    def suspected(self, now: float) -> Breaker:
        """Others found it failing: half-open, so that the next request is a probe and decides. It is
        not opened, or one replica that cannot reach an upstream would take it from all of them."""
        return self if self.opened else replace(self, opened=1, open_until=now)

    def vindicated(self, now: float) -> Breaker:
        """Others reached it: the next request is a probe, now."""
        return replace(self, open_until=min(self.open_until, now))
