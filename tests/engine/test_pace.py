"""What one number of connections is judged by; the times are made up."""

from __future__ import annotations

from typing import Any

from artifactproxy.engine.pace import SHORT, WINDOW, Connection, Pace
from artifactproxy.rules.crew import Crew
from artifactproxy.rules.segments import Segment

MB = 1_000_000


def connection(asked: float, *, began: bool = True) -> Connection:
    nowhere: Any = None
    made = Connection(Segment(0, MB, 0, 0), MB, nowhere, nowhere, asked=asked)
    if began:
        made.count(asked, 0)
    return made


def brings(pace: Pace, each: Connection, start: float, stop: float, *, waits: float, rate: float) -> None:
    """A chunk every millisecond, of which it waits for the part `waits`."""
    steps = round((stop - start) * 1000)
    for step in range(steps):
        end = start + (step + 1) / 1000
        each.waits = end - waits / 1000
        pace.took(each, end, round(rate / 1000))


def test_who_waits_for_upstream_gets_company() -> None:
    pace, only, crew = Pace(), connection(10.0), Crew(8)
    assert pace.judged(crew, [only], 10.0, 0.0) is crew, "the window begins"
    brings(pace, only, 10.0, 10.0 + SHORT, waits=0.9, rate=20 * MB)
    assert pace.judged(crew, [only], 10.0 + SHORT + 0.001, 0.0).size == 4


def test_a_wait_that_has_not_ended_counts() -> None:
    pace, only, crew = Pace(), connection(10.0), Crew(8)
    pace.judged(crew, [only], 10.0, 0.0)
    only.waits = 9.0
    assert pace.judged(crew, [only], 10.5, 0.0).size == 4


def test_who_makes_upstream_wait_stays_alone() -> None:
    pace, only, crew = Pace(), connection(10.0), Crew(8)
    for n in range(50):
        at = 10.0 + n * 0.07
        crew = pace.judged(crew, [only], at, 0.0)
        brings(pace, only, at, at + 0.07, waits=0.1, rate=900 * MB)
    assert crew.size == 1


def test_a_trial_begins_when_those_that_were_added_have_brought_something() -> None:
    pace, crew = Pace(), Crew(8, 4, proven=1, rate=20.0 * MB)
    four = [connection(10.0), *(connection(10.0, began=False) for _ in range(3))]
    assert pace.judged(crew, four, 10.5, 0.0) is crew
    for each in four[1:]:
        each.count(10.6, MB)
    assert pace.judged(crew, four, 10.6, 0.0) is crew
    four[3] = connection(10.62, began=False)  # one that has ended is replaced: that belongs to it
    for each in four[:3]:
        brings(pace, each, 10.6, 10.6 + WINDOW, waits=1.0, rate=20 * MB)
    judged = pace.judged(crew, four, 10.6 + WINDOW + 0.001, 0.0)
    assert judged.proven == 4, "three of four are more than noise"
    assert judged.size == 8


def test_nothing_is_judged_while_somebody_is_missing() -> None:
    pace, crew = Pace(), Crew(8, 2, proven=1, rate=1.0)
    assert pace.judged(crew, [connection(1.0)], 1.0, 0.0) is crew
    assert pace.judged(crew, [connection(1.0)], 9.0, 0.0) is crew
    assert pace.left(crew, 9.0, 0.0) == float("inf")


def test_a_window_lasts_some_round_trips() -> None:
    pace, only, crew = Pace(), connection(10.0), Crew(8)
    pace.judged(crew, [only], 10.0, 0.1)
    assert pace.left(crew, 10.0, 0.1) > 0.3
    only.waits = 10.0
    assert pace.judged(crew, [only], 10.3, 0.1) is crew
    assert pace.judged(crew, [only], 10.5, 0.1).size == 4
