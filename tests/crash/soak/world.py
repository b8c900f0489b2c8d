"""What upstream holds, what it does wrong, and which answers are legal at any time.

Every document has numbered versions; files have one. An answer is judged by its bytes: they are
those of one version, and no older one than was answered from the cache before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import (
    cut,
    empty,
    flip,
    lies,
    longer,
    ok,
    portal,
    silence,
    slam,
    slow,
    stall,
    status,
    unframed,
)
from tests.chaos.server import Behaviour

SIMPLE = "application/vnd.pypi.simple.v1+json"
SIZES = (1, 700, 3000, 9000, 20_000, 40_000, 65_536, 65_537)
BIG = (262_145, 400_000, 1_500_000)


@dataclass(slots=True)
class Document:
    """One path at the proxy. `version_of` tells which version a whole body is, None for no version."""

    path: str
    repo: str
    change: Callable[[int, tuple[Behaviour, ...]], None]
    version_of: Callable[[bytes], int | None]
    troubles: Callable[[random.Random], list[Behaviour]]
    body: Oracle | None = None  # of a file, which has ranges
    accept: str = ""
    version: int = 0
    floor: int = 0  # answered from the cache by this life, or surely stored
    stored: int = -1  # surely stored: it survives a kill
    seen: int = -1  # answered from the cache since the last look at what is stored
    tags: dict[str, int] = field(default_factory=dict)

    @property
    def mutable(self) -> bool:
        return self.body is None

    def forget(self) -> None:
        """It was purged, or may be evicted from now on."""
        self.stored = self.seen = -1

    def killed(self) -> None:
        """What was only on its way to the medium need not be there."""
        self.seen, self.floor = -1, max(self.stored, 0)


class World:
    """About two hundred paths of three kinds of remotes."""

    def __init__(self, chaos: Chaos, rng: random.Random) -> None:
        self.chaos = chaos
        self.rng = rng
        self.documents: list[Document] = []
        for number, size in enumerate(SIZES * 4 + BIG):
            self._plain(f"f{number}.bin", size)
        for number, size in enumerate(SIZES * 3 + BIG):
            self._python(f"pkg{number}", size)
        for number, size in enumerate(SIZES * 2 + BIG[:1]):
            self._node(f"lib{number}", size)
        for number in range(24):
            self._changing(f"d{number}.json", rng.choice(SIZES[1:5]))
        self.files = [d for d in self.documents if not d.mutable]
        self.changing = [d for d in self.documents if d.mutable]

    def disturb(self) -> None:
        """Upstream misbehaves at one path for its next requests."""
        document = self.rng.choice(self.documents)
        document.change(document.version, tuple(document.troubles(self.rng)))

    def advance(self) -> None:
        """A document changes."""
        document = self.rng.choice(self.changing)
        document.version += 1
        document.change(document.version, ())

    def calm(self) -> None:
        for document in self.documents:
            document.change(document.version, ())

    # --- the kinds ---

    def _add(self, document: Document) -> None:
        document.change(0, ())
        self.documents.append(document)

    def _file(
        self, path: str, repo: str, at: str, body: Oracle, troubles: Callable[..., list[Behaviour]]
    ) -> None:
        def change(_: int, bad: tuple[Behaviour, ...]) -> None:
            self.chaos.script(at, *bad, ok(), size=body.size)

        whole = _sha256(body.bytes())
        self._add(
            Document(path, repo, change, lambda got: 0 if _sha256(got) == whole else None, troubles, body)
        )

    def _plain(self, name: str, size: int) -> None:
        """Nothing vouches for it, so upstream breaks off but never lies."""
        body = Oracle(f"/{name}", size, seed=self.chaos.seed)
        self._file(f"/files/{name}", "files", f"/{name}", body, broken)

    def _python(self, project: str, size: int) -> None:
        name, at = f"{project}-1.0.tar.gz", f"/{project}-1.0.tar.gz"
        body = Oracle(at, size, seed=self.chaos.seed)
        whole = body.sha256
        path = f"/pypi/packages/127.0.0.1:{self.chaos.port}/{name}"

        def change(version: int, bad: tuple[Behaviour, ...]) -> None:
            entry = {"filename": name, "url": self.chaos.url(at), "hashes": {"sha256": whole}, "size": size}
            page = {"meta": {"api-version": "1.1"}, "name": project, "files": [entry]}
            page["versions"] = [f"1.{n}" for n in range(version + 1)]
            good = status(200, json.dumps(page).encode(), Content_Type=SIMPLE)
            self.chaos.script(f"/simple/{project}/", *bad, good)

        def version_of(got: bytes) -> int | None:
            page = _json(got)
            files = page.get("files", [])
            if len(files) != 1 or files[0]["hashes"] != {"sha256": whole} or files[0]["size"] != size:
                return None
            if not files[0]["url"].endswith(path.removeprefix("/pypi")) or page.get("name") != project:
                return None
            versions = page.get("versions", [])
            right = versions == [f"1.{n}" for n in range(len(versions))]
            return len(versions) - 1 if right else None

        self._add(Document(f"/pypi/simple/{project}/", "pypi", change, version_of, refused, accept=SIMPLE))
        self._file(path, "pypi", at, body, lying)

    def _node(self, package: str, size: int) -> None:
        at = f"/npm/{package}/-/{package}-1.0.0.tgz"
        body = Oracle(at, size, seed=self.chaos.seed)
        sha512 = base64.b64encode(hashlib.sha512(body.bytes()).digest()).decode()
        dist = {"integrity": f"sha512-{sha512}", "tarball": self.chaos.url(at)}

        def change(version: int, bad: tuple[Behaviour, ...]) -> None:
            release = {"name": package, "version": "1.0.0", "dist": dist}
            packument = {
                "name": package,
                "description": f"version {version}",
                "dist-tags": {"latest": "1.0.0"},
            }
            whole = packument | {"versions": {"1.0.0": release}}
            good = status(200, json.dumps(whole).encode(), Content_Type="application/json")
            self.chaos.script(f"/npm/{package}", *bad, good)

        def version_of(got: bytes) -> int | None:
            whole = _json(got)
            release = whole.get("versions", {}).get("1.0.0", {})
            if release.get("dist", {}).get("integrity") != dist["integrity"] or whole.get("name") != package:
                return None
            if not release["dist"]["tarball"].endswith(at):
                return None
            word, _, number = whole.get("description", "").partition(" ")
            return int(number) if word == "version" else None

        self._add(Document(f"/npm/{package}", "npm", change, version_of, refused, accept="application/json"))
        self._file(at, "npm", at, body, lying)

    def _changing(self, name: str, size: int) -> None:
        known: dict[str, int] = {}

        def change(version: int, bad: tuple[Behaviour, ...]) -> None:
            body = self.chaos.script(f"/{name}", *bad, ok(), size=size, version=version)
            known[body.sha256] = version
            document.tags[body.etag] = version

        document = Document(f"/files/{name}", "files", change, lambda got: known.get(_sha256(got)), broken)
        self._add(document)


def refused(rng: random.Random) -> list[Behaviour]:
    """For documents whose truth lies in their text only."""
    return rng.sample([status(503), status(500), slam(rst=rng.random() < 0.5)], 1)


def broken(rng: random.Random) -> list[Behaviour]:
    """Every failure that framing shows."""
    kinds: list[Behaviour] = [
        cut(rng.random(), rst=rng.random() < 0.5, ranges=rng.random() < 0.7),
        slam(rst=rng.random() < 0.5),
        status(rng.choice([500, 502, 503])),
        lies(100),
        slow(2_000_000),
        unframed(0.5),
        stall(rng.random()) if rng.random() < 0.3 else slam(),
        silence() if rng.random() < 0.1 else slam(),
    ]
    return rng.sample(kinds, rng.choice([1, 1, 2]))


def lying(rng: random.Random) -> list[Behaviour]:
    """Also what only a promised digest shows."""
    kinds: list[Behaviour] = [flip(rng.choice([0, 0.5, -1])), lies(-1), longer(100), empty(), portal()]
    return rng.sample(kinds, 1) + (broken(rng) if rng.random() < 0.5 else [])


def _json(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
