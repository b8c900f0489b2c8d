"""Which manifests a client takes, in the words of clients that are met."""

from __future__ import annotations

import pytest

from artifactproxy.rules.oci import media

CONTAINERD = (
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
)
OLD_DOCKER = (
    "application/vnd.docker.distribution.manifest.v1+prettyjws, application/json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


@pytest.mark.parametrize(
    ("accept", "variant"),
    [
        ("", media.ALL),
        ("*/*", media.ALL),
        (CONTAINERD, media.ALL),
        (OLD_DOCKER, media.SINGLE),
        (media.OCI_MANIFEST, media.SINGLE),
        (media.DOCKER_MANIFEST, media.SINGLE),
        (f"{media.OCI_MANIFEST}, {media.OCI_INDEX}", media.ALL),
        (f"{media.OCI_MANIFEST}, {media.OCI_INDEX};q=0", media.SINGLE),
        (media.DOCKER_LIST, media.ALL),
        ("text/html", media.ALL),
        (media.DOCKER_SIGNED, media.ALL),
    ],
)
def test_variants(accept: str, variant: str) -> None:
    assert media.variant_of(accept) == variant


def test_what_upstream_is_asked_for_is_never_nothing() -> None:
    assert media.upstream_accept(media.ALL).split(", ") == list(media.MODERN)
    assert media.upstream_accept(media.SINGLE) == f"{media.OCI_MANIFEST}, {media.DOCKER_MANIFEST}"
    for variant in (media.ALL, media.SINGLE):
        assert media.variant_of(media.upstream_accept(variant)) == variant


def test_takes() -> None:
    assert media.takes("", media.OCI_INDEX)
    assert media.takes("application/*", media.OCI_INDEX)
    assert not media.takes(media.OCI_MANIFEST, media.OCI_INDEX)


def test_bare() -> None:
    assert media.bare("Application/JSON; charset=utf-8") == "application/json"
