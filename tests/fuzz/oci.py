"""What is fuzzed of registries: addresses behind `/v2/`, and manifests."""

from __future__ import annotations

import json
from collections.abc import Callable

from artifactproxy.errors import BadPath, MethodRefused, NotServed
from artifactproxy.rules.oci import manifests, media
from artifactproxy.rules.oci.names import digest_of, is_name, is_tag
from artifactproxy.rules.oci.operations import METHODS, Manifest, Page, operation_of

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def operations(data: bytes) -> None:
    """What is read has names within the grammar and a page within its bounds, or it is refused."""
    method = _METHODS[data[0] % len(_METHODS)] if data else "GET"
    path, _, query = data[1:].decode("latin-1").partition("?")
    try:
        operation = operation_of(method, path, query)
    except (BadPath, NotServed, MethodRefused):
        return
    target = operation.target
    assert method in METHODS[type(target)]
    assert operation.name == "" or is_name(operation.name)
    assert operation.reads_also == "" or is_name(operation.reads_also)
    if isinstance(target, Manifest):
        assert (target.digest is None) == is_tag(target.tag)
    page = getattr(target, "page", Page())
    assert page.n is None or 0 <= page.n <= 1000


def documents(data: bytes) -> None:
    """What is read as a manifest has one kind and valid references, whatever it came as."""
    for came_as in ("", media.OCI_MANIFEST, media.OCI_INDEX, media.DOCKER_SIGNED, "text/plain"):
        try:
            facts = manifests.read(data, came_as)
        except manifests.NotAManifestError as refused:
            assert str(refused).isprintable()
            continue
        assert facts.media_type in media.MANIFESTS
        assert came_as not in media.MANIFESTS or facts.media_type == came_as
        assert not (facts.manifests and (facts.config or facts.blobs))
        for found in (*facts.content(), *facts.manifests):
            assert digest_of(str(found.digest)) == found.digest
            assert found.size is None or found.size >= 0


_DIGEST = "sha256:" + "0123456789abcdef" * 4
_IMAGE = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "config": {"mediaType": media.OCI_CONFIG, "digest": _DIGEST, "size": 2},
    "layers": [{"mediaType": "x/y", "digest": _DIGEST, "size": 3, "urls": ["https://x.example/"]}],
    "annotations": {"a": "b"},
}
_INDEX = {
    "schemaVersion": 2,
    "mediaType": media.OCI_INDEX,
    "manifests": [{"mediaType": media.OCI_MANIFEST, "digest": _DIGEST, "size": 2}],
}

TARGETS: dict[str, Callable[[bytes], None]] = {"oci_operations": operations, "oci_manifests": documents}
SEEDS = {
    "oci_operations": [
        b"\x00library/alpine/manifests/latest?ns=docker.io",
        f"\x02a/blobs/uploads/?mount={_DIGEST}&from=b".encode(),
        f"\x03a/blobs/uploads/s?digest={_DIGEST}".encode(),
        b"\x00a/tags/list?n=10&last=x",
    ],
    "oci_manifests": [json.dumps(document).encode() for document in (_IMAGE, _INDEX)]
    + [json.dumps({"schemaVersion": 1, "fsLayers": [{"blobSum": _DIGEST}]}).encode()],
}
