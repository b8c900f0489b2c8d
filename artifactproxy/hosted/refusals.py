"""What a registry refuses, with the codes of the specification, and errors in its language.

OCI distribution specification 1.1, "Error Codes".
"""

from __future__ import annotations

import json

from artifactproxy.errors import (
    BadPath,
    Blocked,
    BodyTooLarge,
    BrokenPromise,
    Fault,
    MethodRefused,
    NotServed,
)
from artifactproxy.providers._base import Page

JSON_TYPE = "application/json"


class Refused(Fault):
    """`oci` is the specification's code, `status` its status; `headers` go out with it."""

    def __init__(
        self, oci: str, status: int, detail: str, *, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail, code=oci.lower())
        self.oci = oci
        self.status = status
        self.headers = headers


def no_manifest(reference: str) -> Refused:
    return Refused("MANIFEST_UNKNOWN", 404, f"there is no manifest {reference} here")


def no_blob(digest: str) -> Refused:
    return Refused("BLOB_UNKNOWN", 404, f"there is no blob {digest} here")


def no_name(name: str) -> Refused:
    return Refused("NAME_UNKNOWN", 404, f"there is nothing named {name} here")


def no_upload() -> Refused:
    return Refused("BLOB_UPLOAD_UNKNOWN", 404, "there is no such upload; begin a new one")


def bad_digest(detail: str) -> Refused:
    return Refused("DIGEST_INVALID", 400, detail)


def bad_manifest(detail: str) -> Refused:
    return Refused("MANIFEST_INVALID", 400, detail)


def bad_upload(detail: str) -> Refused:
    return Refused("BLOB_UPLOAD_INVALID", 400, detail)


def other_bytes(fault: BrokenPromise) -> Refused:
    """The body was not what its digest or its length said."""
    if fault.code in ("size", "short_body"):
        return Refused("SIZE_INVALID", 400, "the body is not as long as was announced")
    return bad_digest("the body does not have the digest that was given")


_BY_STATUS = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    429: "TOOMANYREQUESTS",
}


def oci_code(fault: Fault) -> str:
    """The specification's word for a fault of any kind."""
    if isinstance(fault, Refused):
        return fault.oci
    if isinstance(fault, BadPath | NotServed):
        return "NAME_INVALID" if isinstance(fault, BadPath) else "NAME_UNKNOWN"
    if isinstance(fault, MethodRefused | Blocked | BodyTooLarge):
        return _BY_STATUS[fault.status]
    return _BY_STATUS.get(fault.status, "UNKNOWN")


def oci_page(fault: Fault) -> Page:
    """The error document that clients of a registry read."""
    error = {"code": oci_code(fault), "message": fault.detail, "detail": None}
    return Page(json.dumps({"errors": [error]}).encode() + b"\n", JSON_TYPE)
