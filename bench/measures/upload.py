"""A large file to S3: what does the upload cost, beside the usual ways?"""

from __future__ import annotations

import http.client
import json
import sys
from functools import partial

from bench.content import Blob
from bench.model import GIB, MIB, Bench, Column, Goal, Result, Sample, ratio, worst
from bench.servers import Server, free_port, run_pinned

_OURS = "artifactproxy"
_VARIANTS = {
    _OURS: "ours",
    "read all, put_object": "read-all",
    "aiobotocore upload_part": "parts",
    "boto3 upload_fileobj": "threads",
}
_SDK = "aiobotocore upload_part"
_MOST_CPU, _MOST_MIB = 0.2, 48


def measure(bench: Bench) -> Result:
    scale, port = bench.scale, free_port()
    whole, quarter = (Blob(bench.folder / f"body{size}", size) for size in (scale.large, scale.large // 4))
    sink = [sys.executable, "-m", "bench.sink", str(port)]
    with Server(sink, bench.client_cores, bench.folder / "sink") as server:
        server.wait_for(port, "/counts")

        def sample(variant: str, body: Blob) -> Sample:
            before = _counts(port)["connections"]
            command = [sys.executable, "-m", "bench.uploader", variant, str(port), str(body.path)]
            said: Sample = json.loads(run_pinned(command, bench.server_cores, 300).strip().splitlines()[-1])
            return {
                "rate": body.size / MIB / said["seconds"],
                "cpu": said["cpu"] * GIB / body.size,
                "growth": said["growth"],
                "connections": _counts(port)["connections"] - before,
            }

        samples = bench.interleaved(
            {name: partial(sample, variant, whole) for name, variant in _VARIANTS.items()}
            | {f"{_OURS}, a quarter": partial(sample, "ours", quarter)}
        )
    times = ratio(samples, "cpu", _OURS, _SDK)
    growth = worst(samples[_OURS], "growth")
    most = worst(samples[_OURS], "connections")
    few = worst(samples[f"{_OURS}, a quarter"], "connections")
    return Result(
        title="Upload to S3",
        method=(
            f"A file of {scale.large // MIB} MiB, as a finished download leaves it, to an endpoint on another core that "
            "throws bodies away; plain http, a process of its own for each sample, one core. Parts of 8 MiB, four at "
            "once, where there are parts. Growth is VmHWM less VmRSS at the begin. The SDKs with their defaults."
        ),
        columns=(
            Column("rate", "MiB/s", 0),
            Column("cpu", "CPU s/GiB"),
            Column("growth", "growth MiB", 1),
            Column("connections", "connections", 0),
        ),
        samples=samples,
        goals=(
            Goal(
                f"CPU of an upload of {scale.large // MIB} MiB",
                "aiobotocore upload_part, defaults",
                f"at most {_MOST_CPU} x",
                f"{times:.2f} x",
                times <= _MOST_CPU,
            ),
            Goal(
                "memory growth of an upload",
                "before it",
                f"at most {_MOST_MIB} MiB",
                f"{growth:.1f} MiB",
                growth <= _MOST_MIB,
            ),
            Goal(
                "connections of an upload",
                "one of a quarter of the size",
                "not more",
                f"{most:.0f} against {few:.0f}",
                most <= few,
            ),
        ),
    )


def _counts(port: int) -> dict[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/counts")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
        return counts
    finally:
        connection.close()
