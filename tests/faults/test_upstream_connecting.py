"""U01 to U04, U13 to U15 in time: an upstream that cannot be reached, or asks to be left alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from artifactproxy.upstream import guard
from tests.chaos import Chaos
from tests.chaos.behaviours import interim_flood, ok, silence, slam, slow_head, status
from tests.faults.watch import INDEX, Watch, watched

BREAKER = "breaker_failures: 5\nbreaker_open: 3s\nfirst_byte: 2s"


async def test_u01_refused_is_a_502_after_two_quick_tries(watch: Watch) -> None:
    port = watch.chaos.port
    await watch.chaos.stop()
    await watch.refused("/files/f.bin", 502, "upstream_refused")
    assert await watch.errors("upstream_refused") == 2
    await watch.is_kept()
    await watch.is_stale()
    assert await watch.errors("upstream_refused") == 4
    await watch.chaos.start(port)
    await watch.next_is_right()


async def test_u01_the_breaker_opens_after_five_and_one_probe_closes_it(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, extra=BREAKER) as watch:
        port = chaos.port
        await chaos.stop()
        for name in "ab":
            await watch.refused(f"/files/{name}.bin", 502, "upstream_refused")
        assert (await watch.proxy.get("/files/c.bin")).error == "breaker_open", "at its second try"
        line = await watch.warned("upstream_breaker_open")
        assert str(line["origin"]).endswith(f":{port}")
        assert await watch.errors("upstream_refused") == 5
        started = time.monotonic()
        down = await watch.refused("/files/d.bin", 502, "breaker_open")
        assert int(down.headers["Retry-After"]) >= 1
        await watch.is_kept()
        stale = await watch.is_stale()
        assert stale.status == 200
        assert await watch.errors("upstream_refused") == 5, "nothing is sent while it is open"
        await chaos.start(port)
        chaos.script("/probe.bin", silence())
        await asyncio.sleep(max(0.0, started + 3.1 - time.monotonic()))
        await _one_probe(watch)


async def _one_probe(watch: Watch) -> None:
    """Half-open: one request goes out, the others are refused, and its answer closes the breaker."""
    chaos = watch.chaos
    first = asyncio.create_task(watch.proxy.get("/files/probe.bin"))
    while not chaos.hits("/probe.bin"):
        await asyncio.sleep(0.01)
    others = await asyncio.gather(*(watch.proxy.get(f"/files/o{n}.bin") for n in range(5)))
    assert {(o.status, o.error) for o in others} == {(502, "breaker_open")}
    assert not any(chaos.hits(f"/o{n}.bin") for n in range(5))
    assert (await first).error == "first_byte"
    for _ in range(1_000):  # the failed probe doubled the time
        got = await watch.proxy.get("/files/none.bin")
        if got.error != "breaker_open":
            break
        await asyncio.sleep(0.05)
    assert got.status == 404
    await watch.next_is_right()


@contextlib.contextmanager
def black_hole(port: int) -> Iterator[None]:
    """A port whose queue is full: further SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


async def test_u03_a_black_hole_is_a_504_in_bounded_time(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, extra="connect: 300ms") as watch:
        port = chaos.port
        await chaos.stop()
        with black_hole(port):
            await asyncio.sleep(0.05)
            started = time.monotonic()
            await watch.refused("/files/f.bin", 504, "connect_timeout")
            assert 0.25 < time.monotonic() - started < 1.5, "asked once: a slow upstream is not asked again"
            await watch.is_kept()
            await watch.is_stale()
        await chaos.start(port)
        await watch.next_is_right()


