"""What aiohttp's request parsers let pass and RFC 9112 does not, in how a request is framed.

A request that two parties could read as two different ones is refused and its connection ends, so
that nothing behind it is ever taken for a request. Measured (aiohttp 3.14.5): both parsers take lists
that end in `chunked`, and chunks in HTTP/1.0; the Python parser also takes methods in small letters,
lengths and chunks of any number of digits, and line ends within chunk extensions. The last two cannot
be seen from outside, so behind that parser no chunked body is taken at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.http_parser import HttpRequestParserPy

from artifactproxy.errors import BadRequest

_LENGTH_DIGITS = 18  # fits into 64 bits


class LengthRequired(BadRequest):
    """A chunked body where only announced lengths are taken: 411."""

    status = 411
    code = "length_required"


def judge_framing(minor: int, headers: Mapping[str, str], *, chunks: bool) -> None:
    """RFC 9112 sections 6.1 to 6.3 for HTTP/1.`minor`. `headers` by lower-case names, repeated ones
    joined; `chunks` says whether the parser's reading of chunks is trusted.

    Raises `BadRequest`, and `LengthRequired` for chunks that are not.
    """
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= _LENGTH_DIGITS):
        raise BadRequest("the Content-Length is no number")
    if coding is None:
        return
    if length is not None or minor == 0 or not coding.isascii() or coding.lower() != "chunked":
        raise BadRequest("the Transfer-Encoding is not chunked alone, or has no place here")
    if not chunks:
        raise LengthRequired("this server takes no chunked bodies; announce the Content-Length")


def keep_to_the_letter(parser: object) -> None:
    """Make aiohttp's Python parser refuse methods in small letters, which it would raise (RFC 9110
    section 9.1: case matters). The C parser refuses them by itself."""
    if not isinstance(parser, HttpRequestParserPy):
        return
    parse = parser.parse_message

    def parse_message(lines: list[bytes]) -> Any:
        method = lines[0].partition(b" ")[0]
        if method != method.upper():
            raise BadHttpMethod("a method in small letters")
        return parse(lines)

    vars(parser)["parse_message"] = parse_message
