"""Three processes on one machine behind one address: real installs, a worker that dies, a new configuration."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from e2e.clients import Failed, Pip
from e2e.conftest import StartProxy
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy, Seen

WORKERS = 3
PROJECT = "flask"
MANY = "jupyterlab"
CLIENTS = 6


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy, forwarder: Forwarder) -> Proxy:
    return start_proxy("workers", forwarder=forwarder, top=f"workers: {WORKERS}\n")


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _pids(proxy: Proxy) -> list[int]:
    """Of the workers."""
    return [int(pid) for pid in Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()]


def _metric(proxy: Proxy, name: str) -> float:
    found = re.search(rf"^artifactproxy_{name} (\S+)$", proxy.get("/metrics").body.decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


def _fills(proxy: Proxy) -> int:
    return proxy.log.read_bytes().count(b'"event":"fill"')


def _has_filled(proxy: Proxy, number: int) -> bool:
    return _fills(proxy) >= number


def _from_upstream(seen: Seen) -> Counter[str]:
    """How often each file was asked of upstream: not of a sibling, nor found stored after all."""
    fills = seen.fills("artifact")
    return Counter(fill["path"] for fill in fills if fill.get("upstream_status") and not fill.get("peer"))


def test_many_pips_on_three_workers_fetch_each_file_once(proxy: Proxy, pip: Pip) -> None:
    with proxy.watch() as seen, ThreadPoolExecutor(CLIENTS) as pool:
        pythons = list(pool.map(lambda _: pip.install(PROJECT, index=proxy.index), range(CLIENTS)))
    assert len({tuple(sorted(pip.installed(python).items())) for python in pythons}) == 1
    assert seen.errors() == []
    assert set(_from_upstream(seen).values()) == {1}
    assert set(_from_upstream(seen)) == set(seen.files())
    assert _metric(proxy, "workers") == WORKERS
    with proxy.watch() as warm:
        pip.install(PROJECT, index=proxy.index)
    assert warm.sources() == {"cache"}
    assert warm.fills("artifact") == []


def test_a_worker_that_is_killed_in_an_install_is_replaced(
    proxy: Proxy, pip: Pip, registry: Registry
) -> None:
    """Whoever was connected to it sees a reset and asks again; nobody gets a wrong file."""
    before = _pids(proxy)
    assert len(before) == WORKERS
    filled = _fills(proxy)
    with ThreadPoolExecutor(2) as pool:
        installs = [pool.submit(pip.install, MANY, index=proxy.index) for _ in range(2)]
        for number, pid in enumerate(before[:2], 1):  # both in the middle of the installation
            _until(partial(_has_filled, proxy, filled + 10 * number))
            os.kill(pid, signal.SIGKILL)
        broken = [each.exception() for each in installs]
    assert all(error is None or isinstance(error, Failed) for error in broken)
    _until(lambda: len(_pids(proxy)) == WORKERS and not set(_pids(proxy)) & set(before[:2]))
    _until(lambda: _metric(proxy, "workers") == WORKERS)
    assert _metric(proxy, "workers_restarted_total") == 2
    proxy.look_from_here()
    with proxy.watch() as seen:
        installed = pip.installed(pip.install(MANY, index=proxy.index))
    assert MANY in installed
    assert seen.errors() == []
    files = seen.files()
    for path, file in registry.expected(files[:5]).items():
        assert sha256(proxy.get(f"{proxy.base}{path}").body) == file.sha256
    assert proxy.command("fsck", "--full")[0] == 0
    code, told = proxy.command("health")
    assert (code, told["ready"], told["mode"]) == (0, True, "ok")


def test_all_workers_take_a_new_configuration(proxy: Proxy, forwarder: Forwarder) -> None:
    file = proxy.folder / "config.yaml"
    text = file.read_text()
    file.write_text(f"{text}  more:\n    provider: pypi\n    egress: {{proxy: '{forwarder.url}'}}\n")
    code, told = proxy.command("reload")
    assert (code, told["result"]) == (0, "accepted")
    # Each on a connection of its own, so that every worker gets some.
    assert {proxy.get("/more/simple/idna/").status for _ in range(4 * WORKERS)} == {200}
    file.write_text(text + "nonsense: 1\n")
    code, told = proxy.command("reload")
    assert (code, told["result"]) == (2, "rejected")
    assert "nonsense" in told["reasons"][0]
    assert {proxy.get("/more/simple/idna/").status for _ in range(4 * WORKERS)} == {200}
    file.write_text(text)
    assert proxy.command("reload")[0] == 0
    assert {proxy.get("/more/simple/idna/").status for _ in range(4 * WORKERS)} == {404}


def test_they_stop_together(proxy: Proxy) -> None:
    pids = _pids(proxy)
    assert proxy.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    code, told = proxy.command("health")
    assert (code, told["ready"]) == (1, False)
