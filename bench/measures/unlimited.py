"""Where several connections bring nothing, do they cost anything?"""

from __future__ import annotations

from functools import partial

from bench.content import Blob
from bench.model import Bench, Column, Goal, Result, Samples, median, ratio
from bench.spread import by_aria2c, by_command, by_curl, nginx, room, size, throttled, through_proxy

SHARED = 60_000_000  # bytes a second of one client
_MOST, _MOST_MS = 1.05, 1.0
_ONE, _EIGHT = "artifactproxy, 1 connection", "artifactproxy, 8 connections"


def measure(bench: Bench) -> Result:
    """An origin without limits."""
    blob = _blob(bench)
    opened = partial(nginx, bench, blob, rate="0")
    samples = bench.interleaved(
        {
            _ONE: partial(through_proxy, bench, blob, opened, 1),
            _EIGHT: partial(through_proxy, bench, blob, opened, 8),
            "artifactproxy fetch, 8": partial(by_command, bench, blob, opened, 8),
            "aria2c, 8": partial(by_aria2c, bench, blob, opened, 8),
            "curl": partial(by_curl, bench, blob, opened),
        }
    )
    added = median(samples[_EIGHT], "first ms") - median(samples[_ONE], "first ms")
    return Result(
        title="Large file, no limit",
        method=f"{size(bench)} from nginx on the loopback interface without a limit; the rest as in the measure with one.",
        columns=(Column("seconds", "s", 3),),
        samples=samples,
        goals=(
            _not_slower(samples, "origin without a limit"),
            Goal(
                f"{size(bench)}, 8 connections: time to first byte",
                "one connection",
                f"+ {_MOST_MS:g} ms at most",
                f"{added:+.2f} ms",
                added <= _MOST_MS,
            ),
        ),
        notes=(
            (
                f"First byte: {median(samples[_ONE], 'first ms'):.2f} ms with one connection, "
                f"{median(samples[_EIGHT], 'first ms'):.2f} ms with eight; CPU-s/GiB {median(samples[_ONE], 'cpu'):.2f} "
                f"and {median(samples[_EIGHT], 'cpu'):.2f}."
            ),
        ),
    )


def measure_shared(bench: Bench) -> Result:
    """An origin that limits the client, whatever its connections."""
    blob = _blob(bench)
    opened = partial(throttled, bench, blob, shared=SHARED)
    samples = bench.interleaved(
        {
            _ONE: partial(through_proxy, bench, blob, opened, 1),
            _EIGHT: partial(through_proxy, bench, blob, opened, 8),
        }
    )
    return Result(
        title="Large file, the client limited",
        method=f"{size(bench)} from an origin that gives all connections together {SHARED / 1e6:g} MB/s.",
        columns=(Column("seconds", "s"), Column("digest ms", "digest ms", 1)),
        samples=samples,
        goals=(_not_slower(samples, "origin limits the client"),),
    )


def _blob(bench: Bench) -> Blob:
    room(bench, bench.scale.spread)
    return Blob(bench.folder / "files" / "blob.bin", bench.scale.spread)


def _not_slower(samples: Samples, what: str) -> Goal:
    times = ratio(samples, "seconds", _EIGHT, _ONE)
    return Goal(
        f"{what}: 8 connections", "one connection", f"at most {_MOST:g} x", f"{times:.2f} x", times <= _MOST
    )
