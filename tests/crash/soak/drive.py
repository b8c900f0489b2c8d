"""Random operations on the real program, which is killed again and again at random moments.

Lives without a limit are strict: what is surely stored when one is killed must be answered by the
next with upstream cut off. Between two of them a life with a small `data_limit` may evict anything.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.chaos import Chaos
from tests.crash.program import program
from tests.crash.soak.world import Document, World
from tests.house_proxy import FAST, check_store

BATCH = 24
PROXY_TROUBLE = (404, 412, 416, 429, 502, 503, 504)
BREAKS = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)


@dataclass(slots=True)
class Tally:
    """What was done and what was found; `failures` say it in words."""

    operations: int = 0
    kills: int = 0
    restarts: int = 0
    bodies_checked: int = 0
    bytes_checked: int = 0
    from_cache: int = 0
    resets: int = 0
    refusals: int = 0
    survivors: int = 0  # acknowledged documents that were asked for after a kill, upstream cut off
    wrong: int = 0
    short: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)


class Drive:
    """One folder, one upstream, many lives of the program."""

    def __init__(
        self, folder: Path, chaos: Chaos, seed: int, say: Callable[[str], None], evicting: float = 0.25
    ) -> None:
        """`evicting` is the share of lives with a small limit."""
        self.folder = folder
        self.tally = Tally()
        self._chaos = chaos
        self._rng = random.Random(seed)
        self._world = World(chaos, self._rng)
        self._say = say
        self._evicting = evicting
        self._port = _free_port()
        self._base = f"http://127.0.0.1:{self._port}"
        self._hot = self._rng.sample(self._world.documents, 60)
        self._session: aiohttp.ClientSession | None = None

    async def run(self, operations: int, kills: int) -> Tally:
        """Until both numbers are reached, or something is found."""
        started, tally = time.monotonic(), self.tally
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._session:
            while (tally.operations < operations or tally.kills < kills) and not tally.failures:
                left = max(kills - tally.kills, 1)
                await self._life(max(operations - tally.operations, 0) // left)
                if tally.restarts % 10 == 0:
                    self._say(
                        f"{time.monotonic() - started:5.0f} s: {tally.operations} operations, {tally.kills} kills,"
                        f" {tally.bodies_checked} bodies, {tally.from_cache} from the cache,"
                        f" {tally.survivors} survivors asked for"
                    )
        return tally

    # --- a life ---

    async def _life(self, operations: int) -> None:
        rng, strict = self._rng, self._rng.random() >= self._evicting
        self._configure(None if strict else rng.choice([300_000, 2_000_000]))
        if not strict:
            for document in self._world.documents:
                document.forget()
        self._world.calm()
        await self._chaos.stop()  # nothing but what is stored can be answered
        async with program(self.folder) as (process, _):
            self.tally.restarts += 1
            try:
                if strict:
                    await self._survived()
                await self._chaos.start(self._chaos.port)
                until = self.tally.operations + operations
                while self.tally.operations < until and not self.tally.failures:
                    await self._batch()
                    await self._between(strict=strict)
                if strict:
                    await self._look()
                await self._end(process)
            except BREAKS as error:
                if process.returncode is not None:
                    self._failed("lost", f"the program ended by itself: {process.returncode}")
                raise error
        for document in self._world.documents:
            document.killed()
        await self._offline_check()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Something cold is under way when it dies, or is told to stop."""
        rng = self._rng
        await self._purge(rng.choice(("files", "pypi", "npm")), "")
        for _ in range(4):
            self._world.advance()
        batch = asyncio.create_task(self._batch(cold=True))
        await asyncio.sleep(rng.random() ** 2 * 0.15)
        if rng.random() < 0.1:
            process.send_signal(signal.SIGTERM)
        else:
            process.kill()
            self.tally.kills += 1
        await batch
        code = await asyncio.wait_for(process.wait(), 40)
        if code not in (0, -signal.SIGKILL):
            self._failed("lost", f"the program ended with {code}")

    async def _offline_check(self) -> None:
        """What a killed process was working on lies there until the next start."""
        try:
            await asyncio.to_thread(check_store, self.folder / "data", "I13")
        except AssertionError as error:
            self._failed("lost", f"the store is not consistent: {error}")

    async def _survived(self) -> None:
        for document in self._world.documents:
            if document.stored < 0:
                continue
            self.tally.survivors += 1
            status, source, version = await self._answer(document)
            if status != 200 or source != "cache" or version is None or version < document.stored:
                self._failed("lost", f"{document.path}: stored {document.stored}, now {status} {version}")

    # --- between requests ---

    async def _between(self, *, strict: bool) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            self._world.disturb()
        if rng.random() < 0.3:
            self._world.advance()
        if rng.random() < 0.03:
            self._hot = rng.sample(self._world.documents, 60)
        if rng.random() < 0.02:
            await self._purge(rng.choice(("files", "pypi", "npm")), "")
        elif rng.random() < 0.1:
            document = rng.choice(self._world.files)
            await self._purge(document.repo, document.path.partition(f"/{document.repo}/")[2])
        if rng.random() < 0.02:
            await self._command("POST", "gc", run=True)
            self.tally.operations += 1
        if strict and rng.random() < 0.15:
            await self._look()

    async def _look(self) -> None:
        """Once no fill runs, whatever was answered from the cache is stored."""
        for _ in range(500):
            if not (await self._command("GET", "stats"))["running"]["fills"]:
                break
            await asyncio.sleep(0.01)
        else:
            return
        for document in self._world.documents:
            document.stored, document.seen = max(document.stored, document.seen), -1

    async def _purge(self, repo: str, path: str) -> None:
        for document in self._world.documents:
            if document.repo == repo and path in ("", document.path.partition(f"/{repo}/")[2]):
                document.forget()
        await self._command("POST", "purge", repo=repo, path=path)
        self.tally.operations += 1

    async def _command(self, method: str, name: str, **arguments: object) -> dict[str, object]:
        connector = aiohttp.UnixConnector(path=str(self.folder / "data" / "control.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            body = arguments if method == "POST" else None
            async with session.request(method, f"http://localhost/{name}", json=body) as answer:
                return await answer.json()

    # --- requests ---

    async def _batch(self, *, cold: bool = False) -> None:
        rng, hot = self._rng, self._hot
        asked = [
            rng.choice(self._world.documents if cold or rng.random() < 0.1 else hot) for _ in range(BATCH)
        ]
        same = rng.choice(asked)
        if rng.random() < 0.2:
            asked += [same] * 6
        await asyncio.gather(*(self._request(document) for document in asked))

    async def _request(self, document: Document) -> None:
        kind = self._rng.random()
        self.tally.operations += 1
        if document.body is not None and kind < 0.12:
            await self._range(document)
        elif kind < 0.17:
            await self._head(document)
        elif kind < 0.24 and document.mutable and document.tags:
            await self._conditional(document)
        else:
            await self._answer(document, no_cache=kind > 0.97)

    def _get(
        self, document: Document, method: str = "GET", **headers: str
    ) -> aiohttp.client._RequestContextManager:
        assert self._session is not None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if document.accept:
            named["Accept"] = document.accept
        named["Accept-Encoding"] = "identity"
        return self._session.request(method, self._base + document.path, headers=named, allow_redirects=False)

    async def _answer(self, document: Document, *, no_cache: bool = False) -> tuple[int, str, int | None]:
        """A whole answer, judged: its status, where it came from and its version."""
        floor = document.floor
        headers = {"Cache_Control": "no-cache"} if no_cache else {}
        try:
            async with self._get(document, **headers) as answer:
                body = await answer.read()
        except BREAKS:
            self.tally.resets += 1
            return 0, "", None
        if answer.status != 200:
            self._refused(document, answer)
            return answer.status, "", None
        source = answer.headers.get("X-Artifact-Source", "")
        version = self._judge(document, body, floor)
        if source == "cache" and version is not None:
            self.tally.from_cache += 1
            document.floor = max(document.floor, version)
            document.seen = max(document.seen, version)
        return 200, source, version

    def _judge(self, document: Document, body: bytes, floor: int) -> int | None:
        self.tally.bodies_checked += 1
        self.tally.bytes_checked += len(body)
        version = document.version_of(body)
        if version is None:
            size = document.body.size if document.body else len(body) + 1
            kind = "short" if len(body) < size else "wrong"
            self._failed(kind, f"{document.path}: {len(body)} bytes that are no version of it")
        elif not floor <= version <= document.version:
            self._failed("wrong", f"{document.path}: version {version} after {floor} of {document.version}")
        return version

    async def _range(self, document: Document) -> None:
        assert document.body is not None
        start = self._rng.randrange(document.body.size)
        stop = min(start + self._rng.choice([1, 1000, 100_000]), document.body.size)
        try:
            async with self._get(document, Range=f"bytes={start}-{stop - 1}") as answer:
                body = await answer.read()
        except BREAKS:
            self.tally.resets += 1
            return
        if answer.status == 200:
            self._judge(document, body, 0)
        elif answer.status != 206:
            self._refused(document, answer)
        elif "unverified" not in answer.headers.get("Cache-Status", ""):
            self.tally.bodies_checked += 1
            self.tally.bytes_checked += len(body)
            if body != document.body.slice(start, stop):
                kind = "short" if len(body) < stop - start else "wrong"
                self._failed(kind, f"{document.path}: bytes {start} to {stop} are others")

    async def _head(self, document: Document) -> None:
        try:
            async with self._get(document, "HEAD") as answer:
                body = await answer.read()
        except BREAKS:
            self.tally.resets += 1
            return
        if answer.status != 200:
            self._refused(document, answer)
        elif body or (document.body and int(answer.headers.get("Content-Length", -1)) != document.body.size):
            said = answer.headers.get("Content-Length")
            self._failed("wrong", f"{document.path}: HEAD says {said} and sends {len(body)} bytes")

    async def _conditional(self, document: Document) -> None:
        floor = document.floor
        tag, version = self._rng.choice(list(document.tags.items()))
        try:
            async with self._get(document, If_None_Match=tag) as answer:
                body = await answer.read()
        except BREAKS:
            self.tally.resets += 1
            return
        if answer.status == 304:
            if version < floor:
                self._failed("wrong", f"{document.path}: 304 for version {version} after {floor}")
        elif answer.status == 200:
            self._judge(document, body, floor)
        else:
            self._refused(document, answer)

    def _refused(self, document: Document, answer: aiohttp.ClientResponse) -> None:
        self.tally.refusals += 1
        if answer.status not in PROXY_TROUBLE or not answer.headers.get("X-Proxy-Error"):
            self._failed("wrong", f"{document.path}: {answer.status} without a reason")
        elif answer.status == 404:
            self._failed("wrong", f"{document.path}: 404, which upstream never said")

    def _failed(self, kind: str, text: str) -> None:
        setattr(self.tally, kind, getattr(self.tally, kind) + 1)
        self.tally.failures.append(f"{kind}: {text}")

    def _configure(self, limit: int | None) -> None:
        limits = textwrap.indent("\n".join(f"{key}: {value}" for key, value in FAST.items()), "      ")
        origin = self._chaos.origin
        remotes = {"files": ("generic", "/"), "pypi": ("pypi", "/simple/"), "npm": ("npm", "/npm/")}
        text = f"""\
listen: 127.0.0.1:{self._port}
data: {self.folder / "data"}
data_limit: {limit or "100GB"}
log: {{file: {self.folder / "log"}}}
limits: {{blob_grace: 50ms, flush_every: 100ms, sweep_every: 200ms, cold_range_wait: 50ms, error_memory: 50ms, memory_body: 32KiB, drain: 2s}}
remotes:
"""
        for name, (provider, path) in remotes.items():
            text += f"  {name}:\n    provider: {provider}\n    upstream: {origin}{path}\n"
            text += f"    ttl: 200ms\n    min_revalidate: 10ms\n    limits:\n{limits}\n"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.yaml").write_text(text)


@asynccontextmanager
async def driven(
    folder: Path, seed: int, say: Callable[[str], None], evicting: float = 0.25
) -> AsyncIterator[Drive]:
    async with Chaos(seed=seed) as chaos:
        yield Drive(folder, chaos, seed, say, evicting)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
