"""What a manifest says: read from its bytes, which nobody ever writes anew.

References: OCI image specification 1.1 (manifest, index, descriptor), docker image manifest version 2,
schemas 1 and 2. A document that two readers could take for two kinds of manifest is refused
(CVE-2021-41190), and so is one whose type is not the type it came with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from artifactproxy.model import Digest
from artifactproxy.rules.oci import media
from artifactproxy.rules.oci.names import digest_of

MANIFEST_BYTES: Final = 4 * 2**20  # the size that a registry must take at least, and what we take at most
REFERENCES_MAX: Final = 20_000
_SIZE_MAX: Final = 2**63 - 1


class NotAManifestError(ValueError):
    """The bytes are no manifest; the sentence may be shown."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content; `size` in bytes, None where schema 1 says none. With `urls` the content
    may lie elsewhere and need not be in the registry."""

    digest: Digest
    size: int | None = None
    media_type: str = ""
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """`manifests` are those of an index, `blobs` the layers. `subject` is what this one speaks about,
    which need not exist."""

    media_type: str
    artifact_type: str = ""
    config: Descriptor | None = None
    blobs: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> Iterator[Descriptor]:
        """The blobs it is made of, each digest once: the configuration first, then the layers."""
        yield from _once([*([self.config] if self.config else []), *self.blobs])


def read(body: bytes, content_type: str = "") -> Facts:
    """Read a manifest that came as `content_type` ("": unknown).

    Raises `NotAManifestError`, also for one that is longer than `MANIFEST_BYTES` or has more than
    `REFERENCES_MAX` references.
    """
    if len(body) > MANIFEST_BYTES:
        raise NotAManifestError(f"the manifest is longer than {MANIFEST_BYTES} bytes")
    document = _object(body)
    kind = _kind(document, media.bare(content_type))
    if kind in media.SCHEMA1:
        return Facts(kind, blobs=tuple(_schema1(document)))
    if document.get("schemaVersion", 2) != 2 and kind != media.OCI_ARTIFACT:
        raise NotAManifestError("the manifest is of an unknown schemaVersion")
    config = _optional(document, "config")
    if kind in (media.OCI_MANIFEST, media.DOCKER_MANIFEST) and config is None:
        raise NotAManifestError("the manifest has no config")
    return Facts(
        kind,
        artifact_type=_text(document, "artifactType"),
        config=config,
        blobs=_list(document, "blobs" if kind == media.OCI_ARTIFACT else "layers"),
        manifests=_list(document, "manifests"),
        subject=_optional(document, "subject"),
        annotations=_annotations(document),
    )


def referrer_type(facts: Facts) -> str:
    """The artifact type under which a manifest is listed among the referrers of its subject."""
    return facts.artifact_type or (facts.config.media_type if facts.config else "")


# --- the document ---------------------------------------------------------------------------


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            body, object_pairs_hook=_unambiguous, parse_constant=_refuse, parse_float=_finite
        )
    except NotAManifestError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotAManifestError("the manifest is not JSON") from error
    if not isinstance(document, dict):
        raise NotAManifestError("the manifest is not a JSON object")
    return document


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotAManifestError("the manifest has a key twice")
    return found


def _refuse(text: str) -> None:
    raise NotAManifestError(f"the manifest holds {text}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotAManifestError("the manifest holds a number without bounds")
    return number


def _kind(document: dict[str, Any], came_as: str) -> str:
    """The media type, from the document and from how it came, which must agree."""
    said = document.get("mediaType", "")
    if not isinstance(said, str):
        raise NotAManifestError("the manifest's mediaType is not text")
    if said and came_as in media.MANIFESTS and said != came_as:
        raise NotAManifestError(f"the manifest calls itself {_shown(said)} and came as {came_as}")
    kind = said or (came_as if came_as in media.MANIFESTS else "") or _guessed(document)
    if kind not in media.MANIFESTS:
        raise NotAManifestError(f"{_shown(kind)} is no media type of a manifest")
    is_index, is_image = kind in media.INDEXES, kind in (media.OCI_MANIFEST, media.DOCKER_MANIFEST)
    if is_index and ({"layers", "config", "fsLayers"} & document.keys()):
        raise NotAManifestError("the index also has what only a manifest has")
    if is_image and ({"manifests", "fsLayers"} & document.keys()):
        raise NotAManifestError("the manifest also has what only an index has")
    if is_index and "manifests" not in document:
        raise NotAManifestError("the index has no manifests")
    return kind


def _guessed(document: dict[str, Any]) -> str:
    """Of a document without a type from a source without one: by what it has."""
    if document.get("schemaVersion") == 1:
        return media.DOCKER_SIGNED if "signatures" in document else media.DOCKER_SCHEMA1
    if "manifests" in document:
        return media.OCI_INDEX
    if "config" in document:
        return media.OCI_MANIFEST
    raise NotAManifestError("the document is neither a manifest nor an index")


# --- its parts ------------------------------------------------------------------------------


def _list(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    values = document.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise NotAManifestError(f"{key} of the manifest is not a list")
    if len(values) > REFERENCES_MAX:
        raise NotAManifestError(f"the manifest has more than {REFERENCES_MAX} {key}")
    return tuple(_descriptor(value, key) for value in values)


def _optional(document: dict[str, Any], key: str) -> Descriptor | None:
    value = document.get(key)
    return None if value is None else _descriptor(value, key)


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise NotAManifestError(f"{where} of the manifest holds something that is no descriptor")
    named, size = value.get("digest"), value.get("size")
    digest = digest_of(named) if isinstance(named, str) else None
    if digest is None:
        raise NotAManifestError(f"{where} of the manifest holds a descriptor without a valid digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _SIZE_MAX:
        raise NotAManifestError(f"{where} of the manifest holds a descriptor without a valid size")
    urls = value.get("urls")
    listed = [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
    return Descriptor(
        digest,
        size,
        _text(value, "mediaType"),
        _text(value, "artifactType"),
        _annotations(value),
        tuple(listed),
    )


def _schema1(document: dict[str, Any]) -> Iterator[Descriptor]:
    layers = document.get("fsLayers")
    if not isinstance(layers, list) or len(layers) > REFERENCES_MAX:
        raise NotAManifestError("the manifest of schema 1 has no list of layers")
    found = []
    for layer in layers:
        named = layer.get("blobSum") if isinstance(layer, dict) else None
        digest = digest_of(named) if isinstance(named, str) else None
        if digest is None:
            raise NotAManifestError("the manifest of schema 1 has a layer without a valid digest")
        found.append(Descriptor(digest, None, media.BLOB))
    yield from _once(found)


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key, "")
    return text if isinstance(text, str) and text.isprintable() else ""


def _annotations(value: dict[str, Any]) -> dict[str, str]:
    """The pairs of texts; what else stands there says nothing."""
    found = value.get("annotations")
    if not isinstance(found, dict):
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)}


def _once(descriptors: Iterable[Descriptor]) -> Iterator[Descriptor]:
    seen: set[Digest] = set()
    for descriptor in descriptors:
        if descriptor.digest not in seen:
            seen.add(descriptor.digest)
            yield descriptor


def _shown(text: str) -> str:
    return repr(text[:100]) if text else "nothing"
