"""Pauses and failures of an origin, among the processes of a cluster; and what one believes of another."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from artifactproxy.errors import UpstreamBusy, UpstreamUnreachable
from artifactproxy.limits import RemoteLimits
from artifactproxy.rules.bulletin import BREAKER, PAUSE, heard, told
from artifactproxy.upstream.gate import HEARSAY, Gates, Hearsay
from tests.chaos import behaviours as does
from tests.coordination.tools import Net, eventually
from tests.upstream.tools import Recorder, client, fetch, refusal

QUICK = {"breaker_failures": 2, "breaker_open": 30.0, "breaker_max": 60.0}


async def test_u15_a_pause_holds_for_all_and_for_who_comes_later(chaos):
    net = Net()
    chaos.script("/a", does.status(429, Retry_After="60"))
    chaos.script("/b", does.ok())
    async with net.open() as board, net.open() as other:
        async with client(chaos.origin, bulletin=board) as one, client(chaos.origin, bulletin=other) as two:
            await fetch(two, chaos.url("/b"))
            head, _ = await fetch(one, chaos.url("/a"))
            assert head.status == 429
            await eventually(lambda: two.states()[chaos.origin].state == "waiting")
            fault = await refusal(two, chaos.url("/b"), UpstreamBusy, "upstream_busy")
            assert 50 < fault.retry_after <= 60
            async with net.open() as late:
                async with client(chaos.origin, bulletin=late) as three:
                    for _ in range(5):
                        await asyncio.sleep(0)
                    await refusal(three, chaos.url("/b"), UpstreamBusy, "upstream_busy")
    assert chaos.hits("/b") == 1


async def test_u15_a_pause_is_clamped_by_our_own_limits_and_never_shortened(chaos):
    net = Net()
    chaos.script("/a", does.ok())
    async with net.open() as board, net.open() as teller:
        async with client(chaos.origin, bulletin=board, changed={"retry_after_max": 40.0}) as up:
            await fetch(up, chaos.url("/a"))
            for seconds, low, high in ((10.0, 5, 10), (3600.0, 35, 40), (1.0, 34, 40)):
                teller.tell(PAUSE, told(chaos.origin, seconds, time.time()))
                for _ in range(5):
                    await asyncio.sleep(0)
                assert low < up.states()[chaos.origin].retry_after <= high


async def test_u01_what_fails_for_one_is_probed_by_the_others(chaos):
    net = Net()
    chaos.script("/bad", does.status(500))
    chaos.script("/good", does.ok())
    async with net.open() as board, net.open() as other:
        async with (
            client(chaos.origin, bulletin=board, changed=QUICK) as one,
            client(chaos.origin, bulletin=other, changed=QUICK) as two,
        ):
            for _ in range(2):
                await fetch(one, chaos.url("/bad"))
            await refusal(one, chaos.url("/good"), UpstreamUnreachable, "breaker_open")
            for _ in range(5):
                await asyncio.sleep(0)
            await fetch(two, chaos.url("/bad"))  # the one probe; it fails
            await refusal(two, chaos.url("/good"), UpstreamUnreachable, "breaker_open")
            assert (chaos.hits("/bad"), chaos.hits("/good")) == (3, 0)
            one.recover(chaos.origin)
            await fetch(one, chaos.url("/good"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert two.states()[chaos.origin].state == "half-open"
            await fetch(two, chaos.url("/good"))
            assert two.states()[chaos.origin].state == "closed"


async def test_a_process_that_cannot_reach_an_upstream_does_not_take_it_from_the_others(chaos):
    """Own experience counts more than what is said, and what is said never closes the way."""
    net = Net()
    chaos.script("/good", does.ok())
    async with net.open() as board, net.open() as teller:
        async with client(chaos.origin, bulletin=board, changed=QUICK) as up:
            for _ in range(20):
                teller.tell(BREAKER, told(chaos.origin, 60.0, time.time()))
                for _ in range(3):
                    await asyncio.sleep(0)
                await fetch(up, chaos.url("/good"))
                assert up.states()[chaos.origin].state == "closed"
            teller.tell(BREAKER, told(chaos.origin, 60.0, time.time()))
            for _ in range(3):
                await asyncio.sleep(0)
            assert up.states()[chaos.origin].state == "closed"  # it answered a moment ago
    assert chaos.hits("/good") == 20


async def test_recovery_is_told_by_who_told_of_failure_only(chaos):
    net, said = Net(), []
    chaos.script("/good", does.ok())
    chaos.script("/bad", does.status(500))
    async with net.open() as board, net.open() as teller:
        teller.listen(BREAKER, said.append)
        limits = QUICK | {"breaker_open": 0.05, "breaker_max": 0.05}
        async with client(chaos.origin, bulletin=board, changed=limits) as up:
            teller.tell(BREAKER, told(chaos.origin, 60.0, time.time()))
            for _ in range(3):
                await asyncio.sleep(0)
            await fetch(up, chaos.url("/good"))
            for _ in range(2):
                await fetch(up, chaos.url("/bad"))
            await eventually(lambda: up.states()[chaos.origin].state == "half-open")
            await fetch(up, chaos.url("/good"))
            await eventually(lambda: len(said) == 2)
    first, second = map(json.loads, said)
    assert (first["origin"], first["seconds"] > 0) == (chaos.origin, True)
    assert heard(said[1], time.time()) == (chaos.origin, 0.0)
    assert second["seconds"] == 0


HOSTILE = [
    "", "[]", "x", "{}",
    told("http://H.example:80", 60.0, 2e9), told("http://h.example", 60.0, 2e9),
    told("ftp://h.example:21", 60.0, 2e9), told("http://u:p@h.example:80", 60.0, 2e9),
    told("http://h.example:80/path", 60.0, 2e9), told("http://h.example:99999", 60.0, 2e9),
    told("http://h.example:80\r\n", 60.0, 2e9), told("", 60.0, 2e9),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_is_not_well_formed_is_not_believed(text):
    net = Net()
    async with net.open() as board, net.open() as teller:
        async with client("http://h.example:80", bulletin=board) as up:
            for topic in (PAUSE, BREAKER):
                teller.tell(topic, text)
            for _ in range(5):
                await asyncio.sleep(0)
            assert (up.states(), len(up._gates._hearsay)) == ({}, 0)


async def test_strange_origins_are_bounded():
    net = Net()
    async with net.open() as board, net.open() as teller:
        async with client("http://h.example:80", bulletin=board) as up:
            for number in range(HEARSAY * 2):
                teller.tell(PAUSE, told(f"http://h{number}.example:80", 60.0, time.time()))
            await eventually(lambda: len(up._gates._hearsay) == HEARSAY)
            assert up.states() == {}


def test_what_was_said_before_an_origin_is_asked():
    gates, limits = Gates(1), RemoteLimits(retry_after_max=100.0)
    gates.heed("a", Hearsay(pause_until=1000.0), 0.0)
    gates.heed("a", Hearsay(failing=True), 0.0)
    gates.heed("a", Hearsay(pause_until=50.0), 0.0)
    state = gates.of("a", limits, 40.0).state(40.0)
    assert (state.state, state.retry_after) == ("waiting", 100.0)
    assert gates.of("a", limits, 150.0).state(150.0).state == "half-open"
    assert gates.of("b", limits, 0.0).state(0.0).state == "closed"


async def test_without_a_bulletin_there_is_only_the_log(chaos):
    recorder = Recorder()
    chaos.script("/a", does.status(429, Retry_After="60"))
    async with client(chaos.origin, observer=recorder) as up:
        await fetch(up, chaos.url("/a"))
    assert recorder.warnings == [("upstream_gate", {"origin": chaos.origin, "seconds": 60.0})]
