"""Module paths and versions as they stand in addresses, and what may be one.

In an address an upper-case letter is written as `!` and its lower-case form, so that file systems
that fold case keep modules apart. References: the Go modules reference (module paths, versions,
GOPROXY protocol), the documentation of `golang.org/x/mod/module`, Semantic Versioning 2.0.0, and
for tiles that of `golang.org/x/mod/sumdb/tlog`.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"(?:[^!A-Z]|![a-z])*", re.DOTALL)
_BANG = re.compile(r"!([a-z])")
_UPPER = re.compile(r"[A-Z]")

_FIRST_ELEMENT = re.compile(r"[a-z0-9.][a-z0-9.-]*")
_ELEMENT = re.compile(r"[A-Za-z0-9_~-](?:[A-Za-z0-9._~-]*[A-Za-z0-9_~-])?")
_MAJOR_SUFFIX = re.compile(r".*/v([0-9.]+)", re.DOTALL)
_GOOD_MAJOR = re.compile(r"[2-9]|[1-9][0-9]+")
_DOTTED_MAJOR = re.compile(r"gopkg\.in/.+\.v(?:0|[1-9][0-9]*)(?:-unstable)?", re.DOTALL)
_SHORT_NAME = re.compile(r"[^.]*~[0-9]+")  # how old Windows abbreviates a long file name
_DEVICES = re.compile(r"con|prn|aux|nul|com[1-9]|lpt[1-9]", re.IGNORECASE)
_QUERY_SIGNS = frozenset("#$%&()+,-.=@[]^_{}~ ")

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_CANONICAL = re.compile(
    rf"v({_NUMBER})\.{_NUMBER}\.{_NUMBER}(-{_PRERELEASE}(?:\.{_PRERELEASE})*)?(\+incompatible)?"
)
_PATH_MAJOR = re.compile(r"/v([0-9]+)\Z")
_DOTTED_PATH_MAJOR = re.compile(r"\.v([0-9]+)(?:-unstable)?\Z")

_TILE = re.compile(
    r"tile/([1-9][0-9]?)/(0|[1-9][0-9]?|data)/((?:x[0-9]{3}/){0,6})([0-9]{3})(?:\.p/([1-9][0-9]{0,9}))?"
)
_TOP_HEIGHT = 30
_TOP_LEVEL = 63


def unescaped(text: str) -> str | None:
    """The module path or version that an address spells; None for a raw upper-case letter or a
    `!` that stands before anything but a lower-case letter."""
    if not _ESCAPED.fullmatch(text):
        return None
    return _BANG.sub(lambda match: match[1].upper(), text)


def escaped(text: str) -> str:
    return _UPPER.sub(lambda match: f"!{match[0].lower()}", text)


def is_module(path: str) -> bool:
    """Whether the go command would download a module of this (unescaped) path."""
    elements = path.split("/")
    if not _FIRST_ELEMENT.fullmatch(elements[0]) or "." not in elements[0]:
        return False
    if not all(_ELEMENT.fullmatch(e) and not _SHORT_NAME.fullmatch(e.partition(".")[0]) for e in elements):
        return False
    if any(_DEVICES.fullmatch(e.partition(".")[0]) for e in elements):
        return False
    if path.startswith("gopkg.in/"):
        return _DOTTED_MAJOR.fullmatch(path) is not None
    suffix = _MAJOR_SUFFIX.fullmatch(path)
    return suffix is None or _GOOD_MAJOR.fullmatch(suffix[1]) is not None


def is_canonical(version: str) -> bool:
    """A full semantic version without build metadata, pseudo-versions and `+incompatible` included:
    the only kind under which files are kept for ever."""
    return _CANONICAL.fullmatch(version) is not None


def belongs(version: str, module: str) -> bool:
    """Whether a canonical version can be one of this module: `/v3` holds v3 only, no suffix v0, v1
    and whatever is `+incompatible`."""
    match = _CANONICAL.fullmatch(version)
    if match is None:
        return False
    major, _, old = match.groups()
    dotted = module.startswith("gopkg.in/")
    suffix = (_DOTTED_PATH_MAJOR if dotted else _PATH_MAJOR).search(module)
    if suffix is None:
        return major in ("0", "1") or old is not None
    return major == suffix[1] or (dotted and suffix[1] == "1" and version.startswith("v0.0.0-"))


def is_query(text: str) -> bool:
    """Whether a version query could be this: a branch, a commit, a prefix of a version."""
    if not text or text.endswith(".") or _DEVICES.fullmatch(text.partition(".")[0]):
        return False
    return text.isascii() and all(c.isalnum() or c in _QUERY_SIGNS for c in text)


def is_tile(path: str) -> bool:
    """`tile/H/L/K[.p/W]`: height, level or `data`, number in groups of three digits, and the width
    of a tile that is not full yet."""
    match = _TILE.fullmatch(path)
    if match is None:
        return False
    height, level, groups, _, width = match.groups()
    if int(height) > _TOP_HEIGHT or (level != "data" and int(level) > _TOP_LEVEL):
        return False
    return not groups.startswith("x000/") and (width is None or int(width) < 1 << int(height))


def purl(module: str, version: str = "") -> str:
    """The package URL; its specification folds Go's names to lower case, and versions not."""
    name = f"pkg:golang/{module.lower()}"
    return f"{name}@{version.replace('+', '%2B')}" if version else name
