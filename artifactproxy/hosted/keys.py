"""The keys under which a registry's content is kept: the name of a repository inside it as the path, and
what of it the row is as the variant."""

from __future__ import annotations

from typing import Final

from artifactproxy.model import ArtifactKey, Digest
from artifactproxy.ports.hosting import PART

MANIFEST: Final = "manifest:"
BLOB: Final = "blob:"
TAGGED: Final = "tag:"
REFERRER: Final = "referrer:"


def blob_key(repo: str, name: str, digest: Digest) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{BLOB}{digest}")


def manifest_key(repo: str, name: str, digest: Digest) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{MANIFEST}{digest}")


def tag_key(repo: str, name: str, tag: str) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{TAGGED}{tag}")


def referrer_key(repo: str, name: str, subject: Digest, digest: Digest) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{REFERRER}{subject}:{digest}")


def part_key(repo: str, name: str, session: str, number: int) -> ArtifactKey:
    return ArtifactKey(repo, name, f"{PART}{session}:{number:08}")
