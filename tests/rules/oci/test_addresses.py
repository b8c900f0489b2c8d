"""Whose an address of a registry's API is: by its own path, by the registry that is asked for, by default."""

from __future__ import annotations

import pytest

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.rules.addresses import Address, address_of
from artifactproxy.rules.oci.addresses import Registries, named, registry_of

HERE = Registries(
    frozenset({"hub", "mirror", "images"}), {"docker.io": "hub", "quay.io": "mirror"}, default="hub"
)
ROOT = "https://proxy.example"

READ = {
    "/v2/hub/library/alpine/manifests/latest": ("hub", "library/alpine/manifests/latest", "/v2/hub"),
    "/v2/hub/": ("hub", "", "/v2/hub"),
    "/v2/hub": ("hub", "", "/v2/hub"),
    "/hub/v2/library/alpine/tags/list": ("hub", "library/alpine/tags/list", "/hub/v2"),
    "/hub/v2/": ("hub", "", "/hub/v2"),
    "/repository/hub/v2/a/tags/list": ("hub", "a/tags/list", "/repository/hub/v2"),
    "/artifactory/api/docker/hub/v2/a/tags/list": ("hub", "a/tags/list", "/artifactory/api/docker/hub/v2"),
    # who names none means the default
    "/v2/library/alpine/manifests/latest": ("hub", "library/alpine/manifests/latest", "/v2"),
    # by the registry that is asked for
    "/v2/a/manifests/v1?ns=quay.io": ("mirror", "a/manifests/v1", "/v2"),
    "/v2/a/manifests/v1?ns=docker.io": ("hub", "a/manifests/v1", "/v2"),
    "/v2/a/manifests/v1?ns=registry-1.docker.io": ("hub", "a/manifests/v1", "/v2"),
    "/v2/a/manifests/v1?n=1&ns=QUAY.io": ("mirror", "a/manifests/v1", "/v2"),
    # which is told along also where the path says whose it is
    "/v2/hub/a/manifests/v1?ns=docker.io": ("hub", "a/manifests/v1", "/v2/hub"),
    "/v2/mirror/a/manifests/v1?ns=docker.io": ("mirror", "a/manifests/v1", "/v2/mirror"),
    "/v2/hub/a/manifests/v1?ns=other.example": ("hub", "a/manifests/v1", "/v2/hub"),
    # a repository that stands for no registry takes no image's name away from the one that is asked for
    "/v2/images/a/manifests/v1?ns=quay.io": ("mirror", "images/a/manifests/v1", "/v2"),
    "/v2/images/a/manifests/v1": ("images", "a/manifests/v1", "/v2/images"),
    # a name may begin with v2
    "/v2/hub/v2/a/manifests/v1": ("hub", "v2/a/manifests/v1", "/v2/hub"),
    "/hub/v2/v2/a/manifests/v1": ("hub", "v2/a/manifests/v1", "/hub/v2"),
}


@pytest.mark.parametrize("raw", READ)
def test_read(raw: str) -> None:
    address = HERE.behind(address_of(raw))
    assert (address.repo, address.path, address.api) == READ[raw]
    assert address.base(ROOT) == ROOT + READ[raw][2]


@pytest.mark.parametrize(
    "raw", ["/hub", "/hub/", "/hub/v2", "/hub/library/alpine/manifests/v1", "/hub/v20/a"]
)
def test_a_repository_of_images_has_nothing_but_its_api(raw: str) -> None:
    with pytest.raises(NotServed):
        HERE.behind(address_of(raw))


@pytest.mark.parametrize("raw", ["/v2/a/manifests/v1?ns=other.example", "/v2/other/a/tags/list?ns=ghcr.io"])
def test_a_registry_that_is_not_here(raw: str) -> None:
    with pytest.raises(NotServed) as refused:
        HERE.behind(address_of(raw))
    assert refused.value.code == "name_unknown"


@pytest.mark.parametrize("raw", ["/v2/%68ub/a/tags/list", "/v2/%61/tags/list", "/v2/hub%2fa/b/tags/list"])
def test_whose_it_is_stands_there_without_escapes(raw: str) -> None:
    """Else a private name in another spelling would be asked for at the default registry."""
    with pytest.raises(BadPath):
        HERE.behind(address_of(raw))


def test_without_a_default_a_name_needs_its_repository() -> None:
    here = Registries(frozenset({"hub"}), {"docker.io": "hub"})
    with pytest.raises(NotServed):
        here.behind(address_of("/v2/library/alpine/manifests/latest"))
    assert here.behind(address_of("/v2/hub/a/tags/list")).repo == "hub"


@pytest.mark.parametrize("raw", ["/v2/", "/v2", "/pypi/simple/", "/pypi/v2/x", "/"])
def test_other_addresses_stay_as_they_are(raw: str) -> None:
    address = address_of(raw)
    assert HERE.behind(address) is address
    assert Address("pypi", "a", "").base(ROOT) == f"{ROOT}/pypi"


def test_registries_have_one_name() -> None:
    assert registry_of("ns=index.docker.io") == "docker.io"
    assert registry_of("x=ns=y") == ""
    assert registry_of("") == ""
    assert named("Quay.IO") == "quay.io"
