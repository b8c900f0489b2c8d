"""The go command as a fresh machine would run it: no settings, no modules, an empty home.

Through the proxy it has no other way out. Compiled packages are kept from call to call, because
nothing about them is measured here.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.clients import NOWHERE, Client, Failed
from e2e.servers import ROOT
from tests.needs import require

SECONDS = 240.0  # a first build of many packages on a busy machine
OLDEST = (1, 22)  # what the program's go.mod says
PROGRAM = ROOT / "e2e" / "go_program"
TRIES = 3
_NETWORK = re.compile("dial tcp|no such host|server misbehaving|i/o timeout|connection reset")
_ASKED_FOR = re.compile(r"^\t(\S+) (v\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Module:
    """One module as `go mod download -json` tells of it; `files` are the paths below the proxy that
    it takes to have it."""

    path: str
    version: str
    sum: str
    go_mod_sum: str

    @property
    def files(self) -> set[str]:
        base = f"{escaped(self.path)}/@v/{escaped(self.version)}"
        return {base + suffix for suffix in (".info", ".mod", ".zip")}


@dataclass(frozen=True, slots=True)
class Public:
    """What the go command uses by itself: the public proxy, without a trailing slash, and the name
    of the checksum database."""

    proxy: str
    sumdb: str


class Go(Client):
    """Each call has an empty module cache unless `GOMODCACHE` is given, and no checksum database
    unless `sumdb` names one."""

    def __init__(self, folder: Path, *, direct: bool = False, compiled: Path | None = None) -> None:
        super().__init__(folder, direct=direct)
        self._compiled = compiled or folder / "compiled"
        self.program = _program()

    def go_environment(self, *, proxy: str = NOWHERE, sumdb: str = "off", **extra: str) -> dict[str, str]:
        """`proxy`: GOPROXY; `sumdb`: GOSUMDB. "" leaves the go command its own."""
        settings = {
            "GOENV": "off",
            "GOPATH": str(self.fresh("gopath")),
            "GOCACHE": str(self._compiled),
            "GOFLAGS": "-modcacherw",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",  # no C compiler is needed
            "GOPROXY": proxy,
            "GOSUMDB": sumdb,
        }
        settings["GOMODCACHE"] = str(Path(settings["GOPATH"]) / "pkg" / "mod")
        settings |= extra
        return self.environment(**{name: value for name, value in settings.items() if value})

    def attempt(self, *arguments: str, cwd: Path | None = None, **settings: str) -> Said:
        """One command, whatever comes of it."""
        return self.attempt_in(self.go_environment(**settings), *arguments, cwd=cwd)

    def attempt_in(self, env: dict[str, str], *arguments: str, cwd: Path | None = None) -> Said:
        """One command in exactly this environment. Going out directly, which is preparation or the
        witness and never what is tested, it is tried again where the network fails."""
        for _ in range(TRIES - 1 if self.direct else 0):
            said = self._said(env, *arguments, cwd=cwd)
            if not (said.code and _NETWORK.search(said.err + said.out)):
                return said
        return self._said(env, *arguments, cwd=cwd)

    def _said(self, env: dict[str, str], *arguments: str, cwd: Path | None) -> Said:
        done = subprocess.run(
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=env,
            cwd=cwd or self.folder,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str, cwd: Path | None = None, **settings: str) -> str:
        """Standard output. Raises `Failed`."""
        said = self.attempt(*arguments, cwd=cwd, **settings)
        if said.code:
            raise Failed(f"go {' '.join(arguments)}\n{said.out[-2000:]}\n{said.err[-4000:]}")
        return said.out

    def project(self, *require: str, module: str = "project.example/new") -> Path:
        """A new module that asks for these, each `path@version`."""
        folder = self.fresh("project")
        lines = "".join(f"require {asked.replace('@', ' ')}\n" for asked in require)
        (folder / "go.mod").write_text(f"module {module}\n\ngo 1.18\n\n{lines}")
        return folder

    def copy_of_program(self, sums: str = "") -> Path:
        """The program with many modules, and its go.sum."""
        folder = self.fresh("project")
        shutil.copytree(PROGRAM, folder, dirs_exist_ok=True)
        (folder / "go.sum").write_text(sums)
        return folder

    def download(self, cwd: Path, *modules: str, **settings: str) -> dict[str, Module]:
        """`go mod download`, of all that the project asks for if none is named, by `path@version`.

        Modules that are named are written into go.sum.
        """
        said = self("mod", "download", "-json", *modules, cwd=cwd, **settings)
        return {f"{m.path}@{m.version}": m for m in map(_module, _documents(said))}

    def dispose(self) -> None:
        """Module caches are large."""
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def _program() -> str:
    """The path of go; skips the test if it is missing or older than what the modules need."""
    program = require("go")
    said = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, check=True, timeout=30,
        env={"GOTOOLCHAIN": "local", "GOENV": "off", "HOME": os.devnull, "PATH": os.defpath},
    ).stdout  # fmt: skip
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        pytest.skip(f"needs go {OLDEST[0]}.{OLDEST[1]} or newer, this is {said.strip()}")
    return program


def wanted(project: Path = PROGRAM) -> list[str]:
    """What a go.mod asks for, as `path@version`."""
    return [f"{path}@{version}" for path, version in _ASKED_FOR.findall((project / "go.mod").read_text())]


def escaped(text: str) -> str:
    """A module path or version as it stands in addresses."""
    return re.sub(r"[A-Z]", lambda letter: f"!{letter[0].lower()}", text)


def public(folder: Path) -> Public:
    """Asked of the go command, because no file of ours names them."""
    go = Go(folder)
    told = json.loads(go("env", "-json", "GOPROXY", "GOSUMDB", proxy="", sumdb=""))
    return Public(re.split(r"[,|]", told["GOPROXY"])[0].rstrip("/"), told["GOSUMDB"].split(" ")[0])


def _module(told: dict[str, Any]) -> Module:
    if told.get("Error"):
        raise Failed(f"{told['Path']}: {told['Error']}")
    return Module(told["Path"], told["Version"], told["Sum"], told["GoModSum"])


def _documents(text: str) -> list[dict[str, Any]]:
    """JSON documents one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        while at < len(text) and text[at].isspace():
            at += 1
    return found
