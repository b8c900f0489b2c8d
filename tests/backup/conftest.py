"""Known data folders, and commands run in this process where nothing has to die."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from artifactproxy import cli
from artifactproxy import failpoints as points
from tests.backup.folders import fill


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    import os

    for name in [n for n in os.environ if n.startswith("ARTIFACTPROXY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(capfd):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def command(*arguments: str, failpoints: str = "") -> tuple[int, str, str]:
        points.arm(failpoints)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main(list(arguments))
        finally:
            points.arm("")
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return command


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A data folder that nobody changes, and the blobs in it."""
    data = tmp_path_factory.mktemp("filled") / "data"
    return data, asyncio.run(fill(data))


@pytest.fixture
def own(filled, tmp_path):
    """A copy that the test may damage."""
    shutil.copytree(filled[0], tmp_path / "data")
    return tmp_path / "data", filled[1]
