"""What is fuzzed of a cluster: words and passes of other replicas, messages, answers of the bucket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import cache
from typing import Any

from botocore.exceptions import ClientError
from botocore.parsers import create_parser
from botocore.session import Session

from artifactproxy.coordination.bulletin import FRAME_MAX, Frame, decode
from artifactproxy.errors import Blocked, Fault, PeerGone, StoreUnavailable, UpstreamFault
from artifactproxy.model import ArtifactKey, Told, UpstreamHead
from artifactproxy.rules import bulletin, passes
from artifactproxy.rules.peers import read_word, write_fault, write_head
from artifactproxy.stores.s3 import listing
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.trouble import Answered, code_in, cure_of, fault_of, is_absent, sentence
from artifactproxy.stores.s3.wire import Wire

SECRET = "what only the replicas know"
NOW = 1_700_000_000.0


def peer_words(data: bytes) -> None:
    """A word is a head of plain fields, a fault that passes on, a request to wait, or nothing at all."""
    try:
        said = read_word(data.decode("utf-8", "replace"))
    except PeerGone:
        return
    if isinstance(said, UpstreamHead):
        assert said.told is not None
        assert 200 <= said.status < 600
        assert said.length is None or said.length >= 0
        for text in (said.url, *said.headers, *said.headers.values()):
            assert not set(text) & {"\r", "\n", "\0"}
        assert read_word(write_head(said, said.told)) is not None
    elif said is not None:
        assert isinstance(said, UpstreamFault | Blocked)
        assert 400 <= said.status < 600
        again = read_word(write_fault(said))
        assert isinstance(again, Fault)
        assert (again.code, again.status) == (said.code, said.status)


def peer_passes(data: bytes) -> None:
    """None holds but those that were made for this very subject, under this secret, in these minutes."""
    text, _, subject = data.decode("latin-1").partition("\n")
    if passes.holds(SECRET, text, "GET", subject, NOW):
        assert any(text == passes.seal(SECRET, "GET", subject, NOW + at) for at in range(-61, 62))
    assert not passes.holds("", text, "GET", subject, NOW)
    subject = subject.replace("\n", "")
    good = passes.seal(SECRET, "GET", subject, NOW)
    assert passes.holds(SECRET, good, "GET", subject, NOW)
    assert not passes.holds(SECRET, good, "HEAD", subject, NOW)
    assert not passes.holds(SECRET, good, "GET", subject + "x", NOW)
    assert not passes.holds(SECRET, good, "GET", subject, NOW + 2 * passes.LIFE + 1)


def messages(data: bytes) -> None:
    """What comes over a bulletin is a frame that would be written the same, or nothing; so is its text."""
    frame = decode(data)
    if frame is not None:
        assert decode(frame.encode()) == frame or len(frame.encode()) > FRAME_MAX
        assert frame.topic
        assert frame.seconds >= 0
    text = frame.text if frame is not None else data.decode("utf-8", "replace")
    keys = bulletin.keys_of(text)
    if keys:
        assert len(keys) <= bulletin.KEYS_MAX
        assert bulletin.keys_of(bulletin.changed(keys)) == keys
    heard = bulletin.heard(text, NOW)
    if heard is not None:
        assert heard[0].isascii()
        assert 0 <= heard[1] <= 86_400


# --- the bucket -----------------------------------------------------------------------------


@cache
def _model() -> Any:
    return Session().get_service_model("s3")


class _Client:
    """The SDK's client as far as it reads an answer, which is these bytes."""

    def __init__(self, status: int, body: bytes) -> None:
        self._status = status
        self._body = body
        self._asked = 0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        name = "".join(part.capitalize() for part in operation.split("_"))

        async def ask(**_parameters: object) -> dict[str, Any]:
            self._asked += 1
            assert self._asked < 500, "a list without an end"
            of = _model().operation_model(name)
            headers = {"date": "Tue, 14 Nov 2023 22:13:20 GMT", "content-type": "application/xml"}
            answer = {"status_code": self._status, "headers": headers, "body": self._body, "context": {}}
            parsed: dict[str, Any] = create_parser("rest-xml").parse(answer, of.output_shape)
            if self._status >= 300:
                raise ClientError(parsed, name)
            return parsed

        return ask


