"""A real client's cache: backed up while serving, restored elsewhere, used with upstream cut off."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

from e2e.clients import Pip
from e2e.conftest import StartForwarder, StartProxy
from e2e.servers import ROOT

PROJECTS = ("idna", "certifi")
TABLES = ("blobs", "bytes", "entries", "promises", "by_repo")


def test_a_restored_cache_serves_without_upstream(
    start_proxy: StartProxy, start_forwarder: StartForwarder, pip: Pip, folder: Path
) -> None:
    forwarder = start_forwarder()
    proxy = start_proxy("origin", forwarder=forwarder)
    with proxy.watch() as first:
        pip.install(*PROJECTS, index=proxy.index)
    assert first.sources() == {"remote"}
    assert first.files()
    held = proxy.command("stats")[1]

    file = folder / "cache.tar"
    code, report = proxy.command("backup", str(file))
    assert (code, report["missing"], report["damaged"]) == (0, 0, 0)
    assert report["blobs"] == held["blobs"]
    with tarfile.open(file) as archive:
        assert len(archive.getnames()) == held["blobs"] + 3

    done = subprocess.run(
        [
            *(sys.executable, "-m", "artifactproxy", "restore", str(file)),
            *("--json", "--data", str(folder / "copy" / "data")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blobs"] == held["blobs"]

    copy = start_proxy("copy", forwarder=forwarder)
    forwarder.stop()
    restored = copy.command("stats")[1]
    assert {name: restored[name] for name in TABLES} == {name: held[name] for name in TABLES}
    with copy.watch() as again:
        pip.install(*PROJECTS, index=copy.index)
    assert again.sources() == {"cache"}
    assert again.files() == first.files()
    for path in first.files():
        assert copy.get(path).body == proxy.get(path).body
