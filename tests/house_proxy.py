"""The whole program in this process, behind a real socket, with a store that is checked at the end."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from artifactproxy import wiring
from artifactproxy.config import Config, load
from artifactproxy.engine.engine import Engine
from artifactproxy.inspection import inspect
from artifactproxy.ports import Clock
from artifactproxy.providers._base import Provider
from artifactproxy.web.access import AccessRules
from artifactproxy.web.app import WebServer
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import status

FAST = {  # in what does not depend on how busy this machine is
    "connect": "10s",
    "first_byte": "10s",
    "idle": "10s",
    "min_rate": "0",
    "retry_base": "1ms",
    "breaker_failures": "1000",
    "queue_wait": "20s",
}
PROMPT = (
    "connect: 1s\nfirst_byte: 600ms\nidle: 400ms\nqueue_wait: 2s"  # `extra` where upstream is to be given up
)

POOLED = 40  # sockets that may stay open towards upstream, both ends being in this process


@dataclass(slots=True)
class Got:
    """One answer as a client saw it; `body` None means that it did not end cleanly."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    reason: str = ""

    @property
    def source(self) -> str:
        return self.headers.get("X-Artifact-Source", "")

    @property
    def error(self) -> str:
        return self.headers.get("X-Proxy-Error", "")


@dataclass(slots=True)
class Proxy:
    """A running instance; `files` is a generic remote, `pypi` a PyPI one, both of the chaos server."""

    base: str
    engine: Engine
    server: WebServer
    data: Path
    client: aiohttp.ClientSession
    sockets: int = 0
    log: Path = field(default_factory=Path)

    async def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(
            method, self.base + path, headers=named, allow_redirects=False
        ) as answer:
            try:
                body: bytes | None = await answer.read()
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                body = None
            return Got(answer.status, answer.headers.copy(), body, answer.reason or "")

    async def settled(self) -> None:
        """Until nothing runs any more: fills stored, readers gone."""
        for _ in range(5_000):
            states = self.engine.states()
            if not states["fills"] and not states["temp_bytes"]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"still running: {self.engine.states()}")

    def temp_files(self) -> list[str]:
        return sorted(os.listdir(self.data / "tmp"))

    def blobs(self) -> list[Path]:
        return sorted(p for p in (self.data / "blobs").rglob("*") if p.is_file())

    def log_lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def check(self, but: str = "") -> None:
        """The store is consistent, and nothing is left over; `but` are invariants that the test
        broke itself."""
        await self.settled()
        assert self.temp_files() == []
        providers = {name: mount.provider for name, mount in self.engine.mounts().items()}
        await check_folder(self.data, providers, but)
        await self.upstream_idle()
        for _ in range(1_000):
            left = self.open_bodies()
            if (
                len(left) == self.engine.states()["rendered_files"]
                and open_sockets() <= self.sockets + POOLED
            ):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(
            f"descriptors left open: {left}, {open_sockets()} sockets, {self.sockets} at first"
        )

    async def upstream_idle(self) -> None:
        """No request towards upstream is held open by anybody."""
        for _ in range(2_000):
            busy = {
                origin: s.active for origin, s in self.engine._parts.upstream.states().items() if s.active
            }
            if not busy:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"open towards upstream: {busy}")

    def open_bodies(self) -> list[str]:
        """Descriptors of temp files and blobs."""
        folders = (f"{self.data}/tmp", f"{self.data}/blobs")
        return [name for name in fd_names() if name.startswith(folders)]


