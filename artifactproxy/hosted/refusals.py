"""What a registry refuses: the codes are the specification's, in lower case (`rules.oci.problems`)."""

from __future__ import annotations

from artifactproxy.errors import BrokenPromise, Fault
from artifactproxy.model import Header
from artifactproxy.providers._base import Page
from artifactproxy.rules.oci import problems


class Refused(Fault):
    """`headers` go out with it."""

    def __init__(self, code: str, status: int, detail: str, *, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.headers = headers


def no_manifest(reference: str) -> Refused:
    return Refused("manifest_unknown", 404, f"there is no manifest {reference} here")


def no_blob(digest: object) -> Refused:
    return Refused("blob_unknown", 404, f"there is no blob {digest} here")


def no_name(name: str) -> Refused:
    return Refused("name_unknown", 404, f"there is nothing named {name} here")


def no_upload() -> Refused:
    return Refused("blob_upload_unknown", 404, "there is no such upload; begin a new one")


def bad_digest(detail: str) -> Refused:
    return Refused("digest_invalid", 400, detail)


def bad_manifest(detail: str) -> Refused:
    return Refused("manifest_invalid", 400, detail)


def bad_upload(detail: str) -> Refused:
    return Refused("blob_upload_invalid", 400, detail)


def other_bytes(fault: BrokenPromise) -> Refused:
    """The body was not what its digest or its length said."""
    if fault.code in ("size", "short_body"):
        return Refused("size_invalid", 400, "the body is not as long as was announced")
    return bad_digest("the body does not have the digest that was given")


def oci_page(fault: Fault) -> Page:
    """The error document that clients of a registry read."""
    return Page(problems.document(problems.code_of(fault), fault.detail), problems.MEDIA_TYPE)
