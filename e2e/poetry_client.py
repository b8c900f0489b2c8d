"""Poetry as a fresh machine would run it. It is a package itself: a pinned version of it is installed
once, into a cache folder of this user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e import trust
from e2e.clients import Client, Failed, Pip

POETRY = "poetry==2.1.4"
_PROJECT_FILE = """[project]
name = "sample"
version = "1"
requires-python = ">=3.11"
dependencies = []

[tool.poetry]
package-mode = false
"""


class Poetry(Client):
    """`program` is what `obtain` found."""

    def __init__(self, folder: Path, program: Path) -> None:
        super().__init__(folder)
        self._program = program

    def project(self) -> Path:
        """A new folder that holds nothing but a pyproject.toml."""
        folder = self.fresh("project")
        (folder / "pyproject.toml").write_text(_PROJECT_FILE)
        return folder

    def poetry_environment(self, **extra: str) -> dict[str, str]:
        """Poetry on the PATH, with empty caches; environments are made in their projects."""
        settings = {
            "POETRY_CACHE_DIR": str(self.fresh("cache")),
            "POETRY_CONFIG_DIR": str(self.fresh("settings")),
            "POETRY_VIRTUALENVS_IN_PROJECT": "true",
            "POETRY_NO_INTERACTION": "1",
        }
        env = self.environment(**{**settings, **extra})
        return env | {"PATH": f"{self._program.parent}{os.pathsep}{env['PATH']}"}

    def __call__(self, *arguments: str, cwd: Path, **env: str) -> str:
        return self.run([str(self._program), *arguments], self.poetry_environment(**env), cwd)


def obtain(library: str) -> Path:
    """The program, from the public registry at first use. `library` as for `Pip`.

    Skips the test where it cannot be had.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(home) / "artifactproxy-e2e"
    # By interpreter, because an environment belongs to one.
    folder = kept / f"{POETRY}-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "whole").exists():
        kept.mkdir(parents=True, exist_ok=True)
        pip = Pip(kept / f"installer-{os.getpid()}", library, direct=True)
        authorities = ["--cert", trust.authorities()] if trust.authorities() else []
        try:
            pip.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
            pip.plain(
                "--python", str(folder / "bin" / "python"), "--isolated", "--disable-pip-version-check",
                "install", "--quiet", "--no-cache-dir", "--no-input", *authorities, POETRY,
            )  # fmt: skip
        except (Failed, subprocess.TimeoutExpired) as trouble:
            pytest.skip(f"needs {POETRY} of the public registry: {str(trouble)[-300:]}")
        (folder / "whole").touch()
    return folder / "bin" / "poetry"
