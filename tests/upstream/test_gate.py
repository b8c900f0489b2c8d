"""What is remembered about an origin: places and queue, breaker, pauses."""

from __future__ import annotations

import asyncio

import pytest

from artifactproxy.errors import Busy, UpstreamBroken, UpstreamBusy, UpstreamUnreachable
from artifactproxy.ports import UpstreamRequest
from artifactproxy.rules.http import http_date
from artifactproxy.upstream.gate import Slots
from tests.chaos import Chaos
from tests.chaos import behaviours as does
from tests.upstream.tools import LOOPBACK, Recorder, client, fetch, refusal

QUICK = {"breaker_failures": 2, "breaker_open": 0.1, "breaker_max": 0.4}


async def hold(up, url, entered, leave):
    async with up.open(UpstreamRequest("r", url)):
        entered.release()
        await leave.wait()


async def busy(up, url, count):
    """`count` requests that stay open until the event is set."""
    entered, leave = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.ensure_future(hold(up, url, entered, leave)) for _ in range(count)]
    for _ in range(count):
        await entered.acquire()
    return tasks, leave


async def test_connections_per_host_are_bounded_and_the_queue_is_fair(chaos):
    chaos.script("/a", does.stall(at=0.5))
    chaos.script("/b", does.ok())
    async with client(chaos.origin, changed={"connections_per_host": 2, "queue_wait": 5.0}) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 2)
        waiting = [asyncio.ensure_future(fetch(up, chaos.url(f"/b?{n}"))) for n in range(5)]
        await asyncio.sleep(0.05)
        assert (chaos.hits("/b"), chaos.connections) == (0, 2)
        assert up.states()[chaos.origin].queued == 5
        leave.set()
        await asyncio.gather(*tasks, *waiting)
        assert [s.target[-1] for s in chaos.requests if s.path == "/b"] == list("01234")
        state = up.states()[chaos.origin]
    assert (state.active, state.queued) == (0, 0)


async def test_a_long_wait_is_busy(chaos):
    chaos.script("/a", does.stall(at=0.5))
    async with client(chaos.origin, changed={"connections_per_host": 1, "queue_wait": 0.05}) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 1)
        fault = await refusal(up, chaos.url("/b"), Busy, "upstream_queue")
        assert fault.retry_after is not None
        leave.set()
        await asyncio.gather(*tasks)
        chaos.script("/b", does.ok())
        await fetch(up, chaos.url("/b"))


async def test_a_full_queue_is_busy_at_once(chaos):
    chaos.script("/a", does.stall(at=0.5))
    chaos.script("/b", does.ok())
    limits = {"connections_per_host": 1, "queue": 1, "queue_wait": 30.0}
    async with client(chaos.origin, changed=limits) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 1)
        first = asyncio.ensure_future(fetch(up, chaos.url("/b")))
        await asyncio.sleep(0.01)
        await refusal(up, chaos.url("/b"), Busy, "upstream_queue")
        leave.set()
        await asyncio.gather(*tasks, first)


async def test_a_paused_origin_is_refused_at_once_not_after_the_queue(chaos):
    chaos.script("/a", does.stall(at=0.5))
    chaos.script("/b", does.status(429, Retry_After="60"))
    async with client(chaos.origin, changed={"connections_per_host": 2, "queue_wait": 30.0}) as up:
        tasks, leave = await busy(up, chaos.url("/a"), 1)
        more, away = await busy(up, chaos.url("/b"), 1)
        await asyncio.wait_for(refusal(up, chaos.url("/b"), UpstreamBusy, "upstream_busy"), 20)
        leave.set()
        away.set()
        await asyncio.gather(*tasks, *more)


async def test_the_total_is_bounded_over_all_hosts(chaos):
    async with Chaos() as other:
        chaos.script("/a", does.stall(at=0.5))
        other.script("/b", does.ok())
        async with client(chaos.origin, other.origin, total=1, changed={"queue_wait": 0.05}) as up:
            tasks, leave = await busy(up, chaos.url("/a"), 1)
            await refusal(up, other.url("/b"), Busy, "upstream_queue")
            assert other.connections == 0
            leave.set()
            await asyncio.gather(*tasks)
            assert (await fetch(up, other.url("/b")))[0].status == 200
            assert up.states()[other.origin].active == 0


