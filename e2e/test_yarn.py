"""yarn (berry) through the proxy: cold, immutable from its lock file, and with no internet."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from e2e.conftest import StartForwarder
from e2e.node_clients import Yarn, tarballs
from e2e.node_fixtures import StartNpmProxy
from e2e.servers import Forwarder, Proxy, Seen
from tests.needs import needs

pytestmark = needs("node", "npm")

PROJECTS = {"express": "4.21.2", "@babel/code-frame": "7.26.2"}
MANY = 60  # packages of these; today it is about 75


def _settings(proxy: Proxy) -> str:
    return f'npmRegistryServer: "{proxy.base}"\nunsafeHttpWhitelist: ["127.0.0.1"]\n'


def _install(yarn: Yarn, proxy: Proxy) -> tuple[Path, Seen]:
    project = yarn.start(PROJECTS, _settings(proxy))
    with proxy.watch() as seen:
        yarn("install", cwd=project)
    return project, seen


def _lock(project: Path) -> str:
    return (project / "yarn.lock").read_text()


@pytest.fixture(scope="module")
def first(yarn: Yarn, npm_proxy: Proxy) -> tuple[Path, Seen]:
    return _install(yarn, npm_proxy)


@pytest.fixture(scope="module")
def second(first: tuple[Path, Seen], yarn: Yarn, npm_proxy: Proxy) -> tuple[Path, Seen]:
    return _install(yarn, npm_proxy)


def test_the_first_installation_comes_from_upstream(first: tuple[Path, Seen]) -> None:
    project, seen = first
    assert len(seen.files()) >= MANY
    assert seen.sources() == {"remote"}
    assert seen.errors() == []
    assert (project / "node_modules" / "express" / "package.json").exists()
    assert sorted(fill["path"] for fill in seen.fills("artifact")) == sorted(tarballs(seen))


def test_the_lock_file_equals_a_direct_one(first: tuple[Path, Seen], direct_yarn: Yarn) -> None:
    """Checksums and all: it names no address of a tarball that is where tarballs are."""
    directly = direct_yarn.start(PROJECTS)
    direct_yarn("install", cwd=directly)
    assert len(re.findall(r"^  checksum: ", _lock(directly), re.MULTILINE)) >= MANY
    assert _lock(first[0]) == _lock(directly)


def test_the_second_installation_comes_from_the_cache(
    first: tuple[Path, Seen], second: tuple[Path, Seen]
) -> None:
    assert second[1].sources() == {"cache"}
    assert tarballs(second[1]) == tarballs(first[1])
    assert second[1].fills("artifact") == []


def _immutable(yarn: Yarn, proxy: Proxy, lock: Path) -> Seen:
    project = yarn.start(PROJECTS, _settings(proxy))
    shutil.copy(lock / "yarn.lock", project)
    with proxy.watch() as seen:
        yarn("install", "--immutable", "--check-cache", cwd=project)
    assert _lock(project) == _lock(lock)
    return seen


def test_a_lock_file_installs_through_an_empty_proxy(
    first: tuple[Path, Seen], yarn: Yarn, start_npm_proxy: StartNpmProxy, forwarder: Forwarder
) -> None:
    proxy = start_npm_proxy("immutable", forwarder=forwarder)
    seen = _immutable(yarn, proxy, first[0])
    assert seen.errors() == []
    assert tarballs(seen) == tarballs(first[1])
    assert "remote" in seen.sources()
    for path in sorted(tarballs(seen))[:: MANY // 5]:
        assert proxy.explain(path)["row"]["verified_by"] == "digest", path


def test_without_the_internet_a_third_installation_works(
    first: tuple[Path, Seen],
    second: tuple[Path, Seen],
    yarn: Yarn,
    npm_proxy: Proxy,
    start_npm_proxy: StartNpmProxy,
    start_forwarder: StartForwarder,
) -> None:
    gone = start_forwarder()
    gone.stop()
    assert npm_proxy.stop() == 0
    cut_off = start_npm_proxy("proxy", forwarder=gone)
    project, seen = _install(yarn, cut_off)
    assert _lock(project) == _lock(first[0])
    assert seen.sources() == {"cache"}
    assert tarballs(seen) == tarballs(first[1])
    assert _immutable(yarn, cut_off, first[0]).sources() == {"cache"}
