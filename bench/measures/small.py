"""Small cached files: how many requests per second does one core answer on the full path?"""

from __future__ import annotations

import re
import time
from pathlib import Path

from bench.content import Blob, cold_paths
from bench.model import KIB, Bench, CannotMeasure, Column, Goal, Result, Sample, ratio
from bench.pull import pull
from bench.servers import Server, nginx_cache, origin, proxy, remotes_of, run_pinned, tool
from bench.watch import cpu_seconds

_LEAST = 0.3
_OURS, _NGINX, _LOGGED = (
    "artifactproxy, default log",
    "nginx proxy_cache, no log",
    "nginx proxy_cache, access log",
)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_FLUSH = 0.5  # seconds until a batch of log lines is surely written


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    program = tool("wrk")
    folder = bench.folder / "proxy"
    with (
        origin(bench.folder / "origin", root, bench.client_cores) as source,
        nginx_cache(bench.folder / "nginx", source, bench.server_cores) as (nginx, nginx_port, logged_port),
        proxy(folder, bench.server_cores, remotes_of(source.port)) as (ours, port),
    ):
        blob = Blob(root / "small.bin", 2 * KIB)
        (path,) = cold_paths(blob)
        for at, what in ((nginx_port, path), (logged_port, path), (port, f"/files{path}")):
            pull(at, [what, what], bench.client_cores, like=blob.path)

        def wrk(server: Server, at: int, what: str, log: Path | None) -> Sample:
            before = cpu_seconds(server.pid)
            sample = _sample(bench, program, f"http://127.0.0.1:{at}{what}", log)
            requests = sample.pop("requests")
            return sample | {"cpu": (cpu_seconds(server.pid) - before) / requests * 1e6}

        nginx_log = bench.folder / "nginx" / "access.log"
        samples = bench.interleaved(
            {
                _NGINX: lambda: wrk(nginx, nginx_port, path, None),
                _LOGGED: lambda: wrk(nginx, logged_port, path, nginx_log),
                _OURS: lambda: wrk(ours, port, f"/files{path}", folder / "requests.log"),
            }
        )
    times = ratio(samples, "rps", _OURS, _NGINX)
    return Result(
        title="Warm small file",
        method=(
            f"wrk -t1 -c64 -d{bench.scale.wrk_seconds}s --latency on one core, the server on another; 2 KiB from the "
            "cache. artifactproxy writes its default log (one JSON line per request) to a file; nginx once without a "
            "log, which is what the goal is judged against, and once with its own, unbuffered. The measure fails on any "
            "answer other than 200 and any broken connection."
        ),
        columns=(
            Column("rps", "requests/s", 0),
            Column("p50", "p50 ms"),
            Column("p99", "p99 ms"),
            Column("cpu", "server CPU us/request", 1),
            Column("logged", "lines per request"),
        ),
        samples=samples,
        goals=(
            Goal(
                "warm 2 KiB: requests/s, one core, full path, default log",
                "nginx proxy_cache on one core",
                f"at least {_LEAST} x",
                f"{times:.2f} x",
                times >= _LEAST,
            ),
        ),
    )


def _sample(bench: Bench, program: str, url: str, log: Path | None) -> Sample:
    seconds = bench.scale.wrk_seconds
    before = log.stat().st_size if log else 0
    command = [program, "-t1", "-c64", f"-d{seconds}s", "--latency", url]
    sample = parsed(run_pinned(command, bench.client_cores, seconds + 20))
    time.sleep(_FLUSH)
    lines = _lines_after(log, before) if log else 0
    return sample | {"logged": lines / sample["requests"]}


def _lines_after(log: Path, offset: int) -> int:
    with log.open("rb") as file:
        file.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def parsed(printed: str) -> Sample:
    """What wrk says. Raises `CannotMeasure` where something was answered wrongly or not at all."""
    for trouble in ("Non-2xx", "Socket errors"):
        if trouble in printed:
            raise CannotMeasure(f"wrk met wrong answers: {printed[printed.index(trouble) :].splitlines()[0]}")
    sample = {"rps": _number(r"Requests/sec:\s+([\d.]+)", printed)[0]}
    sample["requests"] = _number(r"(\d+) requests in", printed)[0]
    for name in ("50", "99"):
        value, unit = _number(rf"^\s+{name}%\s+([\d.]+)(us|ms|s|m) *$", printed)
        sample[f"p{name}"] = value * _SECONDS[unit] * 1000
    return sample


def _number(pattern: str, text: str) -> tuple[float, str]:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise CannotMeasure(f"wrk printed something unknown: no {pattern} in {text[-400:]}")
    return float(found[1]), found[2] if found.re.groups > 1 else ""
