"""pnpm through the proxy: cold, from a lock file, gated by age, and with no internet."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from e2e.conftest import StartForwarder
from e2e.node_clients import Pnpm
from e2e.node_fixtures import StartNpmProxy
from e2e.node_registry import NodeRegistry
from e2e.servers import Forwarder, Proxy, Seen
from tests.needs import needs

pytestmark = needs("node", "npm", "openssl")

PROJECTS = {"express": "4.21.2", "@babel/core": "7.26.0"}
MANY = 80  # packages of these; today it is about 105
LOOSE = {"undici-types": "*", "@types/node": "*", "semver": "*", "typescript": "*"}
MINUTES_OF_YEARS = 2 * 365 * 24 * 60


def _install(pnpm: Pnpm, proxy: Proxy) -> tuple[Path, Seen]:
    project = pnpm.project(PROJECTS)
    with proxy.watch() as seen:
        pnpm("install", cwd=project, registry=proxy.base)
    return project, seen


def _lock(project: Path) -> str:
    return (project / "pnpm-lock.yaml").read_text()


def _gated(pnpm: Pnpm, registry: str, minutes: int, dependencies: dict[str, str]) -> dict[str, str]:
    """What pnpm chooses of these if a version must have that age."""
    project = pnpm.project(dependencies)
    (project / "pnpm-workspace.yaml").write_text(f"minimumReleaseAge: {minutes}\n")
    pnpm("install", "--lockfile-only", cwd=project, registry=registry)
    return dict(re.findall(r"^  '?(@?[^@\s]+)@([^:']+)'?:$", _lock(project), re.MULTILINE))


@pytest.fixture(scope="module")
def first(pnpm: Pnpm, npm_proxy: Proxy) -> tuple[Path, Seen]:
    return _install(pnpm, npm_proxy)


@pytest.fixture(scope="module")
def second(first: tuple[Path, Seen], pnpm: Pnpm, npm_proxy: Proxy) -> tuple[Path, Seen]:
    return _install(pnpm, npm_proxy)


def test_the_first_installation_comes_from_upstream(first: tuple[Path, Seen]) -> None:
    project, seen = first
    assert len(seen.files()) >= MANY
    assert seen.sources() == {"remote"}
    assert seen.errors() == []
    assert (project / "node_modules" / "express" / "package.json").exists()
    assert sorted(fill["path"] for fill in seen.fills("artifact")) == sorted(seen.files())


def test_the_lock_file_equals_a_direct_one(first: tuple[Path, Seen], direct_pnpm: Pnpm) -> None:
    """It names neither the registry nor a tarball, so that every integrity is compared as well."""
    directly = direct_pnpm.project(PROJECTS)
    direct_pnpm("install", "--lockfile-only", cwd=directly)
    assert "integrity: sha512-" in _lock(directly)
    assert "tarball:" not in _lock(directly)
    assert _lock(first[0]) == _lock(directly)


def test_the_second_installation_comes_from_the_cache(
    first: tuple[Path, Seen], second: tuple[Path, Seen]
) -> None:
    assert second[1].sources() == {"cache"}
    assert set(second[1].files()) == set(first[1].files())
    assert second[1].fills("artifact") == []


def test_a_frozen_lock_file_installs_through_an_empty_proxy(
    first: tuple[Path, Seen], pnpm: Pnpm, start_npm_proxy: StartNpmProxy, forwarder: Forwarder
) -> None:
    proxy = start_npm_proxy("frozen", forwarder=forwarder)
    project = pnpm.project(PROJECTS)
    shutil.copy(first[0] / "pnpm-lock.yaml", project)
    with proxy.watch() as seen:
        pnpm("install", "--frozen-lockfile", cwd=project, registry=proxy.base)
    assert seen.errors() == []
    assert set(seen.files()) == set(first[1].files())
    assert seen.sources() == {"remote"}
    assert seen.requests("index") == []
    for path in seen.files()[:: MANY // 5]:
        assert proxy.explain(path)["row"]["verified_by"] == "digest", path


def test_a_minimum_age_chooses_as_directly(pnpm: Pnpm, direct_pnpm: Pnpm, npm_proxy: Proxy) -> None:
    gated = _gated(pnpm, npm_proxy.base, MINUTES_OF_YEARS, LOOSE)
    assert set(LOOSE) <= set(gated)
    assert gated == _gated(direct_pnpm, "", MINUTES_OF_YEARS, LOOSE)
    newest = _gated(pnpm, npm_proxy.base, 0, LOOSE)
    assert {name for name in LOOSE if gated[name] != newest[name]}, "nothing was released for years"


def test_a_minimum_age_needs_the_dates_of_the_full_document(
    pnpm: Pnpm, node_registry: NodeRegistry, npm_mirror: Proxy
) -> None:
    """The abbreviated one of this registry has no dates, and another entity tag."""
    node_registry.publish("ageing", "1.0.0", day=1)
    node_registry.publish("ageing", "1.0.1", day=2)
    for registry in (node_registry.url, npm_mirror.base):
        assert _gated(pnpm, registry, 0, {"ageing": "*"}) == {"ageing": "1.0.1"}
        assert _gated(pnpm, registry, 60, {"ageing": "*"}) == {"ageing": "1.0.1"}
    node_registry.packages["ageing"].document["time"]["1.0.1"] = "2999-01-01T00:00:00.000Z"
    npm_mirror.command("purge", "--repo", "npm", "--package", "ageing")
    for registry in (node_registry.url, npm_mirror.base):
        assert _gated(pnpm, registry, 60, {"ageing": "*"}) == {"ageing": "1.0.0"}


def test_without_the_internet_a_third_installation_works(
    first: tuple[Path, Seen],
    second: tuple[Path, Seen],
    pnpm: Pnpm,
    npm_proxy: Proxy,
    start_npm_proxy: StartNpmProxy,
    start_forwarder: StartForwarder,
) -> None:
    gone = start_forwarder()
    gone.stop()
    assert npm_proxy.stop() == 0
    cut_off = start_npm_proxy("proxy", forwarder=gone)
    project, seen = _install(pnpm, cut_off)
    assert _lock(project) == _lock(first[0])
    assert seen.sources() == {"cache"}
    assert set(seen.files()) == set(first[1].files())
