"""Verdaccio, an npm registry and cache written for Node.js, as the peer to measure beside; and what
npm uses by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.model import CannotMeasure
from bench.servers import Server, free_port, run_pinned, tool

VERDACCIO = "6.8.0"  # the last one for Node 20

_INSTALL_SECONDS = 240.0

# One of its dependencies is asked for by a dist-tag, which mirrors of the registry may not know.
_VERDACCIO_NEEDS = {"dependencies": {"verdaccio": VERDACCIO}, "overrides": {"node-fetch": "2.6.7"}}

# Its better case: no log of requests, no web pages, and an index is asked for again after a day.
_VERDACCIO_CONFIG = """
storage: ./storage
auth: {{htpasswd: {{file: ./htpasswd, max_users: -1}}}}
uplinks:
  up: {{url: '{upstream}', maxage: 1d, timeout: 60s, max_fails: 1000, fail_timeout: 1s}}
packages:
  '@*/*': {{access: $all, proxy: up}}
  '**': {{access: $all, proxy: up}}
web: {{enable: false}}
log: {{type: stdout, format: json, level: error}}
"""


def public_registry(cores: frozenset[int]) -> str:
    """The npm registry that this machine's npm uses, with a trailing slash."""
    printed = run_pinned([tool("npm"), "config", "get", "registry"], cores, 30)
    return printed.strip().rstrip("/") + "/"


def verdaccio_program() -> Path:
    """Verdaccio's start file, installed once into the user's cache folder by npm.

    Raises `CannotMeasure` if that cannot be done.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artifactproxy-bench"
    home = caches / f"verdaccio-{VERDACCIO}"
    program = home / "node_modules" / "verdaccio" / "bin" / "verdaccio"
    if program.exists():
        return program
    caches.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=caches, prefix="verdaccio-") as name:
        made = Path(name) / "made"
        made.mkdir()
        (made / "package.json").write_text(json.dumps({"private": True, **_VERDACCIO_NEEDS}))
        command = [
            tool("npm"),
            "install",
            "--prefix",
            str(made),
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]
        command += ["--loglevel", "error"]
        try:
            run_pinned(command, frozenset(os.sched_getaffinity(0)), _INSTALL_SECONDS)
        except CannotMeasure as error:
            raise CannotMeasure(f"verdaccio {VERDACCIO} could not be installed by npm: {error}") from error
        made.rename(home)
    return program


@contextlib.contextmanager
def verdaccio(folder: Path, cores: frozenset[int], upstream: str) -> Iterator[tuple[Server, int]]:
    """Verdaccio with an empty storage before `upstream`; the folder goes with it."""
    node, program, port = tool("node"), verdaccio_program(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(_VERDACCIO_CONFIG.format(upstream=upstream))
    command = [node, str(program), "--config", str(config), "--listen", f"127.0.0.1:{port}"]
    try:
        with Server(command, cores, folder / "output", os.environ | {"NODE_ENV": "production"}) as server:
            server.wait_for(port, "/-/ping")
            yield server, port
    finally:
        shutil.rmtree(folder, ignore_errors=True)
