"""npm installs a tree of hundreds of packages: cold, warm, from a lock file, and with no internet."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from artifactproxy import control
from e2e.conftest import StartForwarder
from e2e.node_clients import Npm, integrities, locked, versions
from e2e.node_fixtures import StartNpmProxy
from e2e.node_registry import NodeRegistry
from e2e.servers import Forwarder, Proxy, Row, Seen
from tests.needs import needs

pytestmark = needs("node", "npm", "openssl")

TREE = {"eslint": "8.57.0", "jest": "29.7.0"}
MANY = 300  # packages; today it is 336
SMALLER = {"express": "4.21.2", "@babel/code-frame": "7.26.2"}
CLIENTS = 6
LINKS = 20
LOOSE = {"debug": "^4", "express": "^4", "semver": "^7", "@babel/code-frame": "^7"}
DATE = "2024-10-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Step:
    """One installation: its project, what the proxy logged, what went through the forwarder."""

    project: Path
    seen: Seen
    bytes_down: int = 0


def _step(npm: Npm, proxy: Proxy, forwarder: Forwarder | None = None) -> Step:
    before = forwarder.counts()["bytes_down"] if forwarder else 0
    with proxy.watch() as seen:
        project = npm.install(TREE, registry=proxy.base)
    after = forwarder.counts()["bytes_down"] if forwarder else 0
    return Step(project, seen, after - before)


def _path(resolved: str) -> str:
    """Where a registry keeps a tarball, below its base; the registries here have none or `/npm/`."""
    return urlsplit(resolved).path.removeprefix("/npm/").lstrip("/")


def _not_fetched(seen: Seen) -> set[str]:
    """Tarballs that no request got from upstream. npm may ask again for a second place, and requests
    are logged when they end."""
    fetched = {row["path"] for row in seen.requests("artifact") if row["source"] == "remote"}
    return set(seen.files()) - fetched


def _promised(lock: Path, installed: Path) -> dict[str, str]:
    """Integrity by path, of what a lock file means for this machine: optional packages may be for
    others. `installed` is a project that was installed here."""
    here = {place: entry for place, entry in locked(lock).items() if (installed / place).exists()}
    return {_path(entry["resolved"]): entry["integrity"] for entry in here.values()}


def _row(proxy: Proxy, path: str) -> Row:
    told = control.call(proxy.data, "GET", f"/explain?url={quote(proxy.base + path, safe='')}")
    row: Row = told["row"]
    return row


def _assert_verified(proxy: Proxy, seen: Seen) -> None:
    """Every tarball was checked against a digest that its packument had promised."""
    fills = {fill["path"]: fill for fill in seen.fills("artifact")}
    assert seen.files() and set(fills) == set(seen.files())
    for path, fill in fills.items():
        row = _row(proxy, path)
        assert row["verified_by"] == "digest", path
        assert row["taught_by"]
        assert row["ref"]["sha256"] == fill["sha256"]


@pytest.fixture(scope="module")
def direct(direct_npm: Npm) -> Path:
    """The same tree as the public registry locks it; the lock file names that registry."""
    return direct_npm.install(TREE, "--package-lock-only")


@pytest.fixture(scope="module")
def first(npm: Npm, npm_proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(npm, npm_proxy, forwarder)


@pytest.fixture(scope="module")
def second(first: Step, npm: Npm, npm_proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(npm, npm_proxy, forwarder)


def test_the_first_installation_comes_from_upstream(first: Step) -> None:
    assert len(first.seen.files()) >= MANY
    assert _not_fetched(first.seen) == set()
    assert (first.project / "node_modules" / "jest" / "package.json").exists()


def test_no_request_is_refused(first: Step, second: Step) -> None:
    for step in (first, second):
        assert step.seen.errors() == []
        assert {row["status"] for row in step.seen.requests()} == {200}


def test_upstream_is_asked_once_for_each_document(first: Step) -> None:
    filled = [fill["path"] for fill in first.seen.fills("artifact")]
    assert sorted(filled) == sorted(first.seen.files())
    assert {fill["result"] for fill in first.seen.fills()} == {"stored"}
    packuments = Counter(fill["path"] for fill in first.seen.fills("index"))
    assert len(packuments) >= MANY
    assert max(packuments.values()) <= 2  # abbreviated and full are two documents


def test_the_proxy_goes_out_through_its_egress_only(first: Step) -> None:
    assert first.bytes_down >= sum(fill["bytes"] for fill in first.seen.fills("artifact")) > 0


def test_the_lock_file_promises_what_a_direct_one_does(first: Step, direct: Path) -> None:
    assert versions(first.project) == versions(direct)
    assert integrities(first.project) == integrities(direct)


def test_the_lock_file_names_the_proxy_and_its_prefix(first: Step, npm_proxy: Proxy, direct: Path) -> None:
    directly = {place: _path(entry["resolved"]) for place, entry in locked(direct).items()}
    through = {place: entry["resolved"] for place, entry in locked(first.project).items()}
    assert through == {place: npm_proxy.base + path for place, path in directly.items()}


def test_every_tarball_has_the_digest_of_the_direct_lock_file(
    first: Step, npm_proxy: Proxy, direct: Path
) -> None:
    promised = _promised(direct, first.project)
    assert set(promised) == set(first.seen.files())
    for path, integrity in promised.items():
        answer = npm_proxy.get(npm_proxy.base + path)
        digest = base64.b64encode(hashlib.sha512(answer.body).digest()).decode()
        assert f"sha512-{digest}" == integrity, path
        assert answer.headers["X-Artifact-Source"] == "cache"
    _assert_verified(npm_proxy, first.seen)


def test_the_second_installation_comes_from_the_cache(first: Step, second: Step) -> None:
    assert integrities(second.project) == integrities(first.project)
    assert set(second.seen.files()) == set(first.seen.files())
    assert second.seen.sources() == {"cache"}
    assert second.seen.fills("artifact") == []


def test_a_date_chooses_as_directly(npm_proxy: Proxy, npm: Npm, direct_npm: Npm) -> None:
    options = ["--before", DATE, "--package-lock-only"]
    through = npm.install(LOOSE, *options, registry=npm_proxy.base)
    directly = direct_npm.install(LOOSE, *options)
    assert versions(through) == versions(directly)
    assert integrities(through) == integrities(directly)
    newest = npm.install(LOOSE, "--package-lock-only", registry=npm_proxy.base)
    assert versions(through) != versions(newest)


# --- from a lock file, with an empty cache --------------------------------------------------


def _copied(npm: Npm, project: Path) -> Path:
    copy = npm.fresh("locked")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(project / name, copy / name)
    return copy


def _clean_install(npm: Npm, start: StartNpmProxy, name: str, forwarder: Forwarder, lock: Path) -> Seen:
    """`npm ci` in a copy of this project, through a proxy that has never seen anything."""
    proxy = start(name, forwarder=forwarder)
    project = _copied(npm, lock)
    with proxy.watch() as seen:
        npm("ci", cwd=project, registry=proxy.base)
    assert seen.errors() == []
    assert _not_fetched(seen) == set()
    _assert_verified(proxy, seen)
    assert proxy.stop() == 0
    return seen


def test_a_public_lock_file_installs_through_an_empty_proxy(
    first: Step, direct: Path, npm: Npm, start_npm_proxy: StartNpmProxy, forwarder: Forwarder
) -> None:
    """npm replaces the host of its own registry by ours; the tarballs come before any packument."""
    seen = _clean_install(npm, start_npm_proxy, "ci", forwarder, direct)
    assert set(seen.files()) == set(_promised(direct, first.project))
    assert any(path.startswith("@") for path in seen.files())
    assert seen.requests("index") == []
    assert len(seen.fills("index")) >= MANY


def test_a_lock_file_without_addresses_installs_through_an_empty_proxy(
    direct_npm: Npm, npm: Npm, start_npm_proxy: StartNpmProxy, forwarder: Forwarder
) -> None:
    options = ["--omit-lockfile-registry-resolved", "--package-lock-only"]
    lock = direct_npm.install(SMALLER, *options)
    assert not any("resolved" in entry for entry in locked(lock).values())
    seen = _clean_install(npm, start_npm_proxy, "ci-bare", forwarder, lock)
    assert len(seen.files()) == len({entry["integrity"] for entry in locked(lock).values()})


# --- several at once ------------------------------------------------------------------------


def test_many_clients_at_once_are_one_upstream_transfer_of_each(
    npm: Npm, start_npm_proxy: StartNpmProxy, forwarder: Forwarder, public_npm: str
) -> None:
    proxy = start_npm_proxy("parallel", forwarder=forwarder)
    with proxy.watch() as seen, ThreadPoolExecutor(CLIENTS) as pool:
        projects = list(pool.map(lambda _: npm.install(SMALLER, registry=proxy.base), range(CLIENTS)))
    assert all(integrities(project) == integrities(projects[0]) for project in projects)
    filled = Counter(fill["path"] for fill in seen.fills("artifact"))
    assert set(filled) == set(seen.files())
    assert set(filled.values()) == {1}
    whole = [r for r in seen.requests("artifact") if r["method"] == "GET" and r["status"] == 200]
    assert len(whole) == CLIENTS * len(filled)
    assert seen.errors() == []
    packuments = Counter(fill["path"] for fill in seen.fills("index"))
    assert max(packuments.values()) <= 2


def test_a_registry_sees_one_get_of_each_document(
    npm: Npm, node_registry: NodeRegistry, npm_mirror: Proxy
) -> None:
    names = [f"@chain/link-{number}" for number in range(LINKS)]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        node_registry.publish(name, "1.0.0", {following: "^1.0.0"} if following else {})
    with ThreadPoolExecutor(CLIENTS) as pool:
        wanted = dict.fromkeys(names, "1")
        list(pool.map(lambda _: npm.install(wanted, registry=npm_mirror.base), range(CLIENTS)))
    tarballs = [f"{name}/-/{name.partition('/')[2]}-1.0.0.tgz" for name in names]
    assert node_registry.gets == Counter(names + tarballs)


# --- with no internet left ------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_off(
    second: Step, start_npm_proxy: StartNpmProxy, start_forwarder: StartForwarder, npm_proxy: Proxy
) -> Proxy:
    """The same data after a restart, and nothing behind the egress any more."""
    gone = start_forwarder()
    gone.stop()
    assert npm_proxy.stop() == 0
    return start_npm_proxy("proxy", forwarder=gone)


def test_without_the_internet_a_third_installation_works(first: Step, cut_off: Proxy, npm: Npm) -> None:
    third = _step(npm, cut_off)
    assert integrities(third.project) == integrities(first.project)
    assert set(third.seen.files()) == set(first.seen.files())
    assert third.seen.sources() == {"cache"}
    npm("exec", "--offline", "--", "eslint", "--version", cwd=third.project)


def test_without_the_internet_a_clean_installation_works(first: Step, cut_off: Proxy, npm: Npm) -> None:
    """From the lock file that was made through the proxy, whose port has changed meanwhile."""
    project = _copied(npm, first.project)
    options = ["--replace-registry-host", "always"]
    with cut_off.watch() as seen:
        npm("ci", *options, cwd=project, registry=cut_off.base)
    assert seen.sources() == {"cache"}
    assert set(seen.files()) == set(first.seen.files())


def test_without_the_internet_something_new_is_no_404(cut_off: Proxy, npm: Npm) -> None:
    """A 404 would be shown as a package that does not exist."""
    answer = cut_off.get(f"{cut_off.base}left-pad")
    assert answer.status == 502
    assert answer.headers["X-Proxy-Error"] in ("upstream_refused", "breaker_open")
    said = npm.attempt("view", "left-pad", registry=cut_off.base)
    assert said.codes == ["E502"], said.err
