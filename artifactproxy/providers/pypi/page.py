"""One model of the simple repository API, whichever form upstream sent and the client wants.

Everything optional is None where upstream did not say; nothing is invented. References: PEP 503
(HTML), 691 (JSON), 592 (yanked), 658 and 714 (core metadata), 700 (size, upload time, versions), 708
(tracks), 740 (provenance), 792 (project status).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from artifactproxy.errors import UpstreamBroken
from artifactproxy.model import ArtifactKey, Digest, Promise
from artifactproxy.providers._hosts import is_text
from artifactproxy.providers.pypi import names
from artifactproxy.providers.pypi.addresses import Address

Hashes = dict[str, str]

_HEX_DIGITS = {"sha256": 64, "sha512": 128, "sha384": 96, "sha224": 56, "sha1": 40, "md5": 32}
_ALGORITHM = re.compile(r"[a-z0-9_]{1,32}")
_HEX = re.compile(r"[0-9a-fA-F]{8,256}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_API_VERSION = re.compile(r"1\.[0-9]{1,4}")
_PACKAGED = (".rpm", ".deb", ".msi", ".dmg")


@dataclass(slots=True)
class File:
    """One distribution. `core_metadata` and `hashes` are as upstream advertised them."""

    filename: str
    address: Address
    hashes: Hashes = field(default_factory=dict)
    requires_python: str | None = None
    yanked: bool | str = False
    core_metadata: bool | Hashes | None = None
    gpg_sig: bool | None = None
    size: int | None = None
    upload_time: str | None = None
    provenance: str | None = None


@dataclass(slots=True)
class Project:
    """A project page. `versions` None: upstream listed none, the file names say."""

    name: str
    files: list[File]
    versions: list[str] | None = None
    api_version: str = ""
    status: str = ""
    status_reason: str = ""
    tracks: list[str] = field(default_factory=list)
    alternates: list[str] = field(default_factory=list)
    serial: int | None = None

    def without(self, hidden: frozenset[str]) -> Project:
        """The page less some files, and less the versions that thereby lost all theirs."""
        if not hidden:
            return self
        left = [f for f in self.files if f.filename not in hidden]
        kept = replace(self, files=left)
        if self.versions is not None:
            gone = _file_versions(self) - _file_versions(kept)
            kept.versions = [v for v in self.versions if names.canonical_version(v) not in gone]
        return kept

    def known_versions(self) -> list[str]:
        """Upstream's list; without one, the PEP 440 versions of the files, in their order."""
        if self.versions is not None:
            return self.versions
        return names.sorted_versions(_file_versions(self))


@dataclass(slots=True)
class Listing:
    """The list of all projects: names as upstream spells them."""

    names: list[str]
    api_version: str = ""
    serial: int | None = None


def _file_versions(page: Project) -> set[str]:
    """Canonical versions that the page has files of; system packages number theirs."""
    project = names.normalised(page.name)
    filenames = (f.filename for f in page.files if not f.filename.lower().endswith(_PACKAGED))
    pairs = (names.split(filename, project) for filename in filenames)
    return {names.canonical_version(version) for name, version in pairs if name == project} - {""}


def digests(hashes: Hashes) -> tuple[Digest, ...]:
    """Those that can be checked while the body arrives."""
    return tuple(Digest(name, value) for name, value in hashes.items() if name in _HEX_DIGITS)


def clean_hashes(pairs: Iterable[tuple[object, object]]) -> Hashes:
    """Well-formed hashes only: a known algorithm has its own length, others look like hex."""
    clean: Hashes = {}
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str) or not _HEX.fullmatch(value):
            continue
        algorithm = name.lower()
        if _ALGORITHM.fullmatch(algorithm) and len(value) == _HEX_DIGITS.get(algorithm, len(value)):
            clean[algorithm] = value.lower()
    return clean


def fragment_hashes(text: str) -> Hashes:
    """PEP 503: the fragment of a link, `sha256=<hex>`."""
    if not text:
        return {}
    return clean_hashes((name, value) for name, _, value in (p.partition("=") for p in text.split("&")))


def clean_text(value: object, longest: int = 8192) -> str | None:
    """Text without control characters, or None."""
    if not isinstance(value, str) or len(value) > longest or not is_text(value):
        return None
    return value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)


def clean_int(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def clean_time(value: object) -> str | None:
    """An RFC 3339 time as it was spelled, in UTC where it names no zone, or None: clients refuse a
    whole page over one time that they cannot read."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None or posix(match[0]) is None:
        return None
    return match[0] if match[1] else match[0] + "Z"


def clean_api_version(value: object) -> str:
    return value if isinstance(value, str) and _API_VERSION.fullmatch(value) else ""


def clean_urls(values: Iterable[object]) -> list[str]:
    """Plain http(s) addresses, for display only; we never fetch them."""
    texts = (clean_text(v, 2048) for v in values)
    return [t for t in texts if t and t.startswith(("https://", "http://"))]


def posix(text: str | None) -> float | None:
    """POSIX seconds of an RFC 3339 time; a time without a zone is UTC."""
    if not text or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def is_json(body: bytes) -> bool:
    """JSON or HTML, by the first byte that counts; some servers lie in `Content-Type`.

    Raises `UpstreamBroken` for a body that starts like neither."""
    start = body[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start not in (b"{", b"<"):
        raise UpstreamBroken("upstream's index is neither JSON nor HTML", code="bad_index")
    return start == b"{"


def promises(key: ArtifactKey, project: Project) -> list[Promise]:
    """What the page at `key` promises: each file, and each document it says lies beside one. Of two
    entries that differ only in what our paths leave out, the first counts."""
    found: dict[str, Promise] = {}
    for file in project.files:
        released = posix(file.upload_time)
        promise = Promise(
            ArtifactKey(key.repo, file.address.path),
            digests(file.hashes),
            file.size,
            file.address.url,
            taught_by=key.path,
            released=released,
            released_from="upload-time" if released is not None else "",
            purl=names.purl(project.name, names.split(file.filename, project.name)[1]),
        )
        for one in (promise, *(_beside(promise, suffix, hashes) for suffix, hashes in _sidecars(file))):
            found.setdefault(one.key.path, one)
    return list(found.values())


def _sidecars(file: File) -> Iterator[tuple[str, Hashes]]:
    """Suffix and hashes. A sidecar that is not advertised is not promised."""
    if file.core_metadata not in (None, False):
        yield ".metadata", file.core_metadata if isinstance(file.core_metadata, dict) else {}
    if file.gpg_sig:
        yield ".asc", {}


def _beside(file: Promise, suffix: str, hashes: Hashes) -> Promise:
    url, mark, query = file.url.partition("?")
    return replace(
        file,
        key=ArtifactKey(file.key.repo, file.key.path + suffix),
        digests=digests(hashes),
        size=None,
        url=f"{url}{suffix}{mark}{query}",
    )
