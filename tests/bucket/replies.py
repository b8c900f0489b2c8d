"""Answers of S3 and their XML."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

Tree = list[tuple[str, "str | int | Tree"]]


@dataclass(slots=True)
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    code: str = ""
    size: int | None = None
    """Announced by a HEAD, or of a body that is not kept."""


class Refusal(Exception):
    """Becomes an error answer."""

    def __init__(self, status: int, code: str, message: str = "", **more: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.reply = error_reply(status, code, message, **more)


def error_reply(
    status: int, code: str, message: str = "", *, headers: dict[str, str] | None = None, **more: str
) -> Reply:
    tree: Tree = [("Code", code), ("Message", message or code), *more.items(), ("RequestId", "bucket")]
    return Reply(status, {"Content-Type": "application/xml"} | (headers or {}), xml("Error", tree, ""), code)


def xml_reply(name: str, tree: Tree, **headers: str) -> Reply:
    return Reply(200, {"Content-Type": "application/xml", **headers}, xml(name, tree))


def xml(name: str, tree: Tree, namespace: str = NAMESPACE) -> bytes:
    attribute = f' xmlns="{namespace}"' if namespace else ""
    inner = "".join(_element(*item) for item in tree)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{attribute}>{inner}</{name}>'.encode()


def _element(name: str, value: str | int | Tree) -> str:
    if isinstance(value, list):
        inner = "".join(_element(*item) for item in value)
    else:
        inner = escape(str(value))
    return f"<{name}>{inner}</{name}>"


def each(name: str, items: Iterable[Tree]) -> Tree:
    return [(name, item) for item in items]


def http_date(at: float) -> str:
    return formatdate(at, usegmt=True)


def iso_date(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
