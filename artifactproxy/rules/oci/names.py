"""Names of repositories, tags, digests and upload sessions: strict, and nothing is folded.

References: OCI distribution specification 1.1 ("Pulling manifests"), OCI image specification 1.1
("Digests"). A repository name is what stands after the registry's host in a reference.
"""

from __future__ import annotations

import re
from typing import Final

from artifactproxy.model import Digest

NAME_MAX: Final = 255  # bytes, as the clients bound it together with the host

_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ALGORITHMS: Final = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}
_FALLBACK: Final = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})(?:\.[A-Za-z0-9._-]+)?")


def is_name(text: str) -> bool:
    """Whether a repository can be called this, within its registry."""
    return len(text) <= NAME_MAX and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_session(text: str) -> bool:
    """Whether an upload session of ours can be called this."""
    return _SESSION.fullmatch(text) is not None


def digest_of(text: str) -> Digest | None:
    """A digest in its only spelling, `sha256:` or `sha512:` and lower-case hex of the right length;
    None for anything else, also for algorithms that are registered and not spoken here."""
    algorithm, colon, value = text.partition(":")
    shape = _ALGORITHMS.get(algorithm)
    if not colon or shape is None or not shape.fullmatch(value):
        return None
    return Digest(algorithm, value)


def fallback_tag(digest: Digest) -> str:
    """The tag under which clients keep referrers of `digest` where a registry does not list them.

    It looks like a digest and is a tag like any other: it moves.
    """
    return f"{digest.algorithm}-{digest.hex}"


def is_fallback_tag(tag: str) -> bool:
    """Whether a tag is such a one, or one of signatures and bills of material beside it (`.sig`)."""
    return _FALLBACK.fullmatch(tag) is not None
