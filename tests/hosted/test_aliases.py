"""A registry by the addresses of other products: the same pushes, pulls and refusals."""

from __future__ import annotations

import pytest

from artifactproxy.rules.oci.media import OCI_MANIFEST
from tests.hosted.rig import NAME, Rig, code, manifest_of, sha256

ALIASES = [
    "/api/v1/local/images/v2",
    "/repository/images/v2",
    "/artifactory/images/v2",
    "/artifactory/api/docker/images/v2",
    "/artifactory/api/oci/images/v2",
]
OTHERS = [
    ("/api/v1/remote/images/v2", "the repository images is local, not remote"),
    ("/artifactory/api/npm/images/v2", "the repository images has oci packages, not these"),
    ("/api/v1/virtual/images/v2", "there are no virtual repositories here"),
]


@pytest.mark.parametrize("root", ALIASES)
async def test_an_image_is_pushed_and_pulled_by_an_alias(reg: Rig, root: str) -> None:
    layer, config = b"a layer", b'{"config": 1}'
    name = f"{root}/team/app"
    got = await reg.ask("POST", f"{name}/blobs/uploads/?digest={sha256(layer)}", layer)
    assert (got.status, got.headers["Location"]) == (201, f"{reg.base}{name}/blobs/{sha256(layer)}")
    where = await reg.begun(name)
    assert where.startswith(f"{reg.base}{name}/blobs/uploads/")
    assert (await reg.ask("PATCH", where, config)).status == 202
    assert (await reg.ask("PUT", f"{where}?digest={sha256(config)}")).status == 201
    manifest = manifest_of(config, [layer])
    got = await reg.ask("PUT", f"{name}/manifests/v1", manifest, Content_Type=OCI_MANIFEST)
    assert (got.status, got.headers["Location"]) == (201, f"{reg.base}{name}/manifests/v1")
    for base in (name, NAME, "/images/v2/team/app"):
        for method in ("GET", "HEAD"):
            got = await reg.ask(method, f"{base}/manifests/v1", token="")
            assert (got.status, got.headers["Docker-Content-Digest"]) == (200, sha256(manifest))
            assert got.body == (manifest if method == "GET" else b"")
    other = f"{root}/team/other"
    got = await reg.ask("POST", f"{other}/blobs/uploads/?mount={sha256(layer)}&from=team/app")
    assert (got.status, got.headers["Location"]) == (201, f"{reg.base}{other}/blobs/{sha256(layer)}")
    assert (await reg.ask("DELETE", f"{name}/manifests/v1")).status == 202
    assert (await reg.ask("GET", f"{NAME}/manifests/v1")).status == 404


@pytest.mark.parametrize(("root", "why"), OTHERS)
async def test_an_alias_that_says_something_else_of_the_repository(reg: Rig, root: str, why: str) -> None:
    body = b"a layer"
    for method, path in (
        ("POST", f"blobs/uploads/?digest={sha256(body)}"),
        ("PUT", f"blobs/{sha256(body)}"),
        ("GET", f"blobs/{sha256(body)}"),
        ("GET", "tags/list"),
    ):
        got = await reg.ask(method, f"{root}/team/app/{path}", None if method == "GET" else body)
        assert (got.status, why.encode() in (got.body or b"")) == (404, True), got.body
    assert (await reg.ask("GET", f"{root}/")).status == 404
    assert (await reg.rows(), reg.blobs()) == ([], set())


@pytest.mark.parametrize("root", ALIASES)
async def test_the_rule_is_that_of_the_operation(reg: Rig, root: str) -> None:
    name, body = f"{root}/team/app", b"x"
    pushing = (
        ("POST", f"{name}/blobs/uploads/?digest={sha256(body)}"),
        ("POST", f"{name}/blobs/uploads/?mount={sha256(body)}&from=team/other"),
        ("PUT", f"{name}/blobs/{sha256(body)}"),
        ("PUT", f"{name}/manifests/v1"),
    )
    deleting = (("DELETE", f"{name}/manifests/v1"), ("DELETE", f"{name}/blobs/{sha256(body)}"))
    elsewhere, reader = await reg.given("push:images/other/*"), await reg.given("read")
    for method, path in (*pushing, *deleting):
        got = await reg.ask(method, path, body, token="")
        assert (got.status, code(got)) == (401, "UNAUTHORIZED"), path
        for token in (elsewhere, reader):
            got = await reg.ask(method, path, body, token=token)
            assert (got.status, code(got)) == (403, "DENIED"), path
    pusher = await reg.given("push:images/team/*")
    for method, path in deleting:
        assert (await reg.ask(method, path, token=pusher)).status == 403
    assert (await reg.ask(*pushing[0], body, token=pusher)).status == 201
