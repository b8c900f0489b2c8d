"""The package document: what it promises, and how a client of ours must see it.

Read a version at a time (`scan`): a version is copied as it is spelled but for its tarball's
address. One without a usable address (another scheme, userinfo) is left out, like a hidden one, and
tags that pointed at either are pointed elsewhere. References: the npm registry's documentation of
package metadata (full and abbreviated), Subresource Integrity (W3C) for `dist.integrity`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from artifactproxy.errors import Blocked
from artifactproxy.model import ArtifactKey, Digest, Promise
from artifactproxy.providers.npm import names
from artifactproxy.providers.npm.addresses import Tarballs
from artifactproxy.providers.npm.scan import Scanner, broken, parse
from artifactproxy.providers.npm.tags import retagged
from artifactproxy.rules.digests import parse_digest

_Object = dict[str, Any]

_KEPT = frozenset(
    {
        *("name", "version", "deprecated", "dist", "bin", "directories", "engines", "os", "cpu", "libc"),
        *("dependencies", "optionalDependencies", "devDependencies", "acceptDependencies", "funding"),
        *("bundleDependencies", "bundledDependencies", "peerDependencies", "peerDependenciesMeta"),
        *("_hasShrinkwrap", "hasInstallScript"),
    }
)
"""What the abbreviated form has of a version."""
_FULL_ONLY = frozenset(
    {
        *("_id", "scripts", "main", "description", "author", "license", "repository", "keywords"),
        *("homepage", "bugs", "maintainers"),
    }
)
"""What tells that a version is spelled in full, whatever the answer's media type says."""
_DROPPED = frozenset(
    {
        *("readme", "readmeFilename", "description", "maintainers", "contributors", "author", "users"),
        *("homepage", "bugs", "repository", "keywords", "license"),
    }
)
"""What the abbreviated form lacks of the package, beside all that begins with an underscore. Its
`time` stays, which the public registry leaves out: clients that judge ages would fetch the full form."""
_LATE = frozenset({"dist-tags", "time", "modified"})
_ONCE = _LATE | {"name", "versions"}
_INSTALL_SCRIPTS = ("preinstall", "install", "postinstall")

_SPELLED = re.compile(r'[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.)*+")', re.DOTALL)
_write = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def spell(value: object) -> str:
    """Compact ASCII JSON. Raises `UpstreamBroken` for what is nested too deep."""
    try:
        return _write(value)
    except RecursionError as error:
        raise broken() from error


class Part(NamedTuple):
    """A member of the document, or one version in `versions`. `text` is its own spelling. Before
    the first version comes `versions` itself, with neither version nor text."""

    name: str
    version: str | None
    value: Any
    text: str


def parts(body: bytes, package: str) -> Iterator[Part]:
    """The document of `package`, in order.

    Raises `UpstreamBroken`, perhaps only at the end, for what is no package document or another
    package's. One that says something twice is refused: clients differ about which counts.
    """
    scanner, seen, named, unpublished = Scanner(body), set[str](), None, False
    for name in scanner.members():
        if name in _ONCE and name in seen:
            raise broken(f"upstream's package document says {name} twice")
        seen.add(name)
        if name == "versions":
            yield from _versions(scanner)
            continue
        value, text = scanner.value()
        if name == "name" or (name == "_id" and named is None):
            named = value
        unpublished = unpublished or (name == "time" and isinstance(value, dict) and "unpublished" in value)
        yield Part(name, None, value, text)
    scanner.end()
    if named != package:
        raise broken("upstream's document is not of this package")
    if "versions" not in seen and not unpublished:
        raise broken("upstream's package document has no versions")


def _versions(scanner: Scanner) -> Iterator[Part]:
    if scanner.peek() != "{":
        raise broken("the versions in upstream's package document are no object")
    yield Part("versions", None, None, "")
    seen: set[str] = set()
    for version in scanner.members():
        if version in seen:
            raise broken("upstream's package document lists a version twice")
        seen.add(version)
        yield Part("versions", version, *scanner.value())


# --- what it promises -----------------------------------------------------------------------


class _Lesson:
    """Promises as they are found. Where two versions name one tarball, that counts which the file
    is called after; so no version can speak for another's file."""

    def __init__(self, key: ArtifactKey, package: str, tarballs: Tarballs) -> None:
        self._key = key
        self._package = package
        self._tarballs = tarballs
        self._found: dict[str, tuple[str, str, tuple[Digest, ...]]] = {}

    def version(self, version: str, manifest: object) -> None:
        dist = manifest.get("dist") if isinstance(manifest, dict) else None
        place = _place(self._tarballs, self._package, version, dist)
        if place is None or not isinstance(dist, dict):
            return
        path, url = place
        if path in self._found and not path.endswith("/" + names.tarball(self._package, version)):
            return
        self._found[path] = version, url, digests(dist)

    def promises(self, dates: Mapping[str, object]) -> list[Promise]:
        """`dates` tells when a version was published."""
        made = []
        for path, (version, url, checks) in self._found.items():
            released = names.posix(dates.get(version))
            promise = Promise(
                ArtifactKey(self._key.repo, path),
                checks,
                url=url,
                taught_by=self._key.path,
                released=released,
                released_from="" if released is None else "time",
                purl=names.purl(self._package, version),
            )
            made.append(promise)
        return made


