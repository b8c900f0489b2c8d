"""Errors as registries tell them: `{"errors": [{"code", "message", "detail"}]}`.

References: OCI distribution specification 1.1, "Error Codes"; the three of its docker predecessor
that it dropped are kept where nothing else says as much.
"""

from __future__ import annotations

import json
from typing import Final

from artifactproxy.errors import Fault
from artifactproxy.rules.oci.operations import Blob, Manifest, Referrers, Target, Upload, Uploads

MEDIA_TYPE: Final = "application/json; charset=utf-8"

CODES: Final = frozenset(
    {
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "PAGINATION_NUMBER_INVALID",
        "RANGE_INVALID",
        "SIZE_INVALID",
        "TAG_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNAVAILABLE",
        "UNKNOWN",
        "UNSUPPORTED",
    }
)

_BY_STATUS: Final = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    416: "RANGE_INVALID",
    429: "TOOMANYREQUESTS",
    451: "DENIED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


def code_of(fault: Fault, about: Target | None = None) -> str:
    """The code of the specification for a fault: its own if it bears one (`name_invalid`), else what
    is missing, else what its status says. `about` is what was asked for, None if that is not known."""
    own = fault.code.upper()
    if own in CODES:
        return own
    if fault.status in (404, 410):
        return _missing(about)
    return _BY_STATUS.get(fault.status, "UNKNOWN")


def _missing(about: Target | None) -> str:
    if isinstance(about, Manifest):
        return "MANIFEST_UNKNOWN"
    if isinstance(about, Blob):
        return "BLOB_UNKNOWN"
    if isinstance(about, Upload | Uploads):
        return "BLOB_UPLOAD_UNKNOWN"
    if isinstance(about, Referrers):
        return "MANIFEST_UNKNOWN"
    return "NAME_UNKNOWN"


def document(code: str, message: str, detail: object = None) -> bytes:
    """One error; no markup either, should somebody take it for a page. Raises ValueError for a code
    that no client knows."""
    if code not in CODES:
        raise ValueError(f"no error code of the specification: {code}")
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    text = json.dumps({"errors": [error]})
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode() + b"\n"
