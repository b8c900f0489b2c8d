"""The program in a process of its own, as a user starts it."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

START = (sys.executable, "-m", "artifactproxy")


@asynccontextmanager
async def started(
    folder: Path,
    *before: str,
    env: Mapping[str, str] | None = None,
    open_files: tuple[int, int] | None = None,
    stderr: int = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Serve what `folder/config.yaml` says; yields the process and its address, and kills what is left.

    `before` is a command that ends by becoming the program, such as prlimit; `open_files` are its
    soft and hard limit.
    """

    def limit() -> None:
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, open_files)

    process = await asyncio.create_subprocess_exec(
        *(*before, *START, "serve", "--config", str(folder / "config.yaml")),
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        preexec_fn=limit if open_files else None,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        found = re.search(rb"http://127\.0\.0\.1:\d+", line)
        assert found, line + (await process.stderr.read() if process.stderr else b"")
        yield process, found.group().decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
