"""Several processes serve as one: shared store and index, one death at a time, one end for all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, silence, slow
from tests.faults.machine import command, told
from tests.house_proxy import check_store, configuration
from tests.workers.family import (
    WORKERS,
    answerers,
    family,
    gone,
    is_alive,
    marked_clean,
    replaced,
    workers_of,
)

BIG = 1_000_000


async def test_workers_share_one_store_and_index(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        assert len(workers_of(proxy)) == WORKERS
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await told(proxy, lambda line: line.get("result") == "stored")
        assert len(await answerers(proxy)) == WORKERS
        for _ in range(20):
            got = await proxy.get("/files/f.bin")
            assert (got.source, got.body) == ("cache", body.bytes())
        assert chaos.hits("/f.bin") == 1
        assert await proxy.stop() == 0
    check_store(proxy.data)
    assert marked_clean(proxy.data)
    assert not (proxy.data / "control.sock").exists()
    assert list((proxy.data / "workers").iterdir()) == []


async def test_what_one_worker_was_told_the_others_see(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        await proxy.get("/files/f.bin")
        await told(proxy, lambda line: line.get("result") == "stored")
        for _ in range(10):
            assert (await proxy.get("/files/f.bin")).source == "cache"
        code, said = await command(tmp_path, "purge", "/files/f.bin")
        assert code == 0, said
        assert (await proxy.get("/files/f.bin")).source == "remote"
        await told(proxy, lambda line: line.get("result") == "stored")
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_u1_cold_clients_of_all_workers_cost_one_upstream_request(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(4_000_000), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        await answerers(proxy)
        for got in await asyncio.gather(*(proxy.get("/files/f.bin") for _ in range(60))):
            assert (got.status, got.body) == (200, body.bytes())
        assert chaos.hits("/f.bin") == 1
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_sockets_are_for_this_user_only(tmp_path: Path, chaos: Chaos) -> None:
    async with family(tmp_path, chaos) as proxy:
        folder = proxy.data / "workers"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{number}.sock" for number in range(1, WORKERS + 1)]
        for path in (*folder.iterdir(), proxy.data / "control.sock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await proxy.stop() == 0


# --- one dies -------------------------------------------------------------------------------


async def test_a_killed_worker_takes_only_its_own_connections_along(tmp_path: Path, chaos: Chaos) -> None:
    warm = chaos.script("/warm.bin", ok(), size=BIG)
    async with family(tmp_path, chaos) as proxy:
        await proxy.get("/files/warm.bin")
        await told(proxy, lambda line: line.get("result") == "stored")
        await answerers(proxy)
        broken = whole = 0
        ended = asyncio.Event()

        async def client() -> None:
            nonlocal broken, whole
            while not ended.is_set():
                got = await proxy.get("/files/warm.bin")
                if got.status == 200 and got.body is not None:
                    assert got.body == warm.bytes()
                    whole += 1
                else:
                    assert got.status in (0, 200), got.status
                    broken += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.2)
            victim = workers_of(proxy)[0]
            os.kill(victim, signal.SIGKILL)
            await replaced(proxy, victim)
        ended.set()
        await asyncio.gather(*clients)
        assert whole > 20
        assert broken <= 3 * len(clients), "only what a killed worker was answering breaks"
        died = [line for line in proxy.log_lines() if line.get("warning") == "worker_ended"]
        assert [line["how"] for line in died] == ["signal 9"] * 3
        await answerers(proxy)
        assert await proxy.stop() == 0
    check_store(proxy.data)
    assert marked_clean(proxy.data), "the machine has not lost anything"


async def test_a_worker_that_dies_in_a_fill_leaves_nothing_half(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slow(500_000), size=BIG)
    async with family(tmp_path, chaos, workers=2) as proxy:
        asking = asyncio.create_task(proxy.get("/files/f.bin"))
        while not list((proxy.data / "tmp").iterdir()):
            await asyncio.sleep(0.01)
        (part,) = (proxy.data / "tmp").iterdir()
        victim = int(part.name.split(".")[1])
        assert victim in workers_of(proxy)
        os.kill(victim, signal.SIGKILL)
        assert (await asking).body is None
        await replaced(proxy, victim, workers=2)
        assert not part.exists(), "its successor has swept"
        chaos.script("/f.bin", ok(), size=BIG)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_a_worker_that_is_told_to_end_drains_and_is_replaced(tmp_path: Path, chaos: Chaos) -> None:
    async with family(tmp_path, chaos, workers=2) as proxy:
        old = workers_of(proxy)
        os.kill(old[0], signal.SIGTERM)
        await replaced(proxy, old[0], workers=2)
        assert old[1] in workers_of(proxy)
        assert await proxy.stop() == 0
    assert marked_clean(proxy.data)


# --- all end --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_l16_all_workers_drain(tmp_path: Path, chaos: Chaos, number: signal.Signals) -> None:
    bodies = [chaos.script(f"/{n}.bin", slow(2_000_000), size=BIG) for n in range(6)]
    async with family(tmp_path, chaos, top="limits: {drain: 20s}") as proxy:
        workers = workers_of(proxy)
        asking = [asyncio.create_task(proxy.get(f"/files/{n}.bin")) for n in range(6)]
        while len(chaos.requests) < 6:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        ending = asyncio.create_task(proxy.stop(number))
        await asyncio.sleep(0.3)
        assert (await proxy.get("/files/0.bin")).status == 0, "nobody listens any more"
        for got, body in zip(await asyncio.gather(*asking), bodies, strict=True):
            assert (got.status, got.body) == (200, body.bytes())
        assert await ending == 0
        assert not any(map(is_alive, workers))
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)
    assert marked_clean(proxy.data)


async def test_l16_a_signal_to_the_whole_group_is_one_signal(tmp_path: Path, chaos: Chaos) -> None:
    """As a terminal and a service manager send it."""
    body = chaos.script("/f.bin", slow(2_000_000), size=BIG)
    async with family(tmp_path, chaos, top="limits: {drain: 20s}") as proxy:
        asking = asyncio.create_task(proxy.get("/files/f.bin"))
        while not chaos.hits("/f.bin"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        for number in (signal.SIGINT, signal.SIGTERM):
            for pid in workers_of(proxy):
                os.kill(pid, number)
        assert await proxy.stop() == 0
        assert (await asking).body == body.bytes()
    check_store(proxy.data)


async def test_l16_a_second_signal_ends_at_once(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/late.bin", silence())
    async with family(tmp_path, chaos, extra="first_byte: 20s\nidle: 20s") as proxy:
        workers = workers_of(proxy)
        asking = asyncio.create_task(proxy.get("/files/late.bin"))
        while not chaos.hits("/late.bin"):
            await asyncio.sleep(0.01)
        os.kill(proxy.pid, signal.SIGTERM)
        await asyncio.sleep(0.2)
        os.kill(proxy.pid, signal.SIGTERM)
        assert await proxy.ended() == 1
        assert not any(map(is_alive, workers))
        assert (await asking).status == 0
        assert not (proxy.data / "control.sock").exists()
    assert not marked_clean(proxy.data)


async def test_a_killed_supervisor_leaves_no_worker_behind(tmp_path: Path, chaos: Chaos) -> None:
    async with family(tmp_path, chaos) as proxy:
        workers = workers_of(proxy)
        os.kill(proxy.pid, signal.SIGKILL)
        await proxy.ended()
        await gone(*workers)
    assert not marked_clean(proxy.data), "whoever comes next looks at everything again"
    async with family(tmp_path, chaos) as proxy:
        assert len(await answerers(proxy)) == WORKERS
        assert await proxy.stop() == 0


# --- it does not begin ----------------------------------------------------------------------


async def test_a_port_in_use_is_told_as_by_one_process(tmp_path: Path, chaos: Chaos) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configuration(tmp_path, chaos.origin, top="workers: 2")
        code, said = await command(tmp_path, "serve", "--listen", f"127.0.0.1:{port}")
    assert code == 1
    assert said == f"artifactproxy: 127.0.0.1:{port} is in use; try --listen 127.0.0.1:0\n"


async def test_l13_a_second_family_is_refused(tmp_path: Path, chaos: Chaos) -> None:
    async with family(tmp_path, chaos, workers=2) as proxy:
        for words in ((), ("--workers", "1")):
            code, said = await command(tmp_path, "serve", *words)
            assert (code, said.count("\n")) == (1, 1)
            assert f"another artifactproxy works in {proxy.data}" in said
        assert await proxy.stop() == 0


async def test_a_worker_that_cannot_start_stops_all_with_its_sentence(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin, top="workers: 2")
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "blobs").write_text("in the way")
    code, said = await command(tmp_path, "serve")
    one = await command(tmp_path, "serve", "--workers", "1")
    assert (code, said) == one
    assert code == 1
    assert said.count("\n") == 1
    assert not (tmp_path / "data" / "control.sock").exists()


async def test_the_flag_wins_over_the_file(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin, top="workers: 5")
    code, said = await command(tmp_path, "serve", "--workers", "0")
    assert code == 2
    assert "workers" in said


async def says(folder: Path, wanted: str, *words: str) -> None:
    """The command tells it, of whichever worker it is true; one that this machine keeps from answering
    soon is left out, but not again and again."""
    said = ""
    for _ in range(10):
        code, said = await command(folder, *words)
        assert code == 0, said
        if wanted in said:
            return
    raise AssertionError(f"{wanted} is not in {said}")


async def test_commands_run_in_whichever_worker_takes_them(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    chaos.script("/late.bin", silence())
    async with family(tmp_path, chaos, extra="first_byte: 20s\nidle: 20s") as proxy:
        await proxy.get("/files/f.bin")
        await told(proxy, lambda line: line.get("result") == "stored")
        late = asyncio.create_task(proxy.get("/files/late.bin"))
        while not chaos.hits("/late.bin"):
            await asyncio.sleep(0.01)
        for _ in range(WORKERS * 2):
            await says(tmp_path, '"fills": 1', "stats", "--json")
            await says(tmp_path, '"readers": 1', "explain", "/files/late.bin", "--json")
        for words in (("gc", "--run"), ("scrub",), ("fsck", "--full", "--repair")):
            code, said = await command(tmp_path, *words)
            assert code == 0, said
        late.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await late
        assert await proxy.stop() == 0
    check_store(proxy.data)
