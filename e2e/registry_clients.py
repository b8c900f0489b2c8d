"""Clients of container registries that no package of the system has, built from their Go modules at one
pinned version each into the cache of the end-to-end tests."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.needs import cache, find, require

MODULES = {
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.20.6",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.17.3",
    "oras": "oras.land/oras/cmd/oras@v1.2.3",
}
BUILD_SECONDS = 1800


def obtain(name: str) -> str:
    """The program, built at first use; skips the test where it cannot be had."""
    folder = cache() / "clients"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return str(program)
        go = find("go") or require("go")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                subprocess.run(
                    [go, "install", MODULES[name]],
                    env={**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"},
                    check=True,
                    timeout=BUILD_SECONDS,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", None) or str(error))[-300:]
                pytest.skip(f"needs {name}: go install {MODULES[name]} failed: {said}")
            (Path(scratch) / name).rename(program)
    return str(program)


def logged_in(folder: Path, host: str, token: str) -> Path:
    """A home folder whose clients know this token, in each of their ways."""
    auth = base64.b64encode(f"anybody:{token}".encode()).decode()
    text = json.dumps({"auths": {host: {"auth": auth}}})
    for place in (".docker/config.json", ".config/helm/registry/config.json", "auth.json"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