async def test_a_redirect_needs_one_place_at_a_time(chaos):
    chaos.script("/a", does.redirect("/b"))
    chaos.script("/b", does.ok())
    async with client(chaos.origin, total=1, changed={"connections_per_host": 1}) as up:
        assert (await fetch(up, chaos.url("/a")))[0].status == 200


async def test_slots_survive_cancellation_at_the_worst_moment():
    slots = Slots(1)
    await slots.take()
    first, second = (asyncio.ensure_future(slots.take()) for _ in range(2))
    await asyncio.sleep(0)
    slots.give()  # handed to the first, which is cancelled before it runs
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    slots.give()
    assert (slots.taken, len(slots.waiters)) == (0, 0)
    third = asyncio.ensure_future(slots.take())
    await asyncio.sleep(0)
    fourth = asyncio.ensure_future(slots.take())
    await asyncio.sleep(0)
    fourth.cancel()
    await asyncio.gather(fourth, return_exceptions=True)
    assert (third.done(), slots.taken, len(slots.waiters)) == (True, 1, 0)


@pytest.mark.parametrize(
    "behaviour",
    [does.status(500), does.status(503), does.slam(), does.raw(b"nonsense\r\n\r\n"), does.silence()],
)
async def test_what_opens_the_breaker(chaos, behaviour):
    chaos.script("/a", behaviour)
    seen = Recorder()
    limits = QUICK | {"first_byte": 0.1, "breaker_open": 9.0}
    async with client(chaos.origin, observer=seen, changed=limits) as up:
        for _ in range(2):
            try:
                await fetch(up, chaos.url("/a"))
            except Exception as fault:
                assert fault.code != "breaker_open"
        await refusal(up, chaos.url("/other"), UpstreamUnreachable, "breaker_open")
        assert up.states()[chaos.origin].state == "open"
    assert len(chaos.requests) == 2
    assert [event for event, _ in seen.warnings].count("upstream_breaker_open") == 1


async def test_what_does_not_open_it(chaos):
    chaos.script("/a", does.status(404))
    chaos.script("/b", does.status(500), does.ok(), does.status(500), does.ok())
    chaos.script("/c", does.redirect("http://inner.example/"))

    async def inner(host: str, port: int, family: int) -> list[str]:
        return ["10.0.0.1"]

    async with client(chaos.origin, lookup=inner, changed=QUICK | {"breaker_open": 9.0}) as up:
        for path in ("/a", "/a", "/a", "/b", "/b", "/b", "/b"):
            await fetch(up, chaos.url(path))
        for _ in range(3):
            with pytest.raises(Exception, match="internal"):
                await fetch(up, chaos.url("/c"))
        assert {state.state for state in up.states().values()} == {"closed"}
        assert len(up.states()) == 2


async def test_origins_are_independent(chaos):
    async with Chaos() as other:
        chaos.script("/a", does.status(500))
        other.script("/b", does.ok())
        async with client(chaos.origin, other.origin, changed=QUICK | {"breaker_open": 9.0}) as up:
            for _ in range(2):
                await fetch(up, chaos.url("/a"))
            await refusal(up, chaos.url("/a"), UpstreamUnreachable, "breaker_open")
            assert (await fetch(up, other.url("/b")))[0].status == 200


async def test_half_open_sends_one_probe(chaos):
    chaos.script("/a", does.status(500), does.status(500), does.stall(at=0, seconds=0.2))
    async with client(chaos.origin, changed=QUICK | {"first_byte": 2.0}) as up:
        for _ in range(2):
            await fetch(up, chaos.url("/a"))
        await asyncio.sleep(0.12)
        assert up.states()[chaos.origin].state == "half-open"
        chaos.script("/p", does.interim_flood(0.15, count=1))
        probe = asyncio.ensure_future(fetch(up, chaos.url("/p")))
        await asyncio.sleep(0.05)
        await refusal(up, chaos.url("/a"), UpstreamUnreachable, "breaker_open")
        assert (await probe)[0].status == 200
        assert up.states()[chaos.origin].state == "closed"
    assert chaos.hits("/a") == 2


async def test_a_failed_probe_doubles_the_time(chaos):
    chaos.script("/a", does.status(500))
    async with client(chaos.origin, changed=QUICK) as up:
        waits = []
        for _ in range(4):
            while up.states()[chaos.origin].state != "open" if up.states() else True:
                await fetch(up, chaos.url("/a"))
            waits.append(up.states()[chaos.origin].retry_after)
            await asyncio.sleep(waits[-1] + 0.01)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.4], abs=0.05)


