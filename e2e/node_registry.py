"""An npm registry on loopback that signs what it publishes, knows advisories, and can be told to
misbehave. It counts what it is asked.

Documents: `GET /{package}` in the form that Accept asks for, each form with an entity tag of its
own; answers as in npm's own description of its registry's API, and its page on signatures.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.needs import require

Json = dict[str, Any]

ABBREVIATED = "application/vnd.npm.install-v1+json"
JSON = "application/json"
_KEPT = ("name", "version", "dependencies", "dist", "engines", "bin", "deprecated")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    media_type: str = JSON
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Post:
    path: str
    encoding: str
    body: bytes


class Key:
    """An ECDSA P-256 key, as registries sign with."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "key.pem"
        self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-out", str(self._file))  # fmt: skip
        public = self._openssl("pkey", "-in", str(self._file), "-pubout", "-outform", "DER")
        self.id = "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode()
        self.public = base64.b64encode(public).decode()

    def sign(self, text: str) -> str:
        signed = self._openssl("dgst", "-sha256", "-sign", str(self._file), given=text.encode())
        return base64.b64encode(signed).decode()

    @staticmethod
    def _openssl(*arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [require("openssl"), *arguments], input=given, capture_output=True, check=True, timeout=30
        )
        return done.stdout


@dataclass(slots=True)
class Package:
    """`tarballs` by file name; `document` is the full packument without its tarball addresses."""

    document: Json
    tarballs: dict[str, bytes] = field(default_factory=dict)


