"""What Redis may do to messages: row R07 of the fault matrix and its neighbours, at the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from artifactproxy.coordination.bulletin import Frame, Kept
from artifactproxy.coordination.redis_bulletin import RedisBulletin
from tests.contracts.harness_redis import Tenant
from tests.coordination.tools import Notes, eventually, quick, started
from tests.servers.process import HOST, free_port
from tests.servers.redis import Redis

KEPT_KEY = "artifactproxy:v1:bulletin:kept"


@pytest.fixture
def server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@asynccontextmanager
async def opened(
    url: str, *topics: str, **over: Any
) -> AsyncIterator[tuple[RedisBulletin, list[str], Notes]]:
    """A board, what it hears on `topics` and what it complains of."""
    notes, heard = Notes(), []
    board = RedisBulletin(quick(url, **over), observer=notes)
    for topic in topics:
        board.listen(topic, heard.append)
    await board.start()
    try:
        yield board, heard, notes
    finally:
        async with asyncio.timeout(60):
            await board.close()


async def test_r07_who_may_have_missed_something_is_told(server: Redis) -> None:
    async with opened(server.url, "changed") as (_, heard, notes):
        assert heard == []  # from the start nothing was missed
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: heard == ["[]"])
        await eventually(lambda: notes.degraded == {"bulletin": 0})
        assert notes.said == ["bulletin_away", "bulletin_back"]
        await asyncio.to_thread(server.restart)
        await eventually(lambda: heard == ["[]"] * 2)


async def test_r07_what_counts_reaches_those_that_come_back(server: Redis) -> None:
    async with opened(server.url) as (one, _, _), opened(server.url, "pause", renew=60) as (_, heard, _):
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        one.tell("pause", "a", seconds=60)
        await eventually(lambda: heard == ["a"])
        one.tell("pause", "b", seconds=60)
        await eventually(lambda: heard == ["a", "b"])


async def test_told_while_redis_is_away_is_said_when_it_is_back() -> None:
    port = free_port()
    url = f"redis://{HOST}:{port}/0"
    async with opened(url, connect=0.2) as (one, _, notes), opened(url, "t", connect=0.2) as (_, heard, _):
        for number in range(5):
            one.tell("t", str(number), seconds=60)
        one.tell("t", "over by then", seconds=0.01)
        assert notes.said == ["bulletin_away"]
        async with started(port):
            await eventually(lambda: len(heard) >= 5)
            assert sorted(heard) == list("01234")
            await eventually(lambda: notes.said == ["bulletin_away", "bulletin_back"])


async def test_what_is_told_meanwhile_is_bounded_and_its_loss_is_told() -> None:
    port = free_port()
    url = f"redis://{HOST}:{port}/0"
    async with opened(url, connect=0.2) as (one, _, notes):
        for number in range(5000):
            one.tell("changed", f'["{number}"]')
        one.tell("other", "last")
        assert len(one._outgoing) == 1000
        assert notes.counts["bulletin_dropped"] == 4001
        async with started(port):
            async with opened(url, "changed", "other") as (_, heard, _):
                await eventually(lambda: "last" in heard and "[]" in heard)


async def test_silence_is_asked_about(server: Redis) -> None:
    async with opened(server.url, "changed", connect=0.1, renew=0.05) as (_, heard, notes):
        await asyncio.sleep(0.3)
        assert notes.said == []
        server.pause()
        await eventually(lambda: notes.said == ["bulletin_away"])
        server.resume()
        await eventually(lambda: heard == ["[]"])


async def test_what_is_kept_in_redis_is_bounded_and_ends(server: Redis) -> None:
    async with opened(server.url) as (one, _, _):
        for group in range(3):
            for number in range(500):
                one.tell("t", str(number), seconds=50 + group)
            await eventually(one._idle.is_set)
        assert server.ask("ZCARD", KEPT_KEY) == 1000
        assert 0 < server.ask("PTTL", KEPT_KEY) <= 52_000
        one.tell("t", "short", seconds=0.05)
        await eventually(one._idle.is_set)
        await asyncio.sleep(0.1)
        async with opened(server.url, "t") as (_, heard, _):
            await eventually(lambda: len(heard) == 1000)
            assert "short" not in heard


async def test_r06_a_replica_still_carries_messages(server: Redis) -> None:
    async with opened(server.url) as (one, _, notes), opened(server.url, "t") as (_, heard, _):
        server.ask("REPLICAOF", HOST, "1")
        for text in "ab":
            one.tell("t", text, seconds=60)
        await eventually(lambda: heard == ["a", "b"])
        await eventually(lambda: notes.counts["redis_errors:readonly"] == 2)
        assert notes.said == ["bulletin_refused"]


async def test_what_others_write_into_the_channel_harms_nobody(server: Redis) -> None:
    async with opened(server.url) as (one, _, _), opened(server.url, "t") as (_, heard, _):
        for junk in ("", "junk", "[" * 1000, "\ud7ff", '{"v": 1}'):
            server.ask("PUBLISH", "artifactproxy:v1:bulletin", junk)
            server.ask("ZADD", KEPT_KEY, "9999999999999", junk)
        one.tell("t", "a")
        await eventually(lambda: heard == ["a"])
        async with opened(server.url, "t") as (_, late_heard, notes):
            one.tell("t", "b")
            await eventually(lambda: late_heard == ["b"])
            assert notes.said == []
        server.ask("DEL", KEPT_KEY)
        server.ask("SET", KEPT_KEY, "no set of ours")
        async with opened(server.url, "t") as (_, later_heard, notes):
            one.tell("t", "c", seconds=60)
            await eventually(lambda: later_heard == ["c"])
            assert notes.said == ["bulletin_refused"]


async def test_the_rights_that_are_documented_are_enough() -> None:
    tenant = Tenant()
    async with (
        opened(tenant.url, prefix=tenant.prefix) as (one, _, notes),
        opened(tenant.url, "t", prefix=tenant.prefix) as (_, heard, late_notes),
    ):
        one.tell("t", "a", seconds=60)
        await eventually(lambda: heard == ["a"])
        assert notes.said == late_notes.said == []


async def test_close_says_what_was_told(server: Redis) -> None:
    async with opened(server.url, "t") as (_, heard, _):
        async with opened(server.url) as (one, _, _):
            for number in range(200):
                one.tell("t", str(number))
        await eventually(lambda: len(heard) == 200)


def test_kept_messages_lose_their_time() -> None:
    now = [100.0]
    kept = Kept(lambda: now[0], most=3)
    for number, seconds in enumerate((5.0, 20.0, 10.0)):
        assert kept.keep(Frame("a", number, "t", "", seconds))
    assert not kept.keep(Frame("a", 1, "t", "", 20.0))
    assert kept.keep(Frame("a", 9, "t", "", 0.0))
    now[0] = 106.0
    assert {frame.number: frame.seconds for frame in kept} == {1: 14.0, 2: 4.0}
    assert kept.keep(Frame("a", 3, "t", "", 1.0))
    assert len(list(kept)) <= 3
