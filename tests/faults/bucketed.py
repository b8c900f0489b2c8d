"""The whole program in this process on the stand-in bucket, consistent after every test."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from artifactproxy.inspection import fsck
from artifactproxy.ports import Intent
from artifactproxy.stores.tier import Tier
from tests.bucket import Bucket
from tests.chaos import Chaos, Exchange, Oracle
from tests.chaos.behaviours import ok
from tests.chaos.server import Behaviour
from tests.faults.machine import told, until
from tests.house_proxy import Got, Proxy, configuration, promise, proxied

MIB = 2**20
PREFIX = "cache/"
BLOBS = f"{PREFIX}blobs/sha256/"
SMALL = 20_000  # never has a temp file
MIDDLE = 1_000_000  # one PUT of a file
BIG = 11 * MIB  # three parts
LIMITS = {"store_retry": "20s", "sweep_every": "1h", "flush_every": "50ms", "log_every": "5ms"}
NO_TIER, TIER = 0, 100 * MIB
PATIENT = "idle: 5s\nfirst_byte: 5s"  # nine in ten tests here have an honest upstream


@dataclass(slots=True)
class Passing:
    """The clock of the program; `ahead` in seconds."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass(slots=True)
class Rig:
    """A running program, its bucket and its upstream."""

    bucket: Bucket
    proxy: Proxy
    chaos: Chaos
    time: Passing
    database: str = ""

    # --- time ---

    def later(self, seconds: float) -> None:
        """It is so much later than it is, here and at the bucket; rows must not be written then."""
        self.time.ahead = self.bucket.ahead = seconds

    async def tidied(self, seconds: float = 700.0) -> None:
        """Nobody's uploads and their intents are gone by then."""
        self.later(seconds)
        await self.proxy.engine.parts.truth.tidy()
        self.later(0.0)
        assert self.bucket.contents.uploads == {}
        assert await self.intents() == []

    # --- what is there ---

    def objects(self) -> dict[str, bytes]:
        """Blobs by the sha256 they are named by; None bodies do not occur here."""
        below = {k: o.data or b"" for k, o in self.bucket.objects.items() if k.startswith(BLOBS)}
        return {key.rpartition("/")[2]: data for key, data in below.items()}

    def holds(self, body: Oracle) -> bool:
        return self.objects().get(body.sha256) == body.bytes()

    def quarantined(self) -> list[str]:
        return [key for key in self.bucket.objects if key.startswith(f"{PREFIX}quarantine/")]

    async def intents(self) -> list[Intent]:
        found: list[Intent] = await self.proxy.engine.parts.index.intents(time.time() + 10**6, 1000)  # type: ignore[attr-defined]
        return found

    async def rows(self, repo: str = "files") -> list[str]:
        """The sha256 of every row of a repository that has a body."""
        entries = await self.proxy.engine.parts.ledger.entries(repo)
        return [entry.ref.sha256 for entry in entries if entry.ref is not None]

    def forget_copies(self) -> None:
        """The disk in front of the bucket loses what it holds."""
        for path in (self.proxy.data / "tier" / "blobs").rglob("*"):
            if path.is_file():
                path.unlink()

    # --- what is asked for ---

    async def given(self, *, promised: bool, size: int, name: str = "f", behaviours: Iterable[Any] = ()):
        """A file of the upstream, and its path at the proxy; its page, if any, has been read."""
        if not promised:
            body = self.chaos.script(f"/{name}.bin", *(behaviours or [ok()]), size=size)
            return f"/files/{name}.bin", body
        file = f"{name}-1.0.tar.gz"
        body = self.chaos.script(f"/{file}", *(behaviours or [ok()]), size=size)
        path = promise(self.chaos, file, body)
        await self.proxy.get(f"/pypi/simple/{name}/")
        await self.proxy.settled()
        return path, body

    async def stored(self, *, promised: bool, size: int, name: str = "f") -> tuple[str, Oracle]:
        """The same, fetched and stored, and no copy of it on the disk in front."""
        path, body = await self.given(promised=promised, size=size, name=name)
        await self.right(path, body, source="remote")
        assert self.holds(body)
        self.forget_copies()
        self.bucket.history.clear()
        return path, body

    async def right(self, path: str, body: Oracle, *, source: str = "", **headers: str) -> Got:
        """A whole and right answer, and everything behind it is done."""
        got = await self.proxy.get(path, **headers)
        assert (got.status, got.body == body.bytes()) == (200, True), (got.status, got.error)
        assert source in ("", got.source)
        await self.proxy.settled()
        return got

    async def is_hit(self, path: str, body: Oracle) -> None:
        asked = self.hits(path)
        await self.right(path, body, source="cache")
        assert self.hits(path) == asked

    def hits(self, path: str) -> int:
        return self.chaos.hits("/" + path.rpartition("/")[2])

    async def filled(self, path: str, result: str = "stored") -> dict[str, object]:
        name = path.split("/", 2)[2]
        return await told(
            self.proxy,
            lambda line: (line["event"], line.get("path"), line.get("result")) == ("fill", name, result),
        )

    async def warned(self, slug: str, **fields: object) -> dict[str, object]:
        return await told(
            self.proxy,
            lambda line: (
                line.get("warning") == slug and all(line.get(name) == fields[name] for name in fields)
            ),
        )

    # --- what comes after ---

    async def normal(self) -> None:
        """An ordinary file is fetched once and served from then on."""
        path, body = await self.given(promised=False, size=SMALL, name="next")
        await self.right(path, body, source="remote")
        await self.is_hit(path, body)
        assert self.holds(body)

    async def quiet(self) -> None:
        """Nothing runs, and no upload is open that no intent tells of."""
        await self.proxy.settled()
        await self.proxy.upstream_idle()
        assert os.listdir(self.proxy.data / "tier" / "tmp") == []
        await until(lambda: not self.proxy.engine.parts.truth._dock.detached)  # type: ignore[union-attr]
        known = {intent.upload for intent in await self.intents()}
        assert set(self.bucket.contents.uploads) <= known


