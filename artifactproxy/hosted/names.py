"""What an address inside a registry names, and the keys under which what it names is kept.

OCI distribution specification 1.1, "Pulling manifests" (names, tags) and image specification,
"Descriptors" (digests). Names contain slashes, so a path is read from its right end.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal

from artifactproxy.errors import NotServed
from artifactproxy.hosted.refusals import Refused, bad_digest, no_upload
from artifactproxy.model import ArtifactKey, Digest
from artifactproxy.ports.hosting import PART

NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
NAME_MAX: Final = 255
_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_SESSION: Final = re.compile(r"[0-9a-f]{32}")

MANIFEST: Final = "manifest:"
BLOB: Final = "blob:"
TAGGED: Final = "tag:"
REFERRER: Final = "referrer:"

What = Literal["catalog", "tags", "manifest", "blob", "begin", "session", "referrers"]


@dataclass(frozen=True, slots=True)
class Target:
    """`reference` is a tag, a digest or the id of an upload, as the address spells it."""

    what: What
    name: str = ""
    reference: str = ""


_FORMS: Final[tuple[tuple[re.Pattern[str], What], ...]] = (
    (re.compile(r"(?P<name>.+)/tags/list"), "tags"),
    (re.compile(r"(?P<name>.+)/manifests/(?P<reference>[^/]+)"), "manifest"),
    (re.compile(r"(?P<name>.+)/blobs/uploads/?"), "begin"),
    (re.compile(r"(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"), "session"),
    (re.compile(r"(?P<name>.+)/blobs/(?P<reference>[^/]+)"), "blob"),
    (re.compile(r"(?P<name>.+)/referrers/(?P<reference>[^/]+)"), "referrers"),
)


def target_of(path: str) -> Target:
    """What the part of an address behind `/v2/` and the repository names.

    Raises `Refused` (NAME_INVALID, DIGEST_INVALID, TAG_INVALID, BLOB_UPLOAD_UNKNOWN), and `NotServed`
    for what is no address of a registry.
    """
    if path == "_catalog":
        return Target("catalog")
    for form, what in _FORMS:
        found = form.fullmatch(path)
        if found is not None:
            target = Target(what, found["name"], found.groupdict().get("reference", ""))
            _judge(target)
            return target
    raise NotServed("this is no address of a registry")


def _judge(target: Target) -> None:
    judge_name(target.name)
    if target.what in ("blob", "referrers") or (target.what == "manifest" and ":" in target.reference):
        digest_of(target.reference)
    elif target.what == "manifest" and TAG.fullmatch(target.reference) is None:
        raise Refused("TAG_INVALID", 400, "a tag has letters, digits, and `_`, `.` and `-`, at most 128")
    elif target.what == "session" and _SESSION.fullmatch(target.reference) is None:
        raise no_upload()


def judge_name(name: str) -> None:
    if len(name) > NAME_MAX or NAME.fullmatch(name) is None:
        raise Refused(
            "NAME_INVALID", 400, "a name has a to z and 0 to 9, single `.`, `_` and `-` in between, and `/`"
        )


def digest_of(text: str) -> Digest:
    """Raises `Refused` for all but sha256 and sha512 in lower-case hex."""
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise bad_digest("a digest is sha256: and 64, or sha512: and 128 hex digits in lower case")
    algorithm, hex_ = (found[1], found[2]) if found[1] else (found[3], found[4])
    return Digest(algorithm, hex_)


def digest_by(algorithm: str, body: bytes) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, body).hexdigest())


def is_digest(reference: str) -> bool:
    return ":" in reference


# --- keys -------------------------------------------------------------------------------------


def blob_key(repo: str, name: str, digest: str) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{BLOB}{digest}")


def manifest_key(repo: str, name: str, reference: str) -> ArtifactKey:
    """By tag or by digest."""
    word = MANIFEST if is_digest(reference) else TAGGED
    return ArtifactKey(repo, name, f"{word}{reference}")


def referrer_key(repo: str, name: str, subject: str, digest: str) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{REFERRER}{subject}:{digest}")


def part_key(repo: str, name: str, session: str, number: int) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{PART}{session}:{number:08}")
