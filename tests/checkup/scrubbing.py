"""A proxy with a scrub of its own, and ways to spoil what it holds."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints
from artifactproxy.checkup.heal import Healer
from artifactproxy.checkup.position import Position
from artifactproxy.checkup.rounds import Rounds
from artifactproxy.checkup.scrub import Scrub
from tests.chaos import Chaos
from tests.house_proxy import Proxy, proxied

Damage = Callable[[Path], None]


@dataclass
class Bench:
    """A running proxy, and what wiring would put beside its engine."""

    proxy: Proxy
    healer: Healer
    scrub: Scrub
    position: Position

    async def run(self, rate: int | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """A whole round: its findings and its summary."""
        lines = [line async for line in self.scrub.scrub(rate=rate)]
        assert "summary" in lines[-1]
        return [line["finding"] for line in lines if "finding" in line], lines[-1]["summary"]

    def rounds(self, *, rate: int = 0, every: float = 1000.0, position: Position | None = None) -> Rounds:
        """`position`: of a process with a data folder of its own."""
        parts = self.proxy.engine.parts
        return Rounds(
            self.scrub if position is None else self.other(position),
            position or self.position,
            parts.observer,
            parts.clock,
            rate=rate,
            every=every,
            rest=0.02,
            save_every=0.02,
        )

    def other(self, position: Position) -> Scrub:
        parts = self.proxy.engine.parts
        return Scrub(parts.store, parts.ledger, self.healer, parts.observer, position, parts.clock)

    async def hold(self, path: str) -> Path:
        """Fetch it; the blob that it became."""
        before = set(self.proxy.blobs())
        assert (await self.proxy.get(path)).status == 200
        await self.proxy.settled()
        [blob] = [blob for blob in self.proxy.blobs() if blob not in before]
        return blob

    def quarantine(self) -> list[Path]:
        return sorted((self.proxy.data / "quarantine").iterdir())

    def warnings(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.proxy.log_lines() if line.get("warning") == event]

    async def metric(self, name: str, **labels: str) -> float:
        return await metric(self.proxy, name, **labels)


async def metric(proxy: Proxy, name: str, **labels: str) -> float:
    """One number of `/metrics`; 0 where it was never counted."""
    text = ((await proxy.get("/metrics")).body or b"").decode()
    wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
    series = f"artifactproxy_{name}" + (f"{{{wanted}}}" if wanted else "")
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@asynccontextmanager
async def bench(folder: Path, chaos: Chaos, **more: str) -> AsyncIterator[Bench]:
    async with proxied(folder, chaos.origin, **more) as proxy:
        parts = proxy.engine.parts
        healer = Healer(proxy.engine, parts.store, parts.index, parts.ledger, parts.observer, parts.clock)
        position = Position(folder / "scrub.json")
        scrub = Scrub(
            parts.store, parts.ledger, healer, parts.observer, position, parts.clock, tell_every=0.02
        )
        yield Bench(proxy, healer, scrub, position)


async def until(true: Callable[[], bool], what: str) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never came to this: {what}")


# --- ways to spoil a blob, keeping what else its inode says ---


def flip(at: float) -> Damage:
    """One bit: at a share of the file, 1.0 being its last byte."""

    def spoil(blob: Path) -> None:
        with blob.open("r+b") as file:
            place = int((blob.stat().st_size - 1) * at)
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 0x10]))

    return spoil


def truncate(blob: Path) -> None:
    os.truncate(blob, blob.stat().st_size // 2)


def empty(blob: Path) -> None:
    os.truncate(blob, 0)


def extend(blob: Path) -> None:
    with blob.open("ab") as file:
        file.write(b"more")


def delete(blob: Path) -> None:
    blob.unlink()


def directory(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()
    (blob / "within").write_bytes(b"x")


def symlink(blob: Path) -> None:
    target = blob.with_name("elsewhere")
    blob.rename(target)
    blob.symlink_to(target)


def fifo(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


SEEN_BY_SIZE: dict[str, Damage] = {
    "truncated": truncate,
    "emptied": empty,
    "extended": extend,
    "directory": directory,
    "symlink": symlink,
    "fifo": fifo,
}
SEEN_BY_HASH: dict[str, Damage] = {
    "first-byte": flip(0.0),
    "middle-byte": flip(0.5),
    "last-byte": flip(1.0),
}


def swap(first: Path, second: Path) -> None:
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def failing(monkeypatch: pytest.MonkeyPatch, error: str, *, times: int) -> None:
    """So many reads of the scrub fail, from the next on."""
    left = itertools.chain([True] * times, itertools.repeat(False))
    before = failpoints.hit

    def hit(name: str) -> None:
        if name == "scrub.read" and next(left):
            raise OSError(getattr(errno, error), "injected")
        before(name)

    monkeypatch.setattr(failpoints, "hit", hit)
