"""Hosts as segments of our paths: how files that an index keeps elsewhere are named.

`https://files.example/a/b` is `<somewhere>/files.example/a/b` with us: the host stays readable, so
that one repository may serve files of several. A host carries its port unless that is the usual one
and the host cannot be taken for a folder, which each provider decides (`bare`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, urlsplit

from artifactproxy.errors import BadPath
from artifactproxy.rules.paths import canonical_path, encode_segment, judge_path

LONGEST = 2048  # bytes of a path: a key field
URL_SAFE = "/%!$&'()*+,;=:@~"

ABSOLUTE = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^?#]*)(\?[^#]*)?(?:#(.*))?",
    re.IGNORECASE | re.DOTALL,
)
"""Scheme, host, port, path, query, fragment of a URL without userinfo."""

_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_PORTS = {"http": 80, "https": 443}

Bare = Callable[[str], bool]


def segment_of(scheme: str, host: str, port: str, bare: Bare) -> str:
    """Host and port as one path segment, "" if they are none."""
    scheme, host = scheme.lower(), host.lower()
    usual = _PORTS.get(scheme, 0)
    number = int(port) if port else usual
    if not usual or not 0 < number < 65536 or not _is_host(host):
        return ""
    is_bare = number == usual and host[0] != "[" and bare(host)
    return encode_segment(host if is_bare else f"{host}:{number}")


def names_host(text: str, bare: Bare) -> bool:
    """Whether a decoded segment is one that `segment_of` could have made."""
    if not _is_host(text):
        return False
    port = text.rpartition(":")[2] if ":" in text.rpartition("]")[2] else "1"
    return 0 < int(port) < 65536 and (":" in text or bare(text))


def _is_host(text: str) -> bool:
    """A name or an address, with or without a port."""
    if not _HOST.fullmatch(text):
        return False
    if text[0] == "[":
        try:
            IPv6Address(text[1 : text.index("]")])
        except AddressValueError:
            return False
    return True


def origins(urls: Iterable[str], bare: Bare) -> dict[str, str]:
    """Segment to `scheme://host[:port]`, of URLs and of bare hosts, which are https; the first
    that has a segment keeps it."""
    found: dict[str, str] = {}
    for entry in urls:
        parts = urlsplit(entry if "://" in entry else f"https://{entry}")
        host, port = parts.hostname or "", str(parts.port or "")
        host = f"[{host}]" if ":" in host else host
        if segment := segment_of(parts.scheme, host, port, bare):
            found.setdefault(segment, f"{parts.scheme}://{host}{':' + port if port else ''}")
    return found


def cleaned(path: str) -> str:
    """The canonical spelling of a URL's path, "" if no path of ours may look like that."""
    try:
        spelled = quote(path, safe=URL_SAFE)
        judge_path(spelled[1:])
        return "/" + canonical_path(spelled[1:]) if spelled[-1] != "/" else ""
    except BadPath:
        return ""


def is_text(value: object) -> bool:
    """Whether a value from a document is text that can be stored (no lone surrogates)."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