async def test_a_cancelled_probe_lets_the_next_one_go(chaos):
    chaos.script("/a", does.status(500), does.status(500), does.silence(), does.ok())
    async with client(chaos.origin, changed=QUICK | {"first_byte": 9.0}) as up:
        for _ in range(2):
            await fetch(up, chaos.url("/a"))
        await asyncio.sleep(0.12)
        probe = asyncio.ensure_future(fetch(up, chaos.url("/a")))
        while chaos.hits("/a") < 3:
            await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert (await fetch(up, chaos.url("/a")))[0].status == 200


async def test_recover_forgets_everything(chaos):
    chaos.script("/a", does.status(500), does.status(500), does.status(429, Retry_After="600"), does.ok())
    async with client(chaos.origin, changed=QUICK | {"breaker_open": 60.0}) as up:
        assert up.recover(chaos.origin) is False
        for _ in range(2):
            await fetch(up, chaos.url("/a"))
        await refusal(up, chaos.url("/a"), UpstreamUnreachable, "breaker_open")
        assert up.recover(chaos.origin + "/") is True
        await fetch(up, chaos.url("/a"))
        assert up.states()[chaos.origin].state == "waiting"
        up.recover(chaos.origin)
        assert (await fetch(up, chaos.url("/a")))[0].status == 200


@pytest.mark.parametrize(
    ("code", "header", "wait"),
    [
        (429, {"Retry_After": "20"}, 20),
        (503, {"Retry_After": "20"}, 20),
        (429, {"Retry_After": http_date(1000 + 30)}, 30),
        (429, {"Retry_After": http_date(1000 - 30)}, 1),
        (429, {"Retry_After": "0"}, 1),
        (429, {"Retry_After": "99999999"}, 3600),
        (429, {"Retry_After": "soon"}, 1),
        (429, {}, 1),
    ],
)
async def test_u15_a_pause_is_clamped_and_kept(chaos, code, header, wait):
    chaos.script("/a", does.status(code, **header))
    seen = Recorder()
    async with client(chaos.origin, clock=lambda: 1000.0, observer=seen) as up:
        assert (await fetch(up, chaos.url("/a")))[0].status == code
        faults = [await refusal(up, chaos.url("/a"), UpstreamBusy, "upstream_busy") for _ in range(5)]
    assert wait - 0.5 < faults[0].retry_after <= wait
    assert chaos.hits("/a") == 1
    assert seen.warnings[0][1]["seconds"] == wait


async def test_503_without_a_time_is_a_failure_not_a_pause(chaos):
    chaos.script("/a", does.status(503))
    async with client(chaos.origin) as up:
        await fetch(up, chaos.url("/a"))
        assert (await fetch(up, chaos.url("/a")))[0].status == 503


async def test_those_in_the_queue_hear_of_the_pause(chaos):
    """They waited for a place behind the request that was told to go away."""
    chaos.script("/a", does.status(429, Retry_After="60"))
    async with client(chaos.origin, changed={"connections_per_host": 1, "queue_wait": 5.0}) as up:
        results = await asyncio.gather(
            *(fetch(up, chaos.url("/a")) for _ in range(5)), return_exceptions=True
        )
    assert sorted(type(r).__name__ for r in results) == ["UpstreamBusy"] * 4 + ["tuple"]
    assert chaos.hits("/a") == 1


async def test_named_hosts_do_not_pile_up(chaos, monkeypatch):
    chaos.script("/a", does.slam())
    async with client(chaos.origin, allow_private=LOOPBACK) as up:
        for _ in range(2):
            await refusal(up, chaos.url("/a"), UpstreamBroken, "no_answer")
        up._gates._gates |= {f"http://h{n}.example:80": up._gates._gates[chaos.origin] for n in range(10_000)}
        await refusal(up, f"http://localhost:{chaos.port}/a", UpstreamBroken, "no_answer")
        assert len(up.states()) <= 2


async def test_a_broken_service_beside_the_files_does_not_open_the_breaker(chaos):
    chaos.script("/audit", does.status(500))
    chaos.script("/file", does.ok())
    async with client(chaos.origin, changed=QUICK | {"breaker_open": 9.0}) as up:
        for _ in range(QUICK["breaker_failures"] + 1):
            head, _ = await fetch(up, chaos.url("/audit"), method="POST", body=b"{}")
            assert head.status == 500
        head, _ = await fetch(up, chaos.url("/file"))
        assert head.status == 200