def check_store(data: Path, but: str = "") -> None:
    """The full check of the program itself (`artifactproxy fsck --full`) finds nothing. For tests
    whose loop may wait meanwhile; it needs a thread, as it may run inside of one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(check_folder(data, but=but))).result()


async def check_folder(data: Path, providers: Mapping[str, Provider] | None = None, but: str = "") -> None:
    """The same, beside whatever works in the folder."""
    findings, summary = await inspect(data, providers)
    wrong = [
        f"{f.invariant} {f.kind} {f.subject}: {f.detail}"
        for f in findings
        if not f.note and f.invariant not in but
    ]
    assert not wrong, "\n".join(wrong)
    blobs = sum(1 for path in (data / "blobs").rglob("*") if path.is_file())
    assert summary["checked"]["hashed"] >= blobs, "not everything was looked at"


def open_sockets() -> int:
    return sum(name.startswith("socket:") for name in fd_names())


def fd_names() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return names


def configuration(
    folder: Path,
    upstream: str,
    extra: str = "",
    remote: str = "",
    top: str = "",
    files: str = "",
    remotes: str = "",
) -> Config:
    """A configuration file for the chaos server, loaded as the program loads it. `extra` are limits
    of both remotes, `remote` further keys of both, `top` further keys of the whole, `files` the
    upstreams of the generic remote where they differ, `remotes` one further remote, whose
    limits are added."""
    chosen = FAST | dict(line.split(": ") for line in extra.splitlines())
    limits = "\n".join(f"      {key}: {value}" for key, value in chosen.items())
    more = textwrap.indent(textwrap.dedent(remote), "    ")
    text = f"""
listen: 127.0.0.1:0
data: {folder / "data"}
log: {{file: {folder / "log"}}}
{textwrap.dedent(top)}
remotes:
  files:
    provider: generic
    upstream: {files or upstream + "/"}
{more}
    limits:
{limits}
  pypi:
    provider: pypi
    upstream: {upstream}/simple/
{more}
    limits:
{limits}
"""
    if remotes:
        text += textwrap.indent(textwrap.dedent(remotes), "  ") + f"    limits:\n{limits}\n"
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(text)
    return load(path, env={}, flags={})


@asynccontextmanager
async def proxied(
    folder: Path,
    upstream: str,
    extra: str = "",
    remote: str = "",
    top: str = "",
    files: str = "",
    remotes: str = "",
    clock: Clock = time.time,
) -> AsyncIterator[Proxy]:
    config = configuration(folder, upstream, extra, remote, top, files, remotes)
    async with served(config, folder, clock) as proxy:
        yield proxy


@asynccontextmanager
async def served(config: Config, folder: Path, clock: Clock = time.time) -> AsyncIterator[Proxy]:
    """The whole of it, as this configuration has it; its log is `folder/log`."""
    async with wiring.running(config, clock) as (engine, observations, _):
        access = AccessRules(
            config.public_url, config.trusted_proxies, config.allowed_hosts, config.oci_default or ""
        )
        server = WebServer(engine, observations, config.limits, access, via=wiring.VIA)
        engine.start()
        host, port = await server.start("127.0.0.1", 0)
        session = aiohttp.ClientSession(
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding"],  # a test that wants a coding says so
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=30),
        )
        try:
            async with session:
                proxy = Proxy(
                    f"http://{host}:{port}",
                    engine,
                    server,
                    config.data,
                    session,
                    open_sockets(),
                    folder / "log",
                )
                yield proxy
        finally:
            await server.close()


def promise(chaos: Chaos, name: str, body: Oracle, *, sha256: str = "", sidecar: str = "") -> str:
    """Script a project page that lists `name`; returns the path of the file at the proxy."""
    project = name.partition("-")[0]
    entry: dict[str, object] = {
        "filename": name,
        "url": chaos.url(f"/{name}"),
        "hashes": {"sha256": sha256 or body.sha256},
        "upload-time": "2026-01-02T03:04:05Z",
        "size": body.size,
    }
    if sidecar:
        entry["core-metadata"] = {"sha256": sidecar}
    page = {"meta": {"api-version": "1.1"}, "name": project, "versions": ["1.0"], "files": [entry]}
    chaos.script(
        f"/simple/{project}/",
        status(200, json.dumps(page).encode(), Content_Type="application/vnd.pypi.simple.v1+json"),
    )
    return f"/pypi/packages/127.0.0.1:{chaos.port}/{name}"