def _wire(status: int, body: bytes) -> Wire:
    wire = Wire(S3Options("bucket", tries=1, prefix="p/"), observer=None, rng=lambda: 0.0)
    wire._client = _Client(status, body)
    return wire


async def _all(found: AsyncIterator[listing.Listed]) -> list[listing.Listed]:
    return [each async for each in found]


def listing_pages(data: bytes) -> None:
    """Keys below what was asked for, each with a size and an age; or the store is away."""
    with suppress(StoreUnavailable, Answered):
        for each in asyncio.run(_all(listing.keys(_wire(200, data), "blobs/"))):
            assert each.key.startswith("blobs/")
            assert each.size >= 0
            assert each.age >= 0
    with suppress(StoreUnavailable, Answered):
        for upload in asyncio.run(listing.uploads(_wire(200, data), "blobs/")):
            assert upload.age >= 0
            assert isinstance(upload.key, str)
            assert isinstance(upload.upload, str)


def error_documents(data: bytes) -> None:
    """Every refusal is one of ours, and is told in one line."""
    statuses = (301, 400, 403, 404, 409, 411, 412, 416, 429, 500, 501, 503, 507)
    status = statuses[data[0] % len(statuses)] if data else 500
    code = code_in(data)
    assert len(code) <= 80
    assert not set(code) & set("<>&\r\n\0 ")
    try:
        asyncio.run(_wire(status, data[1:]).call("list_objects_v2"))
    except Answered as trouble:
        answered = trouble
    except StoreUnavailable:
        return
    assert answered.status == status
    cure_of(answered)
    assert not is_absent(answered) or status == 404
    assert isinstance(fault_of(answered, "list blobs"), StoreUnavailable)
    assert sentence(answered, S3Options("bucket"))


_HEAD = write_head(
    UpstreamHead(
        200, {"etag": '"a"', "content-type": "x/y"}, 10, framed=True, url="http://upstream.example/f"
    ),
    Told("f-1", sha256="0" * 64, generation=7),
)
_PAGE = b"""<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name><Prefix>p/blobs/</Prefix>
<KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>p/blobs/a</Key>
<LastModified>2023-11-14T22:13:20.000Z</LastModified><ETag>"e"</ETag><Size>5</Size></Contents></ListBucketResult>"""
_UPLOADS = b"""<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>
<NextUploadIdMarker>i</NextUploadIdMarker><Upload><Key>p/blobs/a</Key><UploadId>u</UploadId>
<Initiated>2023-11-14T22:13:20.000Z</Initiated></Upload></ListMultipartUploadsResult>"""

TARGETS: dict[str, Callable[[bytes], None]] = {
    "peer_words": peer_words,
    "peer_passes": peer_passes,
    "messages": messages,
    "listing_pages": listing_pages,
    "error_documents": error_documents,
}
SEEDS = {
    "peer_words": [_HEAD.encode(), write_fault(UpstreamFault("no")).encode(), b'{"v": 1, "kind": "wait"}'],
    "peer_passes": [f"{passes.seal(SECRET, 'GET', 'ab', NOW)}\nab".encode(), b"v1 1 " + b"0" * 64],
    "messages": [
        Frame("me", 1, "changed", bulletin.changed([ArtifactKey("a", "b", "c")]), 5.0).encode(),
        bulletin.told("https://upstream.example", 5.0, NOW).encode(),
        json.dumps([["a", "b", "c"]] * 3).encode(),
    ],
    "listing_pages": [
        _PAGE,
        _UPLOADS,
        _PAGE.replace(b">5<", b">many<"),
        _PAGE.replace(b">5<", b">-5<"),
        _PAGE.replace(b"2023-", b"never-"),
        _PAGE.replace(b":20.000", b":" + b"4" * 60 + b"20.000"),
        _UPLOADS.replace(b"UploadId", b"Upload"),
        _UPLOADS.replace(b"<Key>", b"<Name>").replace(b"</Key>", b"</Name>"),
        _PAGE[:-20],
    ],
    "error_documents": [
        b"\x03<Error><Code>NoSuchKey</Code><Message>no</Message></Error>",
        b"\x09<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>",
    ],
}
