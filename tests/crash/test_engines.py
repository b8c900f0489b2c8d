"""The engines find what is planted: an engine that finds nothing must be able to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifactproxy import backends
from artifactproxy.ports import Clock
from artifactproxy.stores.fs import FsStore
from tests.chaos import Chaos
from tests.chaos.behaviours import flip, lies
from tests.chaos.server import Behaviour
from tests.crash.power.judge import chosen, judge
from tests.crash.power.scenarios import first_fetches, recorded
from tests.crash.soak.__main__ import arguments, command
from tests.crash.soak.drive import Drive, driven


def lying(drive: Drive, behaviour: Behaviour) -> None:
    """What nothing vouches for is taken as it comes, so that lies of upstream reach the client."""
    for document in drive._world.documents:
        if document.path.startswith("/files/f"):
            at, size = document.path.removeprefix("/files"), document.body.size if document.body else 0
            document.change = lambda _, __, at=at, size=size: drive._chaos.script(at, behaviour, size=size)  # type: ignore[misc]


@pytest.mark.parametrize(("behaviour", "kind"), [(flip(0.5), "wrong"), (lies(-1), "short")])
async def test_the_soak_sees_bytes_that_are_not_right(
    tmp_path: Path, behaviour: Behaviour, kind: str
) -> None:
    async with driven(tmp_path / "soak", 1, print) as drive:
        lying(drive, behaviour)
        tally = await drive.run(operations=300, kills=1)
    assert getattr(tally, kind) > 0
    assert all(kind in failure for failure in tally.failures)


async def test_the_soak_sees_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with driven(tmp_path / "soak", 1, print, evicting=0) as drive:

        async def lose() -> None:
            for blob in (tmp_path / "soak/data/blobs").rglob("?" * 64):
                blob.unlink()

        monkeypatch.setattr(drive, "_offline_check", lose)
        tally = await drive.run(operations=200, kills=2)
    assert tally.lost > 0


async def test_the_enumerator_sees_a_sync_that_is_left_out(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(root: Path, *, fsync: bool, clock: Clock) -> FsStore:
        assert fsync
        return FsStore(root, fsync=False, clock=clock)

    monkeypatch.setattr(backends, "FsStore", careless)
    world = await recorded(first_fetches, chaos, tmp_path)
    with pytest.raises(AssertionError):
        for number, state in enumerate(chosen(world, 2, 60)):
            await judge(tmp_path / f"state{number}", world, state)


def test_the_results_name_the_command_that_runs_it_again() -> None:
    assert command(arguments([])) == "make soak SEED=1"
    again = command(arguments(["--seed", "7", "--only", "random", "--only", "power", "--kills", "3"]))
    assert again == "make soak SEED=7 'ARGS=--kills 3 --only random --only power'"
    assert json.dumps(again)
