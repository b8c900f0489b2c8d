"""Answers of the bucket, read: objects, error documents, and what a failure of the transport means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from artifactproxy.errors import StoreAway
from artifactproxy.rules.http import parse_http_date
from artifactproxy.stores.s3.trouble import Answered, Unreached

UNREADABLE = (ResponseParserError, ValueError, RuntimeError, ArithmeticError)
"""What the SDK raises over a document that is none, a size that is no number, a date that never was."""
DOCUMENT_BYTES = 64 * 1024
"""The most that is read of an answer that is no blob."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object as a HEAD tells of it; times are POSIX seconds of the server's clock."""

    size: int
    etag: str
    modified: float
    now: float

    @property
    def age(self) -> float:
        return max(0.0, self.now - self.modified)


async def document(reply: aiohttp.ClientResponse) -> bytes:
    """The body of an answer that is no blob: at most 64 KiB of it."""
    text = b""
    while len(text) < DOCUMENT_BYTES and (piece := await reply.content.readany()):
        text += piece
    return text


async def document_of(operation: str, reply: aiohttp.ClientResponse) -> bytes:
    """The body of a success that is no blob. Raises `Unreached` where it breaks off."""
    try:
        return await document(reply)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reply.close()
        raise Unreached(operation, kind_of(error)) from error


def told_in(answer: Mapping[str, Any], name: str) -> Any:
    """What an answer to a control call must say. A portal or a balancer says 200, too: raises
    `StoreAway`."""
    found = answer.get(name)
    if not found:
        raise StoreAway("something answers for the bucket that is none")
    return found


def refusal_of(operation: str, error: ClientError) -> Answered:
    meta = error.response.get("ResponseMetadata", {})
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(meta.get("HTTPStatusCode", 0))
    if status < 300:  # an error document after all
        status = 500
    return Answered(operation, status, "" if code.isdecimal() else code, meta.get("HTTPHeaders", {}))


def kind_of_sdk(error: Exception) -> str:
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return "connect"
    if isinstance(error, ReadTimeoutError):
        return "timeout"
    return "broken" if isinstance(error, HTTPClientError) else "garbage"


# What OpenSSL calls an answer that is no TLS, by version.
_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


def kind_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return "plain" if getattr(error.__cause__, "reason", "") in _PLAIN else "tls"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "resolve"
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "connect"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "garbage" if isinstance(error, aiohttp.ClientResponseError) else "broken"


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def date_of(headers: Mapping[str, str], name: str, default: float) -> float:
    """A header's date in POSIX seconds; `default` where there is none that can be read."""
    found = parse_http_date(headers.get(name, ""))
    return default if found is None else found


def thing_of(headers: Mapping[str, str], size: int) -> Thing:
    """What the headers of a GET or HEAD say; an object without a date is as young as can be."""
    found = lower(headers)
    now = date_of(found, "date", time.time())
    return Thing(size, found.get("etag", ""), date_of(found, "last-modified", now), now)
