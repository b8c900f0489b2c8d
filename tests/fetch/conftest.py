"""A scripted upstream on a thread of its own, and the command in this process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from artifactproxy import cli
from artifactproxy import failpoints as points
from tests.chaos.server import Chaos


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in os.environ:
        if name.startswith("ARTIFACTPROXY_") or name.lower() in names:
            monkeypatch.delenv(name)


@pytest.fixture
def chaos() -> Iterator[Chaos]:
    server, loop = Chaos(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def config(tmp_path, chaos):
    path = tmp_path / "config.yaml"
    path.write_text(
        "listen: 127.0.0.1:0\n"
        f"data: {tmp_path}/data\n"
        "limits: {drain_notice: 0, drain: 100ms}\n"
        "remotes:\n"
        f"  tools: {{provider: generic, upstream: '{chaos.origin}/', limits: {{retries: 0, resumes: 1, retry_base: 1ms}}}}\n"
        f"  npm: {{provider: npm, upstream: '{chaos.origin}/npm/'}}\n"
        f"  py: {{provider: pypi, upstream: '{chaos.origin}/simple/'}}\n"
    )
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capfdbinary, config, here):
    """The command in this process: (exit code, standard output, standard error)."""

    def command(*arguments: str, failpoints: str = "") -> tuple[int, bytes, str]:
        points.arm(failpoints)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main(["fetch", *arguments, "--config", str(config)])
        finally:
            points.arm("")
        out, err = capfdbinary.readouterr()
        return ended.value.code, out, err.decode()

    return command