def digests(dist: _Object) -> tuple[Digest, ...]:
    """The strongest of `integrity`, and `shasum`. Of several values for the strongest algorithm any
    may be right (W3C), which no promise can say, so then there is none of it."""
    integrity, shasum = dist.get("integrity"), dist.get("shasum")
    strong = _strongest(integrity) if isinstance(integrity, str) else None
    weak = parse_digest(shasum) if isinstance(shasum, str) else None
    if weak is None or weak.algorithm != "sha1" or (strong and strong.algorithm == "sha1"):
        return (strong,) if strong else ()
    return (strong, weak) if strong else (weak,)


def _strongest(integrity: str) -> Digest | None:
    strongest, tokens = parse_digest(integrity), integrity.split()
    if strongest is None or len(tokens) == 1:
        return strongest
    each = {parse_digest(token) for token in tokens}
    rivals = [digest for digest in each if digest and digest.algorithm == strongest.algorithm]
    return strongest if len(rivals) == 1 else None


def _place(tarballs: Tarballs, package: str, version: str, dist: object) -> tuple[str, str] | None:
    url = dist.get("tarball") if isinstance(dist, dict) else None
    if not isinstance(url, str) or not names.is_version(version):
        return None
    return tarballs.place(package, version, url)


def promises(key: ArtifactKey, package: str, body: bytes, tarballs: Tarballs) -> list[Promise]:
    """What the package document at `key` promises. Raises `UpstreamBroken` if it is none."""
    lesson, dates = _Lesson(key, package, tarballs), {}
    for part in parts(body, package):
        if part.version is not None:
            lesson.version(part.version, part.value)
        elif part.name == "time" and isinstance(part.value, dict):
            dates = part.value
    return lesson.promises(dates)


# --- how a client sees it -------------------------------------------------------------------


def render(
    package: str, body: bytes, tarballs: Tarballs, base: str, hidden: frozenset[str], *, abbreviated: bool
) -> bytes:
    """The document for the client at `base`. Raises `Blocked` if policy hides every version."""
    sheet = _Sheet(package, tarballs, base, hidden, abbreviated=abbreviated)
    for part in parts(body, package):
        sheet.add(part)
    return sheet.finish()


def render_tags(package: str, body: bytes, tarballs: Tarballs, hidden: frozenset[str]) -> bytes:
    """The tags alone, out of the package document, so that the two never disagree."""
    sheet = _Sheet(package, tarballs, "", hidden, abbreviated=True)
    for part in parts(body, package):
        sheet.add(part)
    sheet.finish()
    return sheet.late["dist-tags"][1].encode() if "dist-tags" in sheet.late else b"{}"


class _Sheet:
    """The document while it is written, in one of its two forms. Tags and times come last: what
    they say depends on the versions."""

    def __init__(
        self, package: str, tarballs: Tarballs, base: str, hidden: frozenset[str], *, abbreviated: bool
    ) -> None:
        self._package = package
        self._tarballs = tarballs
        self._base = base
        self._hidden = hidden
        self._abbreviated = abbreviated
        self._out = io.BytesIO()
        self._next = "{"
        self._open = False
        self._left: dict[str, bool] = {}  # version to whether it is deprecated
        self._gone: set[str] = set()
        self.late: dict[str, tuple[Any, str]] = {}

    def add(self, part: Part) -> None:
        if part.version is not None:
            self._version(part.version, part.value, part.text)
            return
        self._close()
        if part.name == "versions":
            self._put("versions", "")
            self._open, self._next = True, "{"
        elif part.name in _LATE:
            self.late[part.name] = part.value, part.text
        elif not self._abbreviated or not (part.name in _DROPPED or part.name.startswith("_")):
            self._put(part.name, part.text)

    def _version(self, version: str, manifest: Any, text: str) -> None:
        address = self._address(version, manifest)
        if version in self._hidden or address is None:
            self._gone.add(version)
            return
        self._left[version] = bool(manifest.get("deprecated"))
        if self._abbreviated and not _FULL_ONLY.isdisjoint(manifest):
            text = spell(_reduced(manifest, address))
        elif address:
            text = readdressed(manifest, text, address)
        self._put(version, text)

    def _address(self, version: str, manifest: object) -> str | None:
        """Ours for the tarball; "" where the version names none, None where there is no version."""
        if not isinstance(manifest, dict):
            return None
        dist = manifest.get("dist")
        if not isinstance(dist, dict) or not isinstance(dist.get("tarball"), str):
            return ""
        place = _place(self._tarballs, self._package, version, dist)
        return f"{self._base}/{place[0]}" if place else None

    def finish(self) -> bytes:
        """The bytes, once the whole document has passed. Raises `Blocked` if policy left nothing."""
        if not self._left and not self._hidden.isdisjoint(self._gone):
            raise Blocked(f"every version of {self._package} is withheld by policy")
        self._close()
        if self._gone or self._hidden:
            self._amend()
        modified = _object(self.late.get("time")).get("modified")
        if self._abbreviated and "modified" not in self.late and isinstance(modified, str):
            self._say("modified", modified)
        for name, (_, text) in self.late.items():
            self._put(name, text)
        self._out.write(b"{}" if self._next == "{" else b"}")
        return self._out.getvalue()

    def _amend(self) -> None:
        """Tags and times without the versions that are not shown."""
        gone, times = self._gone | self._hidden, _object(self.late.get("time"))
        if "dist-tags" in self.late:
            self._say("dist-tags", retagged(_object(self.late["dist-tags"]), gone, self._left, times))
        if gone.isdisjoint(times):
            return
        kept = {name: date for name, date in times.items() if name not in gone}
        dates = [kept[version] for version in self._left if version in kept]
        newest = max(dates, key=lambda date: names.posix(date) or 0.0, default=None)
        if newest is not None and "modified" in kept:
            kept["modified"] = newest
        if newest is not None and "modified" in self.late:
            self._say("modified", newest)
        self._say("time", kept)

    def _say(self, name: str, value: object) -> None:
        self.late[name] = value, spell(value)

    def _close(self) -> None:
        if self._open:
            self._out.write(b"{}" if self._next == "{" else b"}")
            self._open, self._next = False, ","

    def _put(self, name: str, text: str) -> None:
        self._out.write(f"{self._next}{spell(name)}:{text}".encode())
        self._next = ","


