"""Servers and clients for the tests here; everything is stopped at the end.

Without a way to the public registry the tests are skipped, or fail under `REQUIRE_ALL=1`.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from e2e.clients import Pip, Uv
from e2e.registry import Registry
from e2e.servers import ROOT, Forwarder, Proxy

pytest_plugins = ["tests.differences", "tests.needs", "e2e.node_fixtures", "e2e.go_fixtures"]

StartProxy = Callable[..., Proxy]
StartForwarder = Callable[[], Forwarder]


@pytest.fixture(scope="session")
def registry() -> Registry:
    registry = Registry()
    try:
        registry.fetch(f"{registry.index}idna/")
    except OSError as error:
        pytest.skip(f"needs the public registry: {error}")
    return registry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])


@pytest.fixture(scope="module")
def start_forwarder(folder: Path, registry: Registry) -> Iterator[StartForwarder]:
    with ExitStack() as stack:

        def start() -> Forwarder:
            forwarder = Forwarder(folder)
            stack.callback(forwarder.stop)
            return forwarder

        yield start


@pytest.fixture(scope="module")
def start_proxy(folder: Path, registry: Registry) -> Iterator[StartProxy]:
    """`start_proxy("first", forwarder=..., remote=..., listen=...)`; one name, one data folder."""
    with ExitStack() as stack:

        def start(name: str, **options: Any) -> Proxy:
            proxy = Proxy(folder / name, **options)
            stack.callback(proxy.stop)
            return proxy

        yield start


@pytest.fixture(scope="module")
def forwarder(start_forwarder: StartForwarder) -> Forwarder:
    return start_forwarder()


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy, forwarder: Forwarder) -> Proxy:
    """With an empty cache at the start of each module."""
    return start_proxy("proxy", forwarder=forwarder)


@pytest.fixture(scope="session")
def pip_library(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> str:
    """A folder with the pip that the development requirements pin, "" if it is already running."""
    text = (ROOT / "requirements" / "dev.txt").read_text()
    pinned = re.search(r"^pip==(\S+)(?:[^\n]*\\\n\s+--hash=\S+)+", text, re.MULTILINE)
    if pinned is None or pinned[1] == importlib.metadata.version("pip"):
        return ""
    folder = tmp_path_factory.mktemp("pip")
    (folder / "pip.txt").write_text(pinned[0] + "\n")
    uv = Uv(folder, direct=True)
    uv(
        "pip",
        "install",
        "--require-hashes",
        "--target",
        str(folder / "library"),
        "-r",
        str(folder / "pip.txt"),
    )
    return str(folder / "library")


@pytest.fixture(scope="module")
def pip(folder: Path, pip_library: str) -> Pip:
    return Pip(folder / "pip", pip_library)


@pytest.fixture(scope="module")
def direct_pip(folder: Path, pip_library: str) -> Pip:
    return Pip(folder / "direct-pip", pip_library, direct=True)


@pytest.fixture(scope="module")
def uv(folder: Path) -> Uv:
    return Uv(folder / "uv")


@pytest.fixture(scope="module")
def direct_uv(folder: Path) -> Uv:
    return Uv(folder / "direct-uv", direct=True)
