"""The program in a process of its own, as a user starts it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp

from tests.program import started


def program(
    folder: Path, failpoints: str = ""
) -> AbstractAsyncContextManager[tuple[asyncio.subprocess.Process, str]]:
    """The program as a user starts it, with these failpoints armed; yields it and its address."""
    return started(folder, env={"ARTIFACTPROXY_FAILPOINTS": failpoints})


async def fetch(url: str) -> tuple[int, str, bytes | None]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as answer:
                return answer.status, answer.headers.get("X-Artifact-Source", ""), await answer.read()
        except aiohttp.ClientError:
            return 0, "", None
