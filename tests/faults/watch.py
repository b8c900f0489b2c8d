"""What a test of a fault looks at: the answer, the store, the log, the metrics, and what comes after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Got, Proxy, promise, proxied

BIG = 3_000_000  # spooled to a temp file; most of it leaves before it is verified
SMALL = 20_000  # answered only after verification
KEPT = "/kept-1.0.tar.gz"
INDEX = "/kept.json"
INDEX_BODY = b'{"what": "the index as it was"}'
PKG = "/pkg-1.0.tar.gz"
DEFAULTS = ("min_revalidate: 0s", "negative_ttl: 0s")
AGAIN = {"Cache_Control": "no-cache"}  # a client that wants the index checked


@dataclass(slots=True)
class Watch:
    """A running proxy that holds a file and an index of the upstream that is about to fail."""

    proxy: Proxy
    chaos: Chaos
    kept: Oracle | None = None
    before: dict[str, float] = field(default_factory=dict, repr=False)

    async def warm(self) -> None:
        self.kept = self.chaos.script(KEPT, ok(), size=50_000)
        self.chaos.script(INDEX, status(200, INDEX_BODY, ETag='"1"'))
        for path in (KEPT, INDEX):
            assert (await self.proxy.get(f"/files{path}")).status == 200
        await self.proxy.settled()
        self.before = await self.numbers()

    # --- numbers and lines ---

    async def numbers(self) -> dict[str, float]:
        """Every series of `/metrics`, by name and labels as they are written."""
        text = ((await self.proxy.get("/metrics")).body or b"").decode()
        return {
            s.name + "".join(f",{k}={v}" for k, v in sorted(s.labels.items())): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    async def grown(self, name: str, **labels: str) -> float:
        """By how much a counter has grown since the start, over the series with these labels."""
        await self.proxy.settled()  # a fill is counted at its end
        wanted = [f"{k}={v}" for k, v in labels.items()]
        return sum(
            value - self.before.get(series, 0.0)
            for series, value in (await self.numbers()).items()
            if series.split(",")[0] == f"artifactproxy_{name}" and set(wanted) <= set(series.split(",")[1:])
        )

    async def errors(self, kind: str) -> float:
        return await self.grown("upstream_errors_total", kind=kind)

    async def line(self, event: str, **fields: object) -> dict[str, object]:
        """The last log line of this kind; lines are written a moment late."""
        for _ in range(2_000):
            for line in reversed(self.proxy.log_lines()):
                if line["event"] == event and all(line.get(name) == value for name, value in fields.items()):
                    return line
            await asyncio.sleep(0.01)
        told = [line for line in self.proxy.log_lines() if line["event"] == event]
        raise AssertionError(f"no line {event} {fields} among {told[-5:]}")

    async def warned(self, slug: str, **fields: object) -> dict[str, object]:
        """The last warning of this name, which is counted as well."""
        line = await self.line("warning", warning=slug, **fields)
        assert await self.grown("warnings_total", event=slug) >= 1
        return line

    # --- promises that most rows share ---

    async def is_kept(self) -> None:
        """What is stored is answered as ever, without asking."""
        asked = self.chaos.hits(KEPT)
        got = await self.proxy.get(f"/files{KEPT}")
        assert (got.status, got.source) == (200, "cache")
        assert self.kept is not None
        assert got.body == self.kept.bytes()
        assert self.chaos.hits(KEPT) == asked

    async def is_stale(self) -> Got:
        """The index is answered although it cannot be checked."""
        got = await self.proxy.get(f"/files{INDEX}", **AGAIN)
        assert (got.status, got.source, got.body) == (200, "cache", INDEX_BODY)
        assert "detail=stale-if-error" in got.headers["Cache-Status"]
        assert "Age" in got.headers
        return got

    async def refused(self, path: str, code: int, error: str, kind: str = "") -> Got:
        """An error with this status and code, in the log and counted; nothing is kept of it."""
        await self.proxy.settled()
        blobs, counted = self.proxy.blobs(), await self.errors(kind or error)
        got = await self.proxy.get(path)
        assert (got.status, got.error) == (code, error), got
        assert got.source == ""
        assert got.headers["Cache-Control"] == "no-store"
        await self.told(path, error, kind)
        assert await self.errors(kind or error) > counted
        assert self.proxy.blobs() == blobs
        return got

    async def reset(self, path: str, error: str, kind: str = "") -> Got:
        """The connection dies before the body is whole; in the log and counted; nothing is kept."""
        await self.proxy.settled()
        blobs, counted = self.proxy.blobs(), await self.errors(kind or error)
        got = await self.proxy.get(path)
        assert got.body is None, f"{got.status} {got.error}"
        assert got.status == 200
        await self.told(path, error, kind)
        assert await self.errors(kind or error) > counted
        assert self.proxy.blobs() == blobs
        return got

    async def told(self, path: str, error: str, kind: str = "") -> None:
        await self.proxy.settled()
        repo, _, name = path.removeprefix("/").partition("/")
        line = await self.line("fill", repo=repo, path=name, error=kind or error)
        assert line["result"] == "failed"
        assert line["request_id"]
        assert line["upstream_url"]
        assert line["cause"]

    async def next_is_right(self, path: str = "/files/f.bin", size: int = BIG) -> None:
        """Upstream is honest now: the next request is right, and the one after it is a hit."""
        await self.proxy.settled()
        name = "/" + path.split("/", 2)[2] if path.startswith("/files/") else "/" + path.rpartition("/")[2]
        body = self.chaos.script(name, ok(), size=size)
        first = await self.proxy.get(path)
        assert (first.status, first.body) == (200, body.bytes())
        await self.proxy.settled()
        before = self.chaos.hits(name)
        second = await self.proxy.get(path)
        assert (second.status, second.source, second.body) == (200, "cache", body.bytes())
        assert self.chaos.hits(name) == before


@asynccontextmanager
async def watched(
    folder: Path, chaos: Chaos, extra: str = "", remote: str = "", top: str = "", **more: str
) -> AsyncIterator[Watch]:
    """A warm proxy; whatever happens, it is consistent at the end."""
    remote = "\n".join([line for line in DEFAULTS if line.partition(":")[0] not in remote] + [remote])
    limits = "error_memory: 1ms, log_every: 5ms"
    top = top.replace("{", f"{{{limits}, ", 1) if "limits:" in top else f"{top}\nlimits: {{{limits}}}"
    async with proxied(folder, chaos.origin, extra, remote, top, **more) as proxy:
        watch = Watch(proxy, chaos)
        await watch.warm()
        yield watch
        await proxy.check()


def promised(watch: Watch, *behaviours: object, size: int = BIG, sha256: str = "") -> tuple[str, Oracle]:
    """A file that a project page lists with its digest and size; its path at the proxy."""
    body = watch.chaos.script(PKG, *behaviours, size=size)
    return promise(watch.chaos, PKG[1:], body, sha256=sha256), body


async def whole(watch: Watch, path: str, body: Oracle) -> None:
    got = await watch.proxy.get(path)
    assert (got.status, got.source) == (200, "remote")
    assert got.body == body.bytes()
    await watch.proxy.settled()
    assert (await watch.proxy.get(path)).source == "cache"
