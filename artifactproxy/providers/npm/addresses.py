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
from artifactproxy.providers.npm import names
from artifactproxy.rules.paths import MAX_TARGET_BYTES, encode_segment

ARCHIVES = (".tgz", ".tar.gz", ".tar")

_FILE = re.compile(r"[A-Za-z0-9_~+!][A-Za-z0-9._~+!-]*+(?<=\.tgz)")
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
        self._origins = origins((*upstreams, *file_hosts), _is_bare)
        self._bases = [(next(iter(origins([u], _is_bare)), ""), urlsplit(u).path, u) for u in upstreams]

    # --- from a document's URL to a path ---

    def place(self, package: str, version: str, url: str) -> tuple[str, str] | None:
        """Our path for the tarball of a version, and the URL to fetch it from.

        None for anything but a plain http(s) URL whose path can be one of ours: other schemes,
        userinfo, dot segments, control characters, lone surrogates.
        """
        if len(url) > MAX_TARGET_BYTES or not is_text(url):
            return None
        for upstream in self._upstreams:
            start = f"{upstream}{package}/-/"
            if url.startswith(start) and _FILE.fullmatch(url, len(start)):
                path = f"{package}/-/{url[len(start) :]}"
                return (path, url) if len(path) <= LONGEST else None
        match = ABSOLUTE.fullmatch(url)
        if match is None:
            return None
        scheme, host, port, raw, query, _ = match.groups(default="")
        scheme, host = scheme.lower(), host.lower()
        clean, segment = cleaned(raw), segment_of(scheme, host, port, _is_bare)
        if not clean or not segment:
            return None
        query = quote(query, safe=URL_SAFE + "?[]")
        exact = f"{scheme}://{host}{':' + port if port else ''}{quote(raw, safe=URL_SAFE)}{query}"
        for base, upstream in self._bases_on(segment):
            path = _own_path(package, clean.removeprefix(base)) if clean.startswith(base) else ""
            if path and len(path) <= LONGEST:
                return path, exact if exact.startswith(upstream) else upstream + path + query
        if query:
            clean = cleaned(f"{raw}{_QUERY}{encode_segment(version)}")
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
        if not names_host(host, _is_bare) or not rest or rest.endswith("/"):
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


def _is_bare(host: str) -> bool:
    return "." in host
