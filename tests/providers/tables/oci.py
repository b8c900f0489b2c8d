"""Addresses behind `/v2/`, as clients of registries and strangers ask for them."""

from __future__ import annotations

from artifactproxy.errors import BadPath, Blocked, MethodRefused, NotServed
from artifactproxy.model import ArtifactKey, Digest, Promise, Route
from artifactproxy.providers._base import Site
from artifactproxy.rules.oci import media
from tests.providers.cases import ARTIFACT, INDEX, Sample, case

SITE = Site(
    "images",
    ("https://registry.example/", "http://127.0.0.1:5000/base/"),
    deny_tags=("*-rc*", "forbidden"),
)
BASE = "https://registry.example/v2/"
HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX}{HEX}"
VERSION = ("Docker-Distribution-Api-Version", "registry/2.0")
FILTERED = ("OCI-Filters-Applied", "artifactType")
CONTAINERD = f"{media.DOCKER_MANIFEST}, {media.DOCKER_LIST}, {media.OCI_MANIFEST}, {media.OCI_INDEX}, */*"


def promise(path: str, algorithm: str, value: str) -> Promise:
    return Promise(ArtifactKey("images", path), (Digest(algorithm, value),))


CASES = [
    case("the API", "", 200, body=b"{}\n", media_type="application/json", headers=(VERSION,)),
    # manifests
    case(
        "a manifest by digest",
        f"team/app/manifests/{SHA}",
        ARTIFACT,
        f"{BASE}team/app/manifests/{SHA}",
        promise=promise(f"team/app/manifests/{SHA}", "sha256", HEX),
        typed=True,
        digest_header="Docker-Content-Digest",
        answers=(VERSION,),
        pointer="",
        teaches=False,
        rendered=False,
        expects_html=False,
        max_bytes=4 * 2**20,
        negative_ttl=30.0,
        sources=(
            f"{BASE}team/app/manifests/{SHA}",
            f"http://127.0.0.1:5000/base/v2/team/app/manifests/{SHA}",
        ),
        purl=f"pkg:oci/app@sha256:{HEX}?repository_url=registry.example/team/app",
    ),
    case(
        "its escaped spelling",
        f"team/app/manifests/sha256%3A{HEX}",
        ARTIFACT,
        key_path=f"team/app/manifests/{SHA}",
    ),
    case(
        "by sha512",
        f"app/manifests/{SHA512}",
        ARTIFACT,
        promise=promise(f"app/manifests/{SHA512}", "sha512", HEX + HEX),
    ),
    case(
        "a tag",
        "team/app/manifests/v1.0",
        INDEX,
        f"{BASE}team/app/manifests/v1.0",
        ttl=120.0,
        pointer="docker-content-digest",
        typed=True,
        teaches=True,
        rendered=False,
        expects_html=False,
        key_variant="",
        purl="pkg:oci/app?repository_url=registry.example/team/app",
    ),
    case("a tag of a single name", "app/manifests/latest", INDEX, f"{BASE}app/manifests/latest"),
    case("a tag that looks like a digest moves", f"app/manifests/sha256-{HEX}", INDEX, ttl=120.0),
    case("and so does a signature's", f"app/manifests/sha256-{HEX}.sig", INDEX, ttl=120.0),
    case("for containerd", "app/manifests/v1", INDEX, headers={"accept": CONTAINERD}, key_variant=""),
    case(
        "for a client that knows no index",
        "app/manifests/v1",
        INDEX,
        headers={"accept": media.DOCKER_MANIFEST},
        key_variant=media.SINGLE,
    ),
    case("a tag that is not given out", "app/manifests/forbidden", Blocked),
    case("nor such ones", "app/manifests/2.0-rc1", Blocked),
    case("tags are sensitive to case", "app/manifests/FORBIDDEN", INDEX),
    case("a name is no tag", "forbidden/manifests/v1", INDEX),
    case("no such tag can be", "app/manifests/.v1", NotServed),
    case("a short digest", "app/manifests/sha256:abc", BadPath),
    case("an unknown algorithm", f"app/manifests/md5:{HEX[:32]}", BadPath),
    # blobs
    case(
        "a blob",
        f"team/app/blobs/{SHA}",
        ARTIFACT,
        f"{BASE}team/app/blobs/{SHA}",
        promise=promise(f"team/app/blobs/{SHA}", "sha256", HEX),
        media_type="application/octet-stream",
        typed=False,
        digest_header="Docker-Content-Digest",
        purl="pkg:oci/app?repository_url=registry.example/team/app",
        max_bytes=None,
    ),
    case(
        "of another name it is another", f"other/app/blobs/{SHA}", ARTIFACT, key_path=f"other/app/blobs/{SHA}"
    ),
    case("a blob has no tag", "app/blobs/latest", BadPath),
    # lists
    case(
        "tags",
        "team/app/tags/list",
        INDEX,
        f"{BASE}team/app/tags/list",
        ttl=60.0,
        media_type="application/json",
        paged=True,
        teaches=True,
        rendered=False,
        key_path="team/app/tags/list",
        purl="pkg:oci/app?repository_url=registry.example/team/app",
    ),
    case(
        "a page of them, in one spelling",
        "app/tags/list",
        INDEX,
        f"{BASE}app/tags/list?n=50&last=v1.0&x=y",
        query="last=v1%2E0&x=y&ns=docker.io&n=50",
        key_path="app/tags/list?n=50&last=v1.0&x=y",
    ),
    case("no such page", "app/tags/list", BadPath, query="n=many"),
    case("nor one of such a name", "app/tags/list", BadPath, query=f"last={'v' * 1100}"),
    case(
        "referrers",
        f"app/referrers/{SHA}",
        INDEX,
        f"{BASE}app/referrers/{SHA}",
        media_type=media.OCI_INDEX,
        rendered=False,
        answers=(VERSION,),
        paged=True,
    ),
    case(
        "referrers of one type",
        f"app/referrers/{SHA}",
        INDEX,
        f"{BASE}app/referrers/{SHA}",
        query="artifactType=text/sbom%2Bx",
        rendered=True,
        answers=(VERSION, FILTERED),
        key_path=f"app/referrers/{SHA}?artifactType=text/sbom%2Bx",
    ),
    # what is not handed on
    case("the catalog", "_catalog", NotServed),
    case("an upload", "app/blobs/uploads/", MethodRefused),
    case("a session", "app/blobs/uploads/some-id", NotServed),
    case("nothing", "app", NotServed),
    case("a bad name", "App/manifests/v1", BadPath),
]

SAMPLES = [
    Sample(
        "referrers",
        f"app/referrers/{SHA}?artifactType=text/sbom",
        f"{BASE}app/referrers/{SHA}",
        "referrers.filtered",
    )
]


def links(route: Route, body: bytes, base: str) -> list[str]:
    """What is listed is named by digest; there are no addresses in it."""
    del route, body, base
    return []
