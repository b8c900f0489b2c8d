"""Go modules, as the go command asks a GOPROXY for them, and the checksum database behind it.

Immutable: `<module>/@v/<version>.mod` and `.zip` of canonical versions, promised by the checksum
database's record of the version, and its tiles.
Mutable: `@v/list`, `@latest`, `.info` (of a canonical version stable, but vouched for by nobody; of
a branch or another query by nature), the database's `latest` and `lookup`, whose answer carries a
newly signed tree each time. `sumdb/<name>/supported` is answered here: a client that is told
otherwise goes to the database itself. Nothing is rendered.
References: the Go modules reference (GOPROXY protocol, checksum database).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from artifactproxy.errors import Fault, NotServed, UpstreamBroken
from artifactproxy.model import ArtifactKey, Ask, Digest, Kind, Promise, Reply, Route
from artifactproxy.providers._base import ClientSetup, Page, Provider, PublicOrigins, Site
from artifactproxy.providers._hosts import LONGEST
from artifactproxy.providers.go import documents, names
from artifactproxy.providers.go.databases import Databases
from artifactproxy.rules.digests import H1, H1_MOD
from artifactproxy.rules.gosum import MOD_BYTES, ZIP_BYTES
from artifactproxy.rules.paths import canonical_path, decode_segment, judge_path

LIST_TTL = 60.0
QUERY_TTL = 60.0
INFO_TTL = 7 * 86400.0
TREE_TTL = 3.0
RECORD_TTL = 10 * 365 * 86400.0  # what it says never changes, only the tree that is signed beside it
NEGATIVE_TTL = 60.0  # the go command asks for every parent path of a module
DOCUMENT_BYTES = 2**20
TILE_BYTES = 16 * 2**20

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"

_SETUP = """\
# For this user; the same names may be set in the environment instead.
go env -w GOPROXY={base}
# Leave GOSUMDB as it is: the checksum database is asked through the proxy, too.
# With {base},direct a module that nobody here has is fetched from where it is developed.
#
# Private modules past the proxy and the checksum database, straight from their repositories:
# go env -w 'GOPRIVATE=corp.example/*'
# Private modules through a proxy that has them, only past the checksum database:
# go env -w 'GONOSUMDB=corp.example/*' GONOPROXY=none
"""


class Go(Provider):
    name = "go"
    clients = (ClientSetup("go", _SETUP, command="go env -w GOPROXY={base}"),)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._databases = Databases(site.upstreams, site.file_hosts)

    @classmethod
    def public_upstream(cls, origin_of: PublicOrigins) -> str | None:
        example = "example.com/module"
        base, found, _ = origin_of.download(f"pkg:golang/{example}@v1.0.0").partition(f"{example}/@v/")
        return base if found and urlsplit(base).netloc else None

    def classify(self, ask: Ask) -> Route | Reply:
        judge_path(ask.path)
        path = canonical_path(ask.path)
        if len(path) > LONGEST or "%2F" in path:
            raise _nothing()
        if path.startswith("sumdb/"):
            return self._database(path)
        if path.endswith("/@latest"):
            purl = names.purl(_module(path.removesuffix("/@latest")))
            return self._document(path, JSON, QUERY_TTL, teaches=True, purl=purl)
        escaped, found, name = path.partition("/@v/")
        if not found or "/" in name:
            raise _nothing()
        module = _module(escaped)
        if name == "list":
            return self._document(path, TEXT, LIST_TTL, purl=names.purl(module))
        return self._version(path, module, decode_segment(name))

    # --- modules ---

    def _version(self, path: str, module: str, filename: str) -> Route:
        spelled, _, kind = filename.rpartition(".")
        version = names.unescaped(spelled)
        if version is None or kind not in ("info", "mod", "zip"):
            raise _nothing()
        purl = names.purl(module, version)
        if kind == "info":
            if names.belongs(version, module):
                return self._document(path, JSON, INFO_TTL, teaches=True, purl=purl)
            if not names.is_query(version):
                raise NotServed("no version of a module can be called this")
            return self._document(path, JSON, QUERY_TTL, teaches=True, purl=names.purl(module))
        if not names.is_canonical(version):
            raise NotServed("files are kept under full versions only; ask for the .info of a query")
        return Route(
            Kind.ARTIFACT,
            ArtifactKey(self.site.repo, path),
            self._under(path),
            media_type="application/zip" if kind == "zip" else TEXT,
            negative_ttl=NEGATIVE_TTL,
            teachers=self._teachers(path),
            taught_if_possible=True,
            expects_html=False,
            filename=f"{module}@{version}.{kind}",
            purl=purl,
            max_bytes=ZIP_BYTES if kind == "zip" else MOD_BYTES,
        )

    def _document(self, path: str, media_type: str, ttl: float, *, purl: str, teaches: bool = False) -> Route:
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, path),
            self._under(path),
            media_type=media_type,
            ttl=ttl,
            negative_ttl=NEGATIVE_TTL,
            teaches=teaches,
            expects_html=False,
            purl=purl,
            max_bytes=DOCUMENT_BYTES if teaches else None,
        )

    def _under(self, path: str) -> tuple[str, ...]:
        return tuple(base + path for base in self.site.upstreams)

    # --- the checksum database ---

    def _teachers(self, path: str) -> tuple[Ask, ...]:
        if not self._databases.teacher:
            return ()
        record = path.rpartition(".")[0].replace("/@v/", "@")
        return (Ask(self.site.repo, f"sumdb/{self._databases.teacher}/lookup/{record}"),)

    def _database(self, path: str) -> Route | Reply:
        _, name, *_ = path.split("/")
        rest = path.removeprefix(f"sumdb/{name}/")
        address = self._databases.address(name)
        if rest == "supported":
            return Reply(200)
        recorded = _recorded(rest.removeprefix("lookup/")) if rest.startswith("lookup/") else None
        is_tile = names.is_tile(rest)
        if not (recorded or is_tile or rest == "latest"):
            raise NotServed("a checksum database has no such path")
        return Route(
            Kind.ARTIFACT if is_tile else Kind.INDEX,
            ArtifactKey(self.site.repo, path),
            (*self._under(path), f"{address}/{rest}"),
            media_type=BINARY if is_tile else TEXT,
            ttl=None if is_tile else RECORD_TTL if recorded else TREE_TTL,
            negative_ttl=0.0,
            absent_everywhere=True,
            teaches=not is_tile,
            expects_html=False,
            filename=rest,
            purl=names.purl(*recorded) if recorded else "",
            max_bytes=TILE_BYTES if is_tile else DOCUMENT_BYTES,
        )

    # --- documents ---

    def learn(self, route: Route, body: bytes, url: str) -> Iterable[Promise]:
        del url
        path = route.key.path
        if path.startswith("sumdb/"):
            return self._learn_sums(route, body)
        escaped, _, name = path.rpartition("/@")
        info = documents.read_info(body)
        module, asked = names.unescaped(escaped) or "", _asked(name)
        if names.belongs(asked, module) and info.version != asked:
            raise UpstreamBroken(
                "upstream describes another version than the one asked for", code="bad_index"
            )
        if info.time is None:
            return []
        return self._promises(
            f"{escaped}/@v/{names.escaped(info.version)}",
            taught_by=path,
            purl=names.purl(module, info.version),
            released=info.time,
        )

    def _learn_sums(self, route: Route, body: bytes) -> Iterable[Promise]:
        _, name, what, *_ = route.key.path.split("/")
        if what == "latest":
            documents.check_tree(body)
            return []
        record = route.key.path.removeprefix(f"sumdb/{name}/lookup/")
        module, version = _recorded(record) or ("", "")
        sums = documents.read_lookup(body, module, version)
        if name != self._databases.teacher:
            return []  # allowed, but one database alone speaks for this repository
        return self._promises(
            record.replace("@", "/@v/"),
            taught_by=route.key.path,
            purl=names.purl(module, version),
            sums=sums,
        )

    def _promises(
        self,
        stem: str,
        *,
        taught_by: str,
        purl: str,
        released: float | None = None,
        sums: documents.Sums | None = None,
    ) -> list[Promise]:
        return [
            Promise(
                ArtifactKey(self.site.repo, f"{stem}.{kind}"),
                (digest,) if digest else (),
                taught_by=taught_by,
                released=released,
                released_from="" if released is None else "Time",
                purl=purl,
            )
            for kind, digest in (
                ("mod", Digest(H1_MOD, sums.mod) if sums else None),
                ("zip", Digest(H1, sums.zip) if sums else None),
            )
        ]

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """The go command prints the body of an error."""
        del ask
        return Page(f"{fault.detail}\n".encode("utf-8", "replace"), TEXT)


def _module(escaped: str) -> str:
    """Raises `NotServed` unless this spells a module path."""
    module = names.unescaped(escaped)
    if module is None or not names.is_module(module):
        raise NotServed("no module can have this path; upper-case letters are written !a, !b, ...")
    return module


def _asked(name: str) -> str:
    """The version or query of `v/<it>.info`, "" for `latest`."""
    spelled = decode_segment(name).removeprefix("v/").removesuffix(".info") if name != "latest" else ""
    return names.unescaped(spelled) or ""


def _recorded(record: str) -> tuple[str, str] | None:
    """Module and version of `<module>@<version>`, both escaped; None if it names no record."""
    escaped, _, spelled = record.partition("@")
    module, version = names.unescaped(escaped), names.unescaped(spelled)
    if module is None or version is None:
        return None
    good = names.is_module(module) and names.is_canonical(version)
    return (module, version) if good else None


def _nothing() -> NotServed:
    return NotServed("no such path in the module proxy protocol")


PROVIDER = Go
