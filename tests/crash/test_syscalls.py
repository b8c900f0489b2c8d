"""Killed at system calls of a first fetch: a sample; `make soak` does all of three scenes."""

from __future__ import annotations

from pathlib import Path

from tests.crash.nursery import Nursery
from tests.crash.soak.syscalls import run
from tests.needs import needs


@needs("strace")
async def test_l05_killed_at_every_seventh_system_call_of_a_first_fetch(
    tmp_path: Path, nursery: Nursery
) -> None:
    calls, kills = await run("first_fetch", tmp_path / "run", nursery, 7)
    assert calls > 30
    assert kills >= calls // 7 // 2, "the calls that were counted are not made again"
