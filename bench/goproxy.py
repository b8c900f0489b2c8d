"""goproxy, a module proxy written in Go, as the peer to measure beside; and what the go command uses
by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.model import CannotMeasure
from bench.servers import Server, free_port, run_pinned, tool

GOPROXY = "v0.17.2"
_MODULE = "github.com/goproxy/goproxy"
_BUILD_SECONDS = 400.0


def go_environment(folder: Path, **settings: str) -> dict[str, str]:
    """Nobody's settings; modules and compiled packages below `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
    own = {
        "GOENV": "off",
        "GOPATH": str(folder / "go"),
        "GOMODCACHE": str(folder / "go" / "pkg" / "mod"),
        "GOCACHE": str(folder / "go-build"),
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",  # no C compiler is needed
    }
    return kept | own | settings


def public_go(folder: Path, cores: frozenset[int]) -> tuple[str, str]:
    """The public module proxy, with a trailing slash, and the checksum database's name, as the go
    command knows them."""
    command = [tool("go"), "env", "-json", "GOPROXY", "GOSUMDB"]
    told = json.loads(run_pinned(command, cores, 30, go_environment(folder)))
    return told["GOPROXY"].replace("|", ",").split(",")[0].rstrip("/") + "/", told["GOSUMDB"].split(" ")[0]


def goproxy_program() -> Path:
    """The program, built once into the user's cache folder from its published source.

    Raises `CannotMeasure` if that cannot be done.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artifactproxy-bench"
    program = caches / f"goproxy-{GOPROXY}"
    if program.exists():
        return program
    caches.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=caches, prefix="goproxy-", ignore_cleanup_errors=True) as name:
        made = Path(name)
        # Not `go install`, which also asks for the list of all versions; mirrors may lack that.
        (made / "go.mod").write_text(f"module peer.example/build\n\ngo 1.21\n\nrequire {_MODULE} {GOPROXY}\n")
        env = go_environment(made, GOFLAGS="-modcacherw -mod=mod")
        command = [tool("go"), "build", "-C", str(made), "-o", "made", f"{_MODULE}/cmd/goproxy"]
        try:
            run_pinned(command, frozenset(os.sched_getaffinity(0)), _BUILD_SECONDS, env)
        except (CannotMeasure, subprocess.TimeoutExpired) as error:
            raise CannotMeasure(f"goproxy {GOPROXY} could not be built by go: {error}") from error
        (made / "made").rename(program)
    return program


@contextlib.contextmanager
def goproxy(
    folder: Path, cores: frozenset[int], upstream: str, database: str
) -> Iterator[tuple[Server, int]]:
    """goproxy with an empty cache before `upstream`, logging nothing; the folder goes with it."""
    program, port = goproxy_program(), free_port()
    (folder / "tmp").mkdir(parents=True)
    command = [str(program), "server", "--address", f"127.0.0.1:{port}", "--proxied-sumdbs", database]
    command += ["--cacher-dir", str(folder / "caches"), "--temp-dir", str(folder / "tmp")]
    env = go_environment(folder, GOPROXY=upstream, GOSUMDB=database)
    try:
        with Server(command, cores, folder / "output", env) as server:
            server.wait_for(port, "/", 404)
            yield server, port
    finally:
        shutil.rmtree(folder, ignore_errors=True)
