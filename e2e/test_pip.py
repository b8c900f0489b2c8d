"""pip installs an application with many dependencies: cold, warm, and with no internet left."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from e2e.clients import Pip
from e2e.conftest import StartForwarder, StartProxy
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy, Row, Seen

APPLICATION = "jupyterlab"
MANY = 50  # files of this application; today it has about 90
DIRECTLY = 8
CLOSING_BYTES = 1000  # the last words of TLS on connections that were idle


@dataclass(frozen=True, slots=True)
class Step:
    """One installation: what it installed, what the proxy logged, what went through the forwarder."""

    installed: dict[str, str]
    seen: Seen
    before: Row
    after: Row


def _step(pip: Pip, proxy: Proxy, forwarder: Forwarder) -> Step:
    before = forwarder.counts()
    with proxy.watch() as seen:
        python = pip.install(APPLICATION, index=proxy.index)
    return Step(pip.installed(python), seen, before, forwarder.counts())


@pytest.fixture(scope="module")
def first(pip: Pip, proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(pip, proxy, forwarder)


@pytest.fixture(scope="module")
def second(first: Step, pip: Pip, proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(pip, proxy, forwarder)


def test_the_first_installation_comes_from_upstream(first: Step) -> None:
    assert APPLICATION in first.installed
    assert len(first.seen.files()) == len(first.installed) >= MANY
    assert first.seen.sources() == {"remote"}


def test_no_request_is_refused(first: Step, second: Step) -> None:
    assert first.seen.errors() == []
    assert second.seen.errors() == []


def test_upstream_is_asked_once_for_each_file(first: Step) -> None:
    filled = [fill["path"] for fill in first.seen.fills("artifact")]
    assert sorted(filled) == sorted(first.seen.files())
    assert {fill["result"] for fill in first.seen.fills("artifact")} == {"stored"}


def test_the_proxy_goes_out_through_its_egress_only(first: Step) -> None:
    received = sum(fill["bytes"] for fill in first.seen.fills("artifact"))
    grown = first.after["bytes_down"] - first.before["bytes_down"]
    assert grown >= received > 0


def test_the_second_installation_comes_from_the_cache(first: Step, second: Step) -> None:
    assert second.installed == first.installed
    assert second.seen.files() and set(second.seen.files()) == set(first.seen.files())
    assert second.seen.sources() == {"cache"}


def test_the_second_installation_asks_upstream_for_no_file(first: Step, second: Step) -> None:
    assert second.seen.fills("artifact") == []
    if not second.seen.fills():  # project pages may have passed their two minutes meanwhile
        assert second.after["bytes_down"] - second.before["bytes_down"] < CLOSING_BYTES
        assert second.after["connects"] == second.before["connects"]


def test_every_file_has_the_digest_that_the_registry_promises(
    first: Step, proxy: Proxy, registry: Registry
) -> None:
    promised = registry.expected(first.seen.files())
    for path in first.seen.files():
        answer = proxy.get(f"pypi/{path}")
        assert sha256(answer.body) == promised[path].sha256, path
        assert answer.headers["X-Checksum-Sha256"] == promised[path].sha256
        assert answer.headers["X-Artifact-Source"] == "cache"


def test_files_are_byte_identical_to_a_direct_download(first: Step, proxy: Proxy, registry: Registry) -> None:
    fills = sorted(first.seen.fills("artifact"), key=lambda fill: fill["bytes"])
    spread = {fills[i * (len(fills) - 1) // (DIRECTLY - 1)]["path"] for i in range(DIRECTLY)}
    promised = registry.expected(sorted(spread))
    for path in spread:
        assert proxy.get(f"pypi/{path}").body == registry.fetch(promised[path].url), path


@pytest.fixture(scope="module")
def cut_off(second: Step, start_proxy: StartProxy, start_forwarder: StartForwarder, proxy: Proxy) -> Proxy:
    """The same data after a restart, and nothing behind the egress any more."""
    gone = start_forwarder()
    gone.stop()
    assert proxy.stop() == 0
    return start_proxy("proxy", forwarder=gone)


def test_without_the_internet_a_third_installation_works(first: Step, cut_off: Proxy, pip: Pip) -> None:
    with cut_off.watch() as seen:
        python = pip.install(APPLICATION, index=cut_off.index)
    assert pip.installed(python) == first.installed
    assert set(seen.files()) == set(first.seen.files())
    assert seen.sources() == {"cache"}
    pip.run([str(python), "-I", "-c", f"import {APPLICATION}"])


def test_without_the_internet_something_new_is_no_404(cut_off: Proxy) -> None:
    """A 404 would send clients elsewhere, or be remembered for a day."""
    answer = cut_off.get("pypi/simple/sampleproject/")
    assert (answer.status, answer.headers["X-Proxy-Error"]) == (502, "upstream_refused")
    assert answer.headers["X-Artifact-Source"] is None


def test_stale_pages_are_served_while_upstream_is_gone(
    start_proxy: StartProxy, start_forwarder: StartForwarder, pip: Pip
) -> None:
    forwarder = start_forwarder()
    ttl = "    ttl: 1s\n    stale_while_revalidate: 0s\n"
    proxy = start_proxy("impatient", forwarder=forwarder, remote=ttl)
    pip.install("rich", index=proxy.index)
    forwarder.stop()
    time.sleep(1.1)
    with proxy.watch() as seen:
        pip.install("rich", index=proxy.index)
    assert seen.sources() == {"cache"}
    assert {(row["result"], row["source"]) for row in seen.requests("index")} == {("stale", "cache")}
