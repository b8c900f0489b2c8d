"""Module proxies and checksum databases on loopback, with modules made here.

References: the Go modules reference (GOPROXY protocol, module zip files, checksum database) and the
documentation of `golang.org/x/mod/sumdb/dirhash`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from e2e.go_client import Go, escaped
from e2e.servers import ROOT, Child

TEXT = "text/plain; charset=utf-8"
DATABASE = "sum.checksums.example"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    media_type: str = TEXT
    location: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A module version; `zip` holds its files below `path@version/`."""

    path: str
    version: str
    go_mod: bytes
    zip: bytes

    @property
    def sums(self) -> str:
        """The two lines of a go.sum."""
        name = f"{self.path} {self.version}"
        with zipfile.ZipFile(io.BytesIO(self.zip)) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
        return f"{name} {h1(files)}\n{name}/go.mod {h1({'go.mod': self.go_mod})}\n"


def h1(files: Mapping[str, bytes]) -> str:
    """The checksum of a go.sum line."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def made(path: str, version: str, files: Mapping[str, str] | None = None, needs: str = "") -> Made:
    """A module of one package at its root, unless `files` says otherwise; `needs` is `path version`."""
    go_mod = f"module {path}\n\ngo 1.18\n" + (f"\nrequire {needs}\n" if needs else "")
    name = path.rpartition("/")[2].replace("-", "").replace(".", "").lower()
    content = dict(files or {f"{name}.go": f'package {name}\n\nconst Version = "{version}"\n'})
    if not version.endswith("+incompatible"):
        content["go.mod"] = go_mod
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, text in content.items():
            archive.writestr(f"{path}@{version}/{file}", text)
    if version.endswith("+incompatible"):
        go_mod = f"module {path}\n"  # what proxies make for a module that has none
    return Made(path, version, go_mod.encode(), packed.getvalue())


class Modules:
    """A module proxy. `answers` says what to answer to a path, which is without its leading slash;
    every other path is a 404. `gets` counts what was asked."""

    def __init__(self, database: Database | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.gets: Counter[str] = Counter()
        self.database = database
        self._lock = threading.Lock()
        requests = type("Requests", (_Requests,), {"modules": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), requests)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, *modules: Made, day: int = 1, listed: bool = True) -> None:
        """Add versions of the `day`th of January 2024."""
        for module in modules:
            base = f"{escaped(module.path)}/@v/"
            file = base + escaped(module.version)
            told = {"Version": module.version, "Time": f"2024-01-{day:02d}T00:00:00Z"}
            self.answers[f"{file}.info"] = Answer(200, json.dumps(told).encode(), "application/json")
            self.answers[f"{file}.mod"] = Answer(200, module.go_mod)
            self.answers[f"{file}.zip"] = Answer(200, module.zip, "application/zip")
            known = self.answers.get(f"{base}list", Answer(200)).body
            line = f"{module.version}\n".encode() if listed else b""
            self.answers[f"{base}list"] = Answer(200, known + line)

    def name(self, query: str, module: Made, day: int = 1) -> None:
        """Let a query, such as a branch or `latest`, name this version."""
        told = {"Version": module.version, "Time": f"2024-01-{day:02d}T00:00:00Z"}
        base = escaped(module.path)
        path = f"{base}/@latest" if query == "latest" else f"{base}/@v/{escaped(query)}.info"
        self.answers[path] = Answer(200, json.dumps(told).encode(), "application/json")

    def refuse(self, module: str, status: int, said: str) -> None:
        """Every question about a module gets this answer."""
        self.answers[f"{escaped(module)}/"] = Answer(status, f"{said}\n".encode())

    def asked(self, part: str) -> int:
        """How many requests there were for paths with this in them."""
        return sum(count for path, count in self.gets.items() if part in path)

    def answer(self, path: str) -> Answer:
        with self._lock:
            self.gets[path] += 1
        prefix = next((p for p in self.answers if p.endswith("/") and path.startswith(p)), path)
        if self.database and path.startswith("sumdb/") and path not in self.answers:
            return self.database.answer(path)
        return self.answers.get(path) or self.answers.get(prefix) or Answer(404, b"not found\n")


class _Requests(BaseHTTPRequestHandler):
    modules: ClassVar[Modules]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = self.modules.answer(unquote(self.path.partition("?")[0]).lstrip("/"))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@dataclass(slots=True)
class Database:
    """A checksum database that signs with a key of its own whatever it is told; `key` is what the
    go command must be given as GOSUMDB. It is a program, built once from published parts."""

    folder: Path
    key: str = ""
    _url: str = ""
    _process: Child | None = field(default=None, repr=False)

    def start(self, program: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        records = self.folder / "records"
        records.mkdir(exist_ok=True)
        command = [str(program), DATABASE, str(records)]
        self._process = Child(command, self.folder / "log", self.folder, {})
        self.key, address = self._process.read_until(lambda line: line.startswith("127."))
        self._url = f"http://{address}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def record(self, module: Made, sums: str = "") -> None:
        """Say this of a module version; the truth if nothing else is given."""
        name = f"{escaped(module.path).replace('/', '+')}@{module.version}"
        (self.folder / "records" / name).write_text(sums or module.sums)

    def answer(self, path: str) -> Answer:
        rest = path.removeprefix(f"sumdb/{DATABASE}/")
        if rest == path:
            return Answer(404, b"no such database\n")
        if rest == "supported":
            return Answer(200)
        try:
            with urllib.request.urlopen(f"{self._url}/{rest}", timeout=30) as told:
                return Answer(told.status, told.read(), told.headers["Content-Type"])
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())


def build_database(go: Go) -> Path:
    """The program of `Database`."""
    folder = go.fresh("database")
    for file in (ROOT / "e2e" / "go_checksums").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    go("build", "-o", "server", ".", cwd=folder, proxy="", sumdb="", GOFLAGS="-modcacherw -mod=mod")
    return folder / "server"
