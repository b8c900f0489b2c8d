"""The real program as a process, in front of a scripted upstream, with a handful of documents in its cache."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactproxy import wiring
from artifactproxy.config import load
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.corpus import registry

PARSERS = {"c": "", "python": "1"}
"""Which request parser aiohttp uses, and the value of AIOHTTP_NO_EXTENSIONS that chooses it."""

SITES = {
    "open": "",
    "public": "public_url: https://cache.example/artifacts\nallowed_hosts: [cache.example]",
    "trusting": "trusted_proxies: [127.0.0.1/32]",
    "closed": "access: {read: token}",
    "registry": registry.LOCALS,
}
"""Configurations that attacks are played against."""

TOKENS = {
    "honest": ["read"],
    "elsewhere": ["read:other", "read:files-*", "read:file", "push:images", "read:files/x"],
    "publisher": ["push:images/*"],
    "keeper": ["admin:images", "read:files"],
    "revoked": ["admin"],
}
"""Tokens where reading needs one. More are `expired`, which was `admin`, and `pusher` and `owner`, who may push
into a registry, and delete there."""
_CLOSED = ("closed", "registry")

_CONFIG = """\
listen: 127.0.0.1:0
data: {folder}/data
log: {{file: {folder}/log}}
limits: {{log_bytes: 1, failed_logins: 1000000, keepalive: {keepalive}, lingering: 200ms, sweep_every: 1h}}
{site}
remotes:
  files: {{provider: generic, upstream: {origin}/files/, limits: {limits}}}
  pypi: {{provider: pypi, upstream: {origin}/simple/, limits: {limits}}}
  npm: {{provider: npm, upstream: {origin}/npm/, limits: {limits}}}
  go: {{provider: go, upstream: {origin}/go/, limits: {limits}}}
{more}"""
_LIMITS = "{connect: 2s, first_byte: 2s, idle: 2s, retries: 0}"

MARKER = b"this answer belongs to the request behind the attack\n"
GOOD = b"what an honest client is given\n"
FORGED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 24\r\nX-Forged: yes\r\n\r\n"
    b"<script>forged()</script>"
)
FILES = {
    "marker.bin": MARKER,
    "good.bin": GOOD,
    "forged.bin": FORGED,
    "forged-large.bin": FORGED * 2000,  # leaves by sendfile
    "@scope/file.bin": b"a file under a scope\n",
}


_ENTRIES = "SELECT repo, path, variant, status FROM entries ORDER BY 1, 2, 3"

Stored = tuple[list[str], list[Any], int]


@dataclass(slots=True)
class Program:
    """`log` is its request log, `said` what it wrote to its standard error."""

    process: asyncio.subprocess.Process
    port: int
    folder: Path
    chaos: Chaos
    parser: str
    etags: dict[str, str] = field(default_factory=dict)
    kept: Stored = ([], [], 0)
    tokens: dict[str, str] = field(default_factory=dict)
    _read: int = 0
    _index: sqlite3.Connection | None = None

    @property
    def shown(self) -> str:
        """The field with which an honest client says who it is, where that is asked for."""
        return f"Authorization: Bearer {self.tokens['honest']}\r\n" if self.tokens else ""

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def news(self) -> list[dict[str, Any]]:
        """Log lines since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def stored(self) -> Stored:
        """What the store holds: names of blobs, and rows that a later answer could be made from."""
        data = self.folder / "data"
        blobs = sorted(name for _, _, names in os.walk(data / "blobs") for name in names)
        if self._index is None:
            self._index = sqlite3.connect(f"file:{data / 'index.sqlite3'}?mode=ro", uri=True)
        entries = self._index.execute(_ENTRIES).fetchall()
        (promises,) = self._index.execute("SELECT count(*) FROM promises").fetchone()
        return blobs, entries, promises

    def close(self) -> None:
        if self._index is not None:
            self._index.close()

    def said(self) -> str:
        return (self.folder / "stderr").read_text()


