"""The go command downloads the hundred modules of a program and builds it: cold, warm, and with no
internet left. Then a toolchain, which is a module too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from e2e.conftest import StartForwarder
from e2e.go_client import Go, Module, Public, wanted
from e2e.go_fixtures import StartGoProxy
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy, Row, Seen

MANY = 100
DIRECTLY = 6


@dataclass(frozen=True, slots=True)
class Direct:
    """What comes without a proxy of ours."""

    modules: dict[str, Module]
    sums: str


@dataclass(frozen=True, slots=True)
class Step:
    """One download: what came, what the proxy logged, what went through the forwarder."""

    modules: dict[str, Module]
    seen: Seen
    before: Row
    after: Row

    @property
    def files(self) -> set[str]:
        return {file for module in self.modules.values() for file in module.files}


@pytest.fixture(scope="module")
def direct(direct_go: Go) -> Direct:
    project = direct_go.copy_of_program()
    modules = direct_go.download(project, *wanted(), proxy="", sumdb="")
    return Direct(modules, (project / "go.sum").read_text())


def _step(go: Go, proxy: Proxy, forwarder: Forwarder, direct: Direct) -> Step:
    before = forwarder.counts()
    with proxy.watch() as seen:
        modules = go.download(go.copy_of_program(direct.sums), proxy=proxy.base)
    return Step(modules, seen, before, forwarder.counts())


@pytest.fixture(scope="module")
def first(direct: Direct, go: Go, go_proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(go, go_proxy, forwarder, direct)


@pytest.fixture(scope="module")
def second(first: Step, direct: Direct, go: Go, go_proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(go, go_proxy, forwarder, direct)


def _paths(rows: list[Row]) -> list[str]:
    """The go command writes `!` as `%21`, and requests are logged as they were spelled."""
    return [unquote(row["path"]) for row in rows if row.get("method", "GET") == "GET"]


def test_the_first_download_comes_from_upstream(first: Step, direct: Direct) -> None:
    assert len(first.modules) >= MANY
    assert first.modules == direct.modules  # their sums too
    assert first.seen.errors() == []
    asked = first.seen.requests()
    assert first.files <= set(_paths(asked))
    assert {(row["status"], row["source"]) for row in asked} == {(200, "remote")}


def test_upstream_is_asked_once_for_each_file(first: Step) -> None:
    filled = _paths(first.seen.fills())
    assert len(filled) == len(set(filled))
    assert first.files <= set(filled)
    assert {fill["result"] for fill in first.seen.fills() if fill["path"] in first.files} == {"stored"}
    received = sum(fill["bytes"] for fill in first.seen.fills())
    assert first.after["bytes_down"] - first.before["bytes_down"] >= received > 0


def test_the_second_download_comes_from_the_cache(first: Step, second: Step) -> None:
    assert second.modules == first.modules
    assert set(_paths(second.seen.requests())) == set(_paths(first.seen.requests()))
    assert second.seen.sources("") == {"cache"}
    assert second.seen.fills() == []
    assert second.after["connects"] == second.before["connects"]


def test_zips_and_go_mods_are_verified_by_digest(first: Step, go_proxy: Proxy, public_go: Public) -> None:
    chosen = [
        name for name in first.modules if name.startswith(("github.com/Masterminds/semver", "go.uber.org/"))
    ]
    assert len(chosen) > 3
    for file in sorted(file for name in chosen for file in first.modules[name].files):
        if file.endswith(".info"):
            continue
        row = go_proxy.explain(file)["row"]
        record = file.rpartition(".")[0].replace("/@v/", "@")
        assert row["verified_by"] == "digest", file
        assert row["taught_by"] == f"sumdb/{public_go.sumdb}/lookup/{record}", file


def test_files_are_byte_identical_to_a_direct_download(
    first: Step, go_proxy: Proxy, registry: Registry, public_go: Public
) -> None:
    spread = sorted(first.files)[:: len(first.files) // DIRECTLY]
    for file in spread:
        answer = go_proxy.get(f"go/{file}")
        assert answer.body == registry.fetch(f"{public_go.proxy}/{file}"), file
        assert answer.headers["X-Checksum-Sha256"] == sha256(answer.body)
        assert answer.headers["X-Artifact-Source"] == "cache"


@pytest.fixture(scope="module")
def cut_off(
    second: Step, start_go_proxy: StartGoProxy, start_forwarder: StartForwarder, go_proxy: Proxy
) -> Proxy:
    """The same data after a restart, and nothing behind the egress any more."""
    gone = start_forwarder()
    gone.stop()
    assert go_proxy.stop() == 0
    return start_go_proxy("proxy", forwarder=gone)


def test_without_the_internet_the_program_is_built(
    first: Step, cut_off: Proxy, go: Go, direct: Direct
) -> None:
    project = go.copy_of_program(direct.sums)
    cache = str(go.fresh("modules"))
    with cut_off.watch() as seen:
        assert go.download(project, proxy=cut_off.base, GOMODCACHE=cache) == first.modules
        go("build", "-o", "program", ".", cwd=project, proxy=cut_off.base, GOMODCACHE=cache)
    assert seen.sources("") == {"cache"}
    assert "1.2.3" in go.run([str(project / "program")])


def test_without_the_internet_something_new_is_no_404(cut_off: Proxy, go: Go) -> None:
    """A 404 or 410 would send the go command to the next proxy of its list."""
    path = "rsc.io/quote/@v/v1.5.2.info"
    answer = cut_off.get(f"go/{path}")
    assert answer.status in (502, 503)
    assert answer.headers["X-Artifact-Source"] is None
    said = go.attempt(
        "mod", "download", "rsc.io/quote@v1.5.2", cwd=go.project(), proxy=f"{cut_off.base},direct"
    )
    assert said.code
    assert str(answer.status) in said.err


# --- a toolchain -----------------------------------------------------------------------------


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("go").split("."))


@pytest.fixture(scope="module")
def other_version(go: Go, direct_go: Go, registry: Registry, public_go: Public) -> str:
    """The newest release of this go's line that is older than it, else the one after it."""
    machine = go("env", "GOOS", "GOARCH").split()
    here = go("env", "GOVERSION").split()[0]
    listed = registry.fetch(f"{public_go.proxy}/golang.org/toolchain/@v/list").decode()
    there: list[str] = re.findall(rf"^v0\.0\.1-(go1\.\d+\.\d+)\.{'-'.join(machine)}$", listed, re.MULTILINE)
    older = [version for version in there if (1, 21) < _number(version) < _number(here)]
    newer = [version for version in there if _number(version) > _number(here)]
    return max(older, key=_number) if older else min(newer, key=_number)


