"""The status line and header fields of an answer, as bytes.

The engine describes the entity; what belongs to this hop (framing, Date, Via, Connection) is
decided here and nowhere else, so a field of that kind in an `Answer` is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from artifactproxy.engine.answer import Answer, Body, Bytes, Chunks, File, Nothing, Tail
from artifactproxy.model import Header
from artifactproxy.rules.http import http_date

SERVER = "artifactproxy"
VIA = "1.1 artifactproxy"

_HOP = frozenset(
    [
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-request-id",
    ]
)
_GUARDS = {
    "x-content-type-options": "X-Content-Type-Options: nosniff",
    "content-security-policy": "Content-Security-Policy: sandbox; default-src 'none'",
    "cross-origin-resource-policy": "Cross-Origin-Resource-Policy: same-origin",
}
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_REASON_LIMIT = 400

_stamp: tuple[int, str] = (0, "")


class BrokenHead(Exception):
    """An answer that would break the framing of this connection: a fault of ours."""


def body_length(body: Body) -> int | None:
    """Bytes that this body has; None if only its end will tell."""
    match body:
        case Nothing():
            return 0
        case Bytes():
            return len(body.body)
        case File():
            return body.span.size
        case Tail() | Chunks():
            return body.length


def is_silent(answer: Answer, method: str) -> bool:
    """True when no body byte may follow the head (RFC 9112 section 6.3)."""
    return method == "HEAD" or answer.status in _BODILESS or isinstance(answer.body, Nothing)


def render(
    answer: Answer, *, method: str, length: int | None, keep: bool, old: bool, request_id: str
) -> bytes:
    """The head. `length` is that of the body to follow; `old` says the client speaks HTTP/1.0.

    Raises `BrokenHead` for a field with a line break, or an announced length that is not true.
    """
    fields, age = answer.headers, ""
    if fields and fields[-1][0] == "Age":  # the one field of a hit that changes by itself
        fields, age = fields[:-1], f"Age: {int(fields[-1][1])}\r\n"
    empty = isinstance(answer.body, Nothing)
    lasting = _lasting(answer.status, answer.reason, tuple(fields), length, method, empty)
    connection = "" if keep and not old else f"Connection: {'keep-alive' if keep else 'close'}\r\n"
    return lasting + f"{age}{_ours()}X-Request-Id: {request_id}\r\n{connection}\r\n".encode("ascii")


@lru_cache(maxsize=2048)
def _lasting(
    status: int, reason: str, fields: tuple[Header, ...], length: int | None, method: str, empty: bool
) -> bytes:
    """The part of a head that is the same for every request of one document."""
    plan = _plan(tuple([name for name, _ in fields]))
    announced = None
    if plan.hop:
        lines = [f"{name}: {value}" for name, value in fields if name.lower() not in _HOP]
        announced = _announced(fields) if plan.announces else None
    else:
        lines = [f"{name}: {value}" for name, value in fields]
    lines += plan.guards
    lines.append(_framing(status, announced, length, method, empty=empty))
    text = "\r\n".join(filter(None, lines))
    if not text.count("\r\n") == text.count("\n") == text.count("\r") < len(lines) or "\0" in text:
        raise BrokenHead("a header field holds a line break")
    try:
        return f"HTTP/1.1 {status} {_reason(status, reason)}\r\n{text}\r\n".encode("latin-1")
    except UnicodeEncodeError as error:
        raise BrokenHead("a header field is not Latin-1") from error


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the names of an answer's fields alone decide."""

    hop: bool
    announces: bool
    guards: tuple[str, ...]


@lru_cache(maxsize=512)
def _plan(names: tuple[str, ...]) -> _Plan:
    lowered = {name.lower() for name in names}
    guards = tuple(line for name, line in _GUARDS.items() if name not in lowered)
    return _Plan(not _HOP.isdisjoint(lowered), "content-length" in lowered, guards)


def _announced(fields: Iterable[Header]) -> int:
    first, *others = [value for name, value in fields if name.lower() == "content-length"]
    if others or not first.isdecimal():
        raise BrokenHead("the answer announces no single length")
    return int(first)


def _framing(status: int, announced: int | None, length: int | None, method: str, *, empty: bool) -> str:
    """RFC 9112 section 6. HEAD and 304 tell the length that a GET would have, if it is known."""
    if status == 204:
        return ""
    if method == "HEAD" or status == 304:
        if announced is None and status != 304 and not empty:
            announced = length
        return "" if announced is None else f"Content-Length: {announced}"
    if empty:
        return "Content-Length: 0"
    if length is None:
        return "Transfer-Encoding: chunked"
    if announced is not None and announced != length:
        raise BrokenHead(f"{announced} bytes announced for a body of {length}")
    return f"Content-Length: {length}"


def _reason(status: int, reason: str) -> str:
    """The phrase of the status line; some clients show nothing else of an error."""
    text = reason or _PHRASES.get(status, "")
    if not text.isascii() or not text.isprintable():
        text = "".join(c if " " <= c <= "~" else " " for c in text)
    return text[:_REASON_LIMIT]


def _ours() -> str:
    """The lines that are equal for all answers of one second."""
    global _stamp  # noqa: PLW0603  (a cache of one value)
    second = int(time.time())
    if _stamp[0] != second:
        _stamp = (second, f"Date: {http_date(second)}\r\nVia: {VIA}\r\nServer: {SERVER}\r\n")
    return _stamp[1]
