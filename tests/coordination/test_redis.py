"""What Redis may do to leases: rows R01 to R08 of the fault matrix, at the adapter, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as driver
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.coordination.redis import RedisCoordinator
from artifactproxy.coordination.scripts import EXTEND, GIVE_BACK, TAKE, Script
from artifactproxy.errors import ConfigError, StoreUnavailable
from artifactproxy.ports import Holder
from tests.chaos.certs import Authority
from tests.chaos.tcp import Tcp, Toxics, calm, cut_after, down, latency, slicer
from tests.chaos.tcp import timeout as black_hole
from tests.contracts.harness_redis import _HOLDER, Tenant
from tests.coordination.tools import Notes, eventually, opened, quick, started, taken
from tests.servers import redis
from tests.servers.process import HOST, free_port
from tests.servers.redis import Redis

KEY = "tools/simple/soup/"
PATIENCE = 10.0  # seconds until a test that hangs fails


@pytest.fixture
def server() -> Iterator[Redis]:
    """One to be hurt."""
    with Redis() as server:
        yield server


@pytest.fixture
def tenant() -> Tenant:
    return Tenant()


def keys(server: Redis) -> list[bytes]:
    return sorted(server.ask("KEYS", "*"))


async def all_at_once(coordinator: RedisCoordinator, count: int) -> list[object]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(coordinator.acquire(f"{KEY}{n}", wait=60) for n in range(count)))


# --- as it should be


async def test_nothing_is_left_behind(server: Redis) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        for _ in range(3):
            lease = await one.acquire(KEY, wait=0)
            (name,) = keys(server)
            assert name.startswith(b"artifactproxy:v1:lease:")
            assert await other.acquire(KEY, wait=0.01) is None
            await lease.release()
            await lease.release()
        assert keys(server) == []
        assert len(one._turns) == len(other._turns) == len(one._held) == len(one._left_over) == 0


async def test_a_crowd_shares_one_connection(server: Redis) -> None:
    async with opened(server.url, budget=5.0) as one:
        leases = await all_at_once(one, 1500)
        assert None not in leases
        clients = ("CLIENT", "LIST", "TYPE", "normal")
        await eventually(lambda: server.ask(*clients).count(b"\n") == 2)  # and the one who asks this
        await asyncio.gather(*(lease.release() for lease in leases))
        assert keys(server) == []


async def test_a_lease_outlasts_its_time_to_live(server: Redis) -> None:
    async with opened(server.url, lease=0.4, renew=0.05) as one, opened(server.url) as other:
        lease = await one.acquire(KEY, wait=0)
        assert await other.acquire(KEY, wait=1.2) is None
        await lease.release()
        assert await other.acquire(KEY, wait=0) is not None


async def test_what_is_given_back_is_not_prolonged_any_more(server: Redis) -> None:
    """A lease that ends while all are prolonged would come back, and nobody would give it back."""
    async with opened(server.url) as one:
        lease = await one.acquire(KEY, wait=0)
        await asyncio.gather(one._renew_all(), lease.release())
        assert keys(server) == []


async def test_close_gives_back_what_is_held(server: Redis) -> None:
    async with opened(server.url) as one:
        leases = [await one.acquire(key, wait=0) for key in "abc"]
        assert len(keys(server)) == 3
    assert keys(server) == []
    for lease in leases:
        await lease.release()
    assert await one.acquire("a", wait=0) is None


async def test_who_is_cancelled_holds_nothing(server: Redis) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        for laps in range(8):
            task = asyncio.create_task(one.acquire(KEY, wait=5))
            for _ in range(laps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                await task.result().release()
        lease = await other.acquire(KEY, wait=PATIENCE)
        assert lease is not None
        await lease.release()
        assert len(one._turns) == 0


async def test_a_connection_that_idled_to_death_is_made_anew(server: Redis) -> None:
    async with opened(server.url) as one:
        for hurt in (("CLIENT", "KILL", "TYPE", "normal"), ("SCRIPT", "FLUSH")):
            server.ask(*hurt)
            lease = await one.acquire(KEY, wait=0)
            assert lease is not None
            await lease.release()


async def test_the_rights_that_are_documented_are_enough(tenant: Tenant) -> None:
    notes = Notes()
    async with opened(tenant.url, prefix=tenant.prefix, notes=notes) as one:
        lease = await one.acquire(KEY, wait=0)
        await lease.release()
        await one.check()
    assert notes.said == []


async def test_close_ends_at_any_moment_of_a_probe(server: Redis) -> None:
    """The driver of Python 3.11 forgets a cancellation that comes as its write ends."""
    async with asyncio.timeout(60):
        for number in range(150):
            async with opened(server.url, budget=1e-9, rest=0.0):  # it is probed all the time
                await asyncio.sleep(0.0105 + number % 50 * 0.00002)


# --- what no waiting mends


def serve_http(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as client:
                client.recv(100)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("http://h/", "redis://host:6379/0"),
        ("redis://h:port/", "redis://host:6379/0"),
        ("redis://h/?colour=blue", "redis://host:6379/0"),
        ("redis://:hunter2@{place}/0", "refuses this user or password"),
        ("redis://nobody:hunter2@{place}/0", "refuses this user or password"),
        ("redis://{place}/0", "refuses this user or password"),
        ("redis://:right@{place}/4711", "/0"),
        ("rediss://:right@{web}/0", "does not speak TLS"),
        ("redis://:hunter2@{web}/0", "is no Redis"),
    ],
)
async def test_a_wrong_address_or_password_stops_the_start(wrong: str, sentence: str) -> None:
    with Redis(password="right") as server, socket.create_server((HOST, 0)) as web:
        threading.Thread(target=serve_http, args=(web,), daemon=True).start()
        url = wrong.format(place=f"{HOST}:{server.port}", web=f"{HOST}:{web.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"coordination\.url") as caught:
            async with opened(url):
                pass
        web.shutdown(socket.SHUT_RDWR)
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_tls_is_believed_only_with_its_authority(tmp_path: Path) -> None:
    authority, port = Authority.make(tmp_path), free_port()
    certificate, key = authority.issue("IP:127.0.0.1")
    settings = {"tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-auth-clients": "no"}
    with Redis(settings={"tls-port": str(port), **settings}):
        url = f"rediss://{HOST}:{port}/0"
        with pytest.raises(ConfigError, match="ssl_ca_certs"):
            async with opened(url):
                pass
        async with opened(f"{url}?ssl_ca_certs={authority.pem}") as one:
            lease = await one.acquire(KEY, wait=0)
            assert lease is not None
            await lease.release()


async def test_a_user_without_the_rights_stops_the_start(tenant: Tenant) -> None:
    tenant.server.ask("ACL", "SETUSER", tenant.user, "-evalsha", "-eval")
    with pytest.raises(ConfigError, match="let this user run scripts"):
        async with opened(tenant.url, prefix=tenant.prefix):
            pass


def test_an_address_that_nobody_could_follow_is_refused() -> None:
    for address in ("10.0.0.5", "ftp://h", "http://", "http://a b", "unix:relative"):
        with pytest.raises(ConfigError, match=r"cluster\.advertise"):
            RedisCoordinator(quick("redis://h"), address=address)


# --- R01 to R08


async def test_r01_away_at_the_start_is_waited_for() -> None:
    notes, port = Notes(), free_port()
    async with opened(f"redis://{HOST}:{port}/0", notes=notes) as one:
        assert await all_at_once(one, 100) == [None] * 100
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await one.check()
        assert (notes.said, notes.degraded) == (["coordination_away"], {"coordination": 1})
        async with started(port):
            lease = await taken(one, KEY)
            await one.check()
            await lease.release()
            assert notes.degraded == {"coordination": 0}
            assert notes.said == ["coordination_away", "coordination_back"]


async def test_r01_down_while_a_lease_is_held(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes, lease=0.3) as one, opened(server.url, rest=0.05) as other:
        lease = await one.acquire(KEY, wait=0)
        server.kill()
        assert await all_at_once(other, 50) == [None] * 50
        waiting = asyncio.create_task(one.acquire(KEY, wait=PATIENCE))
        await eventually(lambda: lease.lost)
        assert notes.counts["lock_lost"] == 1
        await lease.release()
        assert await waiting is None
        await asyncio.to_thread(server.start)
        again = await taken(one, KEY)
        assert await other.acquire(KEY, wait=0) is None
        await again.release()


async def test_r01_back_with_the_lease_still_held(server: Redis) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        lease = await one.acquire(KEY, wait=0)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: keys(server))  # it is held anew, though Redis has forgotten it
        await taken(other, "another")
        assert await other.acquire(KEY, wait=0) is None
        await lease.release()
        assert await other.acquire(KEY, wait=PATIENCE) is not None


async def test_r02_flushed_again_and_again(server: Redis) -> None:
    notes, ends = Notes(), asyncio.Event()

    async def flush() -> None:
        for _ in range(60):
            await asyncio.to_thread(server.ask, "FLUSHALL")
            await asyncio.sleep(0.01)
        ends.set()

    async def fill(coordinator: RedisCoordinator) -> int:
        done = 0
        while not ends.is_set():
            lease = await coordinator.acquire(KEY, wait=0.02)
            await asyncio.sleep(0.005)
            if lease is not None:
                await lease.release()
                done += 1
        return done

    async with opened(server.url, notes=notes) as one, opened(server.url) as other:
        lasting = await one.acquire("a long one", wait=0)
        flushing = asyncio.create_task(flush())
        async with asyncio.timeout(60):
            done = await asyncio.gather(*(fill(each) for each in (one, other)))
        await flushing
        assert min(done) > 0
        assert notes.counts["lock_lost"] > 0
        assert "coordination_away" not in notes.said
        await eventually(lambda: keys(server))
        assert await other.acquire("a long one", wait=0) is None
        await lasting.release()
        assert keys(server) == []


async def test_r03_slow_costs_one_budget_and_then_nothing(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes, budget=0.05, rest=60.0) as one:
        server.ask("CLIENT", "PAUSE", "60000", "ALL")
        assert await one.acquire(KEY, wait=60) is None
        assert notes.counts["redis_timeouts"] == 1
        assert await all_at_once(one, 500) == [None] * 500
        assert notes.counts["redis_timeouts"] == 1  # nobody else has waited
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await one.check()


@pytest.mark.parametrize(
    "toxic",
    [latency(3.0), black_hole(), black_hole("up"), black_hole("down")],
    ids=["slow", "hole", "hole up", "hole down"],
)
async def test_r03_a_bad_network(server: Redis, toxic: Toxics) -> None:
    notes = Notes()
    async with Tcp((HOST, server.port)) as proxy:
        url = f"redis://{HOST}:{proxy.port}/0"
        async with opened(url, notes=notes, budget=0.05, connect=0.3) as one, opened(url) as other:
            proxy.toxics = toxic
            assert await all_at_once(one, 200) == [None] * 200
            seen = notes.counts["redis_timeouts"]
            for _ in range(3):
                assert await all_at_once(one, 200) == [None] * 200
                await asyncio.sleep(0.1)
            assert notes.counts["redis_timeouts"] == seen  # only the first have waited
            assert notes.said == ["coordination_away"]
            proxy.toxics = calm()
            lease = await taken(one, KEY)
            assert await taken_or_told(other, KEY) is None
            await lease.release()
            await eventually(lambda: keys(server) == [])


async def taken_or_told(coordinator: RedisCoordinator, key: str) -> object:
    """What this process, asking as long as it takes to be connected, is told in the end."""
    await (await taken(coordinator, "another")).release()
    return await coordinator.acquire(key, wait=0)


async def test_r01_a_network_that_comes_and_goes(server: Redis) -> None:
    async with Tcp((HOST, server.port)) as proxy:
        url = f"redis://{HOST}:{proxy.port}/0"
        async with opened(url, rest=0.02) as one:
            for _ in range(5):
                proxy.toxics = down()
                assert await all_at_once(one, 20) == [None] * 20
                proxy.toxics = calm()
                await (await taken(one, KEY)).release()
            proxy.toxics = slicer(1)
            lease = await one.acquire(KEY, wait=0)
            assert lease is not None
            await lease.release()


async def test_a_lease_whose_answer_was_lost_is_ours(server: Redis) -> None:
    async with Tcp((HOST, server.port)) as proxy:
        async with opened(f"redis://{HOST}:{proxy.port}/0", renew=1.0) as one:
            lease = await one.acquire("before", wait=0)
            await lease.release()
            proxy.links[-1].toxics = cut_after(b"EVALSHA")
            lease = await one.acquire(KEY, wait=0)
            assert lease is not None
            (name,) = keys(server)
            assert server.ask("GET", name) == lease.value.encode()
            await lease.release()
            assert keys(server) == []


async def test_r03_black_hole(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes, budget=0.05, connect=0.3) as one:
        held = await one.acquire(KEY, wait=0)
        server.pause()
        for _ in range(3):
            assert await all_at_once(one, 100) == [None] * 100
            await asyncio.sleep(0.2)
        async with asyncio.timeout(PATIENCE):
            await held.release()
        server.resume()
        lease = await taken(one, KEY)
        await lease.release()
        await eventually(lambda: keys(server) == [])  # also what was asked into the hole


async def test_r03_what_is_taken_too_late_is_given_back(server: Redis) -> None:
    async with opened(server.url, budget=0.05, lease=60.0) as one:
        server.ask("CLIENT", "PAUSE", "300", "WRITE")
        assert await one.acquire(KEY, wait=0) is None
        lease = await taken(one, "another")
        await eventually(lambda: keys(server) == [lease.name.encode()])


async def test_r03_always_slow_is_never_asked(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes, budget=1e-9, rest=0.01) as one:
        await asyncio.sleep(0.1)
        assert await all_at_once(one, 100) == [None] * 100
        assert notes.said == ["coordination_away"]
        assert notes.counts["redis_timeouts"] == 0


async def test_r03_our_own_standing_still_is_not_held_against_redis(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes, budget=0.05) as one:
        asking = asyncio.create_task(one.acquire(KEY, wait=0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: None)
        blocked = threading.Event()
        asyncio.get_running_loop().call_soon(blocked.wait, 0.2)
        lease = await asking
        assert lease is not None
        assert notes.counts["redis_timeouts"] == 0
        await lease.release()


async def test_r04_a_lease_that_ended_while_its_holder_lives(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes) as one, opened(server.url) as other:
        lease = await one.acquire(KEY, wait=0)
        server.ask("SET", lease.name, "0123456789abcdef/1 http://other.example")  # its time was over
        await eventually(lambda: lease.lost)
        assert notes.counts["lock_lost"] == 1
        assert await one.acquire("independent", wait=0) is not None
        await lease.release()
        assert server.ask("EXISTS", lease.name) == 1
        assert await other.acquire(KEY, wait=0) == Holder("http://other.example")


async def test_r04_a_holder_that_stood_still(tenant: Tenant) -> None:
    command = [sys.executable, "-c", _HOLDER, tenant.url, tenant.prefix, KEY]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        async with (
            opened(tenant.url, prefix=tenant.prefix) as one,
            opened(tenant.url, prefix=tenant.prefix) as other,
        ):
            holder.send_signal(signal.SIGSTOP)
            lease = await one.acquire(KEY, wait=PATIENCE)
            assert lease is not None
            holder.send_signal(signal.SIGCONT)
            assert await other.acquire(KEY, wait=0.5) is None
            assert not lease.lost
            holder.kill()
            await lease.release()
            assert await other.acquire(KEY, wait=0) is not None
    finally:
        holder.kill()
        holder.communicate()


async def test_r05_a_failover_that_loses_the_lease(server: Redis) -> None:
    with Redis() as second:
        async with Tcp((HOST, server.port)) as proxy:
            url = f"redis://{HOST}:{proxy.port}/0"
            async with opened(url, address="http://one.example") as one, opened(url) as other:
                lease = await one.acquire(KEY, wait=0)
                proxy.switch((HOST, second.port))
                fresh = await taken(other, "who sees the second only")
                await fresh.release()
                # The new one knows nothing: either the holder says so again first, or another is let in.
                found = await other.acquire(KEY, wait=0)
                assert found is not None
                if not isinstance(found, Holder):
                    await eventually(lambda: lease.lost)
                    await found.release()
                await lease.release()
                await eventually(lambda: keys(second) == [])


HURT = {
    "readonly": ("REPLICAOF", HOST, "1"),
    "full": ("CONFIG", "SET", "maxmemory", "1"),
    "odd": ("CONFIG", "SET", "min-replicas-to-write", "3"),
}
MENDED = {
    "readonly": ("REPLICAOF", "NO", "ONE"),
    "full": ("CONFIG", "SET", "maxmemory", "0"),
    "odd": ("CONFIG", "SET", "min-replicas-to-write", "0"),
}


@pytest.mark.parametrize("cause", HURT)
async def test_r06_redis_that_takes_no_writes(server: Redis, cause: str) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes) as one:
        held = await one.acquire("held before", wait=0)
        server.ask(*HURT[cause])
        assert await one.acquire(KEY, wait=60) is None
        assert notes.counts[f"redis_errors:{cause}"] >= 1
        assert await all_at_once(one, 50) == [None] * 50
        with pytest.raises(StoreUnavailable):
            await one.check()
        await held.release()
        server.ask(*MENDED[cause])
        await (await taken(one, KEY)).release()
        assert notes.said[-1] == "coordination_back"


async def test_r06_evicted(server: Redis) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes) as one, opened(server.url) as other:
        lease = await one.acquire(KEY, wait=0)
        server.ask("DEL", lease.name)
        await eventually(lambda: keys(server) and notes.counts["lock_lost"] == 1)
        assert await other.acquire(KEY, wait=0) is None
        assert not lease.lost
        await lease.release()


@pytest.mark.parametrize(
    "planted",
    [
        ("SET", "garbage"),
        ("SET", ""),
        ("SET", "0123456789abcdef/1"),
        ("SET", "0123456789abcdef/1 ftp://x"),
        ("SET", "0123456789abcdef/1 http://a\nb"),
        ("SET", "0123456789abcdef/1 http://" + "x" * 10_000),
        ("SET", "\ufffd\x80"),
        ("RPUSH", "a list"),
    ],
)
async def test_r06_what_is_no_lease_of_ours(server: Redis, planted: tuple[str, str]) -> None:
    notes = Notes()
    async with opened(server.url, notes=notes) as one:
        lease = await one.acquire(KEY, wait=0)
        name = lease.name
        await lease.release()
        server.ask(planted[0], name, planted[1])
        async with asyncio.timeout(PATIENCE):
            assert await one.acquire(KEY, wait=60) is None
        assert notes.counts["redis_errors:odd"] == 1
        await taken(one, "another")
        assert server.ask("EXISTS", name) == 1


async def test_a_lease_that_we_could_not_give_back_is_ours_again(server: Redis) -> None:
    async with opened(server.url, address="http://one.example") as one:
        lease = await one.acquire(KEY, wait=0)
        stale = lease.value
        await lease.release()
        server.ask("SET", lease.name, stale)
        again = await one.acquire(KEY, wait=60)
        assert not isinstance(again, Holder | None)
        assert server.ask("GET", again.name).decode() == again.value != stale
        await again.release()


# R08: whoever does not know the token neither ends nor extends a lease, whatever came before.

OWNERS = ("aaaa/", "aaaa", "bbbb/", "", "aaaa/1 ")
STEPS = st.tuples(
    st.sampled_from((TAKE, EXTEND, GIVE_BACK)), st.sampled_from(OWNERS), st.integers(1, 2), st.booleans()
)


@settings(deadline=None, max_examples=150)
@given(steps=st.lists(STEPS, max_size=25))
def test_r08_only_the_owner_unlocks(steps: list[tuple[Script, str, int, bool]]) -> None:
    server = redis.shared()
    name = f"{server.fresh_prefix()}lease"
    held: str | None = None
    with driver.Redis.from_url(server.url) as client:
        for script, owner, number, forgotten in steps:
            if forgotten:
                client.delete(name)
                held = None
            mine, value = f"{owner}#", f"{owner}#{number}"
            answer = client.eval(script.text, 1, name, value, 60_000, mine)
            if script is TAKE:
                taken = held is None or held.startswith(mine)
                assert answer == (1 if taken else (held or "").encode())
                held = value if taken else held
            elif script is EXTEND:
                assert answer == (2 if held is None else int(held == value))
                held = held or value
            else:
                assert answer == int(held == value)
                held = None if held == value else held
            found = client.get(name)
            assert (found.decode() if found is not None else None) == held
        client.delete(name)
