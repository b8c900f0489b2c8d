"""Large package documents that the cache does not hold: does the event loop stall, and what does it cost?"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from bench.measures.packument import FULL, LARGE, OURS, PEER, SHORT, Place, get, ours, theirs, upstream
from bench.model import MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, worst
from bench.servers import Origin
from bench.verdaccio import verdaccio_program
from bench.watch import PssWatch, StallWatch

_MOST_MS, _MOST_TIMES, _LEAST_BYTES = 20.0, 6.0, 10_000_000
_IDLE = 1.0  # seconds of looking at an idle server
_AFTER = 0.5  # seconds in which what follows the last byte is still looked at
_ASKED = (  # what npm sends, then what wants dates
    {"Accept": SHORT, "Accept-Encoding": "gzip"},
    {"Accept": FULL, "Accept-Encoding": "gzip"},
    {"Accept": FULL, "Accept-Encoding": "identity"},
)

_Server = Callable[[Bench, Origin, frozenset[int]], AbstractContextManager[Place]]


def measure(bench: Bench) -> Result:
    with upstream(bench, LARGE) as (source, sizes):
        large = sorted((name for name in LARGE if sizes[name] >= _LEAST_BYTES), key=lambda name: sizes[name])
        if not large:
            raise CannotMeasure("none of the documents has 10 MB any more")
        servers: dict[str, _Server] = {OURS: ours}
        notes = []
        try:
            verdaccio_program()
            servers[PEER] = theirs
        except CannotMeasure as trouble:
            notes.append(f"Not run: {str(trouble).partition(':')[0]}.")
        chosen = dict.fromkeys((large[0], large[-1]))
        variants: dict[str, Callable[[], Sample]] = {
            _title(package, sizes[package], server): partial(
                _sample, bench, source, place, package, sizes[package]
            )
            for package in chosen
            for server, place in servers.items()
        }
        samples = bench.interleaved(variants)
    goals = []
    for package in chosen:
        taken = samples[_title(package, sizes[package], OURS)]
        over, times = worst(taken, "over"), worst(taken, "times")
        what = f"{sizes[package] / 1e6:.0f} MB package document, cold"
        goals += [
            Goal(
                f"{what}: event loop stall",
                "-",
                f"at most {_MOST_MS:g} ms",
                f"{over:.1f} ms more than when idle, {worst(taken, 'worst'):.1f} ms in all",
                over <= _MOST_MS,
            ),
            Goal(
                f"{what}: memory growth over all processes",
                "size of the document",
                f"at most {_MOST_TIMES:g} x",
                f"{times:.1f} x",
                times <= _MOST_TIMES,
            ),
        ]
    return Result(
        title="Large package documents that are not cached",
        method=(
            "Real documents from a local upstream, asked for three times in a row: abbreviated with gzip, full with "
            "gzip, full without; two fresh servers with an empty cache for each sample. While the first works, a "
            f"process of real-time priority asks it for /livez ({PEER}: /-/ping) every ms over one connection: the "
            "stall is the longest time without an answer, on whatever cores are left; without what the server's main "
            f"thread waited for a core it is its own. Idle is the longest of {_IDLE:g} s before. Beside the second, PSS is summed over its processes every "
            "10 ms: growth is the greatest sum less the idle one, a helper process counted whole. The goals are "
            "judged by the worst of all rounds; for the stall that is the one that exceeds its idle one most."
        ),
        columns=(
            Column("worst", "stall ms", 1),
            Column("busy", "its own ms", 1),
            Column("idle", "idle: longest ms", 1),
            Column("growth", "memory growth MiB", 1),
            Column("own", "of which the server itself MiB", 1),
            Column("times", "growth / document", 1),
            Column("seconds", "three answers s"),
            Column("first", "first answer s"),
        ),
        samples=samples,
        goals=tuple(goals),
        notes=tuple(notes),
    )


def _title(package: str, size: int, server: str) -> str:
    return f"{package}, {size / 1e6:.1f} MB: {server}"


def _sample(bench: Bench, source: Origin, server: _Server, package: str, size: int) -> Sample:
    with server(bench, source, bench.all_cores) as place:
        path = "/livez" if server is ours else "/-/ping"
        with StallWatch(place.server.pid, place.port, path) as idle:
            time.sleep(_IDLE)
        with StallWatch(place.server.pid, place.port, path) as busy:
            begun = time.perf_counter()
            first = _ask_all(place, package)
            seconds = time.perf_counter() - begun
            time.sleep(_AFTER)
    with server(bench, source, bench.all_cores) as place:
        time.sleep(_IDLE)
        with PssWatch(place.server.pid) as before:
            time.sleep(0.1)
        with PssWatch(place.server.pid) as during:
            _ask_all(place, package)
            time.sleep(_AFTER)
    growth = during.peak - before.peak
    return {
        "worst": busy.seen["worst"],
        "busy": busy.seen["busy"],
        "idle": idle.seen["worst"],
        "over": max(0.0, busy.seen["worst"] - idle.seen["worst"]),
        "growth": growth,
        "own": during.own - before.own,
        "times": growth * MIB / size,
        "seconds": seconds,
        "first": first,
    }


def _ask_all(place: Place, package: str) -> float:
    """Seconds until the first answer was whole."""
    begun, first = time.perf_counter(), 0.0
    for headers in _ASKED:
        answer = get(place, package, headers)
        if answer.status != 200 or not answer.body:
            raise CannotMeasure(f"a wrong answer: {package}, status {answer.status}")
        first = first or time.perf_counter() - begun
    return first
