"""Pushes of one digest at once, some of them with other bytes, and a delete among them: every call to store
and index waits for its turn, and hypothesis draws whose turn it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bucket import Bucket
from tests.hosted.rig import NAME, Rig, code, rig, sha256

SIZE = 300_000  # more than stays in memory
CALLS = {
    "store": ("put", "receive", "size"),
    "hosting": ("hold", "publish", "withdraw", "committed"),
}
IDLE = 0.002  # seconds without news: all that run wait for their turn, or for a thread or a socket
schedules = st.lists(st.integers(0, 9), max_size=60)


class Turns:
    """Calls that wait before they begin and before they return; `order` says who goes next."""

    def __init__(self, order: list[int]) -> None:
        self._order: Iterator[int] = iter(order)
        self._waiting: list[asyncio.Future[None]] = []

    def through(self, target: Any, name: str) -> None:
        call = getattr(target, name)

        async def taken(*arguments: Any, **named: Any) -> Any:
            await self._turn()
            found = await call(*arguments, **named)
            if name == "receive" and found is not None:
                self.through(found, "finish")
            await self._turn()
            return found

        setattr(target, name, taken)

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    async def play(self, calls: list[Awaitable[Any]]) -> list[Any]:
        tasks = [asyncio.ensure_future(call) for call in calls]
        async with asyncio.timeout(60):
            while not all(task.done() for task in tasks):
                before = len(self._waiting)
                await asyncio.sleep(IDLE)
                if self._waiting and len(self._waiting) == before:
                    turn = self._waiting.pop(next(self._order, 0) % before)
                    if not turn.done():
                        turn.set_result(None)
        return [task.result() for task in tasks]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    order=schedules,
    pushes=st.lists(st.sampled_from(["good", "good", "bad", "cut"]), min_size=2, max_size=4),
    deleted=st.booleans(),
)
@pytest.mark.parametrize("kind", ["files", "bucket"])
def test_c18_c19_any_order_of_pushes_of_one_digest(
    tmp_path_factory: pytest.TempPathFactory, kind: str, order: list[int], pushes: list[str], deleted: bool
) -> None:
    async def play() -> None:
        bucket = Bucket() if kind == "bucket" else None
        async with rig(tmp_path_factory.mktemp("turns"), bucket=bucket, limits={"keepalive": "20s"}) as reg:
            await played(reg, Turns(order), pushes, deleted=deleted)

    asyncio.run(play())


async def played(reg: Rig, turns: Turns, pushes: list[str], *, deleted: bool) -> None:
    body = os.urandom(SIZE)
    digest = sha256(body)
    bytes_of = {"good": body, "bad": body[:-1] + bytes([body[-1] ^ 1]), "cut": body}
    parts = reg.engine.parts
    for part, names in CALLS.items():
        for name in names:
            turns.through(getattr(parts, part), name)
    wants = [f"{NAME}/blobs/uploads/?digest={digest}"] * len(pushes)
    calls = [
        cut(reg, path, body) if how == "cut" else reg.ask("POST", path, bytes_of[how])
        for how, path in zip(pushes, wants, strict=True)
    ]
    told = await turns.play([*calls, *([reg.ask("DELETE", f"{NAME}/blobs/{digest}")] if deleted else [])])
    for how, got in zip(pushes, told, strict=False):
        if how == "good":
            assert got.status == 201, got
        elif how == "bad" and got.status != 201:  # it may be here already: then its bytes do not matter
            assert (got.status, code(got)) == (400, "DIGEST_INVALID")
    [read] = await turns.play([reg.get(f"{NAME}/blobs/{digest}")])
    if "good" in pushes and not deleted:
        assert read.status == 200
    assert (read.status, read.body == body) in ((200, True), (404, False))
    await asyncio.wait_for(turns.play([reg.quiet()]), 60)
    rows = await reg.rows()
    assert rows == ([f"team/app blob:{digest}"] if read.status == 200 else [])
    assert reg.blobs() >= ({digest[7:]} if read.status == 200 else set())
    assert reg.blobs() <= {digest[7:]}, "nothing of other bytes is ever visible"


async def cut(reg: Rig, path: str, body: bytes) -> None:
    _, writer = await reg.raw()
    writer.write(reg.head("POST", path, f"Content-Length: {len(body)}") + body[: SIZE // 2])
    await writer.drain()
    writer.close()
