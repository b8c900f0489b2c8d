"""pip installing the same packages: through the warm proxy, and directly."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from bench.model import Bench, CannotMeasure, Column, Goal, Result, Sample, median, worst
from bench.servers import proxy, run_pinned

_DIRECT, _OURS = "direct from the public registry", "artifactproxy, warm"
_PACKAGES = Path(__file__).parent.parent / "packages.txt"
_TIMEOUT = 180.0  # seconds for one installation
_ELSEWHERE = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_CONSTRAINT",
    "PIP_TARGET",
)


def measure(bench: Bench) -> Result:
    public = _public_index(bench)
    folder = bench.folder / "proxy"
    with proxy(folder, bench.all_cores) as (_, port):
        through = f"http://127.0.0.1:{port}/pypi/simple/"
        names = (_install(bench, through), _install(bench, public))
        if names[0] != names[1]:
            raise CannotMeasure(f"pip installed something else through the proxy: {names[0] ^ names[1]}")

        def ours() -> Sample:
            # Index pages may have come of age; a warm run is one where no file came from afar.
            fetched = _artifacts_from_upstream(folder / "requests.log")
            sample = _timed(bench, through)
            time.sleep(0.5)
            return sample | {"fetched": _artifacts_from_upstream(folder / "requests.log") - fetched}

        samples = bench.interleaved({_DIRECT: lambda: _timed(bench, public) | {"fetched": 0.0}, _OURS: ours})
    direct, warm = median(samples[_DIRECT], "seconds"), median(samples[_OURS], "seconds")
    if worst(samples[_OURS], "fetched"):
        raise CannotMeasure("files came from upstream during the warm rounds")
    return Result(
        title="pip install",
        method=(
            "`pip install --no-cache-dir --target FRESH --only-binary :all: -r bench/packages.txt` with pinned versions "
            f"({len(names[0])} distributions, compared by name and version after the first installation of each), once "
            "with the proxy's address as index, once with the public registry's, over this machine's network. Before "
            "the rounds the proxy was filled by one installation."
        ),
        columns=(Column("seconds", "seconds"), Column("fetched", "files from upstream", 0)),
        samples=samples,
        goals=(
            Goal(
                "pip install of the same set, warm",
                "direct from the public registry",
                "faster",
                f"{warm:.2f} s against {direct:.2f} s, {warm / direct:.2f} x",
                warm < direct,
            ),
        ),
    )


def _public_index(bench: Bench) -> str:
    printed = run_pinned([sys.executable, "-m", "artifactproxy", "remotes", "--json"], bench.all_cores, 30)
    index = next(
        str(remote["upstreams"][0]) for remote in json.loads(printed) if remote["provider"] == "pypi"
    )
    try:
        with urllib.request.urlopen(index + "pip/", timeout=20):
            return index
    except OSError as error:
        raise CannotMeasure("the public registry cannot be reached from here") from error


def _install(bench: Bench, index: str) -> set[str]:
    target = bench.folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--only-binary", ":all:", "--index-url", index]
    command += ["--target", str(target), "-r", str(_PACKAGES)]
    env = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        run_pinned(command, bench.all_cores, _TIMEOUT, env)
        return {entry.name for entry in target.glob("*.dist-info")}
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _timed(bench: Bench, index: str) -> Sample:
    begun = time.perf_counter()
    _install(bench, index)
    return {"seconds": time.perf_counter() - begun}


def _artifacts_from_upstream(log: Path) -> int:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return sum(line["event"] == "fill" and line.get("kind") == "artifact" for line in lines)
