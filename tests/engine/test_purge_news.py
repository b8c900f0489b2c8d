"""What a purge tells the other processes: which keys they shall look up anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.model import ArtifactKey
from artifactproxy.rules.bulletin import keys_of
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.house_proxy import Proxy, promise, proxied


class Board:
    """A bulletin that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[ArtifactKey] | None]] = []

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None:
        self.told.append((topic, keys_of(message)))
        assert seconds == 0.0


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin) as running:
        yield running


@pytest.fixture
def board(proxy: Proxy) -> Board:
    board = Board()
    proxy.engine._desk._bulletin = board
    return board


async def test_the_keys_of_files(proxy: Proxy, board: Board, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok())
    await proxy.get("/files/f.bin")
    await proxy.settled()
    await proxy.engine.purge("files", path="nothing.bin")
    assert board.told == []
    await proxy.engine.purge("files", path="f.bin")
    topic, keys = board.told.pop()
    assert (topic, board.told) == ("changed", [])
    assert keys in ([ArtifactKey("files", "f.bin")], [])  # [] if something of first sight went with it


async def test_what_an_index_taught_goes_too_and_nobody_knows_its_names(
    proxy: Proxy, board: Board, chaos: Chaos
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=20_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    await proxy.get(path)
    await proxy.settled()
    await proxy.engine.purge("pypi", path="simple/pkg/")
    assert board.told == [("changed", [])]
