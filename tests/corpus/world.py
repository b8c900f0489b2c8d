"""The whole program with one remote of each kind, a hostile upstream and the recorders around it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from multidict import CIMultiDict

from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.chaos.certs import Authority
from tests.corpus.recorders import FRIEND, Names, Recorders, Wire, recorders, watched
from tests.house_proxy import Got, Proxy, proxied

CANARY = "c0rpus-canary-credential"
HONEST = b"an honest body\n" * 100

NAMES = {
    "friend.example": [[FRIEND]],
    "self.example": [["127.0.0.1"]],
    "private.example": [["127.0.0.2"]],
    "metadata.example": [["169.254.169.254"]],
    "both.example": [["127.0.0.2", FRIEND, "::1"]],
    "inner.example": [["127.0.0.2", "10.0.0.1", "::1", "fd00::1", "::ffff:127.0.0.1"]],
    "rebind.example": [[FRIEND], ["127.0.0.2"]],
    "rebound.example": [["127.0.0.2"], [FRIEND]],
}


@dataclass
class World:
    """`secure` is an upstream with TLS; its generic and PyPI remotes are `safe` and `safepypi`."""

    proxy: Proxy
    chaos: Chaos
    secure: Chaos
    recorders: Recorders
    wire: Wire
    index: sqlite3.Connection
    before: tuple[set[str], set[tuple[str, str]]] = (set(), set())
    log_at: int = 0
    asked: list[tuple[str, str, Got]] = field(default_factory=list)

    def filled(self, url: str) -> str:
        """A URL of the corpus with the ports of this run."""
        ports = {"port": self.recorders.port, "upstream": self.chaos.port, "tls": self.secure.port}
        for name, port in ports.items():
            url = url.replace("{" + name + "}", str(port))
        return url.replace("{proxy}", self.proxy.base.rpartition(":")[2])

    def mark(self) -> None:
        """What is stored from here on, the attack stored."""
        self.before = self._kept()

    def stored(self) -> tuple[set[str], set[tuple[str, str]]]:
        blobs, rows = self._kept()
        return blobs - self.before[0], rows - self.before[1]

    def _kept(self) -> tuple[set[str], set[tuple[str, str]]]:
        rows = self.index.execute("SELECT repo, path FROM entries WHERE sha256 IS NOT NULL")
        return self._blobs(), {(row[0], row[1]) for row in rows}

    def _blobs(self) -> set[str]:
        return {row[0] for row in self.index.execute("SELECT sha256 FROM blobs")}

    async def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        got = await self.proxy.get(path, method, **headers)
        self.asked.append((path, method, got))
        return got

    async def send(self, path: str, request: bytes) -> Got:
        """These very bytes, which ask to close."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.proxy.base.rpartition(":")[2]))
        writer.write(request)
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        writer.close()
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = CIMultiDict(field.split(": ", 1) for field in fields)
        got = Got(int(line.split()[1]), headers, body)
        self.asked.append((path, "GET", got))
        return got

    async def begin(self) -> None:
        await self.proxy.settled()
        self.asked.clear()
        self.wire.connects.clear()
        self.wire.names.asked.clear()
        self.recorders.friend.requests.clear()
        self.mark()

    def strangers(self) -> list[tuple[str, int]]:
        """Where this process connected to, but for ourselves, the configured upstreams and the friend."""
        own = int(self.proxy.base.rpartition(":")[2])
        known = {("127.0.0.1", port) for port in (own, self.chaos.port, self.secure.port)}
        return [where for where in self.wire.connects if where not in known | {(FRIEND, self.recorders.port)}]

    def leaks(self) -> list[str]:
        """Where the credential of the remotes turned up, other than at their own upstream."""
        token, found = CANARY.encode(), []
        for recorder in (self.recorders.friend, *self.recorders.hidden):
            found += [f"at {recorder.host}" for seen in recorder.requests if token in seen.raw]
        for _, _, got in self.asked:
            if token in (got.body or b"") or CANARY in json.dumps(list(got.headers.items())):
                found.append("in an answer")
        with self.proxy.log.open("rb") as log:
            log.seek(self.log_at)
            text = log.read()
        if token in text:
            found.append("in the log")
        self.log_at += max(0, len(text) - len(token))
        return found

    async def normal(self, name: str) -> None:
        """The program is alive: nothing of the case goes on, and an honest file is fetched."""
        await self.proxy.settled()
        await self.proxy.upstream_idle()
        assert self.proxy.temp_files() == []
        self.chaos.script(f"/{name}/honest.json", status(200, HONEST))
        got = await self.proxy.get(f"/files/{name}/honest.json")
        assert (got.status, got.source, got.body) == (200, "remote", HONEST)

    async def check(self) -> None:
        """All of what is kept is right, no descriptor is left open, and what is held is served."""
        await self.proxy.check()
        assert {blob.name for blob in self.proxy.blobs()} == self._blobs()
        got = await self.proxy.get("/files/held.bin")
        assert (got.status, got.source, got.body) == (200, "cache", HONEST)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    secret = folder / "secret"
    secret.write_text(CANARY)
    authority = Authority.make(folder)
    names = Names({name: list(answers) for name, answers in NAMES.items()})
    auth = f"auth: {{bearer: {{file: {secret}}}}}\nallow_private: ['{FRIEND}/32']"
    async with recorders() as silent, Chaos() as chaos, Chaos(tls=authority.server("IP:127.0.0.1")) as secure:
        lines = auth.replace("\n", "\n  ")
        quick = "limits: {breaker_failures: 1000, retry_base: 1ms}"
        remotes = f"""
npm:
  provider: npm
  upstream: {chaos.origin}/npm/
  {quick}
  {lines}
go:
  provider: go
  upstream: {chaos.origin}/go/
  {quick}
  {lines}
safepypi:
  provider: pypi
  upstream: {secure.origin}/simple/
  egress: {{ca: {authority.pem}}}
  {quick}
  {lines}
safenpm:
  provider: npm
  upstream: {secure.origin}/npm/
  egress: {{ca: {authority.pem}}}
  {quick}
  {lines}
safe:
  provider: generic
  upstream: {secure.origin}/
  egress: {{ca: {authority.pem}}}
  {lines}
"""
        with watched(names) as wire:
            top = "limits: {log_every: 1ms, error_memory: 10ms}"
            async with proxied(folder, chaos.origin, remote=auth, remotes=remotes, top=top) as proxy:
                index = sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True)
                made = World(proxy, chaos, secure, silent, wire, index)
                chaos.script("/held.bin", status(200, HONEST))
                assert (await proxy.get("/files/held.bin")).status == 200
                await proxy.settled()
                yield made
                await made.check()
                index.close()
                assert made.leaks() == []
                assert CANARY not in (await proxy.get("/metrics")).body.decode()
