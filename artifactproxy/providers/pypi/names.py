"""What a distribution's file name says: project and version.

References: PEP 503 (normalised names), PEP 427 (wheels), PEP 625 (source distributions), PEP 440
(versions). Old uploads follow none of them, so every reading here is a best guess, never a refusal.
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.version import InvalidVersion, Version

from artifactproxy.errors import Fault
from artifactproxy.rules.paths import decode_segment

PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_RUNS = re.compile(r"[-_.]+")
_PURL_SAFE = re.compile(r"[A-Za-z0-9._-]+")
_ARCHIVES = (
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.lzma",
    ".tar.lz",
    ".tar.z",
    ".zip",
    ".tgz",
    ".tbz",
    ".txz",
)
_OTHERS = (".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg", ".tar")
_EXTENSIONS = (".whl", *_ARCHIVES, *_OTHERS)
_PLATFORM = re.compile(
    r"(?:\.(?:win32|win-\w+|linux-\w+|macosx-[\w.]+-\w+)(?:-py[\d.]+)?|-\d+\.(?:noarch|src|x86_64))$"
)


def normalised(name: str) -> str:
    """PEP 503."""
    return _RUNS.sub("-", name).lower()


def is_distribution(filename: str) -> bool:
    """Whether the name ends as something that can be installed, now or in the past."""
    return filename.lower().endswith(_EXTENSIONS)


def stem(filename: str) -> str:
    """The name without its extension."""
    lower = filename.lower()
    extension = next((e for e in _EXTENSIONS if lower.endswith(e)), "")
    return filename[: len(filename) - len(extension)]


def split(filename: str, project: str = "") -> tuple[str, str]:
    """Normalised project and version of a file name, "" where it does not say.

    `project` (normalised) is the page that lists the file: it settles names like `a-1-2.zip`.
    """
    base = stem(filename)
    parts = base.split("-")
    if filename.lower().endswith((".whl", ".egg")) and len(parts) > 1:
        return normalised(parts[0]), parts[1]
    return _split_source(_PLATFORM.sub("", base).split("-"), project)


def _split_source(parts: list[str], project: str) -> tuple[str, str]:
    cuts = range(1, len(parts))
    pairs = [("-".join(parts[:cut]), "-".join(parts[cut:])) for cut in cuts if parts[cut]]
    if project:
        for name, version in pairs:
            if normalised(name) == project:
                return project, version
    numbered = [pair for pair in pairs if pair[1][0].isdigit()]
    for name, version in numbered:
        if canonical_version(version):
            return normalised(name), version
    if numbered or pairs:
        name, version = numbered[0] if numbered else pairs[-1]
        return normalised(name), version
    return normalised("-".join(parts)), ""


@lru_cache(maxsize=8192)
def canonical_version(version: str) -> str:
    """PEP 440's normal form, "" for a version that has none."""
    try:
        return str(Version(version)) if len(version) <= 128 else ""
    except (InvalidVersion, ValueError):  # ValueError: more digits than Python converts
        return ""


def is_prerelease(version: str) -> bool:
    return Version(version).is_prerelease


def order(version: str) -> Version:
    """A sort key for versions that have a canonical form."""
    return Version(version)


def sorted_versions(versions: set[str]) -> list[str]:
    """Canonical versions in PEP 440 order."""
    return sorted(versions, key=Version)


def purl(project: str, version: str = "") -> str:
    """The package URL of a normalised project name, and of one version of it."""
    if not version:
        return f"pkg:pypi/{project}"
    version = canonical_version(version) or version
    if _PURL_SAFE.fullmatch(version):
        return f"pkg:pypi/{project}@{version}"
    from packageurl import PackageURL

    return PackageURL("pypi", name=project, version=version).to_string()


def decoded(segment: str) -> str:
    """A path segment as text, or "" if it is no legal one."""
    try:
        return decode_segment(segment)
    except Fault:
        return ""