class Names:
    """A resolver that can fail; `asked` counts."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.down = False
        self.asked = 0

    async def __call__(self, host: str, port: int, family: int) -> list[str]:
        del port, family
        self.asked += 1
        if self.down:
            raise socket.gaierror(socket.EAI_NONAME, f"no such name: {host}")
        return [self.address]


@pytest.fixture
async def named(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Watch, Names]]:
    """The upstream is known by a name only."""
    names = Names("127.0.0.1")
    monkeypatch.setattr(guard, "getaddrinfo", names)
    monkeypatch.setattr(guard, "DNS_MEMORY", 0.4)
    files = f"http://upstream.example:{chaos.port}/"
    async with watched(tmp_path, chaos, files=files) as watch:
        yield watch, names


async def test_u02_an_unresolvable_name_is_remembered_for_a_moment(named: tuple[Watch, Names]) -> None:
    watch, names = named
    await watch.proxy.engine._parts.upstream._sessions.close()  # the pooled connections go
    names.down, names.asked = True, 0
    got = await watch.refused("/files/f.bin", 502, "upstream_dns")
    assert b"upstream.example" in (got.body or b"")
    assert got.reason == "Bad Gateway"
    asked = names.asked
    await watch.is_kept()
    await watch.is_stale()
    await watch.refused("/files/g.bin", 502, "upstream_dns")
    assert asked == names.asked == 1, "the second try and everything after it knew already"
    names.down = False
    await asyncio.sleep(0.45)
    await watch.next_is_right()
    assert names.asked == 2


async def test_u02_the_memory_of_a_failed_name_is_at_most_five_seconds() -> None:
    assert guard.DNS_MEMORY <= 5


@pytest.mark.parametrize(
    "behaviour", [slow_head(0.05), silence(), interim_flood(0.01)], ids=["header by header", "silent", "1xx"]
)
async def test_u04_u36_the_head_has_an_absolute_deadline(brisk: Watch, behaviour: object) -> None:
    brisk.chaos.script("/f.bin", behaviour)
    brisk.chaos.script(INDEX, behaviour)
    started = time.monotonic()
    await brisk.refused("/files/f.bin", 504, "first_byte")
    assert 0.5 < time.monotonic() - started < 9.0, "600 ms, whatever arrives meanwhile"
    assert brisk.chaos.hits("/f.bin") == 1
    await brisk.is_kept()
    await brisk.is_stale()
    await brisk.next_is_right()


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u01_a_connection_slammed_shut_is_tried_again(watch: Watch, rst: bool) -> None:
    body = watch.chaos.script("/e.bin", slam(rst=rst), ok(), size=100_000)
    got = await watch.proxy.get("/files/e.bin")
    assert (got.status, got.body) == (200, body.bytes())
    watch.chaos.script("/g.bin", slam(rst=rst))
    await watch.refused("/files/g.bin", 502, "no_answer")
    await watch.next_is_right()


# --- U15: leave me alone ---


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_u15_nothing_is_sent_during_the_pause(watch: Watch, code: int, form: str) -> None:
    chaos = watch.chaos
    asked = "30" if form == "seconds" else _in(30)
    chaos.script("/f.bin", status(code, Retry_After=asked))
    got = await watch.refused("/files/f.bin", code, "upstream_busy")
    assert 25 <= int(got.headers["Retry-After"]) <= 31
    sent = len(chaos.requests)
    others = await asyncio.gather(*(watch.proxy.get(f"/files/o{n}.bin") for n in range(10)))
    assert {o.error for o in others} == {"upstream_busy"}
    assert {o.status for o in others} == {503}
    assert all(25 <= int(o.headers["Retry-After"]) <= 31 for o in others)
    await watch.is_kept()
    await watch.is_stale()
    assert len(chaos.requests) == sent, "no request during the pause"
    line = await watch.warned("upstream_gate")
    assert 25 <= float(str(line["seconds"])) <= 31
    assert await watch.grown("warnings_total", event="upstream_gate") == 1
    upstream = watch.proxy.engine._parts.upstream
    assert upstream.states()[chaos.origin].state == "waiting"
    assert upstream.recover(chaos.origin)
    await watch.next_is_right()


def _in(seconds: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("0", 1, 1),
        ("-5", 1, 10),
        ("999999999", 3600, 3600),
        ("soon", 1, 10),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 1, 1),
    ],
)
async def test_u15_the_pause_is_clamped(watch: Watch, asked: str, least: int, most: int) -> None:
    watch.chaos.script("/f.bin", status(429, Retry_After=asked))
    got = await watch.refused("/files/f.bin", 429, "upstream_busy")
    assert least <= int(got.headers["Retry-After"]) <= most
    watch.proxy.engine._parts.upstream.recover(watch.chaos.origin)
    await watch.next_is_right()


async def test_u15_all_who_wait_get_one_answer_and_the_pause_ends(watch: Watch) -> None:
    chaos = watch.chaos
    chaos.script("/f.bin", _busy_after(0.2))
    answers = await asyncio.gather(*(watch.proxy.get("/files/f.bin") for _ in range(20)))
    assert {(a.status, a.error) for a in answers} == {(429, "upstream_busy")}
    assert chaos.hits("/f.bin") == 1
    assert (await watch.proxy.get("/files/g.bin")).status == 503
    await asyncio.sleep(1.1)
    await watch.next_is_right()


def _busy_after(seconds: float) -> object:
    async def behave(exchange: object) -> None:
        await asyncio.sleep(seconds)
        await status(429, Retry_After="1")(exchange)

    return behave