@pytest.fixture(scope="module")
def empty(start_go_proxy: StartGoProxy, forwarder: Forwarder, public_go: Public) -> Proxy:
    return start_go_proxy("toolchains", forwarder=forwarder)


def _toolchain(go: Go, proxy: Proxy, public_go: Public, version: str, cache: Path) -> tuple[str, list[Row]]:
    """What it says of itself, and the requests for its archive."""
    with proxy.watch() as seen:
        said = go(
            "version", proxy=proxy.base, sumdb=public_go.sumdb, GOTOOLCHAIN=version, GOMODCACHE=str(cache)
        )
    archives = [row for row in seen.requests() if row["path"].endswith(".zip")]
    assert all(row["path"].startswith(f"golang.org/toolchain/@v/v0.0.1-{version}.") for row in archives)
    return said, archives


def test_a_toolchain_is_downloaded_once(go: Go, empty: Proxy, public_go: Public, other_version: str) -> None:
    for source in ("remote", "cache"):
        cache = go.fresh("modules")
        said, archives = _toolchain(go, empty, public_go, other_version, cache)
        assert f" {other_version} " in said
        assert [(row["status"], row["source"]) for row in archives] == [(200, source)]
    row = empty.explain(archives[0]["path"])["row"]
    assert row["verified_by"] == "digest"
    assert row["ref"]["size"] > 10_000_000
