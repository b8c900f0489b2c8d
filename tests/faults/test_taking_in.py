"""A store that takes bodies in while they arrive: what it gets, and what it never makes visible.

Its intakes read the growing body, as an upload of parts does, and put the file at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifactproxy.engine.engine import Engine
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import BlobRef
from artifactproxy.ports import BlobStore, Growing
from tests.away import store_away
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, flip, ok, slow, stall
from tests.faults.machine import until
from tests.house_proxy import PROMPT, promise, proxied

BIG = 2_000_000
STALLED = stall(at=0.5, ranges=False)
RETRIES = "limits: {store_retry: 20s, sweep_every: 1h}"


class Taking:
    """One intake over a store that has none."""

    def __init__(self, store: BlobStore, sha256: str, body: Growing) -> None:
        self.store, self.sha256, self.body = store, sha256, body
        self.sent, self.at = hashlib.sha256(), 0
        self.ended = ""
        self.away = 0
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self.body.fault is None:
            part = self.body.peek(self.at, self.body.written)
            self.sent.update(part)
            self.at += len(part)
            await self.body.changed()

    async def finish(self, ref: BlobRef, path: Path) -> None:
        self._task.cancel()
        if self.away:
            self.away -= 1
            raise store_away()
        whole = path.read_bytes()
        self.sent.update(whole[self.at :])
        assert (self.sent.hexdigest(), len(whole)) == (ref.sha256, ref.size), "what went before was right"
        await self.store.put(ref, path)
        self.ended = "finished"

    async def abandon(self) -> None:
        self._task.cancel()
        assert not self.ended
        self.ended = "abandoned"


@contextmanager
def taking_in(engine: Engine, *, away: int = 0) -> Iterator[list[Taking]]:
    store, intakes = engine.parts.store, []

    async def begin(sha256: str, body: Growing) -> Taking:
        intakes.append(Taking(store, sha256, body))
        intakes[-1].away = away
        return intakes[-1]

    store.begin = begin  # type: ignore[method-assign]
    try:
        yield intakes
    finally:
        del store.begin


async def test_parts_leave_before_the_body_has_ended(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", slow(rate=2_000_000), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        with taking_in(proxy.engine) as intakes:
            await proxy.get("/pypi/simple/pkg/")
            asking = asyncio.create_task(proxy.get(path))
            await until(lambda: bool(intakes) and intakes[0].at > 200_000)
            assert not asking.done()
            assert proxy.blobs() == [] or len(proxy.blobs()) == 1, "only the page"
            assert (await asking).body == body.bytes()
            await proxy.settled()
            assert [intake.ended for intake in intakes] == ["finished"]
            assert (await proxy.get(path)).source == "cache"
            await proxy.check()


async def test_it_begins_when_the_page_has_been_read_meanwhile(tmp_path: Path, chaos: Chaos) -> None:
    """A lock file asks for the file first: its page is read alongside."""
    body = chaos.script("/pkg-1.0.tar.gz", slow(rate=4_000_000), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        with taking_in(proxy.engine) as intakes:
            assert (await proxy.get(path)).body == body.bytes()
            await proxy.settled()
            assert [intake.ended for intake in intakes] == ["finished"]
            await proxy.check()


async def test_what_nobody_promised_is_stored_as_a_whole(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        with taking_in(proxy.engine) as intakes:
            await proxy.get("/files/f.bin")
            await proxy.settled()
            assert (intakes, len(proxy.blobs())) == ([], 1)
            await proxy.check()


@pytest.mark.parametrize(
    ("behaviours", "ended"),
    [
        ((cut(at=0.5), ok()), ["finished"]),
        ((flip(at=0.9), flip(at=0.9)), ["abandoned"]),
        ((cut(at=0.5, ranges=False), cut(at=0.5, ranges=False)), ["abandoned"]),
        ((STALLED, STALLED), ["abandoned"]),
    ],
    ids=["resumed", "other bytes", "cut", "stalled"],
)
async def test_a_body_that_breaks_is_never_visible(
    tmp_path: Path, chaos: Chaos, behaviours: tuple, ended: list[str]
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", *behaviours, size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    extra = PROMPT if behaviours[0] is STALLED else ""
    async with proxied(tmp_path, chaos.origin, extra=extra, top=RETRIES) as proxy:
        with taking_in(proxy.engine) as intakes:
            await proxy.get("/pypi/simple/pkg/")
            got = await proxy.get(path)
            await proxy.settled()
            await until(lambda: all(intake.ended for intake in intakes))
            assert [intake.ended for intake in intakes] == ended
            assert (got.body == body.bytes()) == (ended == ["finished"])
            found = await proxy.engine.parts.store.size(body.sha256)
            assert (found is not None) == (ended == ["finished"])
            await proxy.check()


async def test_a_cancelled_download_abandons_it(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", stall(at=0.5), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    top = "limits: {store_retry: 20s, orphans: 0}"
    async with proxied(tmp_path, chaos.origin, extra="idle: 10s", top=top) as proxy:
        with taking_in(proxy.engine) as intakes:
            await proxy.get("/pypi/simple/pkg/")
            asking = asyncio.create_task(proxy.get(path))
            await until(lambda: bool(intakes) and intakes[0].at > 0)
            asking.cancel()
            await until(lambda: intakes[0].ended == "abandoned")
            await proxy.settled()
            await proxy.check()


async def test_s04_a_store_that_goes_away_at_the_end_is_finished_later(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:
        with taking_in(proxy.engine, away=3) as intakes:
            await proxy.get("/pypi/simple/pkg/")
            assert (await proxy.get(path)).body == body.bytes()
            await proxy.settled()
            assert [intake.ended for intake in intakes] == ["finished"]
            assert (await proxy.get(path)).source == "cache"
            assert chaos.hits("/pkg-1.0.tar.gz") == 1
            await proxy.check()


async def test_an_intent_that_cannot_be_remembered_costs_the_head_start_only(
    tmp_path: Path, chaos: Chaos
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin, top=RETRIES) as proxy:

        async def begin(sha256: str, body: Growing) -> None:
            raise IndexUnavailable("the index does not answer", code="index_away")

        store = proxy.engine.parts.store
        store.begin = begin  # type: ignore[method-assign]
        await proxy.get("/pypi/simple/pkg/")
        assert (await proxy.get(path)).body == body.bytes()
        await proxy.settled()
        del store.begin
        assert (await proxy.get(path)).source == "cache"
        await proxy.check()
