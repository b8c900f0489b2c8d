"""Media types of manifests, and which of them a client takes.

References: OCI image specification 1.1 ("Media Types"), its docker predecessors (image manifest
version 2, schemas 1 and 2), RFC 9110 section 12.5.1.
"""

from __future__ import annotations

from typing import Final

from artifactproxy.rules.http import negotiate

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"  # of a draft, and still met
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
BLOB: Final = "application/octet-stream"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1: Final = frozenset({DOCKER_SIGNED, DOCKER_SCHEMA1})
MODERN: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
MANIFESTS: Final = frozenset({*MODERN, OCI_ARTIFACT, *SCHEMA1})

ALL: Final = "all"
SINGLE: Final = "single"

_SINGLES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)


def bare(content_type: str) -> str:
    """A media type without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def takes(accept: str, media_type: str) -> bool:
    """Whether a client with this `Accept` (empty: anything) takes a manifest of this type."""
    return negotiate(accept, [(media_type, media_type)]) is not None


def variant_of(accept: str) -> str:
    """`SINGLE` for a client that takes manifests of images but no index of them, which gets what a tag
    means for it; `ALL` for every other one, whatever it wrote.

    One that asks for neither (a browser, a tool with its own Accept) gets what there is.
    """
    if not accept or any(takes(accept, kind) for kind in INDEXES):
        return ALL
    return SINGLE if any(takes(accept, kind) for kind in _SINGLES) else ALL


def upstream_accept(variant: str) -> str:
    """What upstream is asked for in place of a client's own Accept: never nothing, since old
    registries then convert to schema 1, whose digest matches nothing."""
    return ", ".join(_SINGLES if variant == SINGLE else MODERN)