def _object(late: tuple[Any, str] | None) -> _Object:
    return late[0] if late and isinstance(late[0], dict) else {}


def readdressed(manifest: _Object, text: str, address: str) -> str:
    """A version's own spelling with another tarball address.

    If its letters are not escaped and `"tarball"` stands in the text once, then that is the name
    in `dist`; otherwise the whole is spelled anew.
    """
    if text.count('"tarball"') == 1 and "\\u006" not in text and "\\u007" not in text:
        found = _SPELLED.match(text, text.index('"tarball"') + len('"tarball"'))
        if found:
            return f"{text[: found.start(1)]}{spell(address)}{text[found.end(1) :]}"
    return spell({**manifest, "dist": {**manifest["dist"], "tarball": address}})


def _reduced(manifest: _Object, address: str) -> _Object:
    kept = {name: value for name, value in manifest.items() if name in _KEPT}
    if address:
        kept["dist"] = {**manifest["dist"], "tarball": address}
    scripts = manifest.get("scripts")
    if isinstance(scripts, dict) and any(scripts.get(name) for name in _INSTALL_SCRIPTS):
        kept.setdefault("hasInstallScript", True)
    return kept


# --- the document of one version ------------------------------------------------------------


def _manifest(package: str, body: bytes) -> tuple[str, _Object]:
    """Version and content. Raises `UpstreamBroken` for anything but a manifest of this package."""
    manifest = parse(body)
    if not isinstance(manifest, dict) or manifest.get("name") != package:
        raise broken("upstream's document is not of a version of this package")
    version = manifest.get("version")
    if not isinstance(version, str) or not names.is_version(version):
        raise broken("upstream's document has no version")
    return version, manifest


def manifest_promises(key: ArtifactKey, package: str, body: bytes, tarballs: Tarballs) -> list[Promise]:
    version, manifest = _manifest(package, body)
    _own_path(package, version, manifest, tarballs)
    lesson = _Lesson(key, package, tarballs)
    lesson.version(version, manifest)
    return lesson.promises({})


def render_manifest(
    package: str, body: bytes, tarballs: Tarballs, base: str, hidden: frozenset[str]
) -> bytes:
    """Raises `Blocked` for a hidden version: a tag that leads there is pointed elsewhere in the
    package document, but nothing here tells where."""
    version, manifest = _manifest(package, body)
    if version in hidden:
        raise Blocked(f"{package} {version} is withheld by policy")
    text, path = body.decode("utf-8-sig"), _own_path(package, version, manifest, tarballs)
    return (readdressed(manifest, text, f"{base}/{path}") if path else text).encode()


def _own_path(package: str, version: str, manifest: _Object, tarballs: Tarballs) -> str:
    """Where the tarball is with us; "" if the manifest names none. Raises `UpstreamBroken` for one
    that cannot be fetched: before it is stored, so that it replaces nothing that can be."""
    dist = manifest.get("dist")
    if not isinstance(dist, dict) or not isinstance(dist.get("tarball"), str):
        return ""
    place = _place(tarballs, package, version, dist)
    if place is None:
        raise broken("upstream's document names a tarball that cannot be fetched")
    return place[0]
