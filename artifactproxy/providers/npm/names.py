"""Names of packages, versions and tarballs, and the order of versions.

A name is `name` or `@scope/name`, in any case: old packages have capitals. References: the package
name rules of npm's package.json documentation, Semantic Versioning 2.0.0 (sections 9 to 11), the
package-URL types (npm).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from artifactproxy.errors import Fault, NotServed
from artifactproxy.rules.paths import decode_segment

_PART = r"[A-Za-z0-9\-_.!~*'()]+"
PACKAGE = re.compile(rf"@(?!\.){_PART}/(?!\.){_PART}|(?![._]){_PART}")
LONGEST_NAME = 214

_SAFE_VERSION = re.compile(r"[A-Za-z0-9._~-]{1,256}")
_VERSION = re.compile(r"[!-~]{1,256}")
# Old packages spell prereleases without the hyphen: 1.0.0beta.
_SEMVER = re.compile(
    r"[v=]*([0-9]{1,15})\.([0-9]{1,15})\.([0-9]{1,15})(?:-?([A-Za-z0-9-][A-Za-z0-9.-]*))?(?:\+.*)?"
)

Order = tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]


def take(path: str) -> tuple[str, str | None]:
    """The package that a canonical path begins with, and what follows its slash (None: no slash).

    `@s/n` and `@s%2Fn` are one. Raises `NotServed`.
    """
    first, slash, rest = path.partition("/")
    if first.startswith("@"):
        scope, encoded, name = first.partition("%2F")
        if not encoded:
            name, slash, rest = rest.partition("/")
        first = f"{scope}/{name}"
    if not PACKAGE.fullmatch(first) or len(first) > LONGEST_NAME:
        raise NotServed("no package can have this name")
    return first, rest if slash else None


def escaped(package: str) -> str:
    """One segment, the way npm spells it for registries."""
    return package.replace("/", "%2f")


@lru_cache(maxsize=1024)
def _purl(package: str) -> str:
    scope, slash, name = package.rpartition("/")
    return f"pkg:npm/{quote(scope, safe='')}{slash}{quote(name.lower(), safe='')}"


def purl(package: str, version: str = "") -> str:
    """The package URL of a package or of one of its versions; its type has names in small letters."""
    if not version:
        return _purl(package)
    safe = version if _SAFE_VERSION.fullmatch(version) else quote(version, safe=":")
    return f"{_purl(package)}@{safe}"


def is_version(text: str) -> bool:
    """Whether a version of a document is one that can be named: printable, no blanks, not long."""
    return _VERSION.fullmatch(text) is not None


def tarball(package: str, version: str) -> str:
    """The file name that npm gives a version."""
    return f"{package.rpartition('/')[2]}-{version}.tgz"


def version_of(package: str, filename: str) -> str:
    """The version that a file name of this package speaks of, "" where it does not."""
    start, end = f"{package.rpartition('/')[2]}-", ".tgz"
    if not filename.startswith(start) or not filename.endswith(end):
        return ""
    version = filename[len(start) : -len(end)]
    return version if is_version(version) else ""


def decoded(segment: str) -> str:
    """A path segment as text, or "" if it is no legal one."""
    try:
        return decode_segment(segment)
    except Fault:
        return ""


def order(version: str) -> Order | None:
    """A sort key by precedence (section 11); None for what is no version."""
    match = _SEMVER.fullmatch(version)
    if match is None:
        return None
    core = int(match[1]), int(match[2]), int(match[3])
    fields = match[4].split(".") if match[4] else []
    numbered = tuple((not f.isdecimal(), int(f[:18]) if f.isdecimal() else 0, f) for f in fields)
    return core, not fields, numbered


def is_stable(version: str) -> bool:
    ordered = order(version)
    return ordered is not None and ordered[1]


def channel(version: str) -> str:
    """The first word of a prerelease (`beta` of `2.0.0-beta.3`), "" where there is none."""
    match = _SEMVER.fullmatch(version)
    return next((f for f in (match[4] or "").split(".") if not f.isdecimal()), "") if match else ""


def posix(text: object) -> float | None:
    """POSIX seconds of an ISO 8601 time; one without a zone is UTC."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