class NodeRegistry:
    """`faults` answers a path (percent-decoded, without its leading slash) instead of the registry;
    `gets` counts GETs by that path; `posts` are what was sent here, `changes` what else was tried;
    `credentials` every Authorization that came along."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key = Key(folder)
        self.packages: dict[str, Package] = {}
        self.faults: dict[str, Answer] = {}
        self.advisories: dict[str, Json] = {}
        self.gets: Counter[str] = Counter()
        self.posts: list[Post] = []
        self.changes: list[tuple[str, str]] = []
        self.credentials: list[str] = []
        self._lock = threading.Lock()
        handler = type("Requests", (_Requests,), {"registry": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(
        self, name: str, version: str, dependencies: Mapping[str, str] | None = None, *, day: int = 1
    ) -> None:
        """Add a version of the `day`th of January 2024, signed; it becomes `latest`."""
        manifest: Json = {"name": name, "version": version, "dependencies": dict(dependencies or {})}
        tarball = _tarball(manifest)
        file = f"{name.rpartition('/')[2]}-{version}.tgz"
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
        signature = self.key.sign(f"{name}@{version}:{integrity}")
        manifest["dist"] = {
            "tarball": file,
            "integrity": integrity,
            "shasum": hashlib.sha1(tarball).hexdigest(),
            "signatures": [{"keyid": self.key.id, "sig": signature}],
        }
        manifest["scripts"] = {"test": "true"}
        new: Json = {"_id": name, "name": name, "dist-tags": {}, "versions": {}, "time": {}}
        package = self.packages.setdefault(name, Package(new))
        date = f"2024-01-{day:02d}T10:00:00.000Z"
        package.document["versions"][version] = manifest
        package.document["dist-tags"]["latest"] = version
        package.document["time"] |= {"created": date, "modified": date, version: date}
        package.tarballs[file] = tarball

    def manifest(self, name: str, version: str) -> Json:
        """For a test to tamper with."""
        manifest: Json = self.packages[name].document["versions"][version]
        return manifest

    def answer_get(self, path: str, query: str, accept: str) -> Answer:
        name, dash, rest = path.partition("/-/")
        if path.startswith("-/"):
            return self._service(path, query)
        if dash:
            tarball = self.packages[name].tarballs.get(rest) if name in self.packages else None
            return Answer(200, tarball, "application/octet-stream") if tarball else _missing()
        if path in self.packages:
            return self._packument(path, accept)
        name, _, wanted = path.rpartition("/")
        if name not in self.packages:
            return _missing()
        document = self._absolute(name)
        version = document["dist-tags"].get(wanted, wanted)
        found = document["versions"].get(version)
        return _json(found) if found else _missing(f"version not found: {wanted}")

    def answer_post(self, path: str, body: bytes) -> Answer:
        if path.endswith("/advisories/bulk"):
            asked = json.loads(body)
            return _json({name: [self.advisories[name]] for name in asked if name in self.advisories})
        if path.endswith(("/security/audits", "/security/audits/quick")):
            return _json(self._audit(json.loads(body)))
        return _missing()

    def _packument(self, name: str, accept: str) -> Answer:
        document = self._absolute(name)
        if ABBREVIATED not in accept:
            return _json(document, etag="full")
        versions = {
            version: {word: manifest[word] for word in _KEPT if word in manifest}
            for version, manifest in document["versions"].items()
        }
        short = {
            "name": name,
            "dist-tags": document["dist-tags"],
            "versions": versions,
            "modified": document["time"]["modified"],
        }
        return _json(short, ABBREVIATED, etag="short")

    def _absolute(self, name: str) -> Json:
        document: Json = json.loads(json.dumps(self.packages[name].document))
        for manifest in document["versions"].values():
            manifest["dist"]["tarball"] = f"{self.url}{name}/-/{manifest['dist']['tarball']}"
        return document

    def _service(self, path: str, query: str) -> Answer:
        if path == "-/ping":
            return _json({})
        if path == "-/npm/v1/keys":
            key = {
                "expires": None,
                "keyid": self.key.id,
                "keytype": "ecdsa-sha2-nistp256",
                "scheme": "ecdsa-sha2-nistp256",
                "key": self.key.public,
            }
            return _json({"keys": [key]})
        if path.startswith("-/package/") and path.endswith("/dist-tags"):
            name = path.removeprefix("-/package/").removesuffix("/dist-tags")
            found = self.packages.get(name)
            return _json(found.document["dist-tags"]) if found else _missing()
        if path == "-/v1/search":
            words = parse_qs(query).get("text", [""])[0]
            found_packages = [self._found(name) for name in sorted(self.packages) if words in name]
            return _json({"objects": found_packages, "total": len(found_packages), "time": "now"})
        return _missing()

    def _found(self, name: str) -> Json:
        document = self.packages[name].document
        person = {"username": "someone", "email": "someone@registry.example"}
        package = {
            "name": name,
            "version": document["dist-tags"]["latest"],
            "description": f"the package {name}",
            "date": document["time"]["modified"],
            "keywords": ["sample"],
            "links": {},
            "publisher": person,
            "maintainers": [person],
        }
        score = {"final": 1, "detail": {"quality": 1, "popularity": 1, "maintenance": 1}}
        return {"package": package, "score": score, "searchScore": 1}

    def _audit(self, asked: Json) -> Json:
        """The older form: advisories by number, with the places where they were found."""
        advisories = {}
        for name, known in self.advisories.items():
            version = _version_of(asked.get("dependencies", {}), name)
            if version:
                finding = {"version": version, "paths": [f".>{name}"]}
                more = {"module_name": name, "findings": [finding], "cves": [], "overview": known["title"]}
                advisories[str(known["id"])] = known | more
        severities = Counter(advisory["severity"] for advisory in advisories.values())
        counts = {word: severities[word] for word in ("info", "low", "moderate", "high", "critical")}
        metadata = {"vulnerabilities": counts, "dependencies": 1, "totalDependencies": 1}
        return {"actions": [], "advisories": advisories, "muted": [], "metadata": metadata}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up; what it wanted is what the test asserts."""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: ClassVar[NodeRegistry]

    def do_GET(self) -> None:
        path, query = self._asked()
        with self.registry._lock:
            self.registry.gets[path] += 1
        said = self.registry.faults.get(path)
        self._send(said or self.registry.answer_get(path, query, self.headers.get("Accept", "")))

    def do_POST(self) -> None:
        path, _ = self._asked()
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "")
        with self.registry._lock:
            self.registry.posts.append(Post(path, encoding, sent))
        said = self.registry.faults.get(path)
        body = gzip.decompress(sent) if encoding == "gzip" else sent
        self._send(said or self.registry.answer_post(path, body))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.registry._lock:
            self.registry.changes.append((self.command, self._asked()[0]))
        self._send(_json({"error": "nobody may change this"}, status=403))

    do_DELETE = do_PUT

    def _asked(self) -> tuple[str, str]:
        if "Authorization" in self.headers:
            self.registry.credentials.append(self.headers["Authorization"])
        parts = urlsplit(self.path)
        return unquote(parts.path.lstrip("/")), parts.query

    def _send(self, said: Answer) -> None:
        if said.etag and self.headers.get("If-None-Match") == said.etag:
            said = Answer(304, b"", said.media_type, said.etag)
        body = said.body
        self.send_response(said.status)
        if said.media_type != "application/octet-stream":
            self.send_header("Vary", "Accept, Accept-Encoding")
            if body and "gzip" in self.headers.get("Accept-Encoding", ""):
                body = gzip.compress(body, mtime=0)
                self.send_header("Content-Encoding", "gzip")
        if said.etag:
            self.send_header("ETag", said.etag)
        if said.status != 304:
            self.send_header("Content-Type", said.media_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The test's output is for the test."""


def _json(document: Any, media_type: str = JSON, *, status: int = 200, etag: str = "") -> Answer:
    body = json.dumps(document).encode()
    tag = f'"{etag}-{hashlib.sha256(body).hexdigest()[:16]}"' if etag else ""
    return Answer(status, body, media_type, tag)


def _missing(why: str = "Not found") -> Answer:
    return _json({"error": why}, status=404)


def _tarball(manifest: Json) -> bytes:
    """A package that exports its own name and version."""
    name_and_version = f"module.exports = {json.dumps(manifest['name'] + '@' + manifest['version'])}\n"
    files = {"package.json": json.dumps(manifest), "index.js": name_and_version}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mode = len(text.encode()), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(packed.getvalue(), mtime=0)


def _version_of(tree: Json, name: str) -> str:
    """Wherever it is in a tree of dependencies, "" if nowhere."""
    if name in tree:
        return str(tree[name]["version"])
    deeper = (_version_of(each.get("dependencies", {}), name) for each in tree.values())
    return next((version for version in deeper if version), "")
