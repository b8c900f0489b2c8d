"""Commands beside a running server, its end by SIGTERM, and its next start on the same data."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from e2e.clients import Pip
from e2e.conftest import StartProxy
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy
from tests.needs import require

PROJECT = "idna"
OTHER = "certifi"
LARGE, LARGE_VERSION = "jupyterlab", "4.2.0"


@pytest.fixture(scope="module")
def wheel(proxy: Proxy, pip: Pip) -> str:
    """The path of the project's file; another one is cached beside it."""
    with proxy.watch() as seen:
        pip.install(PROJECT, OTHER, index=proxy.index)
    assert seen.sources() == {"remote"}
    return next(path for path in seen.files() if f"/{PROJECT}-" in path)


def test_remotes_prints_what_was_resolved(proxy: Proxy, registry: Registry) -> None:
    code, listed = proxy.command("remotes")
    assert code == 0
    assert listed == [{"name": "pypi", "provider": "pypi", "upstreams": [registry.index]}]


def test_check_accepts_the_configuration(proxy: Proxy) -> None:
    code, in_force = proxy.command("check")
    assert code == 0
    assert "pypi" in in_force["remotes"]


def test_explain_tells_of_a_held_file_without_fetching(wheel: str, proxy: Proxy) -> None:
    with proxy.watch() as seen:
        told = proxy.explain(wheel)
    assert told["row"]["verified_by"] == "digest"
    assert told["promise"]["digests"][0]["hex"] == told["row"]["ref"]["sha256"]
    assert told["decision"] == "Serve"
    assert told["reason"]
    assert seen.fills() == []


def test_explain_tells_of_a_missing_file_without_fetching(
    wheel: str, proxy: Proxy, forwarder: Forwarder
) -> None:
    before = forwarder.counts()["connects"]
    with proxy.watch() as seen:
        told = proxy.explain("simple/sampleproject/")
    assert told["row"] is None
    assert told["decision"] not in ("", "Serve")
    assert seen.rows == []
    assert forwarder.counts()["connects"] == before


def test_stats_count_what_is_cached(wheel: str, proxy: Proxy) -> None:
    code, stats = proxy.command("stats")
    assert code == 0
    assert stats["entries"] >= 4  # two pages and two files
    assert stats["bytes"] > 0
    assert stats["by_repo"][0][0] == "pypi"


def test_a_purged_package_comes_from_upstream_again(wheel: str, proxy: Proxy, pip: Pip) -> None:
    code, purged = proxy.command("purge", "--repo", "pypi", "--package", PROJECT)
    assert code == 0
    assert purged["entries"] == 2  # the page and the file
    with proxy.watch() as seen:
        pip.install(PROJECT, OTHER, index=proxy.index)
    by_name = {
        row["path"].rpartition("/")[2].partition("-")[0]: row["source"] for row in seen.requests("artifact")
    }
    assert by_name == {PROJECT: "remote", OTHER: "cache"}


def test_a_purged_path_comes_from_upstream_again(
    start_proxy: StartProxy, forwarder: Forwarder, pip: Pip
) -> None:
    """Its project page is still held and fresh, so nothing but the file is fetched."""
    proxy = start_proxy("purged", forwarder=forwarder)
    with proxy.watch() as seen:
        pip.install(PROJECT, index=proxy.index)
    [path] = seen.files()
    assert proxy.get(f"pypi/{path}").headers["X-Artifact-Source"] == "cache"
    code, purged = proxy.command("purge", f"{proxy.url}/pypi/{path}")
    assert (code, purged["entries"]) == (0, 1)
    again = proxy.get(f"pypi/{path}")
    assert (again.status, again.headers["X-Artifact-Source"]) == (200, "remote"), again.body
    with proxy.watch() as seen:
        assert proxy.get(f"pypi/{path}").headers["X-Artifact-Source"] == "cache"
    assert seen.fills() == []


def test_gc_keeps_what_is_in_use(wheel: str, proxy: Proxy) -> None:
    body = proxy.get(f"pypi/{wheel}").body
    code, found = proxy.command("gc")
    assert code == 0
    assert found["used_bytes"] > 0
    code, _ = proxy.command("gc", "--run")
    assert code == 0
    again = proxy.get(f"pypi/{wheel}")
    assert again.headers["X-Artifact-Source"] == "cache"
    assert again.body == body


def test_metrics_and_probes_answer(wheel: str, proxy: Proxy) -> None:
    assert proxy.get("livez").status == 200
    assert proxy.get("readyz").status == 200
    text = proxy.get("metrics").body.decode()
    assert 'artifactproxy_fills_total{repo="pypi",result="stored"}' in text


def test_sigterm_lets_answers_end_and_the_next_start_serves_from_the_cache(
    wheel: str, proxy: Proxy, forwarder: Forwarder, start_proxy: StartProxy, registry: Registry, pip: Pip
) -> None:
    large = next(
        f for f in registry.page(LARGE).values() if f.name.endswith(".whl") and f.version == LARGE_VERSION
    )
    assert sha256(proxy.get(f"pypi/{large.path}").body) == large.sha256
    out = pip.fresh("slow") / "out"
    slowly = ["--limit-rate", "4M", "-sS", "--fail", "-o", str(out)]
    client = subprocess.Popen(
        [require("curl"), *slowly, f"{proxy.url}/pypi/{large.path}"], env=pip.environment()
    )
    time.sleep(1.0)
    proxy.signal(signal.SIGTERM)
    assert client.wait(60) == 0
    assert proxy.wait() == 0
    assert any(line.startswith("stopping") for line in proxy.said)
    assert sha256(out.read_bytes()) == large.sha256

    again = start_proxy("proxy", forwarder=forwarder)
    with again.watch() as seen:
        pip.install(PROJECT, OTHER, index=again.index)
        assert sha256(again.get(f"pypi/{large.path}").body) == large.sha256
    assert seen.sources() == {"cache"}
    assert seen.fills("artifact") == []


def test_without_a_server_commands_work_on_the_data(
    start_proxy: StartProxy, forwarder: Forwarder, pip: Pip
) -> None:
    proxy = start_proxy("stopped", forwarder=forwarder)
    pip.install(PROJECT, index=proxy.index)
    assert proxy.stop() == 0
    assert proxy.command("stats")[1]["entries"] == 2
    assert proxy.command("purge", "--repo", "pypi", "--all")[1]["entries"] == 2
    assert proxy.command("stats")[1]["entries"] == 0
