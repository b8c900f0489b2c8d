"""pip and uv as a fresh machine would run them: no settings, no caches, an empty home.

Through the proxy they have no other way out: whatever they try elsewhere ends at a closed port.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from e2e import trust

SECONDS = 180.0
NOWHERE = "http://127.0.0.1:9"


class Failed(AssertionError):
    """The client ended with an error; the text is what it said."""


class Client:
    """What the clients share. `folder` is theirs alone."""

    def __init__(self, folder: Path, *, direct: bool = False) -> None:
        self.folder = folder
        self.direct = direct
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def fresh(self, name: str) -> Path:
        """A new empty folder."""
        self._count += 1
        path = self.folder / f"{name}-{self._count}"
        path.mkdir()
        return path

    def environment(self, **extra: str) -> dict[str, str]:
        """An empty home and, unless this client goes out directly, a way to the proxy only."""
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.fresh("home")),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.direct:
            env |= trust.environment()
        else:
            env |= {"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "ALL_PROXY": NOWHERE}
            env["NO_PROXY"] = extra.pop("NO_PROXY", "127.0.0.1,localhost")
        return env | extra

    def run(self, command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """Standard output. Raises `Failed`."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=env if env is not None else self.environment(),
            cwd=cwd or self.folder,
        )
        if done.returncode:
            raise Failed(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def venv(self) -> Path:
        """The interpreter of a new environment with nothing in it."""
        path = self.fresh("venv")
        self.run([sys.executable, "-m", "venv", "--without-pip", str(path)])
        return path / "bin" / "python"

    def installed(self, python: Path) -> dict[str, str]:
        """Names and versions of what an environment holds."""
        code = (
            "import importlib.metadata as m\n"
            "for d in m.distributions(): print(d.metadata['Name'].lower().replace('_', '-'), d.version)"
        )
        lines = self.run([str(python), "-I", "-c", code]).splitlines()
        return dict(line.split(" ", 1) for line in lines)


class Pip(Client):
    """`library` is a folder that holds the pip to run, "" for this interpreter's own."""

    def __init__(self, folder: Path, library: str = "", *, direct: bool = False) -> None:
        super().__init__(folder, direct=direct)
        self._library = library

    def __call__(self, *arguments: str, index: str = "", **env: str) -> str:
        """One pip command that reads no settings of anybody."""
        options = ["--isolated", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        where = ["--index-url", index] if index else []
        if self.direct and trust.authorities():
            where += ["--cert", trust.authorities()]
        return self.plain(arguments[0], *options, *where, *arguments[1:], **env)

    def plain(self, *arguments: str, **env: str) -> str:
        """pip as typed, with the settings that `env` names."""
        if self._library:
            env["PYTHONPATH"] = self._library
        return self.run([sys.executable, "-m", "pip", *arguments], self.environment(**env))

    def install(self, *arguments: str, index: str) -> Path:
        """Install into a new environment; its interpreter."""
        python = self.venv()
        options = ["--no-compile", "--only-binary", ":all:", "--progress-bar", "off", "--quiet"]
        into = ["--python", str(python)]
        self.plain(
            *into, "--isolated", "--no-cache-dir", "--disable-pip-version-check", "--no-input",
            "install", *options, "--index-url", index, *arguments,
        )  # fmt: skip
        return python


class Uv(Client):
    def __call__(self, *arguments: str, index: str = "", cwd: Path | None = None, **env: str) -> str:
        """One uv command that reads no settings of anybody, with an empty cache."""
        where = ["--default-index", index] if index else []
        return self.plain(*arguments, "--no-config", "--no-progress", *where, cwd=cwd, **env)

    def plain(self, *arguments: str, cwd: Path | None = None, **env: str) -> str:
        """uv as typed, with the settings that `env` holds. Not by `python -m uv`, which would make it
        work on the environment of these tests."""
        env = {"UV_CACHE_DIR": str(self.fresh("cache")), "UV_PYTHON_DOWNLOADS": "never", **env}
        return self.run([find_uv_bin(), *arguments], self.environment(**env), cwd)

    def install(self, *arguments: str, index: str) -> Path:
        """Install into a new environment; its interpreter."""
        python = self.venv()
        self("pip", "install", "--python", str(python), "--only-binary", ":all:", *arguments, index=index)
        return python
