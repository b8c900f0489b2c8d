"""An image of 2 GiB from a registry that holds it, on this disk: as fast as from Debian's?"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

from bench.content import Blob
from bench.model import GIB, MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, ratio
from bench.pull import pull
from bench.push import push
from bench.registries import DEBIANS, OURS, REGISTRIES, Registry
from bench.servers import run_pinned, tool
from bench.watch import cpu_seconds

_LAYERS = 4
_OCI = "application/vnd.oci.image"
_TAG = "v1"
_PATIENCE = 120.0  # seconds
_RAW, _SKOPEO = "4 connections", "skopeo"


def measure(bench: Bench) -> Result:
    size = bench.scale.large // 2
    layers = [Blob(bench.folder / f"layer{number}", size) for number in range(_LAYERS)]
    tool("skopeo")
    with contextlib.ExitStack() as stack:
        images = {}
        for name in (OURS, DEBIANS):
            start = REGISTRIES[name](bench.folder / name, bench.all_cores, None)
            images[name] = stack.enter_context(start)
            _pushed(images[name], layers, bench)
        samples = bench.interleaved(
            {
                f"{client}: {name}": partial(take, bench, image, layers)
                for client, take in ((_RAW, _pulled), (_SKOPEO, _copied))
                for name, image in images.items()
            }
        )
    total = _LAYERS * size // MIB
    times = ratio(samples, "rate", f"{_RAW}: {OURS}", f"{_RAW}: {DEBIANS}")
    return Result(
        title="A warm image from a registry",
        method=(
            f"An image of {_LAYERS} layers of {size // MIB} MiB, which the page cache holds: its layers over four "
            "connections at once by a client that discards them in the kernel (compared with what was pushed before the "
            "rounds), and the image by 'skopeo copy' into a folder, which verifies and writes it. The client runs on one "
            "core, the servers may use all. CPU is the server's own."
        ),
        columns=(
            Column("seconds", "total s", 3),
            Column("rate", "MiB/s", 0),
            Column("cpu", "CPU-s/GiB", 3),
        ),
        samples=samples,
        goals=(
            Goal(
                f"pull of a warm image of {total} MiB, {_RAW}: rate",
                DEBIANS,
                "faster",
                f"{times:.2f} x",
                times > 1,
            ),
        ),
        notes=(
            "skopeo is for information: what it does itself on its core takes longer than either server.",
        ),
    )


def _pushed(to: Registry, layers: list[Blob], bench: Bench) -> None:
    """As an image tagged `v1`; every layer is read once and compared."""
    digests = [f"sha256:{layer.sha256}" for layer in layers]
    config = bench.folder / "config"
    config.write_text(
        json.dumps(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
        )
    )
    settings = _Held(config)
    push(to.port, to.name, [*layers, settings], bench.client_cores, to.headers)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": settings.described(f"{_OCI}.config.v1+json"),
        "layers": [
            {"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": digest, "size": layer.size}
            for digest, layer in zip(digests, layers, strict=True)
        ],
    }
    headers = dict(line.split(": ", 1) for line in to.headers.splitlines())
    headers["Content-Type"] = str(manifest["mediaType"])
    connection = http.client.HTTPConnection("127.0.0.1", to.port, timeout=30)
    connection.request("PUT", f"/v2/{to.name}/manifests/{_TAG}", json.dumps(manifest), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 201:
        raise CannotMeasure(f"a manifest was answered with {answer.status}: {said[:300]!r}")
    for layer in layers:
        pull(to.port, [_path(to, layer)], bench.client_cores, like=layer.path)


class _Held(Blob):
    """A file as it is."""

    def __init__(self, path: Path) -> None:
        body = path.read_bytes()
        self.path, self.size, self.sha256 = path, len(body), hashlib.sha256(body).hexdigest()

    def described(self, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": f"sha256:{self.sha256}", "size": self.size}


def _path(at: Registry, layer: Blob) -> str:
    return f"/v2/{at.name}/blobs/sha256:{layer.sha256}"


def _pulled(bench: Bench, at: Registry, layers: list[Blob]) -> Sample:
    before = cpu_seconds(at.server.pid)
    run = pull(at.port, [_path(at, layer) for layer in layers], bench.client_cores, at_once=_LAYERS)
    return _told(run.seconds, cpu_seconds(at.server.pid) - before, layers)


def _copied(bench: Bench, at: Registry, layers: list[Blob]) -> Sample:
    target = bench.folder / "copied"
    os.sync()
    before, begun = cpu_seconds(at.server.pid), time.perf_counter()
    source = f"docker://127.0.0.1:{at.port}/{at.name}:{_TAG}"
    flags = ["copy", "--quiet", "--src-tls-verify=false"]
    command = [tool("skopeo"), "--insecure-policy", *flags, source, f"dir:{target}"]
    run_pinned(command, bench.client_cores, _PATIENCE, {**os.environ, "HOME": str(bench.folder)})
    seconds = time.perf_counter() - begun
    sample = _told(seconds, cpu_seconds(at.server.pid) - before, layers)
    for layer in layers:
        if (target / layer.sha256).stat().st_size != layer.size:
            raise CannotMeasure("skopeo copied something else")
    shutil.rmtree(target)
    return sample


def _told(seconds: float, cpu: float, layers: list[Blob]) -> Sample:
    size = sum(layer.size for layer in layers)
    return {"seconds": seconds, "rate": size / MIB / seconds, "cpu": cpu * GIB / size}
