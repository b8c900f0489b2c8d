"""Blobs pushed to a registry, on this disk or in a bucket: faster than one that spools, and than Debian's?"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from bench.backends import emptied, minio
from bench.content import Blob
from bench.model import GIB, MIB, Bench, Column, Goal, Result, Sample, Samples, ratio, worst
from bench.push import push
from bench.registries import DEBIANS, OURS, REGISTRIES, SPOOLED
from bench.servers import Server, free_port
from bench.watch import FilesWatch, PeakWatch, cpu_seconds, forget_peak, memory, written
from tests.servers.minio import FreshBucket, Minio

_PARTS, _PART = 4, 8 * MIB  # the defaults of artifactproxy
_PUSH_MEMORY = 64 * MIB
_BESIDE = 4 * MIB  # a body, for what is no part: in the hands of the hasher, of the connections, of Python
_SPOOLED_TIMES = 1.8
_SETTLE = 0.5  # seconds
_AGAIN = "again, "
_COLUMNS = (
    Column("seconds", "total s", 3),
    Column("rate", "MiB/s", 0),
    Column("cpu", "CPU-s/GiB"),
    Column("growth", "growth MiB", 1),
    Column("spool", "in files MiB", 1),
    Column("disk", "written MiB", 1),
    Column("sent", "sent MiB", 0),
)
_METHOD = (
    "A client on one core sends files as blobs, by sendfile: POST, then PUT with the digest, which waits for the word "
    "to go on (Expect: 100-continue); until the last 201. Every sample has a fresh server, which may use all cores "
    "and has taken one small push, new content, and a disk that was synced before. '{spooled}' is an aiohttp server in "
    "bench/ that writes the body to a file, hashes that, and makes it durable{how}; docker-registry is Debian's. "
    "Growth is VmHWM less VmRSS before; 'in files' is the most that the server's folder held (its index left out) more "
    "than before, looked at every 20 ms; 'written' is what the kernel wrote to disks for the process. 'again' is the "
    "same push a second time."
)


@dataclass(frozen=True, slots=True)
class _Load:
    title: str
    blobs: tuple[Blob, ...]

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)


def measure_fs(bench: Bench) -> Result:
    loads = _loads(bench)
    samples = bench.interleaved(_variants(bench, loads, None))
    return Result(
        title="Pushes to a registry on this disk",
        method=_METHOD.format(spooled=SPOOLED, how=" under its name"),
        columns=_COLUMNS,
        samples=samples,
        goals=(
            *(_faster(samples, f"on this disk, {load.title}", load, DEBIANS, 1.0) for load in loads),
            _resting(samples, "on this disk", loads[0]),
        ),
        notes=(_beside(samples, loads),),
    )


def measure_s3(bench: Bench) -> Result:
    loads = _loads(bench)
    with minio(bench.folder / "minio", bench.all_cores) as server, _sink(bench) as sink:
        samples = bench.interleaved(
            _variants(bench, loads, server)
            | {
                f"bucket that costs nothing, {loads[1].title}: {name}": partial(
                    _sample, bench, name, loads[1], None, sink=sink
                )
                for name in (OURS, SPOOLED)
            }
        )
    free = f"bucket that costs nothing, {loads[1].title}"
    ours = [_name(OURS, load) for load in loads]
    return Result(
        title="Pushes to a registry in a bucket",
        method=_METHOD.format(
            spooled=SPOOLED,
            how=(
                " in the bucket, in parts of 8 MiB, four at once, by an aiobotocore that is told neither to sign nor "
                "to sum up bodies"
            ),
        )
        + (
            " The bucket is a MinIO that shares all cores with the server, and costs about 3 CPU seconds a GiB itself; "
            "beside it an endpoint that throws bodies away, as a bucket on another machine costs this one nothing."
        ),
        columns=_COLUMNS,
        samples=samples,
        goals=(
            *(
                _faster(samples, f"into a bucket, {load.title}", load, SPOOLED, _SPOOLED_TIMES)
                for load in loads
            ),
            _times(samples, f"into a {free}", f"{free}: {OURS}", f"{free}: {SPOOLED}", _SPOOLED_TIMES),
            *(_faster(samples, f"into a bucket, {load.title}", load, DEBIANS, 1.0) for load in loads),
            _nothing_spooled(samples, ours),
            *(_bounded(samples, load) for load in loads),
            _resting(samples, "into a bucket", loads[0]),
            _one_look(samples, f"{free}: {OURS}"),
        ),
    )


def _loads(bench: Bench) -> list[_Load]:
    large = bench.scale.large
    sizes = {"": [large // 8], " ": [large], "at once": [large // 2] * 4}
    loads = []
    for number, (how, each) in enumerate(sizes.items()):
        blobs = tuple(Blob(bench.folder / f"blob{number}-{n}", size) for n, size in enumerate(each))
        title = f"{each[0] // MIB} MiB" if len(each) == 1 else f"{len(each)} x {each[0] // MIB} MiB {how}"
        loads.append(_Load(title, blobs))
    return loads


def _name(registry: str, load: _Load) -> str:
    return f"{load.title}: {registry}"


def _variants(bench: Bench, loads: list[_Load], server: Minio | None) -> dict[str, partial[Sample]]:
    found = {
        _name(registry, load): partial(_sample, bench, registry, load, server)
        for load in loads
        for registry in REGISTRIES
    }
    for registry in (OURS, DEBIANS):
        found[_AGAIN + _name(registry, loads[0])] = partial(
            _sample, bench, registry, loads[0], server, again=True
        )
    return found


def _sample(
    bench: Bench,
    registry: str,
    load: _Load,
    server: Minio | None,
    *,
    again: bool = False,
    sink: int = 0,
) -> Sample:
    small = Blob(bench.folder / "small", MIB)
    for blob in load.blobs:
        blob.renew()
    bucket = server.fresh_bucket() if server else None
    if sink:
        bucket = FreshBucket(f"http://127.0.0.1:{sink}", "bench", "bench", "benchbench")
    with REGISTRIES[registry](bench.folder / "registry", bench.all_cores, bucket) as to:
        push(to.port, to.name, [small, *(load.blobs if again else ())], bench.client_cores, to.headers)
        os.sync()
        time.sleep(_SETTLE)
        pid = to.server.pid
        forget_peak(pid)
        before, spent, disk = memory(pid), cpu_seconds(pid), written(pid)
        with PeakWatch(pid) as peak, FilesWatch(to.folder / "data") as files:
            done = push(to.port, to.name, load.blobs, bench.client_cores, to.headers)
        spent, disk = cpu_seconds(pid) - spent, written(pid) - disk
        looks = _looks(sink, partial(push, to.port, to.name, load.blobs, bench.client_cores, to.headers))
    if bucket and not sink:
        emptied(bucket)
    return {
        "seconds": done.seconds,
        "rate": load.size / MIB / done.seconds,
        "cpu": spent * GIB / load.size,
        "growth": peak.peak - before.resident,
        "spool": files.most / MIB,
        "disk": disk / MIB,
        "sent": done.sent / MIB,
        "looks": looks,
    }


def _looks(sink: int, repeat: partial[object]) -> float:
    """Requests for a blob that the same push once more makes of the bucket; 0 where they are not counted."""
    if not sink:
        return 0.0
    before = _counted(sink)
    repeat()
    return _counted(sink) - before


def _counted(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/counts")
        return int(json.loads(connection.getresponse().read())["blobs"])
    finally:
        connection.close()


@contextlib.contextmanager
def _sink(bench: Bench) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "bench.sink", str(port)]
    with Server(command, bench.all_cores, bench.folder / "sink") as server:
        server.wait_for(port, "/counts")
        yield port


# --- goals ------------------------------------------------------------------------------------


def _faster(samples: Samples, what: str, load: _Load, rival: str, wanted: float) -> Goal:
    return _times(samples, what, _name(OURS, load), _name(rival, load), wanted)


def _times(samples: Samples, what: str, ours: str, theirs: str, wanted: float) -> Goal:
    times = ratio(samples, "rate", ours, theirs)
    goal = "faster" if wanted == 1.0 else f"at least {wanted} x"
    return Goal(f"push {what}: rate", theirs.rpartition(": ")[2], goal, f"{times:.2f} x", times >= wanted)


def _nothing_spooled(samples: Samples, names: list[str]) -> Goal:
    spool = max(worst(samples[name], "spool") for name in names)
    disk = max(worst(samples[name], "disk") for name in names)
    return Goal(
        "push into a bucket: bytes spooled here",
        "-",
        "0",
        f"{spool * MIB:.0f} ({disk:.1f} MiB written for index and log)",
        not spool and disk < 1,
    )


def _bounded(samples: Samples, load: _Load) -> Goal:
    """Each body has four parts on their way and one that is being filled, all bodies `push_memory`."""
    parts = min(len(load.blobs) * (_PARTS + 1) * _PART, _PUSH_MEMORY)
    most = (parts + len(load.blobs) * _BESIDE) / MIB
    growth = worst(samples[_name(OURS, load)], "growth")
    return Goal(
        f"push into a bucket, {load.title}: memory growth",
        "parts in flight, and 4 MiB a body",
        f"at most {most:.0f} MiB",
        f"{growth:.1f} MiB",
        growth <= most,
    )


def _resting(samples: Samples, where: str, load: _Load) -> Goal:
    sent = worst(samples[_AGAIN + _name(OURS, load)], "sent")
    return Goal(
        f"the same push {where} again: bytes of the body sent", "-", "0", f"{sent * MIB:.0f}", not sent
    )


def _one_look(samples: Samples, name: str) -> Goal:
    looks = worst(samples[name], "looks")
    return Goal("the same push into a bucket again: requests to it", "-", "1", f"{looks:.0f}", looks == 1)


def _beside(samples: Samples, loads: list[_Load]) -> str:
    shown = ", ".join(
        f"{load.title} {ratio(samples, 'rate', _name(OURS, load), _name(SPOOLED, load)):.2f} x"
        for load in loads
    )
    return f"Beside '{SPOOLED}', for information: {shown}."
