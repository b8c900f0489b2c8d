"""Descriptors and memory run out: what is refused is refused politely, and nothing dies or spins."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from artifactproxy.engine.spool import Spool
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.faults.machine import Running, injecting, metric, program, readiness, told, until
from tests.house_proxy import check_store, configuration, proxied
from tests.needs import needs

BIG = 1_000_000
SIMPLE = "application/vnd.pypi.simple.v1+json"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


# --- descriptors ----------------------------------------------------------------------------


@pytest.fixture
def many_sockets() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1300 if hard == resource.RLIM_INFINITY else min(1300, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield min(1000, wanted - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Plain:
    """One connection without any politeness, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, proxy: Running) -> Plain:
        host, _, port = proxy.base.removeprefix("http://").partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, path: str, seconds: float = 60.0) -> tuple[int, bytes]:
        """Status and body; 0 if the connection ended instead."""
        try:
            async with asyncio.timeout(seconds):
                self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, b""

    def close(self) -> None:
        self.writer.transport.abort()


async def asked(proxy: Running, path: str) -> tuple[Plain | None, int]:
    try:
        plain = await Plain.to(proxy)
    except ConnectionError:
        return None, 0
    with contextlib.suppress(TimeoutError):
        return plain, (await plain.ask(path, 20))[0]
    return plain, -1


async def idle_cpu(proxy: Running) -> float:
    """Seconds of processor time that the program takes in one second."""
    before = proxy.cpu_seconds()
    await asyncio.sleep(1)
    return proxy.cpu_seconds() - before


async def test_l08_a_thousand_clients_and_256_descriptors(
    tmp_path: Path, chaos: Chaos, many_sockets: int
) -> None:
    configuration(tmp_path, chaos.origin)
    body = chaos.script("/f.bin", ok(), size=BIG)
    small = chaos.script("/s.bin", ok(), size=10_000)
    async with program(tmp_path, "prlimit", "--nofile=256:256") as proxy:
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert (await proxy.get("/files/s.bin")).body == small.bytes()
        first = await Plain.to(proxy)
        assert await first.ask("/files/s.bin") == (200, small.bytes())
        crowd = await asyncio.gather(*(asked(proxy, "/files/s.bin") for _ in range(many_sockets)))
        answers = [answer for _, answer in crowd]
        assert set(answers) <= {200, 503, 0}, "answered, refused, or not taken: never half"
        assert answers.count(200) >= 100
        assert answers.count(200) < many_sockets
        assert await first.ask("/files/f.bin") == (200, body.bytes()), "whoever is in is served"
        assert await idle_cpu(proxy) < 0.6, "it spins"
        await told(proxy, lambda line: line.get("warning") == "connections_full")
        for plain, _ in crowd:
            if plain is not None:
                plain.close()
        await until(lambda: len(os.listdir(f"/proc/{proxy.pid}/fd")) < 100)
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        assert await metric(proxy, "rejected_total", reason="connections") > 0
        assert (await readiness(proxy))[0] == 200
        first.close()
        assert await proxy.stop() == 0
    check_store(proxy.data)


def allow_files(proxy: Running, count: int) -> None:
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (count, 4096))


def lowest_free(proxy: Running) -> int:
    taken = {int(name) for name in os.listdir(f"/proc/{proxy.pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


async def test_l08_not_one_descriptor_is_left(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin, top="limits: {connections: 1000}")
    body = chaos.script("/f.bin", ok(), size=BIG)
    cold = chaos.script("/cold.bin", ok(), size=BIG)
    async with program(tmp_path, "prlimit", "--nofile=4096:4096") as proxy:
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await told(proxy, lambda line: line.get("result") == "stored")
        first = await Plain.to(proxy)
        assert (await first.ask("/livez"))[0] == 200
        allow_files(proxy, lowest_free(proxy))
        try:
            for path, right in (("/files/f.bin", body), ("/files/cold.bin", cold)):
                answer, content = await first.ask(path)  # an open connection to upstream may still help
                assert answer == 503 or (answer, content) == (200, right.bytes())
            assert (await first.ask("/livez"))[0] == 200
            answer, content = await first.ask("/readyz")
            assert (answer, "Too many open files" in json.loads(content)["store"]) == (503, True)
            waiting = [asyncio.create_task(asked(proxy, "/files/f.bin")) for _ in range(20)]
            assert await idle_cpu(proxy) < 0.6, "it spins on connections that it cannot take"
        finally:
            allow_files(proxy, 4096)
        for plain, answer in await asyncio.gather(*waiting):
            assert answer in (200, 0), "taken late, or not at all"
            if plain is not None:
                plain.close()
        assert await first.ask("/files/cold.bin") == (200, cold.bytes())
        assert (await proxy.get("/files/f.bin")).source == "cache"
        assert not await metric(proxy, "warnings_total", event="upstream_breaker_open"), "not its fault"
        assert (await readiness(proxy))[0] == 200
        first.close()
        assert await proxy.stop() == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)


@needs("strace")
async def test_l08_the_system_has_no_descriptor_for_a_connection(tmp_path: Path, chaos: Chaos) -> None:
    configuration(tmp_path, chaos.origin)
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        first = await Plain.to(proxy)
        assert (await first.ask("/livez"))[0] == 200
        async with injecting(proxy, "accept,accept4:error=ENFILE"):
            waiting = [asyncio.create_task(asked(proxy, "/files/f.bin")) for _ in range(5)]
            assert await idle_cpu(proxy) < 0.6
            assert await first.ask("/files/f.bin") == (200, body.bytes())
        for plain, answer in await asyncio.gather(*waiting):
            assert answer in (200, 0)
            if plain is not None:
                plain.close()
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        first.close()
        assert await proxy.stop() == 0
    check_store(proxy.data)


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE"])
async def test_l08_no_descriptor_for_a_temp_file(tmp_path: Path, chaos: Chaos, error: str) -> None:
    body = chaos.script("/f.bin", ok(), size=BIG)
    async with proxied(tmp_path, chaos.origin) as proxy:
        failpoints.arm(f"tmp.opened=raise:{error}")
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
        assert got.headers["Cache-Status"] == "artifactproxy; fwd=bypass; detail=store-unavailable"
        await proxy.settled()
        assert (proxy.blobs(), proxy.temp_files()) == ([], [])
        await told(proxy, lambda line: line.get("error") == "store_temp")
        assert await metric(proxy, "store_errors_total", kind="store_temp") == 1
        assert await metric(proxy, "degraded", dependency="store") == 1
        failpoints.arm("")
        assert (await proxy.get("/files/f.bin")).body == body.bytes()
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).source == "cache"
        await proxy.check()


