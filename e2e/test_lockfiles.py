"""A lock file made through one proxy installs through another whose cache is empty, verified.

The second proxy listens where the first one did, because lock files hold addresses. A client with
such a file asks for the files at once, before any project page: the proxy reads the page itself.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.clients import Failed, Pip, Uv
from e2e.conftest import StartProxy
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy, Seen

PROJECTS = ["flask", "httpx", "rich"]

_PROJECT_FILE = f"""[project]
name = "locked"
version = "1"
requires-python = ">=3.11"
dependencies = {PROJECTS}
"""


@dataclass(frozen=True, slots=True)
class Locks:
    """`project` holds uv.lock; `requirements` is a file with hashes; both made through a proxy at
    `listen` that is gone."""

    project: Path
    requirements: Path
    listen: str

    def pinned(self) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", self.requirements.read_text(), re.MULTILINE))

    def wheels(self) -> dict[str, str]:
        """sha256 by the URL of each wheel in uv.lock."""
        packages = tomllib.loads((self.project / "uv.lock").read_text())["package"]
        wheels = (wheel for package in packages for wheel in package.get("wheels", []))
        return {wheel["url"]: wheel["hash"].removeprefix("sha256:") for wheel in wheels}


@pytest.fixture(scope="module")
def locks(proxy: Proxy, uv: Uv, folder: Path) -> Locks:
    project = folder / "locked"
    project.mkdir()
    (project / "pyproject.toml").write_text(_PROJECT_FILE)
    uv("lock", cwd=project, index=proxy.index)
    wanted = folder / "wanted.txt"
    wanted.write_text("\n".join(PROJECTS) + "\n")
    requirements = folder / "requirements.txt"
    uv(
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "-o",
        str(requirements),
        str(wanted),
        index=proxy.index,
    )
    assert proxy.stop() == 0
    return Locks(project, requirements, proxy.listen)


@pytest.fixture
def empty(
    locks: Locks, start_proxy: StartProxy, forwarder: Forwarder, request: pytest.FixtureRequest
) -> Proxy:
    """A proxy with an empty cache at the address that the lock files name."""
    proxy = start_proxy(request.node.name, forwarder=forwarder, listen=locks.listen)
    request.addfinalizer(proxy.stop)
    return proxy


def _assert_verified(proxy: Proxy, seen: Seen) -> None:
    """Every file was checked against a digest that its project page had promised."""
    fills = {fill["path"]: fill for fill in seen.fills("artifact")}
    assert seen.files() and set(fills) == set(seen.files())
    for path, fill in fills.items():
        row = proxy.explain(path)["row"]
        assert row["verified_by"] == "digest", path
        assert row["taught_by"].startswith("simple/")
        assert row["ref"]["sha256"] == fill["sha256"]


def test_the_lock_file_names_the_proxy_only(locks: Locks) -> None:
    assert len(locks.wheels()) > len(PROJECTS)
    assert {url.split("/")[2] for url in locks.wheels()} == {locks.listen}
    assert all(len(digest) == 64 for digest in locks.wheels().values())


def test_uv_syncs_files_before_any_project_page(locks: Locks, empty: Proxy, uv: Uv) -> None:
    with empty.watch() as seen:
        uv(
            "sync", "--frozen", "--no-install-project", cwd=locks.project,
            UV_PROJECT_ENVIRONMENT=str(uv.fresh("venv")), index=empty.index,
        )  # fmt: skip
    assert seen.requests("index") == []
    assert len(seen.fills("index")) >= len(seen.files())
    assert seen.sources() == {"remote"}
    _assert_verified(empty, seen)
    locked = {url.partition("/pypi/")[2]: digest for url, digest in locks.wheels().items()}
    assert all(fill["sha256"] == locked[fill["path"]] for fill in seen.fills("artifact"))


def test_pip_installs_with_required_hashes(locks: Locks, empty: Proxy, pip: Pip) -> None:
    with empty.watch() as seen:
        python = pip.install("--require-hashes", "-r", str(locks.requirements), index=empty.index)
    assert pip.installed(python) == locks.pinned()
    assert seen.sources() == {"remote"}
    _assert_verified(empty, seen)


def test_pip_installs_urls_with_hashes_before_any_project_page(locks: Locks, empty: Proxy, pip: Pip) -> None:
    pure = {url: digest for url, digest in locks.wheels().items() if url.endswith("-none-any.whl")}
    wanted = pip.fresh("urls") / "urls.txt"
    wanted.write_text("".join(f"{url} --hash=sha256:{digest}\n" for url, digest in pure.items()))
    with empty.watch() as seen:
        pip.install("--no-deps", "--require-hashes", "-r", str(wanted), index=empty.index)
    assert seen.requests("index") == []
    assert len(seen.files()) == len(pure)
    _assert_verified(empty, seen)


def test_a_wrong_hash_is_refused_by_the_client(locks: Locks, empty: Proxy, pip: Pip) -> None:
    url, digest = next((u, d) for u, d in locks.wheels().items() if u.endswith("-none-any.whl"))
    wanted = pip.fresh("urls") / "urls.txt"
    wanted.write_text(f"{url} --hash=sha256:{digest[::-1]}\n")
    with pytest.raises(Failed, match="DO NOT MATCH"):
        pip.install("--no-deps", "--require-hashes", "-r", str(wanted), index=empty.index)


def test_a_file_asked_for_first_is_whole_and_verified(locks: Locks, empty: Proxy, registry: Registry) -> None:
    url, digest = next(iter(locks.wheels().items()))
    with empty.watch() as seen:
        answer = empty.get(url)
    assert answer.status == 200
    assert answer.headers["X-Artifact-Source"] == "remote"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert sha256(answer.body) == digest
    path = url.partition("/pypi/")[2]
    assert registry.expected([path])[path].sha256 == digest
    _assert_verified(empty, seen)
    again = empty.get(url)
    assert again.headers["X-Artifact-Source"] == "cache"
    assert again.headers["X-Checksum-Sha256"] == digest
    assert again.body == answer.body


def test_a_file_that_no_page_promises_is_not_fetched(
    locks: Locks, empty: Proxy, forwarder: Forwarder
) -> None:
    url = next(iter(locks.wheels()))
    host = url.partition("/packages/")[2].partition("/")[0]
    before = len(forwarder.counts()["targets"])
    answer = empty.get(url.replace(host, "elsewhere.example"))
    assert answer.status in (403, 404)
    assert not any("elsewhere.example" in target for target in forwarder.counts()["targets"][before:])
