"""An upstream that limits each connection: what do several connections bring, and what do they cost?"""

from __future__ import annotations

from functools import partial

from bench.content import Blob
from bench.model import Bench, Column, Goal, Result, Samples, median, ratio, worst
from bench.spread import by_aria2c, by_command, by_curl, nginx, room, size, throttled, through_proxy

RATE = 20_000_000  # bytes a second of one connection
_MANY = {8: 7.5, 16: 14.0}  # connections, and how many times as fast as one they must be
_MOST_DIGEST_MS, _MOST_MIB, _MOST_PEER = 50.0, 64, 1.1
_SECONDS = Column("seconds", "s")


def _ours(number: int) -> str:
    return f"artifactproxy, {number} connection{'s' if number > 1 else ''}"


def measure(bench: Bench) -> Result:
    """Against an origin that is strict."""
    room(bench, bench.scale.spread)
    blob = Blob(bench.folder / "files" / "blob.bin", bench.scale.spread)
    opened = partial(throttled, bench, blob, rate=RATE)
    variants = {_ours(n): partial(through_proxy, bench, blob, opened, n) for n in (1, *_MANY)}
    variants |= {f"artifactproxy fetch, {n}": partial(by_command, bench, blob, opened, n) for n in _MANY}
    variants |= {f"aria2c, {n}": partial(by_aria2c, bench, blob, opened, n) for n in _MANY}
    variants["curl"] = partial(by_curl, bench, blob, opened)
    samples = bench.interleaved(variants)
    digest = max(median(samples[_ours(n)], "digest ms") for n in _MANY)
    growth = max(worst(samples[_ours(n)], "growth") for n in _MANY)
    return Result(
        title="Large file, each connection limited",
        method=(
            f"{size(bench)} from an origin of our own that gives each connection {RATE / 1e6:g} MB/s, without bursts. "
            "artifactproxy: a client pulls through a fresh proxy that may use so many connections; from before it "
            "connects to the last byte, which leaves when the digest is known. The commands: from their start to their "
            "end; fetch and aria2c verify the sha256 (aria2c by reading the file again), curl verifies nothing. "
            "Digest: from the origin's last byte to the client's. Growth is VmHWM or PSS, the worse, less that of the idle process. Every "
            "file was compared byte for byte."
        ),
        columns=(_SECONDS,),
        samples=samples,
        goals=(
            *(_speed(samples, n, least, "strict") for n, least in _MANY.items()),
            Goal(
                f"{size(bench)} over 8 or 16 connections: digest known after the last byte",
                "-",
                f"{_MOST_DIGEST_MS:g} ms at most",
                f"{digest:.1f} ms",
                digest <= _MOST_DIGEST_MS,
            ),
            Goal(
                f"{size(bench)} over 8 or 16 connections: peak memory growth",
                "idle process",
                f"at most {_MOST_MIB} MiB",
                f"{growth:.1f} MiB",
                growth <= _MOST_MIB,
            ),
            *(_beside(samples, n) for n in _MANY),
        ),
        notes=(_costs(samples),),
    )


def _speed(samples: Samples, number: int, least: float, kind: str) -> Goal:
    times = ratio(samples, "seconds", _ours(1), _ours(number))
    what = f"origin limits each connection ({kind}): {number} connections"
    return Goal(what, "one connection", f"at least {least:g} x", f"{times:.2f} x", times >= least)


def _beside(samples: Samples, number: int) -> Goal:
    times = ratio(samples, "seconds", f"artifactproxy fetch, {number}", f"aria2c, {number}")
    return Goal(
        f"the command fetch, {number} connections: total time, verified",
        f"aria2c, {number} connections, verified",
        f"at most {_MOST_PEER:g} x",
        f"{times:.2f} x",
        times <= _MOST_PEER,
    )


def _costs(samples: Samples) -> str:
    told = [
        f"{n}: digest {median(samples[_ours(n)], 'digest ms'):.1f} ms after the last byte, "
        f"{median(samples[_ours(n)], 'cpu'):.2f} CPU-s/GiB, growth {median(samples[_ours(n)], 'growth'):.1f} MiB, "
        f"first byte {median(samples[_ours(n)], 'first ms'):.1f} ms"
        for n in (1, *_MANY)
    ]
    return "artifactproxy by its connections: " + "; ".join(told) + "."


def measure_nginx(bench: Bench) -> Result:
    """Against nginx."""
    room(bench, bench.scale.spread)
    blob = Blob(bench.folder / "files" / "blob.bin", bench.scale.spread)
    opened = partial(nginx, bench, blob, rate="20m")
    variants = {_ours(n): partial(through_proxy, bench, blob, opened, n) for n in (1, *_MANY)}
    variants |= {f"aria2c, {n}": partial(by_aria2c, bench, blob, opened, n) for n in _MANY}
    samples = bench.interleaved(variants)
    return Result(
        title="Large file, nginx limits each connection",
        method=(
            "The same from nginx with limit_rate 20m, which lets the first second of every request pass at once: "
            "many requests come out faster than the number of connections says. Read it as linear or not."
        ),
        columns=(_SECONDS,),
        samples=samples,
        goals=tuple(_speed(samples, n, least, "nginx") for n, least in _MANY.items()),
    )
