"""How request targets are judged and spelled: once, before routing and authorisation.

Everything is refused or kept, never cleaned: two parties that clean differently can be played
against each other. RFC 9112 section 3.2 (targets), RFC 3986 section 3.3 (segments), RFC 3629.
Where blobs lie is drawn at `blob_path`. No network names are judged here.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from artifactproxy.errors import BadPath

MAX_TARGET_BYTES: Final = 8190
MAX_SEGMENTS: Final = 256
MAX_PARAMETERS: Final = 256

REPO_NAME: Final = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")
RESERVED: Final = frozenset(
    {
        "v1",
        "v2",
        "api",
        "ui",
        "setup",
        "metrics",
        "livez",
        "readyz",
        "openapi.json",
        "internal",
        "repository",
        "artifactory",
        "static",
        ".well-known",
        "favicon.ico",
        "robots.txt",
    }
)

_KEPT: Final = "-._~!$&'()*+,;=:@"  # RFC 3986 pchar without escapes
_PLAIN: Final = re.compile(r"\A[A-Za-z0-9\-._~!$&'()*+,;=:@/]*\Z")
_ABSOLUTE: Final = re.compile(r"\Ahttps?://[^/?#\\]+", re.IGNORECASE)
_BAD_RAW: Final = re.compile(r'[^\x21-\x7e]|["<>\\#?]')
_BAD_RAW_QUERY: Final = re.compile(r"[^\x21-\x7e]|#")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE_LEFT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
# Servlet containers drop `;parameters` before they resolve dots, so `..;` climbs there.
_DOTS: Final = re.compile(r"\A\.\.?(?:;.*)?\Z", re.DOTALL)
_ANY_DOTS: Final = re.compile(r"(?:\A|/)\.\.?(?:;[^/]*)?(?:/|\Z)")
_CLIMBING: Final = re.compile(r"(?:\A|[/\\])\.\.[/\\]|[/\\]\.\.(?:[/\\]|\Z)")
_SHA256: Final = re.compile(r"\A[0-9a-f]{64}\Z")

_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Fillers and joiners without ink outside those categories, then look-alikes of dot and slash.
_HIDDEN: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_LOOK_ALIKES: Final = frozenset(
    "\u2024\u2025\u2026\u3002\ufe52\uff0e\uff61\u2044\u2215\u29f5\u29f8\ufe68\uff0f\uff3c\uff05"
)


def judge_target(raw: str) -> tuple[str, str]:
    """Path and query of a request target, judged and as the client spelled them, without the
    leading `/` and `?`.

    Origin form and absolute form (RFC 9112 3.2.1, 3.2.2; the authority is not looked at here);
    `*` and authority form are refused. Raises `BadPath`.
    """
    if len(raw) > MAX_TARGET_BYTES:
        raise BadPath(f"the request target is longer than {MAX_TARGET_BYTES} bytes")
    absolute = _ABSOLUTE.match(raw)
    target = raw[absolute.end() :] if absolute else raw
    before, mark, query = target.partition("?")
    if absolute and not before:
        before = "/"
    if not before.startswith("/"):
        raise BadPath("the request target is neither a path nor an http URL")
    judge_path(before[1:])
    if mark:
        judge_query(query)
    return before[1:], query


def split_repository(path: str) -> tuple[str, str]:
    """The decoded first segment of a judged path, and the rest. Raises `BadPath`."""
    first, _, rest = path.partition("/")
    if ";" in first or "%" in first:
        repo = decode_segment(first)
        if ";" in repo or "/" in repo:
            raise BadPath("a repository name has no parameters and no slash")
        return repo, rest
    return first, rest


def judge_path(path: str) -> None:
    """Raise `BadPath` unless this percent-encoded path (no leading slash) can be taken literally.

    A last empty segment (trailing slash) is legal. An encoded slash is legal only once, in a
    scoped name such as `@scope%2fname`.
    """
    if len(path) > MAX_TARGET_BYTES:
        raise BadPath(f"the path is longer than {MAX_TARGET_BYTES} bytes")
    if path.count("/") >= MAX_SEGMENTS:
        raise BadPath(f"the path has more than {MAX_SEGMENTS} segments")
    if path.startswith("/") or "//" in path:
        raise BadPath("the path has an empty segment")
    if _PLAIN.match(path):
        if _ANY_DOTS.search(path):
            raise BadPath("the path has a dot segment")
        return
    bad = _BAD_RAW.search(path)
    if bad:
        raise BadPath(f"the path has a character that must be encoded: {_named(bad[0])}")
    for segment in path.split("/"):
        _judge_segment(segment)


def judge_query(query: str) -> None:
    """Raise `BadPath` for a query (text after `?`) with bad escapes, control or hidden characters,
    climbing paths or more than 256 parameters."""
    if len(query) > MAX_TARGET_BYTES:
        raise BadPath(f"the query is longer than {MAX_TARGET_BYTES} bytes")
    bad = _BAD_RAW_QUERY.search(query)
    if bad:
        raise BadPath(f"the query has a character that must be encoded: {_named(bad[0])}")
    if query.count("&") + query.count(";") >= MAX_PARAMETERS:
        raise BadPath(f"the query has more than {MAX_PARAMETERS} parameters")
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        for text in (decode_segment(name), decode_segment(value)):
            _judge_text(text)
            if _CLIMBING.search(text):
                raise BadPath("the query has a dot segment")


def decode_segment(segment: str) -> str:
    """Percent-decode once. `+` stays a plus. Raises `BadPath` on cut escapes and non-UTF-8."""
    if "%" not in segment:
        return segment
    if _BAD_ESCAPE.search(segment):
        raise BadPath("the request target has a broken percent escape")
    try:
        return unquote_to_bytes(segment).decode("utf-8", "strict")
    except UnicodeDecodeError as cause:
        raise BadPath("the request target has escapes that are not UTF-8") from cause


def encode_segment(text: str) -> str:
    """The shortest spelling of one segment: unreserved characters, sub-delimiters, `:` and `@` as
    they are, the rest as upper-case escapes of UTF-8 (a slash too)."""
    return quote(text, safe=_KEPT)


def canonical_path(path: str) -> str:
    """One spelling for all equivalent ones: each segment decoded once and encoded minimally.

    Names are not folded; that is the provider's business. Raises `BadPath` as `decode_segment`.
    """
    if _PLAIN.match(path):
        return path
    return "/".join(encode_segment(decode_segment(segment)) for segment in path.split("/"))


def blob_path(sha256: str) -> str:
    """Where a blob lies, relative to the data directory or the bucket's prefix.

    ::

        data/
          format                     version of this layout
          lock                       held by the running server
          control.sock               commands for the running server
          blobs/sha256/ab/abcd...    one file per content: 2 and 64 hex digits, the same in S3
          leases/<sha256 of a key>   flock of whoever fills that key on this machine

    Raises ValueError unless `sha256` is 64 lower-case hex digits, so that no other name is ever
    touched.
    """
    if not _SHA256.match(sha256):
        raise ValueError(f"not a sha256: {sha256!r}")
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def _judge_segment(segment: str) -> None:
    text = decode_segment(segment)
    if _ESCAPE_LEFT.search(text):
        raise BadPath("the path is percent-encoded twice")
    if "\\" in text:
        raise BadPath("the path has an encoded backslash")
    parts = text.split("/")
    if len(parts) > 1 and not (len(parts) == 2 and len(parts[0]) > 1 and text[0] == "@" and parts[1]):
        raise BadPath("the path has an encoded slash")
    if any(_DOTS.match(part) for part in parts):
        raise BadPath("the path has a dot segment")
    _judge_text(text)


def _judge_text(text: str) -> None:
    if text.isascii():
        if not text.isprintable():
            raise BadPath("the request target has an encoded control character")
        return
    for character in text:
        if (
            unicodedata.category(character) in _HIDDEN_CATEGORIES
            or character in _HIDDEN
            or character in _LOOK_ALIKES
        ):
            raise BadPath(f"the request target has a misleading character: {_named(character)}")
    # Two spellings of one name would be two keys here and one file on some upstreams.
    if not unicodedata.is_normalized("NFC", text):
        raise BadPath("the request target is not in Unicode normalisation form C")


def _named(character: str) -> str:
    return f"U+{ord(character):04X}"
