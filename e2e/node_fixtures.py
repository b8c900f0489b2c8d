"""Clients and registries for the tests of JavaScript clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.node_clients import PNPM, YARN, Npm, Pnpm, Yarn, obtain
from e2e.node_registry import NodeRegistry
from e2e.servers import Forwarder, Proxy

StartNpmProxy = Callable[..., Proxy]


@pytest.fixture(scope="session")
def public_npm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address that npm uses by itself, with a trailing slash."""
    npm = Npm(tmp_path_factory.mktemp("public-npm"), direct=True)
    address = npm("config", "get", "registry").strip()
    asked = npm.attempt("view", "left-pad@1.3.0", "version")
    if asked.code:
        pytest.skip(f"needs the public npm registry: {asked.err[-300:]}")
    return address


@pytest.fixture(scope="module")
def npm(folder: Path) -> Npm:
    return Npm(folder / "npm")


@pytest.fixture(scope="module")
def direct_npm(folder: Path, public_npm: str) -> Npm:
    return Npm(folder / "direct-npm", direct=True)


@pytest.fixture(scope="session")
def pnpm_program(public_npm: str) -> Path:
    return obtain(PNPM, "bin/pnpm.cjs")


@pytest.fixture(scope="module")
def pnpm(folder: Path, pnpm_program: Path) -> Pnpm:
    return Pnpm(folder / "pnpm", pnpm_program)


@pytest.fixture(scope="module")
def direct_pnpm(folder: Path, pnpm_program: Path) -> Pnpm:
    return Pnpm(folder / "direct-pnpm", pnpm_program, direct=True)


@pytest.fixture(scope="session")
def yarn_program(public_npm: str) -> Path:
    return obtain(YARN, "bin/yarn.js")


@pytest.fixture(scope="module")
def yarn(folder: Path, yarn_program: Path) -> Yarn:
    return Yarn(folder / "yarn", yarn_program)


@pytest.fixture(scope="module")
def direct_yarn(folder: Path, yarn_program: Path) -> Yarn:
    return Yarn(folder / "direct-yarn", yarn_program, direct=True)


@pytest.fixture(scope="module")
def start_npm_proxy(start_proxy: Callable[..., Proxy]) -> StartNpmProxy:
    """Like `start_proxy`, with one npm repository: the public one, unless `upstream` names another."""

    def start(name: str, **options: object) -> Proxy:
        return start_proxy(name, provider="npm", **options)

    return start


@pytest.fixture(scope="module")
def npm_proxy(start_npm_proxy: StartNpmProxy, forwarder: Forwarder, public_npm: str) -> Proxy:
    """In front of the public registry, with an empty cache at the start of each module."""
    return start_npm_proxy("proxy", forwarder=forwarder)


@pytest.fixture(scope="module")
def node_registry(folder: Path) -> Iterator[NodeRegistry]:
    registry = NodeRegistry(folder / "registry")
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def npm_mirror(start_npm_proxy: StartNpmProxy, node_registry: NodeRegistry) -> Proxy:
    """In front of the registry on loopback."""
    return start_npm_proxy("mirror", upstream=node_registry.url)
