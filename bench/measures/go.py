"""The go command downloading the same modules: through the warm and the empty proxy, through goproxy
in either state, and directly."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.goproxy import GOPROXY, go_environment, goproxy, goproxy_program, public_go
from bench.model import Bench, CannotMeasure, Column, Goal, Result, Sample, Samples, median, worst
from bench.servers import proxy, run_pinned, tool
from bench.watch import cpu_seconds

_DIRECT = "direct from the public registry"
_OURS, _PEER = "artifactproxy", "goproxy"
_WARM, _COLD = "warm", "cold"
_PROGRAM = Path(__file__).parents[2] / "e2e" / "go_program" / "go.mod"
_QUICK = 12  # modules
_TIMEOUT = 180.0  # seconds for one download
_FLUSH = 0.5  # seconds until a batch of log lines is surely written

_Sums = dict[str, str]  # path@version -> checksum of the zip


def measure(bench: Bench) -> Result:
    upstream, database = public_go(bench.folder, bench.all_cores)
    project = _Project(bench, database)
    sums = project.lock(upstream)
    missing = _missing()
    servers = _Servers(bench, upstream, database)
    log = bench.folder / f"{_OURS}-{_WARM}" / "requests.log"
    with contextlib.ExitStack() as stack:
        names = [_OURS] if missing else [_OURS, _PEER]
        warm = {name: stack.enter_context(servers.start(name, _WARM)) for name in names}
        for server in warm.values():
            project.run(server.address, sums)

        def take(server: _Running, fetched: Callable[[], int]) -> Sample:
            files, spent = fetched(), cpu_seconds(server.pid)
            seconds = project.run(server.address, sums)
            time.sleep(_FLUSH)
            cpu = cpu_seconds(server.pid) - spent
            return {"seconds": seconds, "cpu": cpu, "fetched": float(fetched() - files)}

        def take_cold(name: str) -> Sample:
            with servers.start(name, _COLD) as server:
                return take(server, lambda: 0) | all_of_them

        all_of_them = {"fetched": float(len(sums))}
        variants: dict[str, Callable[[], Sample]] = {
            _DIRECT: lambda: {"seconds": project.run(upstream, sums), "cpu": 0.0} | all_of_them
        }
        fetched: dict[str, Callable[[], int]] = {_OURS: partial(_from_upstream, log), _PEER: lambda: 0}
        variants |= {f"{name}, {_WARM}": partial(take, warm[name], fetched[name]) for name in names}
        variants |= {f"{name}, {_COLD}": partial(take_cold, name) for name in names}
        samples = bench.interleaved(variants)
    if worst(samples[f"{_OURS}, {_WARM}"], "fetched"):
        raise CannotMeasure("modules came from upstream during the warm rounds")
    return _result(len(sums), samples, missing)


def _result(count: int, samples: Samples, missing: str) -> Result:
    return Result(
        title="go mod download",
        method=(
            f"`go mod download` of {count} modules with a complete go.sum, each into an empty module cache: with the "
            f"proxy's address as GOPROXY, with that of goproxy {GOPROXY} (no log, files in a folder), and with the public "
            "proxy's, over this machine's network. Servers and the go command share all cores; unpacking the modules, which "
            "is most of the go command's own work, is part of each. The warm ones were filled by one download before the "
            "rounds, the cold ones begin with an empty cache each time. The checksums of all modules were "
            "compared with those of a direct download after each."
        ),
        columns=(
            Column("seconds", "seconds"),
            Column("cpu", "CPU seconds of the server"),
            Column("fetched", "modules from upstream", 0),
        ),
        samples=samples,
        goals=tuple(_goal(against, samples, missing) for against in (_DIRECT, f"{_PEER}, {_WARM}")),
        notes=(f"Not run: {missing}.",) if missing else (),
    )


def _goal(against: str, samples: Samples, missing: str) -> Goal:
    what = "go mod download of the same modules, warm"
    if against not in samples:
        return Goal(what, against, "faster", f"not run: {missing}", met=False)
    ours = median(samples[f"{_OURS}, {_WARM}"], "seconds")
    theirs = median(samples[against], "seconds")
    shown = f"{ours:.2f} s against {theirs:.2f} s, {ours / theirs:.2f} x"
    return Goal(what, against, "faster", shown, ours < theirs)


def _missing() -> str:
    """Why goproxy cannot be had; "" if it can."""
    try:
        goproxy_program()
    except CannotMeasure as trouble:
        return str(trouble).partition(":")[0]
    return ""


@dataclass(frozen=True, slots=True)
class _Running:
    """`address` is what to use as GOPROXY."""

    address: str
    pid: int


class _Servers:
    def __init__(self, bench: Bench, upstream: str, database: str) -> None:
        self._bench = bench
        self._upstream = upstream
        self._database = database

    @contextlib.contextmanager
    def start(self, name: str, state: str) -> Iterator[_Running]:
        """A server with an empty cache."""
        folder, cores = self._bench.folder / f"{name}-{state}", self._bench.all_cores
        if name == _PEER:
            with goproxy(folder, cores, self._upstream, self._database) as (server, port):
                yield _Running(f"http://127.0.0.1:{port}", server.pid)
        else:
            remotes = "remotes:\n  go: {provider: go, upstream: public}\n"
            with proxy(folder, cores, remotes) as (server, port):
                yield _Running(f"http://127.0.0.1:{port}/go", server.pid)


class _Project:
    """A module whose requirements are downloaded again and again, each time as if for the first."""

    def __init__(self, bench: Bench, database: str) -> None:
        self._cores = bench.all_cores
        self._database = database
        self._folder = bench.folder / "project"
        self._folder.mkdir()
        shutil.copy(_PROGRAM, self._folder / "go.mod")
        wanted = re.findall(r"^\t(\S+) (v\S+)", _PROGRAM.read_text(), re.MULTILINE)
        self._wanted = [f"{path}@{version}" for path, version in wanted]
        if bench.scale.quick:
            self._wanted = self._wanted[:_QUICK]

    def lock(self, upstream: str) -> _Sums:
        """Download directly, which writes go.sum. Raises `CannotMeasure` if that cannot be done."""
        return self._downloaded(upstream)[1]

    def run(self, address: str, expected: _Sums) -> float:
        """Seconds of one download. Raises `CannotMeasure` if something else came."""
        seconds, sums = self._downloaded(address)
        if sums != expected:
            raise CannotMeasure(f"other modules came: {sorted(dict(sums.items() ^ expected.items()))[:5]}")
        return seconds

    def _downloaded(self, address: str) -> tuple[float, _Sums]:
        home = self._folder / "home"
        env = go_environment(home, GOPROXY=address, GOSUMDB=self._database)
        command = [tool("go"), "-C", str(self._folder), "mod", "download", "-json", *self._wanted]
        try:
            begun = time.perf_counter()
            printed = run_pinned(command, self._cores, _TIMEOUT, env)
            seconds = time.perf_counter() - begun
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return seconds, _sums(printed)


def _sums(printed: str) -> _Sums:
    """From JSON documents one after another, each ending in a line that is a brace."""
    told = (json.loads(text + "}") for text in printed.split("\n}\n") if text.strip())
    return {f"{module['Path']}@{module['Version']}": module["Sum"] for module in told}


def _from_upstream(log: Path) -> int:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return sum(line["event"] == "fill" and line.get("kind") == "artifact" for line in lines)
