"""Manifests, tags, and what is listed: C19, E01 and E13, referrers, deletion."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from artifactproxy.rules.oci.media import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from tests.hosted.rig import NAME, Rig, code, described, index_of, manifest_of, rig, sha256

EMPTY = b"{}"


async def test_by_tag_and_by_digest_byte_for_byte(reg: Rig) -> None:
    digest, manifest = await reg.imaged(b"layer one", b"layer two", tag="v1")
    spaced = manifest.replace(b"{", b"{ \n", 1)  # the same document in other bytes
    got = await reg.ask("PUT", f"{NAME}/manifests/odd", spaced, Content_Type=OCI_MANIFEST)
    assert got.headers["Docker-Content-Digest"] == sha256(spaced) != digest
    for reference, body in (("v1", manifest), (digest, manifest), ("odd", spaced), (sha256(spaced), spaced)):
        got = await reg.ask("GET", f"{NAME}/manifests/{reference}", token="")
        assert (got.status, got.body, got.headers["Content-Type"]) == (200, body, OCI_MANIFEST)
        assert got.headers["Docker-Content-Digest"] == sha256(body)
        head = await reg.ask("HEAD", f"{NAME}/manifests/{reference}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(body)))
    assert (await reg.ask("GET", f"{NAME}/manifests/v1")).headers["Cache-Control"] == "no-cache"
    assert (await reg.ask("GET", f"{NAME}/manifests/{digest}", Range="bytes=0-3")).body == manifest
    assert (await reg.ask("GET", f"{NAME}/manifests/v1", If_None_Match=f'"{digest}"')).status == 304


async def test_a_tag_moves_and_the_old_manifest_stays(reg: Rig) -> None:
    first, _ = await reg.imaged(b"one", tag="latest")
    second, manifest = await reg.imaged(b"two", tag="latest")
    assert (await reg.ask("GET", f"{NAME}/manifests/latest")).body == manifest
    assert (await reg.ask("GET", f"{NAME}/manifests/{first}")).status == 200
    assert first != second


async def test_c19_two_manifests_to_one_tag(reg: Rig) -> None:
    pushed = {}
    for number in range(6):
        config = json.dumps({"n": number}).encode()
        await reg.pushed(config)
        manifest = manifest_of(config, [])
        pushed[sha256(manifest)] = manifest
    target = f"{NAME}/manifests/race"
    told = await asyncio.gather(
        *(reg.ask("PUT", target, each, Content_Type=OCI_MANIFEST) for each in pushed.values())
    )
    assert [got.status for got in told] == [201] * 6
    got = await reg.ask("GET", target)
    assert pushed[got.headers["Docker-Content-Digest"]] == got.body
    for digest, manifest in pushed.items():
        assert (await reg.ask("GET", f"{NAME}/manifests/{digest}")).body == manifest


async def test_c19_a_tag_that_does_not_move(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", local=", immutable_tags: true") as reg:
        configs = [json.dumps({"n": number}).encode() for number in range(4)]
        for config in configs:
            await reg.pushed(config)
        manifests = [manifest_of(config, []) for config in configs]
        told = await asyncio.gather(
            *(reg.ask("PUT", f"{NAME}/manifests/v1", each, Content_Type=OCI_MANIFEST) for each in manifests)
        )
        assert sorted(got.status for got in told) == [201, 409, 409, 409]
        won = manifests[[got.status for got in told].index(201)]
        assert (await reg.ask("GET", f"{NAME}/manifests/v1")).body == won
        again = await reg.ask("PUT", f"{NAME}/manifests/v1", won, Content_Type=OCI_MANIFEST)
        assert again.status == 201
        await reg.quiet()
        assert len([row for row in await reg.rows() if "manifest:" in row]) == 1
        assert (await reg.ask("DELETE", f"{NAME}/manifests/v1")).status == 202
        loser = next(each for each in manifests if each != won)
        got = await reg.ask("PUT", f"{NAME}/manifests/v1", loser, Content_Type=OCI_MANIFEST)
        assert got.status == 201


async def test_everything_that_is_named_must_be_here(reg: Rig) -> None:
    config, layer = b'{"a": 1}', b"layer"
    manifest = manifest_of(config, [layer])
    for missing in (config, layer):
        got = await reg.ask("PUT", f"{NAME}/manifests/v1", manifest, Content_Type=OCI_MANIFEST)
        assert (got.status, code(got)) == (404, "MANIFEST_BLOB_UNKNOWN")
        assert sha256(missing) in json.loads(got.body or b"")["errors"][0]["message"]
        await reg.pushed(missing)
    index = index_of(manifest)
    got = await reg.ask("PUT", f"{NAME}/manifests/multi", index, Content_Type=OCI_INDEX)
    assert (got.status, code(got)) == (404, "MANIFEST_BLOB_UNKNOWN")
    got = await reg.ask("PUT", f"{NAME}/manifests/v1", manifest, Content_Type=OCI_MANIFEST)
    assert got.status == 201
    got = await reg.ask("PUT", f"{NAME}/manifests/multi", index, Content_Type=OCI_INDEX)
    assert got.status == 201
    # What is only elsewhere in this repository is not here.
    got = await reg.ask("PUT", "/v2/images/other/manifests/v1", manifest, Content_Type=OCI_MANIFEST)
    assert got.status == 404
    await reg.quiet()
    assert not [row for row in await reg.rows() if "part:" in row]


async def test_a_layer_that_may_not_be_distributed(reg: Rig) -> None:
    config = b"{}"
    await reg.pushed(config)
    far = described(
        b"far", "application/vnd.oci.image.layer.nondistributable.v1.tar", urls=["https://a.example/"]
    )
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(config, OCI_CONFIG),
            "layers": [far],
        }
    ).encode()
    got = await reg.ask("PUT", f"{NAME}/manifests/far", manifest, Content_Type=OCI_MANIFEST)
    assert got.status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion": 2, "a": NaN}',
        b'{"schemaVersion": 2, "mediaType": 7}',
        b'{"schemaVersion": 2, "config": {"digest": "sha256:12"}, "layers": []}',
        b'{"schemaVersion": 2, "config": [], "layers": []}',
        b'{"schemaVersion": 2, "layers": "x", "config": {}}',
        b'{"schemaVersion": 2, "schemaVersion": 2}',
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode(),
    ],
)
async def test_corpus_c22_what_is_no_manifest(reg: Rig, body: bytes) -> None:
    got = await reg.ask("PUT", f"{NAME}/manifests/v1", body, Content_Type=OCI_MANIFEST)
    assert (got.status, code(got)) == (400, "MANIFEST_INVALID")
    assert await reg.rows() == []


async def test_e13_larger_than_manifests_are(reg: Rig) -> None:
    got = await reg.ask("PUT", f"{NAME}/manifests/v1", b" " * (4 * 2**20 + 1), Content_Type=OCI_MANIFEST)
    assert (got.status, code(got)) == (413, "SIZE_INVALID")

    async def unannounced():  # type: ignore[no-untyped-def]
        for _ in range(5):
            yield b" " * 2**20

    got = await reg.ask("PUT", f"{NAME}/manifests/v1", unannounced(), Content_Type=OCI_MANIFEST)
    assert got.status == 413


async def test_a_manifest_under_another_digest(reg: Rig) -> None:
    _, manifest = await reg.imaged(b"layer")
    got = await reg.ask("PUT", f"{NAME}/manifests/{sha256(b'x')}", manifest, Content_Type=OCI_MANIFEST)
    assert (got.status, code(got)) == (400, "DIGEST_INVALID")


async def test_deleted_by_tag_and_by_digest(reg: Rig) -> None:
    digest, manifest = await reg.imaged(b"layer", tag="a")
    for tag in ("b", "c"):
        await reg.ask("PUT", f"{NAME}/manifests/{tag}", manifest, Content_Type=OCI_MANIFEST)
    kept, _ = await reg.imaged(b"other", tag="d")
    assert (await reg.ask("DELETE", f"{NAME}/manifests/a")).status == 202
    assert (await reg.ask("GET", f"{NAME}/manifests/{digest}")).status == 200
    assert (await reg.ask("DELETE", f"{NAME}/manifests/{digest}")).status == 202
    for reference in ("a", "b", "c", digest):
        got = await reg.ask("GET", f"{NAME}/manifests/{reference}")
        assert (got.status, code(got)) == (404, "MANIFEST_UNKNOWN")
        assert (await reg.ask("DELETE", f"{NAME}/manifests/{reference}")).status == 404
    assert json.loads((await reg.ask("GET", f"{NAME}/tags/list")).body or b"")["tags"] == ["d"]
    assert (await reg.ask("GET", f"{NAME}/manifests/{kept}")).status == 200


async def test_g07_deletes_can_be_off(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", local=", deletes: false") as reg:
        digest, manifest = await reg.imaged(b"layer", tag="v1")
        pusher = await reg.given("push:images")
        for path in ("manifests/v1", f"manifests/{digest}", f"blobs/{sha256(b'layer')}", "manifests/none"):
            got = await reg.ask("DELETE", f"{NAME}/{path}")
            assert (got.status, code(got), "DELETE" in got.headers["Allow"]) == (405, "UNSUPPORTED", False)
            assert (await reg.ask("DELETE", f"{NAME}/{path}", token=pusher)).status == 403
        assert (await reg.ask("DELETE", await reg.begun())).status == 204, "an upload is no content yet"
        assert (await reg.ask("GET", f"{NAME}/manifests/v1")).body == manifest


async def test_c21_an_image_with_one_part_that_is_missing_or_bad(reg: Rig) -> None:
    digest, manifest = await reg.imaged(b"layer", tag="v1")
    rows = await reg.rows()
    layers, config = [b"one", b"two", b"three"], b"{}"
    for each in (config, *layers[:2]):
        await reg.pushed(each)
    bad = await reg.ask("PUT", f"{NAME}/blobs/{sha256(layers[2])}", b"other bytes")
    assert (bad.status, code(bad)) == (400, "DIGEST_INVALID")
    image = manifest_of(config, layers)
    absent = manifest_of(b"absent", [])
    for reference, body, kind, missing in (
        ("v1", image, OCI_MANIFEST, sha256(layers[2])),
        (sha256(image), image, OCI_MANIFEST, sha256(layers[2])),
        ("v1", index_of(manifest, absent), OCI_INDEX, sha256(absent)),
    ):
        got = await reg.ask("PUT", f"{NAME}/manifests/{reference}", body, Content_Type=kind)
        assert (got.status, code(got)) == (404, "MANIFEST_BLOB_UNKNOWN")
        assert missing in (got.body or b"").decode()
        assert (await reg.ask("GET", f"{NAME}/manifests/{sha256(body)}")).status == 404
        assert (await reg.ask("GET", f"{NAME}/manifests/v1")).headers["Docker-Content-Digest"] == digest
    await reg.quiet()
    added = {f"team/app blob:{sha256(each)}" for each in (config, *layers[:2])}
    assert set(await reg.rows()) == {*rows, *added}
    await reg.pushed(layers[2])
    got = await reg.ask("PUT", f"{NAME}/manifests/v1", image, Content_Type=OCI_MANIFEST)
    assert got.status == 201


async def test_tags_in_pages(reg: Rig) -> None:
    _, manifest = await reg.imaged(b"layer")
    tags = sorted(["1", "10", "2", "A", "Z", "_x", "a", "latest", "v1.0", "v1.0-rc1"])
    for tag in tags:
        await reg.ask("PUT", f"{NAME}/manifests/{tag}", manifest, Content_Type=OCI_MANIFEST)
    got = await reg.ask("GET", f"{NAME}/tags/list")
    assert json.loads(got.body or b"") == {"name": "team/app", "tags": tags}
    assert "Link" not in got.headers
    seen, where = [], f"{reg.base}{NAME}/tags/list?n=3"
    while where:
        got = await reg.ask("GET", where)
        page = json.loads(got.body or b"")["tags"]
        assert len(page) <= 3
        seen += page
        link = re.fullmatch(r'<(.+)>; rel="next"', got.headers.get("Link", ""))
        where = link[1] if link else ""
    assert seen == tags
    assert json.loads((await reg.ask("GET", f"{NAME}/tags/list?last=a")).body or b"")["tags"] == [
        tag for tag in tags if tag > "a"
    ]
    assert json.loads((await reg.ask("GET", f"{NAME}/tags/list?n=0")).body or b"")["tags"] == []
    got = await reg.ask("GET", "/v2/images/nobody/tags/list")
    assert (got.status, code(got)) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("n", ["-1", "abc", "1e3", "%D9%A1"])
async def test_e01_no_number_of_entries(reg: Rig, n: str) -> None:
    for path in (f"{NAME}/tags/list", "/v2/images/_catalog"):
        got = await reg.ask("GET", f"{path}?n={n}")
        assert (got.status, code(got)) == (400, "PAGINATION_NUMBER_INVALID")


async def test_e01_a_large_number_is_cut(reg: Rig) -> None:
    await reg.imaged(b"layer", tag="v1")
    got = await reg.ask("GET", f"{NAME}/tags/list?n=1000000000000")
    assert (got.status, json.loads(got.body or b"")["tags"]) == (200, ["v1"])


async def test_the_catalog_in_pages(reg: Rig) -> None:
    names = sorted(["a", "a-b", "a/b", "a_b", "b/c/d"])
    for name in names:
        await reg.imaged(b"layer", name=f"/v2/images/{name}")
    await reg.pushed(b"only a blob", "/v2/images/zzz")
    got = await reg.ask("GET", "/v2/images/_catalog?n=2")
    assert json.loads(got.body or b"")["repositories"] == names[:2]
    link = re.fullmatch(r'<(.+)>; rel="next"', got.headers["Link"])
    assert link
    got = await reg.ask("GET", link[1])
    assert json.loads(got.body or b"")["repositories"] == names[2:4]
    got = await reg.ask("GET", "/images/v2/_catalog")
    assert json.loads(got.body or b"")["repositories"] == names
    seen, where = [], f"{reg.base}/v2/_catalog?n=2"
    while where:
        got = await reg.ask("GET", where)
        seen += json.loads(got.body or b"")["repositories"]
        link = re.fullmatch(r'<(.+)>; rel="next"', got.headers.get("Link", ""))
        where = link[1] if link else ""
    assert seen == [f"images/{name}" for name in names]


async def attested(reg: Rig, subject: bytes, kind: str, **annotations: str) -> bytes:
    """An artifact about a manifest, which need not exist."""
    await reg.pushed(EMPTY)
    artifact = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": described(EMPTY, OCI_EMPTY),
            "layers": [described(EMPTY, OCI_EMPTY)],
            "subject": described(subject, OCI_MANIFEST),
            "annotations": annotations,
        }
    ).encode()
    got = await reg.ask("PUT", f"{NAME}/manifests/{sha256(artifact)}", artifact, Content_Type=OCI_MANIFEST)
    assert (got.status, got.headers["OCI-Subject"]) == (201, sha256(subject))
    return artifact


async def listed(reg: Rig, subject: bytes, query: str = "") -> list[dict[str, object]]:
    got = await reg.ask("GET", f"{NAME}/referrers/{sha256(subject)}{query}")
    assert (got.status, got.headers["Content-Type"]) == (200, OCI_INDEX)
    return list(json.loads(got.body or b"")["manifests"])


async def test_referrers(reg: Rig) -> None:
    subject = manifest_of(b"not pushed yet", [])
    assert await listed(reg, subject) == []
    signature = await attested(reg, subject, "application/vnd.example.signature", by="me")
    bom = await attested(reg, subject, "application/vnd.example.sbom")
    found = await listed(reg, subject)
    assert {each["digest"] for each in found} == {sha256(signature), sha256(bom)}
    (only,) = await listed(reg, subject, "?artifactType=application/vnd.example.signature")
    assert only == described(
        signature, OCI_MANIFEST, artifactType="application/vnd.example.signature", annotations={"by": "me"}
    )
    got = await reg.ask("GET", f"{NAME}/referrers/{sha256(subject)}?artifactType=a%2Fb")
    assert (got.headers["OCI-Filters-Applied"], json.loads(got.body or b"")["manifests"]) == (
        "artifactType",
        [],
    )
    assert (await reg.ask("DELETE", f"{NAME}/manifests/{sha256(signature)}")).status == 202
    assert [each["digest"] for each in await listed(reg, subject)] == [sha256(bom)]
    got = await reg.ask("GET", f"{NAME}/referrers/sha256:12")
    assert (got.status, code(got)) == (400, "DIGEST_INVALID")


async def test_referrers_in_pages(reg: Rig) -> None:
    subject = manifest_of(b"subject", [])
    artifacts = [await attested(reg, subject, f"application/vnd.example.k{n}") for n in range(5)]
    seen: list[object] = []
    where = f"{reg.base}{NAME}/referrers/{sha256(subject)}?n=2"
    while where:
        got = await reg.ask("GET", where)
        seen += [each["digest"] for each in json.loads(got.body or b"")["manifests"]]
        link = re.fullmatch(r'<(.+)>; rel="next"', got.headers.get("Link", ""))
        where = link[1] if link else ""
    assert seen == sorted(sha256(artifact) for artifact in artifacts)


async def test_referrers_under_the_fallback_tag(reg: Rig) -> None:
    """What clients of registries without the list have kept there."""
    _, manifest = await reg.imaged(b"layer")
    about = await attested(reg, manifest_of(b"other subject", []), "application/vnd.example.sbom")
    tag = sha256(manifest).replace(":", "-")
    got = await reg.ask("PUT", f"{NAME}/manifests/{tag}", index_of(about), Content_Type=OCI_INDEX)
    assert got.status == 201
    assert [each["digest"] for each in await listed(reg, manifest)] == [sha256(about)]
    signature = await attested(reg, manifest, "application/vnd.example.signature")
    assert {each["digest"] for each in await listed(reg, manifest)} == {sha256(about), sha256(signature)}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v2/images/UPPER/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/images/a..b/tags/list", 400, "NAME_INVALID"),
        ("PUT", "/v2/images/app/manifests/-bad", 400, "TAG_INVALID"),
        ("GET", "/v2/images/app/manifests/sha256:12", 400, "DIGEST_INVALID"),
        ("GET", "/v2/images/app/blobs/latest", 400, "DIGEST_INVALID"),
        ("POST", "/v2/images/app/manifests/v1", 405, "UNSUPPORTED"),
        ("PATCH", "/v2/images/app/blobs/uploads/", 405, "UNSUPPORTED"),
        ("PATCH", "/v2/images/app/blobs/uploads/00", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", "/images/something/else", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/images/app", 404, "NAME_UNKNOWN"),
    ],
)
async def test_malformed_requests_are_told_why(
    reg: Rig, method: str, path: str, status: int, error: str
) -> None:
    got = await reg.ask(method, path, b"x" if method != "GET" else None)
    assert (got.status, code(got)) == (status, error)
    assert await reg.rows() == []
