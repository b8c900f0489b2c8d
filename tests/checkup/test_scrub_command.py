"""`artifactproxy scrub` as an operator runs it: beside a server, on a stopped folder, and killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import cli
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.checkup.scrubbing import bench, flip, until
from tests.crash.program import fetch, program
from tests.house_proxy import check_store, configuration, proxied

spoil = flip(0.5)
NAMES = [f"f{number}.bin" for number in range(4)]


async def ran(folder: Path, *arguments: str, failpoints: str = "") -> tuple[int, str, str]:
    """A command as a user runs it: exit code, standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", *arguments, "--config", str(folder / "config.yaml")),
        env={**os.environ, "ARTIFACTPROXY_FAILPOINTS": failpoints},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def told(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = [json.loads(line) for line in out.splitlines()]
    return [line["finding"] for line in lines if "finding" in line], lines[-1]["summary"]


async def filled(folder: Path, chaos: Chaos, size: int = 300_000) -> list[Path]:
    """The blobs of a folder that an instance has filled and left."""
    for name in NAMES:
        chaos.script(f"/{name}", ok(), size=size)
    async with proxied(folder, chaos.origin) as proxy:
        for name in NAMES:
            assert (await proxy.get(f"/files/{name}")).status == 200
        await proxy.settled()
        return proxy.blobs()


async def right(folder: Path, chaos: Chaos, source: str = "") -> None:
    """Every file is what upstream has."""
    async with proxied(folder, chaos.origin) as proxy:
        for name in NAMES:
            got = await proxy.get(f"/files/{name}")
            body = chaos.script(f"/{name}", ok(), size=chaos._scripts[f"/{name}"].body.size)
            assert (got.status, got.body) == (200, body.bytes())
            assert source in ("", got.source)
        await proxy.check()


@asynccontextmanager
async def scrubbing(folder: Path, rate: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command under way: it has told its first step."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "scrub", "--rate", rate),
        *("--config", str(folder / "config.yaml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            assert b"scrub" in await process.stderr.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_stopped_folder(tmp_path: Path, chaos: Chaos) -> None:
    first, second, *_ = await filled(tmp_path, chaos)
    code, out, err = await ran(tmp_path, "scrub")
    assert (code, "nothing found" in out, "4 blobs" in out) == (0, True, True), out
    assert "scrub" in err
    spoil(first)
    second.unlink()
    code, out, _ = await ran(tmp_path, "scrub", "--rate", "0", "--json")
    findings, summary = told(out)
    assert code == 1
    assert {(each["kind"], each["subject"]) for each in findings} == {
        ("digest", first.name),
        ("missing", second.name),
    }
    assert (summary["found"], summary["repaired"], summary["checked"]["blobs"]) == (2, 2, 4)
    await chaos.stop()
    spoil(first)
    code, out, _ = await ran(tmp_path, "scrub")
    assert (code, first.name in out, "repaired: 0" in out) == (3, True, True)
    assert len(list((tmp_path / "data" / "quarantine").iterdir())) == 2
    check_store(tmp_path / "data")


async def test_beside_a_running_server(tmp_path: Path, chaos: Chaos) -> None:
    first, *_ = await filled(tmp_path, chaos)
    async with program(tmp_path) as (_, base):
        assert (await ran(tmp_path, "scrub", "--rate", "0"))[0] == 0
        spoil(first)
        code, out, _ = await ran(tmp_path, "scrub", "--rate", "0", "--json")
        assert (code, told(out)[1]["repaired"]) == (1, 1)
        status, _, metrics = await fetch(f"{base}/metrics")
        assert status == 200
        assert b'artifactproxy_scrub_bad_total{kind="digest"} 1.0' in (metrics or b"")
        assert b'artifactproxy_integrity_failures_total{where="local"} 1.0' in (metrics or b"")
        chaos.script(f"/{NAMES[0]}", ok(), size=300_000, version=2)
        for name in NAMES:
            chaos.script(f"/{name}", ok(), size=300_000, version=2)
        spoil(first)
        assert (await ran(tmp_path, "scrub", "--rate", "0"))[0] == 3
    check_store(tmp_path / "data")


@pytest.mark.parametrize("text", ["fast", "-1", "20MiB/s", "1.5"])
def test_a_rate_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["scrub", "--data", str(tmp_path), "--rate", text])
    assert (ended.value.code, "--rate must be a size" in capsys.readouterr().err) == (2, True)


async def test_the_rate_comes_from_the_configuration(tmp_path: Path, chaos: Chaos) -> None:
    await filled(tmp_path, chaos)
    configuration(tmp_path, chaos.origin, top="limits: {scrub_rate: 600kB}")
    started = time.monotonic()
    assert (await ran(tmp_path, "scrub"))[0] == 0
    assert time.monotonic() - started > 1.5, "900 kB after the first piece"


PLACES = ["scrub.read", "scrub.aside", "heal.begun", "blob.linked", "row.written@2", "heal.done"]


@pytest.mark.parametrize("place", PLACES)
async def test_killed_while_it_scrubs_and_heals(tmp_path: Path, chaos: Chaos, place: str) -> None:
    """Whatever was under way, the next start serves right bytes and the next scrub finds the rest."""
    first, *_ = await filled(tmp_path, chaos)
    spoil(first)
    name, _, nth = place.partition("@")
    armed = f"{name}=kill" + (f"@{nth}" if nth else "")
    code, _, _ = await ran(tmp_path, "scrub", "--rate", "0", failpoints=armed)
    assert code == -signal.SIGKILL, "the place was not passed"
    async with bench(tmp_path, chaos) as it:
        findings, summary = await it.run()
        assert summary["found"] == summary["repaired"] <= 1, findings
    await right(tmp_path, chaos)


async def test_a_server_killed_while_it_heals(tmp_path: Path, chaos: Chaos) -> None:
    first, *_ = await filled(tmp_path, chaos)
    spoil(first)
    async with program(tmp_path, "heal.begun=kill") as (process, _):
        code, _, err = await ran(tmp_path, "scrub", "--rate", "0")
        assert (code, "ended before" in err or "broke off" in err) == (1, True), err
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL
    assert not first.exists()
    await right(tmp_path, chaos)


async def test_the_operator_leaves(tmp_path: Path, chaos: Chaos) -> None:
    """Ctrl-C ends the work in the server as well, and the next one may begin."""
    await filled(tmp_path, chaos, size=3_000_000)
    async with program(tmp_path) as (_, base):
        async with scrubbing(tmp_path, "1MB") as process:
            code, _, err = await ran(tmp_path, "scrub")
            assert (code, "running" in err) == (1, True), "one at a time"
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                assert await process.wait() in (130, 1)
        for _ in range(20):
            code, _, err = await ran(tmp_path, "scrub", "--rate", "0")
            if code == 0:
                break
        assert code == 0, err
        assert (await fetch(f"{base}/files/{NAMES[0]}"))[0] == 200


async def test_the_background_round_survives_kill_9(tmp_path: Path, chaos: Chaos) -> None:
    first, *_, last = await filled(tmp_path, chaos, size=1_000_000)
    place = tmp_path / "data" / "scrub.json"
    configuration(tmp_path, chaos.origin, top="limits: {scrub_every: 50ms, scrub_rate: 800kB}")
    async with program(tmp_path) as (process, _):
        await until(lambda: place.exists() and bool(json.loads(place.read_text())["after"]), "it has begun")
        process.kill()
        await process.wait()
    passed = json.loads(place.read_text())["after"]
    assert first.name <= passed < last.name
    spoil(last)
    configuration(tmp_path, chaos.origin, top="limits: {scrub_every: 50ms, scrub_rate: 0}")
    async with program(tmp_path):
        await until(lambda: is_right(last), "it goes on and heals")
        await until(lambda: json.loads(place.read_text())["finished_at"] is not None, "the round has ended")
    await right(tmp_path, chaos, source="cache")


def is_right(blob: Path) -> bool:
    return blob.is_file() and hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


async def test_stopping_the_server_stops_the_scrub(tmp_path: Path, chaos: Chaos) -> None:
    await filled(tmp_path, chaos)
    top = "limits: {scrub_every: 50ms, scrub_rate: 1kB, drain_notice: 0, drain: 5s}"
    configuration(tmp_path, chaos.origin, top=top)
    async with program(tmp_path) as (process, _), scrubbing(tmp_path, "1kB") as command:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
            assert await command.wait() == 1
            assert command.stderr is not None
            assert b"Traceback" not in await command.stderr.read()


async def test_a_terminal_sees_a_bar(tmp_path: Path, chaos: Chaos) -> None:
    first, *_ = await filled(tmp_path, chaos)
    spoil(first)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifactproxy", "scrub", "--rate", "1MB"),
        *("--config", str(tmp_path / "config.yaml")),
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    drawn = bytearray()

    def read() -> bool:
        try:
            drawn.extend(os.read(ours, 65536))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    await until(lambda: read() or process.returncode is not None, "it has drawn all")
    out, _ = await process.communicate()
    os.close(ours)
    shown = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", bytes(drawn))
    assert b"scrub" in shown
    assert b"MB" in shown, shown[:500]
    assert (process.returncode, first.name.encode() in out) == (1, True)
