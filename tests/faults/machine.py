"""What the tests of the local machine share: small disks, and the program as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from tests.house_proxy import Got, Proxy
from tests.program import START, started

# --- disks ----------------------------------------------------------------------------------


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """`mount(folder, *options)` as mount(8) does it, undone at the end, the last first."""
    mounted: list[Path] = []

    def act(folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"needs root: mount {' '.join(options)}: {done.stderr.decode().strip()}")
        if not any(option.startswith("remount") for option in options):
            mounted.append(folder)

    yield act
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def umount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


def read_only(mount: Callable[..., None], folder: Path) -> None:
    """Whatever is opened from now on under `folder` cannot be written."""
    mount(folder, "--bind", str(folder))
    mount(folder, "-o", "remount,bind,ro")


def fill_up(folder: Path) -> list[Path]:
    """Take every byte that is left there; returns what must go to have them back."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * 512)
    return [ballast]


def use_up_inodes(folder: Path) -> list[Path]:
    taken = []
    with contextlib.suppress(OSError):
        for number in range(1000):
            path = folder / f"ballast-{number}"
            path.touch(exist_ok=False)
            taken.append(path)
    return taken


# --- what an instance in this process says --------------------------------------------------


class Asked(Protocol):
    """Whatever shows its metrics."""

    async def get(self, path: str) -> Got: ...


async def metric(proxy: Asked, name: str, **labels: str) -> float:
    """The sum of the series of `artifactproxy_<name>` that carry these labels; 0 if there is none."""
    text = ((await proxy.get("/metrics")).body or b"").decode()
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"artifactproxy_{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            total += float(match[2])
    return total


async def readiness(proxy: Proxy | Running) -> tuple[int, dict[str, str]]:
    got = await proxy.get("/readyz")
    return got.status, json.loads(got.body or b"{}")


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


async def told(proxy: Proxy | Running, true: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """The first log line of which this is true; lines are written a moment late."""
    async with asyncio.timeout(60):
        while True:
            for line in proxy.log_lines():
                if true(line):
                    return line
            await asyncio.sleep(0.02)


# --- a process of its own -------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """The program as a user starts it."""

    process: asyncio.subprocess.Process
    base: str
    folder: Path
    client: aiohttp.ClientSession
    pid: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    async def get(self, path: str, **headers: str) -> Got:
        """A status of 0 tells that there was no answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with self.client.get(self.base + path, headers=named) as answer:
                try:
                    body: bytes | None = await answer.read()
                except aiohttp.ClientError:
                    body = None
                return Got(answer.status, answer.headers.copy(), body)
        except aiohttp.ClientError:
            return Got(0, {}, None)

    def log_lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def status(self, field: str) -> int:
        """A number of proc_pid_status(5): kilobytes for memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def ended(self, seconds: float = 15.0) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        os.kill(self.pid, number)
        return await self.ended()


@asynccontextmanager
async def program(folder: Path, *before: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Serve what `folder/config.yaml` says; `before` is a command that starts it, such as prlimit,
    and ends by becoming it."""
    async with started(folder, *before, env=env, stderr=asyncio.subprocess.PIPE) as (process, base):
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(
            auto_decompress=False, connector=connector, timeout=timeout
        ) as session:
            yield Running(process, base, folder, session, process.pid)


async def command(folder: Path, *words: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Another command on the same configuration: its exit code, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(*before, *START, *words, "--config", str(folder / "config.yaml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@asynccontextmanager
async def injecting(proxy: Running, what: str, trace: Path = Path("/dev/null")) -> AsyncIterator[None]:
    """While this is open the kernel answers system calls of the program as strace(1) is told to:
    `fsync:error=EIO:when=2`. The lines of `trace` name the files."""
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-y", "-o", str(trace), "-p", str(proxy.pid)),
        *("-e", f"trace={what.partition(':')[0]}", "-e", f"inject={what}"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    try:
        async with asyncio.timeout(60):
            said = await tracer.stderr.readline()
        if b"attached" not in said:
            pytest.skip(f"strace may not attach here: {said.decode().strip()}")
        traced = f"TracerPid:\t{tracer.pid}"
        await until(lambda: traced in Path(f"/proc/{proxy.pid}/status").read_text())
        yield
    finally:
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)
        await tracer.communicate()
