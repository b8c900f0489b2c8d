"""Clients and upstreams for the tests of the go command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.go_client import Go, Public, public
from e2e.go_modules import DATABASE, Database, Modules, build_database
from e2e.servers import Forwarder, Proxy

StartGoProxy = Callable[..., Proxy]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of compiled packages for all; it does not outlive the run."""
    with tempfile.TemporaryDirectory(prefix="artifactproxy-e2e-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def public_go(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Public:
    folder = tmp_path_factory.mktemp("public-go")
    found = public(folder)
    go = Go(folder, direct=True, compiled=compiled)
    said = go.attempt("mod", "download", "golang.org/x/mod@v0.20.0", cwd=go.project(), proxy="", sumdb="")
    if said.code:
        pytest.skip(f"needs the public Go proxy: {said.err[-300:]}")
    return found


@pytest.fixture(scope="module")
def go(folder: Path, compiled: Path) -> Iterator[Go]:
    client = Go(folder / "go", compiled=compiled)
    yield client
    client.dispose()


@pytest.fixture(scope="module")
def direct_go(folder: Path, compiled: Path, public_go: Public) -> Iterator[Go]:
    client = Go(folder / "direct-go", direct=True, compiled=compiled)
    yield client
    client.dispose()


@pytest.fixture(scope="module")
def start_go_proxy(start_proxy: Callable[..., Proxy]) -> StartGoProxy:
    """Like `start_proxy`, with one repository of Go modules: the public one, unless `upstream` names
    another."""

    def start(name: str, **options: object) -> Proxy:
        return start_proxy(name, provider="go", **options)

    return start


@pytest.fixture(scope="module")
def go_proxy(start_go_proxy: StartGoProxy, forwarder: Forwarder, public_go: Public) -> Proxy:
    """In front of the public proxy, with an empty cache at the start of each module."""
    return start_go_proxy("proxy", forwarder=forwarder)


@pytest.fixture(scope="module")
def modules() -> Iterator[Modules]:
    """A module proxy on loopback that has nothing yet."""
    served = Modules()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def mirror(start_go_proxy: StartGoProxy, modules: Modules) -> Proxy:
    """In front of the module proxy on loopback. What is missing there is asked for again at once."""
    return start_go_proxy("mirror", upstream=modules.url, remote="    negative_ttl: 0s\n")


@pytest.fixture(scope="session")
def database_program(public_go: Public, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_database(Go(tmp_path_factory.mktemp("database"), direct=True, compiled=compiled))


@pytest.fixture(scope="module")
def database(database_program: Path, folder: Path) -> Iterator[Database]:
    served = Database(folder / "database")
    served.start(database_program)
    assert served.key.startswith(f"{DATABASE}+")
    yield served
    served.stop()
