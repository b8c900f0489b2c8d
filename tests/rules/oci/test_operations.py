"""Addresses behind `/v2/` and the operations that they are, with laws over arbitrary ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import BadPath, Fault, MethodRefused, NotServed
from artifactproxy.model import Digest
from artifactproxy.rules.oci.names import is_name, is_tag
from artifactproxy.rules.oci.operations import (
    METHODS,
    Blob,
    Catalog,
    Manifest,
    Operation,
    Page,
    Ping,
    Referrers,
    Tags,
    Target,
    Upload,
    Uploads,
    operation_of,
)

HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"
DIGEST = Digest("sha256", HEX)
LONG = Digest("sha512", HEX + HEX)

READ: list[tuple[str, str, str, Target]] = [
    ("GET", "", "", Ping()),
    ("HEAD", "", "", Ping()),
    ("GET", "_catalog", "", Catalog()),
    ("GET", "_catalog", "n=10&last=a/b", Catalog(Page(10, "a/b"))),
    ("GET", "alpine/tags/list", "", Tags("alpine")),
    ("GET", "library/alpine/tags/list", "n=0", Tags("library/alpine", Page(0))),
    ("GET", "a/tags/list", "n=1000000000000", Tags("a", Page(1000))),
    ("GET", "a/tags/list", "last=v1%2E0", Tags("a", Page(None, "v1.0"))),
    ("GET", "a/manifests/latest", "", Manifest("a", tag="latest")),
    ("HEAD", "a/manifests/latest", "ns=docker.io", Manifest("a", tag="latest")),
    ("PUT", "a/manifests/v1", "", Manifest("a", tag="v1")),
    ("DELETE", f"a/manifests/{SHA}", "", Manifest("a", digest=DIGEST)),
    ("GET", f"a/manifests/sha256%3A{HEX}", "", Manifest("a", digest=DIGEST)),
    ("GET", f"a/manifests/sha256-{HEX}", "", Manifest("a", tag=f"sha256-{HEX}")),
    ("GET", f"a/manifests/{LONG}", "", Manifest("a", digest=LONG)),
    ("GET", f"a/blobs/{SHA}", "", Blob("a", DIGEST)),
    ("HEAD", f"a/blobs/{SHA}", "", Blob("a", DIGEST)),
    ("PUT", f"a/blobs/{SHA}", "", Blob("a", DIGEST)),
    ("DELETE", f"a/blobs/{SHA}", "", Blob("a", DIGEST)),
    ("GET", f"a/referrers/{SHA}", "", Referrers("a", DIGEST)),
    (
        "GET",
        f"a/referrers/{SHA}",
        "artifactType=application/vnd.x%2Bjson",
        Referrers("a", DIGEST, "application/vnd.x+json"),
    ),
    (
        "GET",
        f"a/referrers/{SHA}",
        "artifactType=application/vnd.x+json",
        Referrers("a", DIGEST, "application/vnd.x+json"),
    ),
    ("POST", "a/blobs/uploads/", "", Uploads("a")),
    ("POST", "a/blobs/uploads", "", Uploads("a")),
    ("POST", "a/b/blobs/uploads/", f"digest={SHA}", Uploads("a/b", digest=DIGEST)),
    ("POST", "a/blobs/uploads/", f"mount={SHA}&from=b/c", Uploads("a", mount=DIGEST, origin="b/c")),
    ("POST", "a/blobs/uploads/", f"mount={SHA}", Uploads("a", mount=DIGEST)),
    ("POST", "a/blobs/uploads/", "from=b", Uploads("a")),
    ("GET", "a/blobs/uploads/s-1", "", Upload("a", "s-1")),
    ("PATCH", "a/blobs/uploads/s-1", "", Upload("a", "s-1")),
    ("PUT", "a/blobs/uploads/s-1", f"digest={SHA}", Upload("a", "s-1", DIGEST)),
    ("DELETE", "a/blobs/uploads/s-1", "", Upload("a", "s-1")),
    # Names made of the protocol's words are read from the end.
    ("GET", "a/blobs/uploads/manifests/v1", "", Manifest("a/blobs/uploads", tag="v1")),
    ("GET", "a/manifests/blobs/tags/list", "", Tags("a/manifests/blobs")),
    ("GET", f"a/tags/list/blobs/{SHA}", "", Blob("a/tags/list", DIGEST)),
    ("GET", "tags/list/manifests/v1", "", Manifest("tags/list", tag="v1")),
    ("GET", "a/manifests/list", "", Manifest("a", tag="list")),
    ("GET", "a/tags/manifests/list", "", Manifest("a/tags", tag="list")),
]

REFUSED: list[tuple[str, str, str, type[Fault], str]] = [
    ("GET", "a", "", NotServed, "not_served"),
    ("GET", "a/b", "", NotServed, "not_served"),
    ("GET", "a/manifests", "", NotServed, "not_served"),
    ("GET", "a/manifests/", "", NotServed, "not_served"),
    ("GET", "a/tags", "", NotServed, "not_served"),
    ("GET", "a/tags/list/", "", NotServed, "not_served"),
    ("GET", "manifests/v1", "", NotServed, "not_served"),
    ("GET", "_catalog/", "", NotServed, "not_served"),
    ("GET", "tags/list", "", BadPath, "name_invalid"),
    ("GET", "A/manifests/v1", "", BadPath, "name_invalid"),
    ("GET", "a%2Fb/manifests/v1", "", BadPath, "bad_path"),
    ("GET", "@a%2Fb/manifests/v1", "", BadPath, "name_invalid"),
    ("GET", "../manifests/v1", "", BadPath, "bad_path"),
    ("GET", "a//manifests/v1", "", BadPath, "bad_path"),
    ("GET", f"{'a' * 256}/manifests/v1", "", BadPath, "name_invalid"),
    ("GET", "a/manifests/.INVALID", "", NotServed, "manifest_unknown"),
    ("HEAD", f"a/manifests/{'t' * 129}", "", NotServed, "manifest_unknown"),
    ("PUT", "a/manifests/.INVALID", "", BadPath, "tag_invalid"),
    ("GET", "a/manifests/sha256:abc", "", BadPath, "digest_invalid"),
    ("GET", f"a/manifests/md5:{HEX[:32]}", "", BadPath, "digest_invalid"),
    ("GET", "a/blobs/latest", "", BadPath, "digest_invalid"),
    ("GET", f"a/blobs/sha256:{HEX.upper()}", "", BadPath, "digest_invalid"),
    ("GET", "a/referrers/latest", "", BadPath, "digest_invalid"),
    ("POST", "a/blobs/uploads/", "digest=sha256:x", BadPath, "digest_invalid"),
    ("POST", "a/blobs/uploads/", "mount=x&from=b", BadPath, "digest_invalid"),
    ("POST", "a/blobs/uploads/", f"mount={SHA}&from=B", BadPath, "name_invalid"),
    ("PUT", "a/blobs/uploads/s", "digest=", BadPath, "digest_invalid"),
    ("PUT", "a/blobs/uploads/s.1", "", NotServed, "blob_upload_unknown"),
    ("GET", "a/tags/list", "n=-1", BadPath, "pagination_number_invalid"),
    ("GET", "a/tags/list", "n=abc", BadPath, "pagination_number_invalid"),
    ("GET", "a/tags/list", "n=%D9%A3", BadPath, "pagination_number_invalid"),
    ("GET", "a/tags/list", "n=", BadPath, "pagination_number_invalid"),
    ("GET", "a/tags/list", "n=1&n=2", BadPath, "bad_path"),
    ("POST", "a/blobs/uploads/", f"digest={SHA}&digest={SHA}", BadPath, "bad_path"),
    ("POST", "", "", MethodRefused, "method_not_allowed"),
    ("POST", "a/manifests/v1", "", MethodRefused, "method_not_allowed"),
    ("GET", "a/blobs/uploads/", "", MethodRefused, "method_not_allowed"),
    ("DELETE", "a/tags/list", "", MethodRefused, "method_not_allowed"),
    ("OPTIONS", "a/manifests/v1", "", MethodRefused, "method_not_allowed"),
]


@pytest.mark.parametrize(("method", "path", "query", "target"), READ)
def test_read(method: str, path: str, query: str, target: Target) -> None:
    assert operation_of(method, path, query).target == target


@pytest.mark.parametrize(("method", "path", "query", "kind", "code"), REFUSED)
def test_refused(method: str, path: str, query: str, kind: type[Fault], code: str) -> None:
    with pytest.raises(kind) as refused:
        operation_of(method, path, query)
    assert refused.value.code == code


def test_a_refused_method_names_those_that_are_taken() -> None:
    with pytest.raises(MethodRefused) as refused:
        operation_of("POST", "a/manifests/v1")
    assert refused.value.allow == "GET, HEAD, PUT, DELETE"


def test_what_takes_the_right_to_push() -> None:
    assert not operation_of("GET", "a/manifests/v1").writes
    assert not operation_of("HEAD", f"a/blobs/{SHA}").writes
    assert operation_of("PUT", "a/manifests/v1").writes
    assert operation_of("DELETE", f"a/blobs/{SHA}").writes
    assert operation_of("POST", "a/blobs/uploads/").writes
    assert operation_of("GET", "a/blobs/uploads/s").writes


def test_whose_content_is_touched() -> None:
    mount = operation_of("POST", "a/blobs/uploads/", f"mount={SHA}&from=b&ns=docker.io")
    assert (mount.name, mount.reads_also, mount.ns) == ("a", "b", "docker.io")
    assert operation_of("GET", "").name == ""
    assert operation_of("GET", "_catalog").name == ""
    assert operation_of("GET", "a/manifests/v1").reads_also == ""


# --- laws -----------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        "a",
        "b.c",
        "manifests",
        "blobs",
        "uploads",
        "tags",
        "list",
        "referrers",
        "latest",
        SHA,
        "_catalog",
        "A",
        "",
    ]
)
_PATHS = st.lists(_WORDS, max_size=7).map("/".join) | st.text(max_size=40)


@given(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]), _PATHS, st.text(max_size=20))
def test_whatever_is_read_has_names_within_the_grammar(method: str, path: str, query: str) -> None:
    try:
        operation = operation_of(method, path, query)
    except (BadPath, NotServed, MethodRefused):
        return
    assert method in METHODS[type(operation.target)]
    assert operation.name == "" or is_name(operation.name)
    if isinstance(operation.target, Manifest):
        assert (operation.target.digest is None) == is_tag(operation.target.tag)


@given(_PATHS)
def test_methods_agree_on_what_an_address_names(path: str) -> None:
    def seen(method: str) -> Target | None:
        try:
            return operation_of(method, path).target
        except (BadPath, NotServed, MethodRefused):
            return None

    found = [target for target in map(seen, ["GET", "HEAD", "PUT", "DELETE", "POST"]) if target is not None]
    assert len(set(found)) <= 1


def test_an_operation_is_a_value() -> None:
    assert operation_of("GET", "a/manifests/v1") == Operation("GET", Manifest("a", tag="v1"))