# --- memory ---------------------------------------------------------------------------------


def page(size: int) -> bytes:
    """A project page of about `size` bytes."""
    file = {
        "filename": "pkg-1.0.zip",
        "url": "https://files.example/pkg-1.0.zip",
        "hashes": {"sha256": "a" * 64},
    }
    one = json.dumps(file).encode()
    return (
        b'{"meta":{"api-version":"1.0"},"name":"pkg","files":['
        + b",".join([one] * (size // len(one)))
        + b"]}"
    )


async def test_l09_large_bodies_indexes_and_bombs_under_a_bound(tmp_path: Path, chaos: Chaos) -> None:
    """Address space is bounded for the program, and tighter for the process that reads indexes."""
    top = "limits: {index_memory: 256MiB, decoded_ratio: 200}"
    configuration(tmp_path, chaos.origin, top=top, extra="idle: 60s\nfirst_byte: 60s\nqueue_wait: 60s")
    bodies = {n: chaos.script(f"/f{n}.bin", ok(), size=8_000_000) for n in range(16)}
    chaos.script("/simple/pkg/", status(200, page(64 * 2**20), Content_Type=SIMPLE))
    bomb = gzip.compress(b" " * 64 * 2**20)
    chaos.script("/simple/bomb/", status(200, bomb, Content_Type=SIMPLE, Content_Encoding="gzip"))
    async with program(tmp_path, "prlimit", f"--as={2 * 2**30}") as proxy:
        wanted = [f"/files/f{n}.bin" for n in bodies]
        *pulls, index, bad = await asyncio.gather(
            *map(proxy.get, wanted), proxy.get("/pypi/simple/pkg/"), proxy.get("/pypi/simple/bomb/")
        )
        for n, got in enumerate(pulls):
            assert (got.status, got.body) == (200, bodies[n].bytes())
        assert (index.status, index.error) == (503, "memory")
        assert int(index.headers["Retry-After"]) > 0
        assert (bad.status, bad.error) == (502, "bomb")
        assert proxy.status("VmHWM") < 400_000, "kilobytes"
        assert not [line for line in proxy.log_lines() if line.get("status") == 500]
        assert await metric(proxy, "process_resident_memory_bytes") > 0
        chaos.script("/simple/pkg/", status(200, page(100_000), Content_Type=SIMPLE))
        assert (await proxy.get("/pypi/simple/pkg/")).status == 200
        assert (await proxy.get("/files/f0.bin")).source == "cache"
        assert await proxy.stop() == 0
    assert os.listdir(proxy.data / "tmp") == []
    check_store(proxy.data)


@pytest.mark.parametrize("place", ["_hash_and_write", "_spill", "write"])
async def test_l09_no_memory_for_a_body(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=3 * BIG)
    real, calls = getattr(Spool, place), 0

    def short(self: Spool, *arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2 or place == "_spill":
            raise MemoryError
        return real(self, *arguments)

    async with proxied(tmp_path, chaos.origin) as proxy:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, place, short)
            got = await proxy.get("/files/f.bin")
        assert calls
        if got.status == 503:
            assert got.error == "memory"
        else:
            assert (got.status, got.body) == (200, None), "a broken body that looked whole"
        await proxy.settled()
        assert (proxy.blobs(), proxy.temp_files()) == ([], [])
        await told(proxy, lambda line: line.get("event") == "fill" and line.get("error") == "memory")
        again = await proxy.get("/files/f.bin")
        assert (again.status, again.body) == (200, body.bytes())
        await proxy.check()


async def test_l09_a_request_for_which_there_is_no_memory(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    chaos.script("/f.bin", ok(), size=BIG)

    async def short(ask: object) -> object:
        raise MemoryError

    async with proxied(tmp_path, chaos.origin) as proxy:
        with monkeypatch.context() as patch:
            patch.setattr(proxy.engine._pipeline, "handle", short)
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.error) == (503, "memory")
        assert (await proxy.get("/files/f.bin")).status == 200
        await proxy.check()


async def test_l09_the_process_that_reads_indexes_is_killed(tmp_path: Path, chaos: Chaos) -> None:
    """As the kernel does when memory is short: a job is lost, and the next one has a new process."""
    chaos.script("/simple/pkg/", status(200, page(3 * 2**20), Content_Type=SIMPLE))
    async with proxied(tmp_path, chaos.origin) as proxy:
        asking = asyncio.create_task(proxy.get("/pypi/simple/pkg/"))
        workers = proxy.engine._documents._workers
        await until(lambda: bool(workers.pids))
        for pid in workers.pids:
            os.kill(pid, signal.SIGKILL)
        got = await asking
        assert (got.status, got.error) == (503, "helper")
        await proxy.settled()
        assert (await proxy.get("/pypi/simple/pkg/")).status == 200
        await proxy.check()
