"""R1 beyond 4 GiB, over real sockets through the whole program.

All before the last 6 MiB is a hole that an earlier life has left, so that nothing of it must travel.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path

from artifactproxy.model import Span
from artifactproxy.rules.segments import SavedMap
from artifactproxy.stores.temps import TempNames
from tests.chaos import Chaos, Exchange, Oracle
from tests.chaos.behaviours import gated, ok
from tests.faults.test_parallel import REMOTE, eager
from tests.house_proxy import promise, proxied

MIB = 2**20
START = 4 * 2**30 - 2 * MIB + 12_345
SIZE = START + 6 * MIB
NAME = "/pkg-1.0.tar.gz"
__all__ = ["eager"]  # a fixture that every test here uses


class Holed(Oracle):
    """Zeros, of which nobody asks for one, and after them bytes of its own."""

    def slice(self, start: int, stop: int) -> bytes:
        assert start >= START, "what is here already is not asked for"
        return super().slice(start - START, min(stop, SIZE) - START)

    @property
    def sha256(self) -> str:
        digest, zeros = hashlib.sha256(), bytes(MIB)
        for at in range(0, START, MIB):
            digest.update(zeros[: min(MIB, START - at)])
        digest.update(self.slice(START, SIZE))
        return digest.hexdigest()


async def test_r1_parts_beyond_4_gib(tmp_path: Path, chaos: Chaos) -> None:
    body = Holed(NAME, SIZE)
    sha256 = await asyncio.to_thread(lambda: body.sha256)

    async def serves(exchange: Exchange) -> None:
        exchange.body = body
        await (ok() if exchange.number else gated(MIB // 2, lambda: chaos.hits(NAME) >= 4))(exchange)

    chaos.script(NAME, serves, size=SIZE)
    path = promise(chaos, NAME[1:], body, sha256=sha256)
    _left(tmp_path / "data" / "tmp", sha256)
    try:
        async with proxied(
            tmp_path, chaos.origin, remote=REMOTE, extra="first_byte: 60s\nidle: 60s"
        ) as proxy:
            assert (await proxy.get("/pypi/simple/pkg/")).status == 200
            async with proxy.client.get(proxy.base + path) as answer:
                assert (answer.status, answer.content_length) == (200, SIZE)
            async with asyncio.timeout(240):
                while proxy.engine.states()["fills"]:
                    await asyncio.sleep(0.02)
            got = await proxy.get(path, Range=f"bytes={START - 10}-")
            assert (got.status, got.source) == (206, "cache"), got.error
            assert got.headers["Content-Range"] == f"bytes {START - 10}-{SIZE - 1}/{SIZE}"
            assert got.body == bytes(10) + body.slice(START, SIZE)
    finally:
        shutil.rmtree(tmp_path / "data")  # 4 GiB on the disk
    ranges = [seen.headers["range"] for seen in chaos.requests if seen.path == NAME]
    firsts = [int(re.findall(r"\d+", text)[0]) for text in ranges]
    assert ranges[0] == f"bytes={START}-"
    assert len(firsts) > 3
    assert sum(first > 2**32 for first in firsts) >= 2


def _left(folder: Path, sha256: str) -> None:
    """As if a process that has ended had brought all but the last 6 MiB."""
    folder.mkdir(parents=True)
    mine = TempNames().next()
    owner, _, rest = mine.partition("-")
    part = folder / f"{owner.rpartition('.')[0]}.1-{rest}"  # of the same id, and of another time
    part.touch(0o600)
    os.truncate(part, SIZE)
    saved = SavedMap(sha256, SIZE, (Span(0, START),))
    part.with_name(part.name + ".map").write_text(saved.text())
