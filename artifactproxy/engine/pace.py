"""How fast a body comes: over each connection, and over all of them together."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from artifactproxy.engine.landing import Landing
from artifactproxy.engine.mirrors import Mirror
from artifactproxy.rules.crew import Crew
from artifactproxy.rules.segments import Segment

WINDOW = 0.06  # seconds over which one number of connections is judged
TIMER = 0.001
SHORT = 0.02  # for the first connection: whether it waits for upstream shows at once
LATELY = 0.4  # seconds for the rate of one connection
RTTS = 4.0  # round trips that judging, or taking over from another connection, must be worth


@dataclass(slots=True, eq=False)
class Connection:
    """A request under way for the bytes up to `stop`, if nobody else begins with them; times are the loop's,
    `came` counts bytes. `waits` tells since when it waits for upstream, 0 if it does not."""

    segment: Segment
    stop: int
    mirror: Mirror
    landing: Landing
    asked: float
    first: bool = False
    spare: bool = True
    began: float = 0.0
    came: int = 0
    waits: float = 0.0
    marks: tuple[tuple[float, int], tuple[float, int]] = ((0.0, 0), (0.0, 0))

    def count(self, now: float, size: int) -> None:
        if not self.began:
            self.began = now
            self.marks = ((now, 0), (now, 0))
        self.came += size
        if now - self.marks[1][0] > LATELY:
            self.marks = (self.marks[1], (now, self.came))

    def rate(self, now: float) -> float:
        """Bytes a second, lately."""
        since, before = self.marks[0]
        return (self.came - before) / max(now - since, 0.01) if self.began else 0.0

    def worked(self, now: float, rtt: float) -> float:
        """Seconds in which it should have brought something."""
        return now - (self.began or self.asked + RTTS * rtt)


class Pace:
    """Windows of time, in each of which one number of connections is judged by what it brings. Connections
    that come and go within a window belong to it: what a change costs is part of what their number costs."""

    def __init__(self) -> None:
        self._manned = 0.0  # since when there are as many as are wanted, 0: there are not
        self._begun = 0.0  # when the window began, 0: it has not
        self._bytes = 0
        self._waited = 0.0  # seconds, of all together

    def took(self, connection: Connection, now: float, size: int) -> None:
        """It had to wait until now for so many bytes."""
        self._bytes += size
        self._waited += now - max(connection.waits, self._begun)
        connection.waits = 0.0
        connection.count(now, size)

    def judged(self, crew: Crew, connections: Collection[Connection], now: float, rtt: float) -> Crew:
        """The crew that these connections give reason for; the same as before within a window."""
        if len(connections) != crew.size:
            self._manned = self._begun = 0.0
            return crew
        self._manned = self._manned or now
        if not self._begun:
            # Those that were added must have brought something; who comes later only replaces another.
            if all(c.began for c in connections if c.asked <= self._manned):
                self._begin(now)
            return crew
        lasted = now - self._begun
        if lasted < self._window(crew, rtt):
            return crew
        waited = self._waited + sum(now - max(c.waits, self._begun) for c in connections if c.waits)
        after = crew.judged(self._bytes / lasted, waited / (lasted * crew.size))
        self._begin(now)
        if after.size > crew.size:
            self._manned = self._begun = 0.0
        return after

    def left(self, crew: Crew, now: float, rtt: float) -> float:
        """Seconds until the window is over, in whole ticks of a timer; endless if none has begun."""
        return max(TIMER, self._begun + self._window(crew, rtt) - now) if self._begun else math.inf

    def _begin(self, now: float) -> None:
        self._begun, self._bytes, self._waited = now, 0, 0.0

    @staticmethod
    def _window(crew: Crew, rtt: float) -> float:
        return max(WINDOW if crew.proven else SHORT, RTTS * rtt)
