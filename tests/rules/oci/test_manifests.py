"""Manifests as registries send them, and documents that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from artifactproxy.model import Digest
from artifactproxy.rules.oci import media
from artifactproxy.rules.oci.manifests import (
    MANIFEST_BYTES,
    Descriptor,
    NotAManifestError,
    read,
    referrer_type,
)


def digest(sign: str) -> str:
    return f"sha256:{sign * 64}"


def about(sign: str, size: int = 3, **more: Any) -> dict[str, Any]:
    return {"mediaType": "x/y", "digest": digest(sign), "size": size} | more


def text(**document: Any) -> bytes:
    return json.dumps(document).encode()


IMAGE = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "config": about("1", mediaType=media.OCI_CONFIG),
    "layers": [about("2"), about("3", urls=["https://layers.example/3"]), about("2")],
    "annotations": {"a": "b", "c": 5},
}
INDEX = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [about("4"), about("5")]}


def test_an_image() -> None:
    facts = read(text(**IMAGE), media.OCI_MANIFEST)
    assert facts.media_type == media.OCI_MANIFEST
    assert facts.config == Descriptor(Digest("sha256", "1" * 64), 3, media.OCI_CONFIG)
    assert [d.digest.hex[0] for d in facts.content()] == ["1", "2", "3"]
    assert facts.blobs[1].urls == ("https://layers.example/3",)
    assert facts.annotations == {"a": "b"}
    assert facts.manifests == ()
    assert facts.subject is None
    assert referrer_type(facts) == media.OCI_CONFIG


def test_an_index() -> None:
    facts = read(text(**INDEX), media.OCI_INDEX)
    assert [d.digest.hex[0] for d in facts.manifests] == ["4", "5"]
    assert list(facts.content()) == []


def test_an_artifact_with_a_subject() -> None:
    document = IMAGE | {"artifactType": "text/sbom", "subject": about("9")}
    facts = read(text(**document))
    assert facts.subject is not None
    assert facts.subject.digest.hex == "9" * 64
    assert referrer_type(facts) == "text/sbom"


def test_the_draft_of_an_artifact_manifest() -> None:
    facts = read(text(mediaType=media.OCI_ARTIFACT, artifactType="a/b", blobs=[about("6")]))
    assert [d.digest.hex[0] for d in facts.content()] == ["6"]


def test_docker_s_own() -> None:
    document = {key: value for key, value in IMAGE.items() if key != "mediaType"}
    assert read(text(**document), media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
    listed = {"schemaVersion": 2, "manifests": []}
    assert read(text(**listed), f"{media.DOCKER_LIST}; charset=utf-8").media_type == media.DOCKER_LIST


def test_schema_1() -> None:
    old = {"schemaVersion": 1, "fsLayers": [{"blobSum": digest("7")}, {"blobSum": digest("7")}]}
    facts = read(text(**old, signatures=[]), media.DOCKER_SIGNED)
    assert facts.media_type == media.DOCKER_SIGNED
    assert list(facts.content()) == [Descriptor(Digest("sha256", "7" * 64), None, media.BLOB)]
    assert read(text(**old)).media_type == media.DOCKER_SCHEMA1


def test_without_a_type_it_is_what_it_has() -> None:
    without = {key: value for key, value in IMAGE.items() if key != "mediaType"}
    assert read(text(**without)).media_type == media.OCI_MANIFEST
    assert read(text(**without), "application/json").media_type == media.OCI_MANIFEST
    assert read(text(schemaVersion=2, manifests=[])).media_type == media.OCI_INDEX


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a list": b"[]",
    "a number": b"1",
    "deep": b"[" * 100_000,
    "NaN": text(**IMAGE).replace(b'"size": 3', b'"size": NaN', 1),
    "infinite": text(**IMAGE).replace(b'"size": 3', b'"size": 1e999999', 1),
    "huge": text(**IMAGE).replace(b'"size": 3', b'"size": ' + b"9" * 5000, 1),
    "a key twice": b'{"schemaVersion": 2, "config": {}, "config": {}}',
    "not UTF-8": b'{"schemaVersion": 2, "mediaType": "\xff"}',
    "CVE-2021-41190, index and manifest": text(**INDEX, layers=[], config=about("1")),
    "CVE-2021-41190, manifest and index": text(**IMAGE, manifests=[]),
    "CVE-2021-41190, manifest and schema 1": text(**IMAGE, fsLayers=[]),
    "an unknown type": text(**IMAGE | {"mediaType": "text/plain"}),
    "a type that is no text": text(**IMAGE | {"mediaType": 5}),
    "neither": text(schemaVersion=2),
    "an unknown version": text(**IMAGE | {"schemaVersion": 3}),
    "no config": text(schemaVersion=2, mediaType=media.OCI_MANIFEST, layers=[]),
    "an index without manifests": text(schemaVersion=2, mediaType=media.OCI_INDEX),
    "layers that are no list": text(**IMAGE | {"layers": {}}),
    "a layer that is no descriptor": text(**IMAGE | {"layers": [5]}),
    "a layer without a digest": text(**IMAGE | {"layers": [{"size": 3}]}),
    "a layer with another digest": text(**IMAGE | {"layers": [about("2") | {"digest": "md5:1"}]}),
    "a layer of a negative size": text(**IMAGE | {"layers": [about("2", -1)]}),
    "a layer of a true size": text(**IMAGE | {"layers": [about("2") | {"size": True}]}),
    "a subject that is no descriptor": text(**IMAGE | {"subject": "x"}),
    "too many layers": text(**IMAGE | {"layers": [about("2")] * 20_001}),
    "schema 1 without layers": text(schemaVersion=1, mediaType=media.DOCKER_SIGNED),
    "schema 1 with a bad layer": text(schemaVersion=1, fsLayers=[{"blobSum": "x"}]),
    "E13 too long": b" " * (MANIFEST_BYTES + 1),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_broken(body: bytes) -> None:
    with pytest.raises(NotAManifestError):
        read(body)


def test_its_type_is_that_which_it_came_with() -> None:
    with pytest.raises(NotAManifestError, match="came as"):
        read(text(**IMAGE), media.DOCKER_MANIFEST)
    assert read(text(**IMAGE), "application/octet-stream").media_type == media.OCI_MANIFEST


def test_e13_as_long_as_it_may_be() -> None:
    body = text(**IMAGE)
    assert read(body + b" " * (MANIFEST_BYTES - len(body))).media_type == media.OCI_MANIFEST
