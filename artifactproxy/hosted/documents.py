"""Manifests as a registry must know them: what they are, what they name, whom they refer to.

OCI image specification 1.1 (manifest, index) and Docker's manifest v2 and manifest list. Nothing here
changes a byte: a manifest is served as it was pushed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from artifactproxy.hosted.names import digest_of
from artifactproxy.hosted.refusals import Refused, bad_manifest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OF_IMAGE: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
OF_INDEX: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_MAX: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Manifest:
    """`blobs` and `manifests` are digests that must be here; `subject` may be missing anywhere."""

    media_type: str
    blobs: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    subject: str = ""
    artifact_type: str = ""
    annotations: tuple[tuple[str, str], ...] = ()

    def descriptor(self, digest: str, size: int) -> dict[str, Any]:
        """As the list of referrers holds it (distribution specification, "Listing Referrers")."""
        made: dict[str, Any] = {"mediaType": self.media_type, "digest": digest, "size": size}
        if self.artifact_type:
            made["artifactType"] = self.artifact_type
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made


def read_manifest(body: bytes, content_type: str) -> Manifest:
    """`content_type` is the header a client sent, "" if none. Raises `Refused` (MANIFEST_INVALID)."""
    document = _object(body)
    declared = _text(document, "mediaType")
    sent = content_type.partition(";")[0].strip().lower()
    if declared and sent and declared.lower() != sent:
        raise bad_manifest("the Content-Type is not the mediaType of the manifest")
    media_type = declared or sent
    if not media_type:
        raise bad_manifest("neither a mediaType nor a Content-Type says what this manifest is")
    if document.get("schemaVersion") != 2 and media_type in OF_IMAGE | OF_INDEX:
        raise bad_manifest("only manifests of schemaVersion 2 are taken")
    subject = document.get("subject")
    named = dict[str, Any](
        subject=_digest(subject, "subject") if subject is not None else "",
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
    )
    if media_type in OF_INDEX:
        children = tuple(_digest(each, "manifests") for each in _list(document, "manifests"))
        return Manifest(media_type, manifests=children, **named)
    if media_type not in OF_IMAGE:
        return Manifest(media_type, **named)
    return _image(document, media_type, named)


def _image(document: dict[str, Any], media_type: str, named: dict[str, Any]) -> Manifest:
    config = document.get("config")
    blobs = [_digest(config, "config")]
    blobs += [_digest(each, "layers") for each in _list(document, "layers") if not _is_foreign(each)]
    if not named["artifact_type"]:
        named["artifact_type"] = _text(config, "mediaType")
    return Manifest(media_type, blobs=tuple(dict.fromkeys(blobs)), **named)


def _is_foreign(layer: Any) -> bool:
    """A layer that lies elsewhere and may not be distributed."""
    if not isinstance(layer, dict):
        return False
    return bool(layer.get("urls")) or "nondistributable" in str(layer.get("mediaType", ""))


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise bad_manifest("the manifest is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise bad_manifest("the manifest is not a JSON object")
    return document


def _no_number(name: str) -> float:
    raise ValueError(name)


def _text(document: Any, name: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise bad_manifest(f"{name} is no text")
    return value


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise bad_manifest(f"{name} is missing or no list")
    return value


def _digest(descriptor: Any, where: str) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str):
        raise bad_manifest(f"{where} holds something that is no descriptor")
    try:
        digest_of(digest)
    except Refused as refused:
        raise bad_manifest(f"{where}: {refused.detail}") from refused
    return digest


def _annotations(document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    value = document.get("annotations") or {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise bad_manifest("annotations are not texts by name")
    return tuple(value.items())
