"""What depends on the registry: names of docker's own images, default mounts, texts for clients."""

from __future__ import annotations

import pytest

from artifactproxy.errors import MethodRefused
from artifactproxy.model import Ask, Route
from artifactproxy.providers._base import PublicOrigins, Site
from artifactproxy.providers.oci import Oci
from artifactproxy.providers.oci.registries import api_of, host_of
from artifactproxy.web.setup import render

SHA = "sha256:" + "0123456789abcdef" * 4
HUB = "https://registry-1.docker.io/"


def source(upstream: str, path: str, query: str = "") -> str:
    route = Oci(Site("hub", (upstream,))).classify(Ask("hub", path, query=query))
    assert isinstance(route, Route)
    return route.sources[0]


@pytest.mark.parametrize(
    "what", ["manifests/latest", f"manifests/{SHA}", f"blobs/{SHA}", "tags/list", f"referrers/{SHA}"]
)
def test_docker_s_own_images_are_in_its_library(what: str) -> None:
    assert source(HUB, f"alpine/{what}") == f"{HUB}v2/library/alpine/{what}"
    assert source(HUB, f"library/alpine/{what}") == source(HUB, f"alpine/{what}")
    assert source(HUB, f"team/app/{what}") == f"{HUB}v2/team/app/{what}"
    assert source("https://quay.io/", f"alpine/{what}") == f"https://quay.io/v2/alpine/{what}"


def test_its_two_names_are_one_key() -> None:
    hub = Oci(Site("hub", (HUB,)))
    one, other = (
        hub.classify(Ask("hub", "alpine/tags/list")),
        hub.classify(Ask("hub", "library/alpine/tags/list")),
    )
    assert isinstance(one, Route)
    assert isinstance(other, Route)
    assert one.key == other.key
    assert one.purl == "pkg:oci/alpine?repository_url=docker.io/library/alpine"


@pytest.mark.parametrize(
    ("upstream", "host", "api"),
    [
        ("https://docker.io/", "docker.io", f"{HUB}v2/"),
        ("https://index.docker.io/", "docker.io", f"{HUB}v2/"),
        (HUB, "docker.io", f"{HUB}v2/"),
        ("https://ghcr.io/", "ghcr.io", "https://ghcr.io/v2/"),
        ("http://127.0.0.1:5000/", "127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
        ("https://host.example/docker-remote/", "host.example", "https://host.example/docker-remote/v2/"),
        ("https://host.example/v2/remote/", "host.example", "https://host.example/v2/remote/"),
    ],
)
def test_where_a_registry_answers(upstream: str, host: str, api: str) -> None:
    assert (host_of(upstream), api_of(upstream)) == (host, api)


def test_what_is_mounted_without_a_word() -> None:
    mounts = Oci.default_mounts(PublicOrigins())
    assert mounts == {
        "docker.io": HUB,
        "ghcr.io": "https://ghcr.io/",
        "quay.io": "https://quay.io/",
        "registry.k8s.io": "https://registry.k8s.io/",
    }
    assert Oci.public_upstream(PublicOrigins()) == HUB
    assert Oci.reached_at("https://docker.io/") == HUB
    assert Oci.reached_at("https://quay.io/") == "https://quay.io/"


def test_what_upstream_s_page_is_called_is_asked_on() -> None:
    asked = source("https://quay.io/", "a/tags/list", "next_page=gAAA%2B%3D&last=v1&x=y")
    assert asked == "https://quay.io/v2/a/tags/list?last=v1&next_page=gAAA%2B=&x=y"


def test_a_digest_that_upstream_s_head_names_must_be_one() -> None:
    hub = Oci(Site("hub", (HUB,)))
    tag = hub.classify(Ask("hub", "alpine/manifests/latest"))
    assert isinstance(tag, Route)
    pointed = hub.pointed(tag, f" {SHA} ")
    assert pointed is not None
    assert pointed.key.path == f"library/alpine/manifests/{SHA}"
    for said in ("", "sha256:abc", "latest", f"{SHA}/../x"):
        assert hub.pointed(tag, said) is None


def test_nothing_is_taken_in() -> None:
    with pytest.raises(MethodRefused):
        Oci(Site("hub", (HUB,))).classify(Ask("hub", f"a/manifests/{SHA}", method="PUT"))


@pytest.mark.parametrize("upstream", [HUB, "https://ghcr.io/"])
def test_texts_name_the_registry(upstream: str) -> None:
    registry = host_of(upstream)
    hub = Oci(Site("images", (upstream,)))
    texts = {client.client: render(client, "http://10.0.0.1:8080/images") for client in hub.clients}
    assert f'prefix = "{registry}"' in texts["podman"]
    assert 'location = "10.0.0.1:8080/images"' in texts["podman"]
    assert texts["podman"].rstrip().endswith("insecure = true")
    assert f"certs.d/{registry}/" in texts["containerd"]
    assert '[host."http://10.0.0.1:8080/v2/images"]' in texts["containerd"]
    assert "docker pull 10.0.0.1:8080/images/" in texts["docker"]
    assert ("registry-mirrors" in texts["docker"]) == (registry == "docker.io")
    assert "insecure-registries" in texts["docker"]
    for client in hub.clients:
        told = render(client, "https://a.example/images", closed=True)
        assert told.startswith(render(client, "https://a.example/images"))
        assert ("login a.example" in told) is (client.client != "containerd")
        assert "--scope read)" in told
    at_home = {client.client: render(client, "http://127.0.0.1:8080/images") for client in hub.clients}
    assert "insecure-registries" not in at_home["docker"]
    assert "insecure = true" in at_home["podman"]
