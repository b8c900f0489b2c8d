"""One connection of several is ten times slower than the rest: who waits for it?"""

from __future__ import annotations

from functools import partial

from bench.content import Blob
from bench.measures.ranges import RATE
from bench.model import Bench, Column, Goal, Result, ratio
from bench.spread import by_aria2c, room, size, throttled, through_proxy

_CONNECTIONS = 8
_MOST = 1.15
_SLOW = {"the first": 1, "the third": 3}
_EVEN, _PEER = "artifactproxy, all alike", "aria2c, all alike"


def measure(bench: Bench) -> Result:
    room(bench, bench.scale.spread)
    blob = Blob(bench.folder / "files" / "blob.bin", bench.scale.spread)
    even = partial(throttled, bench, blob, rate=RATE)
    variants = {_EVEN: partial(through_proxy, bench, blob, even, _CONNECTIONS)}
    variants[_PEER] = partial(by_aria2c, bench, blob, even, _CONNECTIONS)
    for which, number in _SLOW.items():
        opened = partial(throttled, bench, blob, rate=RATE, slow=number)
        variants[f"artifactproxy, {which} slow"] = partial(through_proxy, bench, blob, opened, _CONNECTIONS)
        variants[f"aria2c, {which} slow"] = partial(by_aria2c, bench, blob, opened, _CONNECTIONS)
    samples = bench.interleaved(variants)
    goals = []
    for which in _SLOW:
        times = ratio(samples, "seconds", f"artifactproxy, {which} slow", _EVEN)
        what = f"{size(bench)} over {_CONNECTIONS} connections, {which} ten times slower"
        goals.append(Goal(what, "all alike", f"at most {_MOST:g} x", f"{times:.2f} x", times <= _MOST))
    return Result(
        title="Large file, one connection slow",
        method=(
            f"As before, {RATE / 1e6:g} MB/s for each connection, except that the first or the third that asks the "
            "origin for the file has a tenth of that for as long as it lives. For information, aria2c."
        ),
        columns=(Column("seconds", "s"),),
        samples=samples,
        goals=tuple(goals),
    )
