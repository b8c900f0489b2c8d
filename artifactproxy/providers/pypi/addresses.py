"""File URLs of upstream, and the paths under which we hand them out.

`https://files.example/a/b.whl` becomes `packages/files.example/a/b.whl`: the host stays readable in
the path, so that one repository may serve files of several hosts. A host without a dot carries its
port, so that it is never taken for the first folder of the old layout `packages/source/f/foo/...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.rules.paths import canonical_path, decode_segment, encode_segment, judge_path

PREFIX = "packages/"
LONGEST = 2048  # bytes of a path: a key field
_LONGEST_FILE = LONGEST - len(".provenance")

_ABSOLUTE = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^?#]*)(\?[^#]*)?(?:#(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~+!-][A-Za-z0-9._~+!-]*+)++")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_PYTHON_FOLDER = re.compile(r"(?:py|cp|pp|ip|jy)\d+(?:\.(?:py|cp|pp|ip|jy)\d+)*|\d+\.\d+")
_PORTS = {"http": 80, "https": 443}
_URL_SAFE = "/%!$&'()*+,;=:@~"


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
        match = _ABSOLUTE.fullmatch(link) or _ABSOLUTE.fullmatch(_joined(self._page_url, link))
        if match is None or not is_text(link):
            return None
        scheme, host, port, path, query, fragment = match.groups(default="")
        origin = (scheme, host, port)
        segment = self._hosts.get(origin)
        if segment is None:
            segment = self._hosts[origin] = _segment(scheme, host, port)
        if not segment:
            return None
        clean = path if _PLAIN.fullmatch(path) else _cleaned(path)
        if not clean or len(PREFIX) + len(segment) + len(clean) > _LONGEST_FILE:
            return None
        netloc = f"{host}:{port}" if port else host
        url = f"{scheme.lower()}://{netloc}{path}{query}"
        if clean is not path or query:
            url = quote(url, safe=_URL_SAFE + "?[]")
        return Address(PREFIX + segment + clean, url, fragment)


def is_text(value: object) -> bool:
    """Whether a value from a document is text that can be stored (no lone surrogates)."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _joined(base: str, link: str) -> str:
    try:
        return urljoin(base, link.strip())
    except ValueError:
        return ""


def _cleaned(path: str) -> str:
    """The canonical spelling, "" if no path of ours may look like that."""
    try:
        spelled = quote(path, safe=_URL_SAFE)
        judge_path(spelled[1:])
        return "/" + canonical_path(spelled[1:]) if spelled[-1] != "/" else ""
    except BadPath:
        return ""


def _segment(scheme: str, host: str, port: str) -> str:
    """Host and port as one path segment, "" if the port is none."""
    scheme, host = scheme.lower(), host.lower()
    number = int(port) if port else _PORTS[scheme]
    if not 0 < number < 65536 or not _HOST.fullmatch(host):
        return ""
    bare = number == _PORTS[scheme] and ("." in host or host == "localhost") and host[0] != "["
    bare = bare and not _PYTHON_FOLDER.fullmatch(host)
    return encode_segment(host if bare else f"{host}:{number}")


class Places:
    """Where the files of one repository may lie: its upstreams' and its further file hosts."""

    def __init__(self, upstreams: Iterable[str], file_hosts: Iterable[str]) -> None:
        self._origins: dict[str, str] = {}
        for entry in (*upstreams, *file_hosts):
            url = entry if "://" in entry else f"https://{entry}"
            parts = urlsplit(url)
            host, port = parts.hostname or "", str(parts.port or "")
            host = f"[{host}]" if ":" in host else host
            if parts.scheme not in _PORTS or not (segment := _segment(parts.scheme, host, port)):
                continue
            netloc = host + (f":{port}" if port else "")
            self._origins.setdefault(segment, f"{parts.scheme}://{netloc}")
        self.home = next(iter(self._origins), "")

    def find(self, path: str) -> tuple[str, str, bool]:
        """Canonical key path, source URL and whether its host is foreign, of a canonical path
        under `packages/`. Raises `NotServed` if it names no file."""
        segment, _, rest = path.removeprefix(PREFIX).partition("/")
        host = decode_segment(segment).lower()
        segment = encode_segment(host)
        if segment not in self._origins and not _names_host(host):
            if not self.home:
                raise NotServed("this repository has no upstream")
            segment, rest = self.home, path
        if not rest or rest.endswith("/"):
            raise NotServed("no file is named by this path")
        origin = self._origins.get(segment)
        # A literal plus stays encoded towards upstream: S3 reads it as a space otherwise.
        target = rest.replace("+", "%2B")
        return f"{PREFIX}{segment}/{rest}", f"{origin or 'https://' + host}/{target}", origin is None


def _names_host(text: str) -> bool:
    if _PYTHON_FOLDER.fullmatch(text) or not _HOST.fullmatch(text):
        return False
    port = text.rpartition(":")[2] if ":" in text.rpartition("]")[2] else "1"
    return 0 < int(port) < 65536 and ("." in text or ":" in text or text == "localhost")
