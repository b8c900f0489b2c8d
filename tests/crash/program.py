"""The program in a process of its own, as a user starts it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp


@asynccontextmanager
async def program(
    folder: Path, failpoints: str = ""
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The program as a user starts it; yields it and its address."""
    env = {**os.environ, "ARTIFACTPROXY_FAILPOINTS": failpoints}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "serve", "--config", str(folder / "config.yaml")),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        found = re.search(rb"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield process, found.group().decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def fetch(url: str) -> tuple[int, str, bytes | None]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as answer:
                return answer.status, answer.headers.get("X-Artifact-Source", ""), await answer.read()
        except aiohttp.ClientError:
            return 0, "", None
