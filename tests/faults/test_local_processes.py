"""Two processes on one folder, what dead ones left behind, and the end in the middle of everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifactproxy.stores.temps import this_process
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, silence, slow, status
from tests.faults.machine import Running, command, metric, program, readiness, told
from tests.house_proxy import check_store, configuration

BIG = 1_000_000


# --- one writer -----------------------------------------------------------------------------


async def test_l13_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        code, said = await command(tmp_path, "serve")
        assert (code, said.count("\n")) == (1, 1)
        assert f"another artifactproxy works in {proxy.data}" in said
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert (await readiness(proxy))[0] == 200
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_l13_commands_ask_the_running_instance_or_are_refused(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        for words in (("gc", "--run"), ("fsck", "--full", "--repair")):
            code, said = await command(tmp_path, *words)
            assert code == 0, said
        archive = tmp_path / "kept.tar"
        assert (await command(tmp_path, "backup", str(archive)))[0] == 0
        code, said = await command(tmp_path, "restore", str(archive), "--force")
        assert code != 0
        assert "another artifactproxy works in" in said
        (proxy.data / "control.sock").unlink()  # nobody to ask: then the lock decides
        for words in (("gc", "--run"), ("fsck", "--repair")):
            code, said = await command(tmp_path, *words)
            assert code != 0, said
            assert "another artifactproxy works in" in said
        assert (await proxy.get("/files/f.bin")).source == "cache"
        assert await proxy.stop() == 0
    check_store(proxy.data)
    code, _ = await command(tmp_path, "restore", str(archive), "--force")
    assert code == 0
    check_store(proxy.data)


# --- what dead processes left ---------------------------------------------------------------


async def test_l14_only_what_dead_processes_left_is_swept(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    body = chaos.script("/f.bin", ok(), size=BIG)
    folder = tmp_path / "data" / "tmp"
    folder.mkdir(mode=0o700, parents=True)
    (tmp_path / "data").chmod(0o700)
    me = this_process()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    dead = [
        f"{me.boot}.{ended.pid}.{me.started}-{{}}-0a.part",  # gone
        f"{me.boot}.{me.pid}.{me.started + 1}-{{}}-0a.part",  # its number was given to another
        f"000000000000.{me.pid}.{me.started}-{{}}-0a.part",  # before the machine started again
    ]
    for number in range(1000):
        (folder / dead[number % 3].format(number)).write_bytes(b"half")
    alive = [f"{me.boot}.{me.pid}.{me.started}-{number}-0a.part" for number in range(10)]
    foreign = ["README", "x.part", ".hidden", "1-2-3.part", f"{me.boot}.{me.pid}.{me.started}-1-0a.part.bak"]
    for name in (*alive, *foreign):
        (folder / name).write_bytes(b"kept")
    (folder / "directory.part").mkdir()
    async with program(tmp_path) as proxy:
        kept = sorted([*alive, *foreign, "directory.part"])
        assert sorted(os.listdir(folder)) == kept
        line = await told(proxy, lambda line: line.get("event") == "temps_swept")
        assert line["files"] == 1000
        assert await metric(proxy, "tmp_swept_total") == 1000
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert (await readiness(proxy))[0] == 200
        assert await proxy.stop() == 0
    assert sorted(os.listdir(folder)) == kept
    check_store(proxy.data, but="I22")  # the checker tells of names that are not ours


# --- the end --------------------------------------------------------------------------------

ROUNDS = int(os.environ.get("STOP_ROUNDS", "3"))


class Crowd:
    """Clients of every kind; what each got is judged when the program has ended."""

    def __init__(self, proxy: Running, chaos: Chaos, warm: Oracle, dice: random.Random) -> None:
        self.proxy = proxy
        self.dice = dice
        self.warm = warm
        self.cold = [
            chaos.script(f"/cold{n}.bin", slow(dice.choice([1, 4, 40]) * 1_000_000), size=BIG)
            for n in range(8)
        ]
        self.late = [chaos.script(f"/late{n}.bin", silence()) for n in range(3)]
        self.whole = self.broken = self.refused = 0

    def start(self) -> list[asyncio.Task[None]]:
        wanted = [("warm.bin", self.warm)] * 12
        wanted += [(f"cold{n}.bin", body) for n, body in enumerate(self.cold)] * 2
        wanted += [(f"late{n}.bin", body) for n, body in enumerate(self.late)]
        self.dice.shuffle(wanted)
        tasks = [asyncio.create_task(self.one(name, body)) for name, body in wanted]
        tasks += [asyncio.create_task(self.reading_slowly()) for _ in range(4)]
        tasks += [asyncio.create_task(self.listing()) for _ in range(3)]
        return tasks

    async def one(self, name: str, body: Oracle) -> None:
        got = await self.proxy.get(f"/files/{name}")
        self.judge(got.status, got.body, body.bytes())

    async def listing(self) -> None:
        """A path that is only relayed."""
        got = await self.proxy.get("/pypi/simple/")
        assert got.status != 500

    async def reading_slowly(self) -> None:
        content = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            host, _, port = self.proxy.base.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=8192)
            try:
                writer.write(b"GET /files/warm.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                while piece := await reader.read(32768):
                    content += piece
                    await asyncio.sleep(0.002)
                answer = int(head.split(b" ", 2)[1])
                self.judge(answer, content if len(content) == BIG else None, self.warm.bytes())
            finally:
                writer.transport.abort()

    def judge(self, answer: int, content: bytes | None, right: bytes) -> None:
        if answer == 200 and content is not None:
            assert content == right, "complete and wrong"
            self.whole += 1
        elif answer == 200:
            self.broken += 1
        else:
            assert answer in (0, 502, 503, 504), answer
            self.refused += 1


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_l16_a_signal_in_the_middle_of_everything(tmp_path: Path, chaos: Chaos, seed: int) -> None:
    dice = random.Random(seed)
    configuration(tmp_path, chaos.origin, top="limits: {drain: 300ms}", extra="first_byte: 20s\nidle: 20s")
    warm = chaos.script("/warm.bin", ok(), size=BIG)
    chaos.script("/simple/", status(200, b"<html></html>", Content_Type="text/html"))
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/warm.bin")).body == warm.bytes()
        await told(proxy, lambda line: line.get("result") == "stored")
        crowd = Crowd(proxy, chaos, warm, dice)
        tasks = crowd.start()
        await asyncio.sleep(dice.uniform(0, 0.4))
        assert await proxy.stop(dice.choice([signal.SIGTERM, signal.SIGINT])) == 0
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        assert crowd.whole + crowd.broken + crowd.refused > 0
    assert os.listdir(proxy.data / "tmp") == []
    assert not (proxy.data / "control.sock").exists()
    check_store(proxy.data)
    bodies = {f"cold{n}.bin": body for n, body in enumerate(crowd.cold)}
    for n, body in enumerate(crowd.cold):
        chaos.script(f"/cold{n}.bin", ok(), size=BIG)
        assert body.size == BIG
    async with program(tmp_path) as proxy:
        assert not any(line.get("event") == "temps_swept" for line in proxy.log_lines())
        for name, body in (bodies | {"warm.bin": warm}).items():
            assert (await proxy.get(f"/files/{name}")).body == body.bytes()
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_l16_what_is_under_way_ends_within_the_drain_and_new_work_is_not_taken(
    tmp_path: Path, chaos: Chaos
) -> None:
    configuration(tmp_path, chaos.origin, top="limits: {drain: 20s}")
    body = chaos.script("/f.bin", slow(2_000_000), size=BIG)
    async with program(tmp_path) as proxy:
        running = [asyncio.create_task(proxy.get("/files/f.bin")) for _ in range(5)]
        while not chaos.hits("/f.bin"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        ending = asyncio.create_task(proxy.stop())
        await asyncio.sleep(0.1)
        assert (await proxy.get("/files/f.bin")).status == 0, "the listener is closed"
        for got in await asyncio.gather(*running):
            assert (got.status, got.body) == (200, body.bytes())
        assert await ending == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)


@pytest.mark.parametrize("seed", range(max(1, ROUNDS // 3)))
async def test_l16_a_second_signal_leaves_nothing_wrong_either(
    tmp_path: Path, chaos: Chaos, seed: int
) -> None:
    dice = random.Random(1000 + seed)
    configuration(tmp_path, chaos.origin, extra="first_byte: 20s\nidle: 20s")
    warm = chaos.script("/warm.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/warm.bin")).body == warm.bytes()
        crowd = Crowd(proxy, chaos, warm, dice)
        tasks = crowd.start()
        await asyncio.sleep(dice.uniform(0.05, 0.3))
        os.kill(proxy.pid, signal.SIGTERM)
        await asyncio.sleep(0.1)
        os.kill(proxy.pid, signal.SIGTERM)
        assert await proxy.ended(5) == 1
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    check_store(proxy.data, but="I13")  # what it was working on goes at the next start
    async with program(tmp_path) as proxy:
        assert os.listdir(proxy.data / "tmp") == []
        assert (await proxy.get("/files/warm.bin")).body == warm.bytes()
        assert await proxy.stop() == 0
    check_store(proxy.data)
