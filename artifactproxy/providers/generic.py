"""Any tree of files behind plain HTTP: downloads, toolchains, release pages.

Immutable by rule: every path but directories, paths with a `latest` segment and the extensions in
`_MUTABLE` below; the administrator's patterns come first (refuse, immutable, mutable, these).
A pattern with a slash is matched against the whole decoded path, one without against its last
segment (`fnmatch`, case matters, `*` crosses slashes). Queries belong to the key: file servers use
them. Nothing is rendered, nothing is promised.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from artifactproxy.errors import BadPath, Blocked
from artifactproxy.model import ArtifactKey, Ask, Kind, Route
from artifactproxy.providers._base import ClientSetup, Provider
from artifactproxy.rules.paths import canonical_path, decode_segment, judge_path, judge_query

TTL = 300.0
NEGATIVE_TTL = 60.0
LONGEST = 2048  # bytes of path and query: a key field

_MUTABLE = (
    ".json", ".xml", ".txt", ".yaml", ".yml", ".html",
    ".asc", ".sig", ".sha256", ".sha512", ".sha1", ".md5",
)  # fmt: skip
_TEXT = "text/plain; charset=utf-8"
_MEDIA_TYPES = {
    "7z": "application/x-7z-compressed",
    "apk": "application/vnd.android.package-archive",
    "asc": _TEXT,
    "bz2": "application/x-bzip2",
    "deb": "application/vnd.debian.binary-package",
    "dmg": "application/x-apple-diskimage",
    "gz": "application/gzip",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "iso": "application/x-iso9660-image",
    "jar": "application/java-archive",
    "json": "application/json",
    "md5": _TEXT,
    "rpm": "application/x-rpm",
    "sha1": _TEXT,
    "sha256": _TEXT,
    "sha512": _TEXT,
    "tar": "application/x-tar",
    "tgz": "application/gzip",
    "toml": "application/toml",
    "txt": _TEXT,
    "wasm": "application/wasm",
    "whl": "application/zip",
    "xml": "application/xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
    "zst": "application/zstd",
}
_BINARY = frozenset(
    {
        *("7z", "bz2", "gz", "lz4", "rar", "tar", "tbz", "tgz", "txz", "xz", "zip", "zst"),
        *("apk", "crate", "deb", "egg", "gem", "jar", "msi", "nupkg", "pkg", "rpm", "war", "whl"),
        *("bin", "dll", "dmg", "exe", "img", "iso", "qcow2", "so", "wasm"),
    }
)
# A web page under such a name can only be a captive portal or a site that knows no 404.
_NEVER_HTML = _BINARY | {"json", "yaml", "yml", "toml", "asc", "sig", "sha256", "sha512", "sha1", "md5"}


class Generic(Provider):
    name = "generic"
    clients = (
        ClientSetup(
            "curl",
            "# any path of the upstream\ncurl -fLO {base}/PATH\n",
            command="curl -fLO {base}/PATH",
        ),
        ClientSetup(
            "wget",
            "# any path of the upstream\nwget {base}/PATH\n",
            command="wget {base}/PATH",
        ),
    )

    def classify(self, ask: Ask) -> Route:
        judge_path(ask.path)
        judge_query(ask.query)
        path = canonical_path(ask.path)
        target = f"{path}?{ask.query}" if ask.query else path
        if len(target) > LONGEST:
            raise BadPath(f"the path is longer than {LONGEST} bytes")
        segments = [decode_segment(segment) for segment in path.split("/")]
        filename = segments[-1]
        if _matches(self.site.refuse, segments):
            raise Blocked("this path is refused by a rule of this repository")
        immutable = self._is_immutable(segments)
        extension = filename.rpartition(".")[2].lower() if "." in filename else ""
        # A literal plus stays encoded towards upstream: S3 reads it as a space otherwise.
        source = path.replace("+", "%2B") + target[len(path) :]
        return Route(
            Kind.ARTIFACT if immutable else Kind.INDEX,
            ArtifactKey(self.site.repo, target),
            tuple(base + source for base in self.site.upstreams),
            media_type=_MEDIA_TYPES.get(extension, "application/octet-stream"),
            ttl=None if immutable else TTL,
            negative_ttl=NEGATIVE_TTL,
            expects_html=may_be_html(filename),
            filename=filename,
        )

    def _is_immutable(self, segments: list[str]) -> bool:
        if _matches(self.site.immutable, segments):
            return True
        if _matches(self.site.mutable, segments):
            return False
        filename = segments[-1]
        return bool(filename) and "latest" not in segments and not filename.lower().endswith(_MUTABLE)


def may_be_html(filename: str) -> bool:
    return filename.rpartition(".")[2].lower() not in _NEVER_HTML or "." not in filename


def _matches(patterns: Iterable[str], segments: list[str]) -> bool:
    whole = "/".join(segments)
    return any(fnmatchcase(whole if "/" in p else segments[-1], p) for p in patterns)


PROVIDER = Generic