@asynccontextmanager
async def running(
    folder: Path, parser: str, site: str = "open", keepalive: str = "3s"
) -> AsyncIterator[Program]:
    """Start, and fill the cache through the front door. `keepalive` bounds every wait for a client."""
    folder.mkdir(parents=True)
    async with Chaos() as chaos:
        script(chaos)
        more = registry.remotes(folder, chaos.origin, _LIMITS) if site == "registry" else ""
        text = _CONFIG.format(
            folder=folder,
            site=SITES[site],
            keepalive=keepalive,
            origin=chaos.origin,
            limits=_LIMITS,
            more=more,
        )
        (folder / "config.yaml").write_text(textwrap.dedent(text))
        tokens = await made_tokens(folder) if site in _CLOSED else {}
        process = await start(folder, {"AIOHTTP_NO_EXTENSIONS": PARSERS[parser]})
        try:
            program = Program(process, await _port(process, folder / "log"), folder, chaos, parser)
            program.tokens = tokens
            with closing(program):
                if more:
                    registry.script(chaos)
                    await registry.push(program.port, tokens["pusher"])
                await fill(program, registry.HONEST if more else [], registry.ROWS if more else 0)
                yield program
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def made_tokens(folder: Path) -> dict[str, str]:
    config = load(folder / "config.yaml", env={}, flags={})
    async with wiring.token_desk(config) as desk:
        made = {name: (await desk.create(name, scopes, None))["token"] for name, scopes in TOKENS.items()}
        await desk.revoke("revoked")
        for name, right in (("pusher", "push"), ("owner", "admin")):
            made[name] = (await desk.create(name, [f"{right}:images", f"{right}:fixed"], None))["token"]
        made["expired"] = (await desk.create("expired", ["admin"], 0.001))["token"]
    return made


async def start(folder: Path, env: dict[str, str]) -> asyncio.subprocess.Process:
    with (folder / "stderr").open("wb") as stderr:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "artifactproxy", "serve", "--config", str(folder / "config.yaml")),
            env={**os.environ, **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )


async def _port(process: asyncio.subprocess.Process, log: Path) -> int:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = await process.stdout.readline()
    assert line.startswith(b"artifactproxy listens on "), line
    listening = [json.loads(told) for told in log.read_text().splitlines() if '"listening"' in told]
    return int(listening[-1]["port"])


def script(chaos: Chaos) -> None:
    """What upstream has; everything else is 404 there."""
    for name, body in FILES.items():
        chaos.script(f"/files/{name}", status(200, body, ETag=f'"{name}"'))
    wheel = chaos.script("/demo-1.0-py3-none-any.whl", ok(), size=5000)
    file = {"filename": wheel.name[1:], "url": chaos.url(wheel.name), "hashes": {"sha256": wheel.sha256}}
    page = {"meta": {"api-version": "1.0"}, "name": "demo", "files": [file]}
    chaos.script("/simple/demo/", _json(page, "application/vnd.pypi.simple.v1+json"))
    for name in ("demo", "@scope/demo"):
        path = f"/npm/{name}".replace("@scope/", "@scope%2f")
        tarball = chaos.url(f"/npm/{name}/-/demo-1.0.0.tgz")
        version = {"name": name, "version": "1.0.0", "dist": {"tarball": tarball, "shasum": "0" * 40}}
        chaos.script(
            path, _json({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})
        )
    for path in ("advisories/bulk", "audits", "audits/quick"):
        chaos.script(f"/npm/-/npm/v1/security/{path}", _json({"advisories": {}}))
    chaos.script("/go/mod.example/demo/@v/list", status(200, b"v1.0.0\n"))


def _json(value: object, media_type: str = "application/json") -> Any:
    return status(200, json.dumps(value).encode(), Content_Type=media_type)


HONEST = [
    *(f"/files/{name}" for name in FILES),
    "/pypi/simple/demo/",
    "/npm/demo",
    "/npm/@scope%2fdemo",
    "/go/mod.example/demo/@v/list",
]


async def fill(program: Program, more: list[str], rows: int) -> None:
    """Ask for everything twice: the second answer comes from the cache, so that attacks find hits."""
    for target in [*HONEST, *more]:
        for _ in range(2):
            head, body = await _get(program, target)
            assert head.startswith(b"HTTP/1.1 200 "), head
        name = target.removeprefix("/files/")
        if name in FILES:
            assert body == FILES[name]
            found = re.search(rb"(?i)\r\netag: ([^\r]+)", head)
            assert found, head
            program.etags[name] = found[1].decode()
    async with asyncio.timeout(60):
        while len(program.stored()[1]) < len(HONEST) + rows:
            await asyncio.sleep(0.01)
    program.kept = program.stored()


async def _get(program: Program, target: str) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", program.port)
    host = "cache.example" if "cache.example" in (program.folder / "config.yaml").read_text() else "localhost"
    shown = program.shown
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{shown}Connection: close\r\n\r\n".encode())
    async with asyncio.timeout(60):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body
