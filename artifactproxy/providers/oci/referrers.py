"""Lists that registries make: of tags, and of manifests that speak about another one."""

from __future__ import annotations

import json
from typing import Any

from artifactproxy.errors import UpstreamBroken


def check_tags(body: bytes) -> None:
    """Raises `UpstreamBroken` unless it is a list of tags; `null` stands for an empty one in some."""
    tags = _object(body).get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise _broken("a list of tags without tags")


def read(body: bytes) -> dict[str, Any]:
    """The index of referrers. Raises `UpstreamBroken` unless it is one."""
    document = _object(body)
    listed = document.get("manifests")
    if not (isinstance(listed, list) and all(isinstance(each, dict) for each in listed)):
        raise _broken("a list of referrers without manifests")
    return document


def only(body: bytes, artifact_type: str) -> bytes:
    """The index with the manifests of one artifact type."""
    document = read(body)
    document["manifests"] = [m for m in document["manifests"] if m.get("artifactType") == artifact_type]
    return json.dumps(document, separators=(",", ":")).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _broken("a list that is not JSON") from error
    if not isinstance(document, dict):
        raise _broken("a list that is not a JSON object")
    return document


def _broken(what: str) -> UpstreamBroken:
    return UpstreamBroken(f"upstream sent {what}", code="bad_index")
