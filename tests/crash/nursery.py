"""Starts the program many times without waiting for the interpreter: `python -m tests.crash.nursery`.

The nursery imports everything once and then forks: each child is a process of its own that runs the
command line as a user would, only half a second sooner. One JSON order a line comes in, one answer
goes out. A child may be told to fail at a failpoint, and to write down which ones it passes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ADDRESS = re.compile(rb"http://127\.0\.0\.1:\d+")
START_SECONDS = 20.0


@dataclass(slots=True)
class Child:
    """A running program; `passed` are the failpoints it came by, if it was told to note them."""

    nursery: Nursery
    pid: int
    said: Path
    noted: Path
    code: int | None = None

    @property
    def passed(self) -> list[str]:
        return self.noted.read_text().split() if self.noted.exists() else []

    async def address(self) -> str:
        """Where it listens. Raises AssertionError with its exit code if it ends instead."""
        for _ in range(int(START_SECONDS * 200)):
            found = ADDRESS.search(self.said.read_bytes())
            if found:
                return found.group().decode()
            if await self._ended():
                break
            await asyncio.sleep(0.005)
        raise AssertionError(f"the program did not start: {self.code} {self.said.read_text()}")

    async def _ended(self) -> bool:
        if self.code is None:
            self.code = await self.nursery.order(do="poll", pid=self.pid)
        return self.code is not None

    def signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)  # it stays a zombie until we wait, so the number is its own

    async def wait(self, seconds: float = 15.0) -> int:
        """The exit code, negative for a signal. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not await self._ended():
                await asyncio.sleep(0.005)
        assert self.code is not None
        return self.code


class Nursery:
    """The parent's end: one process that forks on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._lock = asyncio.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def order(self, **order: Any) -> Any:
        async with self._lock:
            return await asyncio.to_thread(self._ask, order)

    def _ask(self, order: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    async def start(self, config: Path, failpoints: str = "") -> Child:
        self._number += 1
        said, noted = (self._folder / f"{self._number}.{kind}" for kind in ("said", "noted"))
        said.touch()
        pid = await self.order(
            do="start", config=str(config), failpoints=failpoints, said=str(said), noted=str(noted)
        )
        return Child(self, pid, said, noted)

    @asynccontextmanager
    async def program(self, config: Path, failpoints: str = "") -> AsyncIterator[tuple[Child, str]]:
        """A started program and its address; killed at the end, if it still runs."""
        child = await self.start(config, failpoints)
        try:
            yield child, await child.address()
        finally:
            child.signal(signal.SIGKILL)
            await child.wait()

    def close(self) -> None:
        """Its end of input ends it, and it takes its children along."""
        self._process.communicate(timeout=START_SECONDS)


def _note(path: str) -> None:
    """Write down every failpoint that is passed, before it acts."""
    from artifactproxy import failpoints

    act = failpoints.hit

    def noted(name: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, name.encode() + b"\n")
        os.close(fd)
        act(name)

    failpoints.hit = noted


def _run(order: dict[str, Any]) -> None:
    """In the child; does not return."""
    from artifactproxy import cli, failpoints

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(order["said"], os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    failpoints.arm(order["failpoints"])
    _note(order["noted"])
    try:
        cli.main(["serve", "--config", order["config"]])
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _main() -> None:
    for room in ("wiring", "web.access", "web.app"):
        import_module(f"artifactproxy.{room}")
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        answer: int | None
        if order["do"] == "start":
            answer = os.fork()
            if answer == 0:
                _run(order)
            children.add(answer)
        else:
            answer = _poll(order["pid"])
            if answer is not None:
                children.discard(order["pid"])
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main()
