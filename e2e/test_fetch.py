"""`artifactproxy fetch`: a real wheel in each of its ways, beside curl and aria2c on the same origin."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.clients import Pip
from e2e.conftest import StartProxy
from e2e.origin import Origin, content
from e2e.program import PROGRAM, environment, on_a_terminal, run
from e2e.registry import File, Registry, sha256
from e2e.servers import Forwarder, Proxy
from tests.needs import needs, require

PROJECT, VERSION = "jupyterlab", "4.2.0"  # a wheel of more than 10 MB
LARGE = "image-50331648.bin"  # 48 MiB


@pytest.fixture(scope="module")
def wheel(registry: Registry) -> File:
    page = registry.page(PROJECT).values()
    return next(f for f in page if f.name.endswith(".whl") and f.version == VERSION)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.stop()


def test_a_path_comes_through_the_running_instance(proxy: Proxy, wheel: File, folder: Path) -> None:
    file = folder / "wheel"
    for source in ("remote", "cache"):
        code, told = proxy.command(
            "fetch", f"pypi/{wheel.path}", "-o", str(file), *_unheld(file, wheel.sha256)
        )
        assert (code, told["source"], told["sha256"]) == (0, source, wheel.sha256)
        assert sha256(file.read_bytes()) == wheel.sha256
    assert sha256(proxy.get(f"pypi/{wheel.path}").body) == wheel.sha256


def _unheld(file: Path, wanted: str) -> tuple[str, str]:
    """A file that is right already would not be fetched again."""
    file.unlink(missing_ok=True)
    return "--sha256", wanted


def test_a_path_comes_through_the_folder_of_a_stopped_instance(
    start_proxy: StartProxy, forwarder: Forwarder, wheel: File, pip: Pip, folder: Path
) -> None:
    stopped = start_proxy("stopped", forwarder=forwarder)
    assert stopped.stop() == 0
    file = folder / "wheel"
    for source in ("remote", "cache"):
        code, told = stopped.command("fetch", f"/pypi/{wheel.path}", "-o", str(file))
        assert (code, told["source"], told["sha256"]) == (0, source, wheel.sha256)
    # It is in the cache of the instance that starts next, for real clients.
    again = start_proxy("stopped", forwarder=forwarder)
    with again.watch() as seen:
        assert sha256(again.get(f"pypi/{wheel.path}").body) == wheel.sha256
    assert seen.fills("artifact") == []


def test_any_other_address_needs_no_proxy(wheel: File, folder: Path) -> None:
    done = run("fetch", wheel.url, "-o", str(folder), "--sha256", wheel.sha256, "--json", env={})
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["source"], told["sha256"]) == ("remote", wheel.sha256)
    assert sha256((folder / wheel.name).read_bytes()) == wheel.sha256
    assert not list(folder.glob(".*.fetch"))


@needs("curl", "aria2c")
def test_the_same_bytes_as_other_downloaders_get(origin: Origin, folder: Path) -> None:
    url, wanted = origin.url + LARGE, sha256(content(LARGE))
    out = {name: folder / name for name in ("ours", "curl", "aria2c")}
    assert run("fetch", url, "-o", str(out["ours"]), env={}).code == 0
    many = ["-x8", "-s8", "-k1M", "--quiet", "--no-conf", f"--dir={folder}", "--out=aria2c"]
    subprocess.run([require("curl"), "-sSf", "-o", str(out["curl"]), url], check=True, timeout=60)
    subprocess.run([require("aria2c"), *many, url], check=True, timeout=60)
    assert {name: sha256(file.read_bytes()) for name, file in out.items()} == dict.fromkeys(out, wanted)


def test_a_bar_on_a_terminal(origin: Origin, folder: Path) -> None:
    origin.rate = 16_000_000  # for each connection
    try:
        code, seen = on_a_terminal("fetch", origin.url + LARGE, "-o", str(folder / "bar"), env={})
    finally:
        origin.rate = 0
    assert code == 0, seen
    assert "MB/s" in seen
    assert " of 6 segments, " in seen
    assert " connections" in seen
    assert "sha256" in seen.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_goes_on_where_it_was(
    origin: Origin, folder: Path, number: signal.Signals
) -> None:
    name = f"{number.name.lower()}-50331648.bin"
    wanted, file = sha256(content(name)), folder / "resumed"
    file.unlink(missing_ok=True)
    command = ("fetch", origin.url + name, "-o", str(file), "--sha256", wanted)
    origin.rate = 4_000_000
    try:
        process = subprocess.Popen([*PROGRAM, *command], env=environment(), stderr=subprocess.PIPE)
        place = folder / ".resumed.fetch" / "tmp"
        deadline = time.monotonic() + 60
        while not list(place.glob("*.map")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        origin.rate = 0
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    assert not file.exists()
    done = run(*command, "--json", env={})
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert 0 < told["resumed_bytes"] < told["bytes"]
    assert "from before" in done.err
    assert sha256(file.read_bytes()) == wanted
    assert not list(folder.glob(".*.fetch"))
