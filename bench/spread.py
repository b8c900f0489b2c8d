"""What the measures of one large file over several connections share: origins, and ways to fetch it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.content import Blob
from bench.model import GIB, MIB, Bench, CannotMeasure, Sample
from bench.pull import pull
from bench.servers import Server, free_port, nginx_limited, proxy, run_pinned, tool
from bench.watch import PeakWatch, cpu_seconds, forget_peak, memory

_PATIENCE = 120.0  # seconds for one transfer
SETTLE = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """An origin of one file; `log` is None where it does not say when the last byte has left."""

    port: int
    path: str
    log: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def last_byte(self) -> float:
        """When it left, by the clock of `time.perf_counter`."""
        if self.log is None:
            raise CannotMeasure("this origin does not tell when its last byte has left")
        return max(float(line.split()[0]) for line in self.log.read_text().splitlines())


Opened = Callable[[], contextlib.AbstractContextManager[Source]]


@contextlib.contextmanager
def throttled(bench: Bench, blob: Blob, *, rate: int = 0, shared: int = 0, slow: int = 0) -> Iterator[Source]:
    """A fresh origin with a bound on each connection (one of them at a tenth), or on all of them together."""
    port, log = free_port(), bench.folder / "left"
    options = {"port": port, "path": str(blob.path), "log": str(log)}
    options |= {"rate": rate, "shared": shared, "slow": slow}
    command = [sys.executable, "-m", "bench.throttle", json.dumps(options)]
    with Server(command, bench.client_cores, bench.folder / "throttle") as server:
        server.wait_for(port, "/ready")
        yield Source(port, f"/{blob.path.name}", log)


@contextlib.contextmanager
def nginx(bench: Bench, blob: Blob, *, rate: str) -> Iterator[Source]:
    """nginx with `limit_rate`, "0" for none."""
    with nginx_limited(bench.folder / "nginx", blob.path.parent, bench.client_cores, rate) as port:
        yield Source(port, f"/{blob.path.name}")


# --- ways to fetch it ---


def through_proxy(bench: Bench, blob: Blob, opened: Opened, connections: int) -> Sample:
    """A client of a fresh proxy that may use so many; what is served later is compared byte for byte."""
    with opened() as source:
        remotes = (
            f"remotes:\n  files: {{provider: generic, upstream: 'http://127.0.0.1:{source.port}/', "
            f"download: {{connections: {connections}}}}}\n"
        )
        with proxy(bench.folder / "proxy", bench.all_cores, remotes) as (server, port):
            path = f"/files{source.path}"
            pull(port, ["/files/ready"], bench.client_cores)
            os.sync()
            time.sleep(SETTLE)
            forget_peak(server.pid)
            idle, before = memory(server.pid), cpu_seconds(server.pid)
            with PeakWatch(server.pid) as watch:
                run = pull(port, [path], bench.client_cores, timeout=_PATIENCE)
            (only,) = run.transfers
            sample = {
                "seconds": only.total,
                "first ms": only.first_byte * 1000,
                "cpu": (cpu_seconds(server.pid) - before) * GIB / blob.size,
                "growth": max(watch.peak - idle.resident, watch.proportional - idle.proportional),
            }
            if source.log is not None:
                sample["digest ms"] = (only.ended - source.last_byte()) * 1000
            (again,) = pull(port, [path], bench.client_cores, like=blob.path).transfers
            if again.headers.get("x-checksum-sha256") != blob.sha256:
                raise CannotMeasure("the proxy states a wrong sha256")
    return sample


def by_command(bench: Bench, blob: Blob, opened: Opened, connections: int) -> Sample:
    out = bench.folder / "out"
    command = [sys.executable, "-m", "artifactproxy", "fetch", "--json", "--connections", str(connections)]
    return _timed(bench, blob, opened, lambda url: [*command, "-o", str(out), "--sha256", blob.sha256, url])


def by_aria2c(bench: Bench, blob: Blob, opened: Opened, connections: int) -> Sample:
    """Verified as well, which it does by reading the file again."""
    many = [f"--max-connection-per-server={connections}", f"--split={connections}", "--min-split-size=1M"]
    rest = ["--no-conf=true", "--allow-overwrite=true", "--file-allocation=falloc", "--quiet=true"]
    where = [f"--dir={bench.folder}", "--out=out", f"--checksum=sha-256={blob.sha256}"]
    return _timed(bench, blob, opened, lambda url: [tool("aria2c"), *many, *rest, *where, url])


def by_curl(bench: Bench, blob: Blob, opened: Opened) -> Sample:
    """Not verified."""
    return _timed(
        bench, blob, opened, lambda url: [tool("curl"), "-sSf", "-o", str(bench.folder / "out"), url]
    )


def _timed(bench: Bench, blob: Blob, opened: Opened, command: Callable[[str], list[str]]) -> Sample:
    """From before the program starts until it has ended; its file is compared."""
    out = bench.folder / "out"
    out.unlink(missing_ok=True)
    with opened() as source:
        os.sync()
        begun = time.perf_counter()
        run_pinned(command(source.url), bench.all_cores, _PATIENCE)
        seconds = time.perf_counter() - begun
    run_pinned([tool("cmp"), str(out), str(blob.path)], bench.all_cores, 60)
    out.unlink()
    return {"seconds": seconds}


def room(bench: Bench, blob_bytes: int) -> None:
    """Raises `CannotMeasure` where the disk has no room for the file, its copies and a rest."""
    needed = blob_bytes * 4 + GIB
    if shutil.disk_usage(bench.folder).free < needed:
        raise CannotMeasure(f"needs {needed / GIB:.0f} GiB of free disk in the temporary folder")


def size(bench: Bench) -> str:
    return f"{bench.scale.spread // MIB} MiB"
