"""A data folder that serves is moved into a bucket and a database; the new instance needs no upstream."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.backends import Backends
from e2e.clients import Pip
from e2e.conftest import StartForwarder, StartProxy
from e2e.program import Done, on_a_terminal, run
from e2e.servers import Proxy
from tests.needs import needs

pytestmark = needs("postgres", "minio")

PROJECTS = ("flask", "idna", "certifi")
LATER = "sampleproject"


@dataclass(frozen=True, slots=True)
class Mover:
    """`artifactproxy migrate` from the folder of `old` to what `target` says."""

    old: Proxy
    target: Path
    env: dict[str, str]

    def command(self, *options: str) -> list[str]:
        source = ["--config", str(self.old.folder / "config.yaml"), "--data", str(self.old.data)]
        return ["migrate", "--to", str(self.target), *source, *options]

    def __call__(self, *options: str, **extra: str) -> Done:
        return run(*self.command(*options), env=self.env | extra)


def configuration(backends: Backends, forwarder_url: str) -> str:
    remote = f"remotes: {{pypi: {{provider: pypi, egress: {{proxy: '{forwarder_url}'}}}}}}\n"
    return backends.store() + backends.index() + remote


def test_an_instance_moves_while_it_serves(
    start_proxy: StartProxy, start_forwarder: StartForwarder, pip: Pip, folder: Path
) -> None:
    backends, forwarder = Backends(), start_forwarder()
    old = start_proxy("old", forwarder=forwarder)
    with old.watch() as first:
        pip.install(*PROJECTS, index=old.index)
    target = folder / "new.yaml"
    target.write_text(configuration(backends, forwarder.url))
    move = Mover(old, target, backends.env)

    killed = move("--json", ARTIFACTPROXY_FAILPOINTS="migrate.stored=kill@3")
    assert killed.code == -signal.SIGKILL
    with old.watch() as meanwhile:  # serving goes on, and brings something new
        pip.install(*PROJECTS, LATER, index=old.index)
    assert {row["source"] for row in meanwhile.requests("artifact")} == {"cache", "remote"}

    whole = move("--json", "--read-back")
    assert (whole.code, killed.out) == (0, ""), whole.err
    told = json.loads(whole.out)
    held = old.command("stats")[1]
    assert told["there"] >= 2
    assert told["there"] + told["blobs"] == held["blobs"]
    assert (told["missing"], told["damaged"], told["settled"]) == (0, 0, True)
    assert "moving" in whole.err
    assert old.stop() == 0

    again = move()
    assert again.code == 0, again.err
    assert f"0 blobs moved, 0 bytes; {held['blobs']} were there already" in again.out

    new = start_proxy("new", forwarder=forwarder, top=backends.store() + backends.index(), env=backends.env)
    forwarder.stop()
    moved = new.command("stats")[1]
    for name in ("blobs", "bytes", "entries", "promises"):
        assert moved[name] == held[name], name
    with new.watch() as last:
        pip.install(*PROJECTS, LATER, index=new.index)
    assert last.errors() == []
    assert last.sources() == {"cache"}
    assert set(first.files()) < set(last.files())


def test_a_person_who_watches_sees_a_bar_and_a_summary(
    start_proxy: StartProxy, start_forwarder: StartForwarder, pip: Pip, folder: Path
) -> None:
    backends, forwarder = Backends(), start_forwarder()
    old = start_proxy("watched", forwarder=forwarder)
    pip.install("idna", index=old.index)
    target = folder / "watched.yaml"
    target.write_text(configuration(backends, forwarder.url))
    code, seen = on_a_terminal(*Mover(old, target, backends.env).command(), env=backends.env)
    assert code == 0, seen
    assert "moving" in seen
    assert "blobs moved" in seen
    assert "Traceback" not in seen


# --- refusals, as a user reads them


@pytest.fixture(scope="module")
def quiet(start_proxy: StartProxy, start_forwarder: StartForwarder) -> Proxy:
    return start_proxy("quiet", forwarder=start_forwarder())


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", 1, "keeps everything in a data folder: nothing would move; see store and index"),
        ("stor: 1\n", 2, "stor"),
        ("{store}", 1, ""),
    ],
    ids=["nothing-to-move-to", "wrong-configuration", "no-such-bucket"],
)
def test_a_target_that_cannot_be(quiet: Proxy, folder: Path, text: str, code: int, said: str) -> None:
    backends = Backends()
    target = folder / "wrong.yaml"
    target.write_text(text.format(store=backends.store(bucket="no-such-bucket-here") + backends.index()))
    done = Mover(quiet, target, backends.env)()
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("artifactproxy: ")
    assert (said or "no-such-bucket-here") in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_is_none(quiet: Proxy, folder: Path) -> None:
    backends = Backends()
    target = folder / "right.yaml"
    target.write_text(backends.store() + backends.index())
    done = Mover(quiet, target, backends.env)("--data", str(folder / "nowhere"))
    assert done.code == 1
    assert (
        done.err
        == f"artifactproxy: {folder / 'nowhere'} is no directory: name the data folder of an instance\n"
    )


def test_an_instance_that_has_moved_already(quiet: Proxy, folder: Path) -> None:
    backends = Backends()
    target = folder / "both.yaml"
    target.write_text(backends.store() + backends.index())
    done = Mover(quiet, target, backends.env)("--config", str(target))
    assert done.code == 1
    assert done.err == (
        "artifactproxy: only a data folder can be migrated: this instance keeps its data elsewhere already\n"
    )
