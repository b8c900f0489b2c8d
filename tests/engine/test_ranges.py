"""Several connections against an upstream that is a function: mirrors, redirects, stragglers, progress."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from artifactproxy.engine.mirrors import Mirror
from artifactproxy.engine.ranges import Ranges, Terms
from artifactproxy.engine.scattered import Scattered
from artifactproxy.errors import Busy, Fault, TooLarge, UpstreamBroken
from artifactproxy.limits import Download, RemoteLimits
from artifactproxy.model import Header, UpstreamHead
from artifactproxy.rules.segments import SegmentMap
from tests.engine.test_spool import space, spool

MIB = 2**20
CONTENT = random.Random(1).randbytes(6 * MIB + 333)
BLOCK = 64 * 1024


@dataclass
class Asked:
    """One request as it left."""

    url: str
    start: int
    stop: int
    at: str
    spare: bool
    number: int


Chunks = AsyncIterator[bytes]
Answer = Callable[[Asked], Awaitable[tuple[int, Chunks]]]


@dataclass
class Reply:
    head: UpstreamHead
    body: Chunks
    at: str = ""

    def chunks(self) -> Chunks:
        return self.body


async def flow(start: int, stop: int, rate: float = 0.0) -> Chunks:
    for at in range(start, stop, BLOCK):
        await asyncio.sleep(BLOCK / rate if rate else 0)
        yield CONTENT[at : min(at + BLOCK, stop)]


async def honest(asked: Asked) -> tuple[int, Chunks]:
    return 206, flow(asked.start, asked.stop)


@dataclass
class World:
    """`answers` by URL; `redirects` says where one leads now."""

    folder: Path
    answers: dict[str, Answer]
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    troubles: list[Fault] = field(default_factory=list)
    open: int = 0
    most: int = 0

    @asynccontextmanager
    async def ask(self, url: str, headers: list[Header], at: str, spare: bool) -> AsyncIterator[Any]:
        first, last = dict(headers)["range"].removeprefix("bytes=").split("-")
        asked = Asked(url, int(first), int(last) + 1, at, spare, len(self.asked))
        self.asked.append(asked)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            status, body = await self.answers[url](asked)
            text = f"bytes {asked.start}-{asked.stop - 1}/{len(CONTENT)}"
            named = {"content-range": text} if status == 206 else {}
            head = UpstreamHead(status, named, asked.stop - asked.start, True, url)
            yield Reply(head, body, at or self.redirects.get(url, ""))
        finally:
            self.open -= 1

    async def load(
        self, *urls: str, rate: float = 4e6, first_stop: int | None = None, connections: int = 4
    ) -> Ranges:
        """The whole over these mirrors; the first answer flows at `rate`, and breaks at `first_stop`."""
        body = spool(space(self.folder), len(CONTENT))
        scattered = Scattered(body, SegmentMap(len(CONTENT)))
        await scattered.begin()
        terms = Terms(
            self.ask,
            Download(connections=connections, segment=MIB, from_bytes=MIB),
            RemoteLimits(retry_base=0.001),
            promised=lambda: True,
            sha256=lambda: "",
            judge_size=lambda _: None,
            on_trouble=self.troubles.append,
            clock=lambda: 0.0,
        )
        first = Mirror(urls[0], at=self.redirects.get(urls[0], ""), direct=urls[0] not in self.redirects)
        ranges = self.ranges = Ranges(terms, scattered, [first, *map(Mirror, urls[1:])])
        try:
            await ranges.run(AsyncExitStack(), flow(0, first_stop or len(CONTENT), rate))
            await scattered.end()
            assert body.digests[0].hex == hashlib.sha256(CONTENT).hexdigest()
        finally:
            await body.drain()
            body.finish()
            assert self.open == 0
        return ranges


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {"a": honest, "b": honest})


async def test_all_of_it_comes_and_each_byte_once(world: World) -> None:
    await world.load("a", connections=3)
    assert world.most <= 2, "and the first makes three"
    assert not world.troubles
    spans = sorted((a.start, a.stop) for a in world.asked)
    assert all(b[0] >= a[1] for a, b in pairwise(spans))


async def test_r4_a_part_that_fails_is_tried_at_another_mirror(world: World) -> None:
    async def fails(asked: Asked) -> tuple[int, Chunks]:
        return 206, flow(asked.start, asked.start + (asked.stop - asked.start) // 2)

    world.answers["a"] = fails
    await world.load("a", "b")
    assert {asked.url for asked in world.asked} == {"a", "b"}
    assert {fault.code for fault in world.troubles} == {"short_body"}


async def test_r3_a_mirror_with_parts_that_do_not_fit_is_left(world: World) -> None:
    async def fails(asked: Asked) -> tuple[int, Chunks]:
        return (206, flow(asked.start, asked.start)) if asked.number < 2 else await honest(asked)

    async def whole(_: Asked) -> tuple[int, Chunks]:
        return 200, flow(0, len(CONTENT))

    world.answers |= {"a": fails, "b": whole}
    await world.load("a", "b")
    assert sum(asked.url == "b" for asked in world.asked) <= 2
    assert "ranges_ignored" in {fault.code for fault in world.troubles}


async def test_r6_a_redirect_is_followed_once_and_again_when_it_has_expired(world: World) -> None:
    world.redirects["a"] = "signed-1"

    async def signed(asked: Asked) -> tuple[int, Chunks]:
        if asked.number == 3:
            world.redirects["a"] = "signed-2"
        if asked.at == "signed-1" and world.redirects["a"] == "signed-2":
            return 403, flow(0, 0)
        return await honest(asked)

    world.answers["a"] = signed
    await world.load("a")
    ways = [asked.at for asked in world.asked]
    assert ways.count("") == 1, "only one of them asks the way again"
    assert ways[0] == "signed-1"
    assert ways[-1] == "signed-2"


async def test_one_slow_connection_costs_little(world: World) -> None:
    """R4.5: it is exchanged, or others take over its rest."""

    async def one_slow(asked: Asked) -> tuple[int, Chunks]:
        return 206, flow(asked.start, asked.stop, 50_000.0 if asked.number == 1 else 4e6)

    world.answers["a"] = one_slow
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.load("a", connections=8)
    assert loop.time() - began < 10, "a segment at that rate would take 20 s"


async def test_who_is_alone_asks_once_for_all_that_is_left(world: World) -> None:
    await world.load("a", first_stop=100_000, connections=1)
    (asked,) = world.asked
    assert asked.stop == len(CONTENT)
    assert asked.stop - asked.start > 5 * MIB, "not for each segment"


@pytest.mark.parametrize("block", [MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
async def test_chunks_may_be_larger_than_segments(
    world: World, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(globals(), "BLOCK", block)
    await world.load("a", rate=0, connections=1)
    assert not world.asked, "the first answer was enough"
    await world.load("a", rate=4e6)
    assert not world.troubles


async def test_attempts_are_bounded(world: World) -> None:
    async def fails(_: Asked) -> tuple[int, Chunks]:
        raise UpstreamBroken("broken", code="no_answer")

    world.answers["a"] = fails
    with pytest.raises(UpstreamBroken):
        await world.load("a", rate=1e6)
    assert len(world.asked) <= 4 * (RemoteLimits().resumes + 1)


async def test_without_a_connection_to_spare_the_first_does_it_all(world: World) -> None:
    async def none(asked: Asked) -> tuple[int, Chunks]:
        assert asked.spare
        raise Busy("none", code="no_spare")

    world.answers["a"] = none
    await world.load("a", rate=2e7)
    assert not world.troubles, "that is no trouble of upstream's"


async def test_the_last_connection_waits_for_its_place(world: World) -> None:
    """The first has broken off, and nobody else is there: what is left is asked for in the queue."""

    async def spare_ones_fail(asked: Asked) -> tuple[int, Chunks]:
        if asked.spare:
            raise Busy("none", code="no_spare")
        return await honest(asked)

    world.answers["a"] = spare_ones_fail
    await world.load("a", rate=1e8, first_stop=100_000)
    assert any(not asked.spare for asked in world.asked)


async def test_a_size_that_cannot_be_ends_it(world: World) -> None:
    def judge(_: int) -> None:
        raise TooLarge("longer than was promised", code="overlong")

    body = spool(space(world.folder), len(CONTENT))
    scattered = Scattered(body, SegmentMap(len(CONTENT)))
    await scattered.begin()
    terms = Terms(
        world.ask, Download(), RemoteLimits(), lambda: True, lambda: "", judge, world.troubles.append, float
    )
    with pytest.raises(TooLarge):
        await Ranges(terms, scattered, [Mirror("a")]).run(AsyncExitStack(), flow(0, len(CONTENT)))
    body.finish()
    assert list(world.folder.iterdir()) == []


async def test_it_tells_how_far_it_is(world: World) -> None:
    async def slowly(asked: Asked) -> tuple[int, Chunks]:
        return 206, flow(asked.start, asked.stop, 2e6)

    world.answers["a"] = slowly
    task = asyncio.create_task(world.load("a", rate=2e6))
    await asyncio.sleep(0.4)
    parts = world.ranges.parts()
    assert 2 <= len(parts) <= 4
    assert all(part.start <= part.at <= part.stop for part in parts)
    assert any(part.rate > 0 for part in parts)
    assert 0 < world.ranges.landed < len(CONTENT)
    assert (await task).landed == len(CONTENT)
    assert world.ranges.parts() == ()
