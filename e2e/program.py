"""One command of the program: how it ended and what it said, to a pipe or to a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from e2e.servers import ROOT

SECONDS = 300.0
PROGRAM = (sys.executable, "-m", "artifactproxy")


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """The caller's own, without settings for another proxy of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARTIFACTPROXY_")}
    return kept | {"PYTHONPATH": str(ROOT)} | extra


def run(*arguments: str, env: Mapping[str, str]) -> Done:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*arguments: str, env: Mapping[str, str]) -> tuple[int, str]:
    """The exit code, and all that is shown to whoever watches."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment(**env, TERM="xterm", COLUMNS="160"),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # Linux tells the end of a terminal so
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    return process.wait(SECONDS), seen.decode()
