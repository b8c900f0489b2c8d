"""npm installing the same tree: through the warm proxy, through a warm verdaccio, and directly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.model import Bench, CannotMeasure, Column, Goal, Result, Sample, Samples, median, worst
from bench.servers import proxy, run_pinned, tool
from bench.verdaccio import public_registry, verdaccio, verdaccio_program
from bench.watch import cpu_seconds

_OURS, _DIRECT, _PEER = "artifactproxy", "direct from the public registry", "verdaccio"
_CI, _INSTALL = "npm ci", "npm install"
_TIMEOUT = 180.0  # seconds for one installation
_FLUSH = 0.5  # seconds until a batch of log lines is surely written
_WANTED = {
    "@babel/core": "7.26.0",
    "axios": "1.7.9",
    "eslint": "8.57.1",
    "express": "4.21.2",
    "lodash": "4.17.21",
    "mocha": "10.8.2",
    "react": "18.3.1",
    "react-dom": "18.3.1",
    "typescript": "5.7.2",
    "webpack": "5.97.1",
}
_WANTED_QUICK = {"yargs": "17.7.2"}
_FLAGS = ("--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--loglevel", "error")

_Tree = dict[str, str]  # where each package lies in node_modules -> its integrity


def measure(bench: Bench) -> Result:
    public = public_registry(bench.all_cores)
    project = _Project(bench)
    tree = project.lock(public)
    cold: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folder = bench.folder / "proxy"
        remotes = f"remotes:\n  npm: {{provider: npm, upstream: '{public}', ttl: 1d}}\n"
        ours, port = stack.enter_context(proxy(folder, bench.all_cores, remotes))
        registries = {_DIRECT: public, _OURS: f"http://127.0.0.1:{port}/npm/"}
        pids = {_OURS: ours.pid}
        missing = _missing()
        if not missing:
            theirs, at = stack.enter_context(verdaccio(bench.folder / "verdaccio", bench.all_cores, public))
            registries[_PEER] = f"http://127.0.0.1:{at}/"
            pids[_PEER] = theirs.pid
        for name, registry in registries.items():
            if name != _DIRECT:
                cold[name] = project.run(_INSTALL, registry, tree)
                project.run(_CI, registry, tree)

        def take(name: str, verb: str) -> Sample:
            log, pid = folder / "requests.log", pids.get(name)
            fetched, spent = _tarballs_from_upstream(log), cpu_seconds(pid) if pid else 0.0
            seconds = project.run(verb, registries[name], tree)
            spent = cpu_seconds(pid) - spent if pid else 0.0
            time.sleep(_FLUSH)
            return {"seconds": seconds, "cpu": spent, "fetched": _tarballs_from_upstream(log) - fetched}

        variants: dict[str, Callable[[], Sample]] = {
            f"{verb}: {name}": partial(take, name, verb) for verb in (_CI, _INSTALL) for name in registries
        }
        samples = bench.interleaved(variants)
    if any(worst(each, "fetched") for each in samples.values()):
        raise CannotMeasure("tarballs came from upstream during the warm rounds")
    what = f"A tree of {len(tree)} packages from {len(project.wanted)} pinned ones"
    return _result(what, samples, cold, missing)


def _result(what: str, samples: Samples, cold: dict[str, float], missing: str) -> Result:
    notes = [
        f"For information, one `{_INSTALL}` each while nothing was cached: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cold.items())
        + "."
    ]
    if missing:
        notes.append(f"Not run: {missing}.")
    return Result(
        title="npm install",
        method=(
            f"{what}, `npm ci` from a lock file and `npm install` without "
            "one, scripts not run, each into an empty folder with an empty client cache: with the proxy's address as "
            "registry, with that of verdaccio (its log and its web pages off), and with the public registry's, over this "
            "machine's network; in both caches indexes are fresh for a day. Servers and npm share all cores. Before the rounds each "
            "of the two was filled by one installation of either kind; places and integrity of every installed "
            "package were compared with the direct installation's after each."
        ),
        columns=(
            Column("seconds", "seconds"),
            Column("cpu", "server CPU s"),
            Column("fetched", "tarballs from upstream", 0),
        ),
        samples=samples,
        goals=tuple(
            _goal(verb, against, samples, missing) for verb in (_CI, _INSTALL) for against in (_DIRECT, _PEER)
        ),
        notes=tuple(notes),
    )


def _goal(verb: str, against: str, samples: Samples, missing: str) -> Goal:
    what, other = f"{verb} of the same tree, warm", f"{verb}: {against}"
    if other not in samples:
        return Goal(what, against, "faster", f"not run: {missing}", met=False)
    ours, theirs = median(samples[f"{verb}: {_OURS}"], "seconds"), median(samples[other], "seconds")
    shown = f"{ours:.2f} s against {theirs:.2f} s, {ours / theirs:.2f} x"
    return Goal(what, against, "faster", shown, ours < theirs)


def _missing() -> str:
    """Why verdaccio cannot be had; "" if it can."""
    try:
        verdaccio_program()
    except CannotMeasure as trouble:
        return str(trouble).partition(":")[0]
    return ""


class _Project:
    """A folder with a package.json that is installed again and again, each time as if for the first."""

    def __init__(self, bench: Bench) -> None:
        self._cores = bench.all_cores
        self._home = bench.folder / "project"
        self._cache = bench.folder / "npm-cache"
        self._lock = bench.folder / "package-lock.json"
        self.wanted = _WANTED_QUICK if bench.scale.quick else _WANTED
        # None of the user's settings; what the machine says about certificates stays.
        self._settings = bench.folder / "npmrc"
        self._settings.write_text("")

    def lock(self, registry: str) -> _Tree:
        """Install directly and keep the lock file. Raises `CannotMeasure` if that cannot be done."""
        self._fresh(with_lock=False)
        try:
            self._npm(_INSTALL, registry)
            shutil.copy(self._home / "package-lock.json", self._lock)
            return self._installed()
        finally:
            self._clear()

    def run(self, verb: str, registry: str, expected: _Tree) -> float:
        """Seconds of one installation. Raises `CannotMeasure` if it made another tree."""
        self._fresh(with_lock=verb == _CI)
        try:
            begun = time.perf_counter()
            self._npm(verb, registry)
            seconds = time.perf_counter() - begun
            different = dict(self._installed().items() ^ expected.items())
            if different:
                raise CannotMeasure(f"{verb} made another tree: {sorted(different)[:5]}")
            return seconds
        finally:
            self._clear()

    def _npm(self, verb: str, registry: str) -> None:
        command = [tool("npm"), verb.removeprefix("npm "), *_FLAGS, "--registry", registry]
        # A lock file names the registry it was made with; another one is to be asked.
        command += ["--replace-registry-host", "always", "--prefix", str(self._home)]
        command += ["--cache", str(self._cache), "--userconfig", str(self._settings)]
        env = {
            name: value for name, value in os.environ.items() if not name.lower().startswith("npm_config_")
        }
        run_pinned(command, self._cores, _TIMEOUT, env)

    def _installed(self) -> _Tree:
        listed = json.loads((self._home / "node_modules" / ".package-lock.json").read_text())["packages"]
        return {place: str(package.get("integrity")) for place, package in listed.items()}

    def _fresh(self, *, with_lock: bool) -> None:
        self._clear()
        self._home.mkdir()
        package = {"name": "tree", "version": "1.0.0", "private": True, "dependencies": self.wanted}
        (self._home / "package.json").write_text(json.dumps(package))
        if with_lock:
            shutil.copy(self._lock, self._home / "package-lock.json")

    def _clear(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.rmtree(self._cache, ignore_errors=True)


def _tarballs_from_upstream(log: Path) -> int:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return sum(line["event"] == "fill" and line.get("kind") == "artifact" for line in lines)