def store_section(bucket: Bucket, folder: Path, **over: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    access, key = next(iter(bucket.keys.items()))
    for name, value in (("access", access), ("secret", key.secret)):
        (folder / name).write_text(value)
    chosen = {
        "kind": "s3",
        "bucket": bucket.name,
        "endpoint": bucket.endpoint,
        "region": bucket.region,
        "prefix": PREFIX,
        "addressing": "path",
        "access_key": {"file": str(folder / "access")},
        "secret_key": {"file": str(folder / "secret")},
        "part_size": 5 * MIB,
        "tries": 3,
        "connect": "2s",
        "read": "3s",
    }
    return {name: value for name, value in (chosen | over).items() if value is not None}


def top_keys(
    bucket: Bucket, folder: Path, *, limits: dict[str, Any], store: dict[str, Any], **more: Any
) -> str:
    """The keys of the configuration that this form of the program adds."""
    section = store_section(bucket, folder, **store)
    return yaml.safe_dump({"limits": LIMITS | limits, "store": section} | more)


@asynccontextmanager
async def bucketed(
    folder: Path,
    chaos: Chaos,
    *,
    tier: int = NO_TIER,
    bucket: Bucket | None = None,
    extra: str = PATIENT,
    remote: str = "",
    limits: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    leftovers: bool = False,
) -> AsyncIterator[Rig]:
    """At the end all is consistent: by the program's own complete check, and by a look at the bucket.
    `leftovers`: uploads whose end is unknown stay, with their intents, until they are tidied up."""
    bucket = bucket or Bucket()
    if not bucket.port:
        await bucket.start()
    try:
        more = {"index": index} if index else {}
        top = top_keys(
            bucket, folder, limits=limits or {}, store={"local_tier": tier, **(store or {})}, **more
        )
        passing = Passing()
        async with proxied(folder, chaos.origin, extra, remote, top, clock=passing) as proxy:
            rig = Rig(bucket, proxy, chaos, passing)
            yield rig
            await rig.quiet()
            bucket.heal()
            if leftovers:
                await rig.tidied()
            assert bucket.contents.uploads == {}
            assert await rig.intents() == []
        await consistent(folder, chaos, bucket, top)
    finally:
        await bucket.stop()


async def consistent(folder: Path, chaos: Chaos, bucket: Bucket, top: str) -> None:
    """`artifactproxy fsck --full` finds nothing, and every object is what its name says."""
    config = configuration(folder, chaos.origin, PATIENT, "", top)
    found: list[Any] = []
    hashed = 0
    async for line in fsck(config, full=True, repair=False):
        found += [line["finding"]] if "finding" in line and not line["finding"].get("note") else []
        hashed = line.get("summary", {}).get("checked", {}).get("hashed", hashed)
    assert found == []
    blobs = {key: o.data or b"" for key, o in bucket.objects.items() if key.startswith(BLOBS)}
    assert {key: hashlib.sha256(data).hexdigest() for key, data in blobs.items()} == {
        key: key.rpartition("/")[2] for key in blobs
    }
    assert hashed >= len(blobs), "not everything was looked at"


def copies(rig: Rig) -> Tier:
    store = rig.proxy.engine.parts.store
    assert isinstance(store, Tier)
    return store


Ending = Literal["other bytes", "short", "reset", "stalled", "right"]


def broken(how: Ending, once: Callable[[], bool], at: float = 0.93) -> Behaviour:
    """Announces the whole, sends up to `at`, and ends badly once that is true."""

    async def behave(exchange: Exchange) -> None:
        size = exchange.body.size
        middle = int(size * at)
        await exchange.head(200, {"Content-Length": str(size), "ETag": exchange.body.etag})
        await exchange.send(exchange.body.slice(0, middle))
        await until(once)
        rest = bytearray(exchange.body.slice(middle, size))
        match how:
            case "short":
                exchange.hang_up()
            case "reset":
                exchange.reset()
            case "stalled":
                await exchange.pause(3600)
            case "other bytes":
                rest[0] ^= 1
        await exchange.send(bytes(rest))

    return behave


async def all_right(rig: Rig, path: str, body: Oracle, count: int) -> list[Got]:
    crowd = await asyncio.gather(*(rig.proxy.get(path) for _ in range(count)))
    assert {(got.status, got.body == body.bytes()) for got in crowd} == {(200, True)}
    return crowd
