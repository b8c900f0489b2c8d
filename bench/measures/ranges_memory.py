"""Does a file four times as large over many connections take more memory?"""

from __future__ import annotations

from functools import partial

from bench.content import Blob
from bench.measures.ranges import RATE
from bench.model import MIB, Bench, Column, Goal, Result, worst
from bench.spread import room, throttled, through_proxy

_CONNECTIONS = 16
_TIMES = 4
_MOST_MIB, _MOST_MORE_MIB = 64, 16


def measure(bench: Bench) -> Result:
    room(bench, bench.scale.spread * _TIMES)
    blobs = [
        Blob(bench.folder / "files" / f"{size // MIB}.bin", size, sparse=True)
        for size in (bench.scale.spread, bench.scale.spread * _TIMES)
    ]
    small, large = (f"{blob.size // MIB} MiB" for blob in blobs)
    samples = bench.interleaved(
        {
            name: partial(
                through_proxy, bench, blob, partial(throttled, bench, blob, rate=RATE), _CONNECTIONS
            )
            for name, blob in zip((small, large), blobs, strict=True)
        }
    )
    growth = worst(samples[large], "growth")
    more = growth - worst(samples[small], "growth")
    return Result(
        title="Memory while a large file comes over many connections",
        method=(
            f"{small} and {large} over {_CONNECTIONS} connections of {RATE / 1e6:g} MB/s each, a fresh proxy in each "
            "sample. Growth is VmHWM or PSS, the worse, less that of the idle process; judged by the worst of all rounds."
        ),
        columns=(Column("growth", "growth MiB", 1), Column("seconds", "s")),
        samples=samples,
        goals=(
            Goal(
                f"{large} over {_CONNECTIONS} connections: peak memory growth",
                "idle process",
                f"at most {_MOST_MIB} MiB",
                f"{growth:.1f} MiB",
                growth <= _MOST_MIB,
            ),
            Goal(
                f"{large} over {_CONNECTIONS} connections: peak memory growth",
                small,
                f"+ {_MOST_MORE_MIB} MiB at most",
                f"{more:+.1f} MiB",
                more <= _MOST_MORE_MIB,
            ),
        ),
    )
