"""File URLs of upstream, and the paths under which we hand them out.

`https://files.example/a/b.whl` becomes `packages/files.example/a/b.whl`: the host stays readable in
the path, so that one repository may serve files of several hosts. A host without a dot carries its
port, so that it is never taken for the first folder of the old layout `packages/source/f/foo/...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from artifactproxy.errors import NotServed
from artifactproxy.providers._hosts import (
    ABSOLUTE,
    LONGEST,
    URL_SAFE,
    cleaned,
    is_text,
    names_host,
    origins,
    segment_of,
)
from artifactproxy.rules.paths import decode_segment, encode_segment

PREFIX = "packages/"
_LONGEST_FILE = LONGEST - len(".provenance")

_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~+!-][A-Za-z0-9._~+!-]*+)++")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PYTHON_FOLDER = re.compile(r"(?:py|cp|pp|ip|jy)\d+(?:\.(?:py|cp|pp|ip|jy)\d+)*|\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Address:
    """A file of upstream: our path for it, and its URL as upstream gave it, without fragment."""

    path: str
    url: str
    fragment: str = ""

    @property
    def filename(self) -> str:
        return decode_segment(self.path.rpartition("/")[2])


class Addresses:
    """Reads the links of one page; remembers hosts, because pages repeat them thousands of times."""

    def __init__(self, page_url: str) -> None:
        self._page_url = page_url
        self._hosts: dict[tuple[str, str, str], str] = {}

    def read(self, link: str) -> Address | None:
        """None for anything that is not a plain http(s) URL which we could fetch and name:
        other schemes, userinfo, dot segments, control characters."""
        match = ABSOLUTE.fullmatch(link) or ABSOLUTE.fullmatch(_joined(self._page_url, link))
        if match is None or not is_text(link):
            return None
        scheme, host, port, path, query, fragment = match.groups(default="")
        origin = (scheme, host, port)
        segment = self._hosts.get(origin)
        if segment is None:
            segment = self._hosts[origin] = segment_of(scheme, host, port, _is_bare)
        if not segment:
            return None
        clean = path if _PLAIN.fullmatch(path) else cleaned(path)
        if not clean or len(PREFIX) + len(segment) + len(clean) > _LONGEST_FILE:
            return None
        netloc = f"{host}:{port}" if port else host
        url = f"{scheme.lower()}://{netloc}{path}{query}"
        if clean is not path or query:
            url = quote(url, safe=URL_SAFE + "?[]")
        return Address(PREFIX + segment + clean, url, fragment)


def _joined(base: str, link: str) -> str:
    link = link.strip()
    if _CONTROL.search(link):  # the library would take some of them out
        return ""
    try:
        return urljoin(base, link)
    except ValueError:
        return ""


def _is_bare(host: str) -> bool:
    """Folders of the old layout are called like versions of Python."""
    return ("." in host or host == "localhost") and not _PYTHON_FOLDER.fullmatch(host)


class Places:
    """Where the files of one repository may lie: its upstreams' and its further file hosts."""

    def __init__(self, upstreams: Iterable[str], file_hosts: Iterable[str]) -> None:
        self._origins = origins((*upstreams, *file_hosts), _is_bare)
        self.home = next(iter(self._origins), "")

    def find(self, path: str) -> tuple[str, str, bool]:
        """Canonical key path, source URL and whether its host is foreign, of a canonical path
        under `packages/`. Raises `NotServed` if it names no file."""
        segment, _, rest = path.removeprefix(PREFIX).partition("/")
        host = decode_segment(segment).lower()
        segment = encode_segment(host)
        if segment not in self._origins and not names_host(host, _is_bare):
            if not self.home:
                raise NotServed("this repository has no upstream")
            segment, rest = self.home, path
        if not rest or rest.endswith("/"):
            raise NotServed("no file is named by this path")
        origin = self._origins.get(segment)
        # A literal plus stays encoded towards upstream: S3 reads it as a space otherwise.
        target = rest.replace("+", "%2B")
        return f"{PREFIX}{segment}/{rest}", f"{origin or 'https://' + host}/{target}", origin is None
