"""Faults in the codes of the specification."""

from __future__ import annotations

import json

import pytest

from artifactproxy import errors
from artifactproxy.errors import Fault
from artifactproxy.model import Digest
from artifactproxy.rules.oci.operations import Blob, Manifest, Referrers, Tags, Target, Upload
from artifactproxy.rules.oci.problems import code_of, document

SOME = Digest("sha256", "0" * 64)


def busy() -> Fault:
    fault = errors.UpstreamBusy("wait")
    fault.status = 429
    return fault


@pytest.mark.parametrize(
    ("fault", "about", "code"),
    [
        (errors.BadPath("x", code="name_invalid"), None, "NAME_INVALID"),
        (errors.BadPath("x", code="digest_invalid"), Blob("a", SOME), "DIGEST_INVALID"),
        (errors.BadPath("x"), None, "UNSUPPORTED"),
        (errors.UpstreamAbsent("x"), Manifest("a", "v1"), "MANIFEST_UNKNOWN"),
        (errors.UpstreamAbsent("x", status=410), Blob("a", SOME), "BLOB_UNKNOWN"),
        (errors.NotServed("x"), Upload("a", "s"), "BLOB_UPLOAD_UNKNOWN"),
        (errors.NotServed("x"), Referrers("a", SOME), "MANIFEST_UNKNOWN"),
        (errors.NotServed("x"), Tags("a"), "NAME_UNKNOWN"),
        (errors.NotServed("x"), None, "NAME_UNKNOWN"),
        (errors.MethodRefused("x"), None, "UNSUPPORTED"),
        (errors.Blocked("x"), Manifest("a", "v1"), "DENIED"),
        (errors.BodyTooLarge("x"), None, "SIZE_INVALID"),
        (errors.BadRange("x", size=1), Blob("a", SOME), "RANGE_INVALID"),
        (busy(), None, "TOOMANYREQUESTS"),
        (errors.UpstreamBusy("x"), None, "UNAVAILABLE"),
        (errors.UpstreamSlow("x"), None, "UNAVAILABLE"),
        (errors.StoreFull("x"), None, "UNAVAILABLE"),
        (Fault("x"), None, "UNKNOWN"),
    ],
)
def test_codes(fault: Fault, about: Target | None, code: str) -> None:
    assert code_of(fault, about) == code


def test_the_document() -> None:
    body = document("BLOB_UNKNOWN", "no <b>lob", {"digest": str(SOME)})
    assert b"<" not in body
    assert json.loads(body) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "no <b>lob", "detail": {"digest": str(SOME)}}]
    }
    assert "detail" not in json.loads(document("DENIED", "x"))["errors"][0]


def test_no_code_of_our_own() -> None:
    with pytest.raises(ValueError, match="specification"):
        document("HOLLOW", "x")
