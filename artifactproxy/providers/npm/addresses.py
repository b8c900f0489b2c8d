"""Tarball URLs of upstream, and the paths under which we hand them out.

`<an upstream>P/-/<file>` is `P/-/<file>`: clients leave such an address out of their lock files and
make it again from name and version. Any other, `https://files.example/a/b`, is
`P/-/files.example/a/b`: the host stays readable, and the package says which document teaches it. A
host without a dot carries its port, so that it is never taken for a folder. A query is no part of
the path, because it may be a signature; the version stands for it (`b%3F1.0.0`), since it may also
be all that tells two tarballs apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.providers.npm import names
from artifactproxy.rules.paths import MAX_TARGET_BYTES, canonical_path, encode_segment, judge_path

LONGEST = 2048  # bytes of a path: a key field
ARCHIVES = (".tgz", ".tar.gz", ".tar")

_URL = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^?#]*)(\?[^#]*)?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_FILE = re.compile(r"[A-Za-z0-9_~+!][A-Za-z0-9._~+!-]*+(?<=\.tgz)")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_PORTS = {"http": 80, "https": 443}
_SAFE = "/%!$&'()*+,;=:@~"
_QUERY = "%3F"


@dataclass(frozen=True, slots=True)
class Tarball:
    """A file of a package as one of our paths names it. `alias`: not where upstreams keep tarballs;
    `foreign`: only a promise may lead there."""

    path: str
    sources: tuple[str, ...]
    filename: str
    alias: bool = False
    foreign: bool = False


class Tarballs:
    """Where the tarballs of one repository may lie."""

    def __init__(self, upstreams: tuple[str, ...], file_hosts: Iterable[str]) -> None:
        self._upstreams = upstreams
        self._bases: list[tuple[str, str, str]] = []
        self._origins: dict[str, str] = {}
        for upstream in upstreams:
            self._bases.append((self._trust(upstream), urlsplit(upstream).path, upstream))
        for host in file_hosts:
            self._trust(host if "://" in host else f"https://{host}")

    def _trust(self, url: str) -> str:
        parts = urlsplit(url)
        host, port = parts.hostname or "", str(parts.port or "")
        host = f"[{host}]" if ":" in host else host
        segment = _segment(parts.scheme, host, port)
        if segment:
            netloc = host + (f":{port}" if port else "")
            self._origins.setdefault(segment, f"{parts.scheme}://{netloc}")
        return segment

    # --- from a document's URL to a path ---

    def place(self, package: str, version: str, url: str) -> tuple[str, str] | None:
        """Our path for the tarball of a version, and the URL to fetch it from.

        None for anything but a plain http(s) URL whose path can be one of ours: other schemes,
        userinfo, dot segments, control characters, lone surrogates.
        """
        if len(url) > MAX_TARGET_BYTES or not _is_text(url):
            return None
        for upstream in self._upstreams:
            start = f"{upstream}{package}/-/"
            if url.startswith(start) and _FILE.fullmatch(url, len(start)):
                path = f"{package}/-/{url[len(start) :]}"
                return (path, url) if len(path) <= LONGEST else None
        match = _URL.fullmatch(url)
        if match is None:
            return None
        scheme, host, port, raw, query = match.groups(default="")
        scheme, host = scheme.lower(), host.lower()
        clean, segment = _cleaned(raw), _segment(scheme, host, port)
        if not clean or not segment:
            return None
        query = quote(query, safe=_SAFE + "?[]")
        exact = f"{scheme}://{host}{':' + port if port else ''}{quote(raw, safe=_SAFE)}{query}"
        for base, upstream in self._bases_on(segment):
            path = _own_path(package, clean.removeprefix(base)) if clean.startswith(base) else ""
            if path and len(path) <= LONGEST:
                return path, exact if exact.startswith(upstream) else upstream + path + query
        if query:
            clean = _cleaned(f"{raw}{_QUERY}{encode_segment(version)}")
        path = f"{package}/-/{segment}{clean}"
        return (path, exact) if clean and len(path) <= LONGEST else None

    def _bases_on(self, segment: str) -> list[tuple[str, str]]:
        """Paths and URLs of the upstreams on this host. Its scheme is not compared: registries
        behind a TLS proxy are wrong about theirs, and then the configured one is used."""
        return [(path, upstream) for known, path, upstream in self._bases if known == segment]

    # --- from a path of ours to where upstream keeps it ---

    def find(self, package: str, below: str) -> Tarball:
        """What `package/-/below`, canonical, names. Raises `NotServed` if nothing."""
        own = _own_file(package, below)
        if own:
            path = f"{package}/-/{own}"
            sources = tuple(upstream + path.replace("+", "%2B") for upstream in self._upstreams)
            return Tarball(path, sources, names.decoded(own.rpartition("/")[2]))
        segment, _, rest = below.partition("/")
        host = names.decoded(segment).lower()
        if not _names_host(host) or not rest or rest.endswith("/"):
            raise NotServed("no tarball is named by this path")
        segment = encode_segment(host)
        target, queried, _ = rest.partition(_QUERY)
        origin = self._origins.get(segment)
        filename = names.decoded(target.rpartition("/")[2])
        # On upstream's own host anything but a tarball needs a promise, too: it would be asked for
        # with this repository's credentials.
        foreign = origin is None or bool(queried) or not filename.endswith(ARCHIVES)
        url = f"{origin or 'https://' + host}/{target.replace('+', '%2B')}"
        return Tarball(f"{package}/-/{segment}/{rest}", (url,), filename, alias=True, foreign=foreign)


def _is_text(url: str) -> bool:
    try:
        return url.isascii() or bool(url.encode())
    except UnicodeEncodeError:
        return False


def _own_path(package: str, path: str) -> str:
    """`P/-/<file>` in our spelling, "" if this canonical path is anything else."""
    try:
        owner, below = names.take(path)
    except NotServed:
        return ""
    if owner != package or not below or not below.startswith("-/"):
        return ""
    file = _own_file(package, below[2:])
    return f"{package}/-/{file}" if file.endswith(ARCHIVES) else ""


def _own_file(package: str, below: str) -> str:
    """The file that `below` names in the folder `P/-/`, "" if none. Some registries repeat the
    scope: `@s/n/-/@s/n-1.0.0.tgz`."""
    if "/" not in below and "%2F" not in below:
        return below
    scope, _, file = below.replace("%2F", "/", 1).partition("/")
    repeated = scope[:1] == "@" and scope == package.partition("/")[0]
    return f"{scope}/{file}" if repeated and file and "/" not in file and "%2F" not in file else ""


def _cleaned(path: str) -> str:
    """The canonical spelling, "" if no path of ours may look like that."""
    try:
        spelled = quote(path, safe=_SAFE)
        judge_path(spelled[1:])
        return "/" + canonical_path(spelled[1:]) if spelled[-1] != "/" else ""
    except BadPath:
        return ""


def _segment(scheme: str, host: str, port: str) -> str:
    """Host and port as one path segment, "" if they are none."""
    usual = _PORTS.get(scheme, 0)
    number = int(port) if port else usual
    if not usual or not 0 < number < 65536 or not _HOST.fullmatch(host):
        return ""
    bare = number == usual and "." in host and host[0] != "["
    return encode_segment(host if bare else f"{host}:{number}")


def _names_host(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    port = text.rpartition(":")[2] if ":" in text.rpartition("]")[2] else "1"
    return 0 < int(port) < 65536 and ("." in text or ":" in text)
