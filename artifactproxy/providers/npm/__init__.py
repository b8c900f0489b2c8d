"""npm registries: package documents in two forms, tarballs, tags, signing keys, audit and search.

Immutable: `P/-/<file>`, a tarball (a registry never reuses the name of a version), and the same on
another host as `P/-/<host>/<path>`; promised by the package's document.
Mutable: `P` (two variants, chosen by Accept), `P/<version or tag>`, `-/package/P/dist-tags` (made
from `P`), `-/npm/v1/keys`, `-/npm/v1/attestations/P@v`. Relayed: audits, with their bodies, and search.
A package `P` is `name` or `@scope/name`, however it is escaped. What changes a registry, or belongs
to an account, is refused. References: the npm registry's API documentation (package metadata,
signatures, audit, search); the npm, pnpm, yarn and bun clients for what they send.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from artifactproxy.errors import BadPath, Fault, MethodRefused, NotServed
from artifactproxy.model import ArtifactKey, Ask, Header, Kind, Promise, Rendered, Reply, Route, View
from artifactproxy.providers._base import ClientSetup, Page, Provider, PublicOrigins, Site, json_text
from artifactproxy.providers._hosts import LONGEST
from artifactproxy.providers.npm import names, packument
from artifactproxy.providers.npm.addresses import ARCHIVES, Tarballs
from artifactproxy.rules.http import negotiate
from artifactproxy.rules.paths import canonical_path, judge_path, judge_query

ABBREVIATED = "application/vnd.npm.install-v1+json"
JSON = "application/json"
TAGS = "application/json; charset=utf-8"  # not JSON: it tells two renderings of one document apart
_OFFERS = ((ABBREVIATED, "abbreviated"), (JSON, "full"))
_GZIP = ("accept-encoding", "gzip, identity;q=0.5")
_ASK_JSON = (("accept", JSON), _GZIP)
# Some registries answer 406 to the abbreviated type alone.
_ASK_ABBREVIATED = (("accept", f"{ABBREVIATED}; q=1.0, {JSON}; q=0.8, */*; q=0.1"), _GZIP)

PACKUMENT_TTL = 120.0
KEYS_TTL = 3600.0
ATTESTATIONS_TTL = 86400.0
MISSING_FILE_TTL = 10.0  # a document that lists a tarball which upstream lacks is a passing state

_AUDITS = frozenset(f"-/npm/v1/security/{path}" for path in ("advisories/bulk", "audits", "audits/quick"))
_AUDIT_HEADERS = ("accept", "content-type", "content-encoding", "npm-command", "npm-in-ci", "npm-scope")
_SEARCH_TERMS = frozenset(("text", "size", "from", "quality", "popularity", "maintenance"))
_ACCOUNT = (
    "-/whoami",
    "-/v1/login",
    "-/v1/done",
    "-/user",
    "-/npm/v1/user",
    "-/npm/v1/tokens",
    "-/org",
    "-/team",
)
_ONLY_READS = "this repository is only read: it has no accounts and takes no packages"

_CLIENTS = (
    ClientSetup(
        "npm",
        "# .npmrc, of the project or of the user\nregistry={base}/\n",
        command="npm install --registry={base}/ PACKAGE",
    ),
    ClientSetup(
        "pnpm",
        "# .npmrc, of the project or of the user\nregistry={base}/\n",
        command="pnpm add --registry={base}/ PACKAGE",
    ),
    ClientSetup(
        "yarn",
        "# .yarnrc.yml; yarn wants every host named that it reaches over plain http\n"
        'npmRegistryServer: "{base}"\nunsafeHttpWhitelist:\n  - "{host}"\n',
        command="yarn config set npmRegistryServer {base}",
    ),
    ClientSetup(
        "yarn1",
        '# .yarnrc\nregistry "{base}/"\n',
        command="yarn add --registry {base}/ PACKAGE",
    ),
    ClientSetup(
        "bun",
        '# bunfig.toml\n[install]\nregistry = "{base}/"\n',
        command="bun add --registry={base}/ PACKAGE",
    ),
)


class Npm(Provider):
    name = "npm"
    revision = 1
    methods = frozenset({"GET", "HEAD", "POST"})
    clients = _CLIENTS

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._tarballs = Tarballs(site.upstreams, site.file_hosts)

    @classmethod
    def public_upstream(cls, origin_of: PublicOrigins) -> str | None:
        base, found, _ = origin_of.download("pkg:npm/npm@1.0.0").partition("npm/-/")
        return base if found and base.startswith("https://") else None

    def classify(self, ask: Ask) -> Route | Reply:
        judge_path(ask.path)
        path = canonical_path(ask.path)
        if len(path) > LONGEST:
            raise BadPath(f"the path is longer than {LONGEST} bytes")
        if ask.method == "POST" and path not in _AUDITS:
            raise MethodRefused(_ONLY_READS)
        # A package may be called `-`; of it there is the document and what lies in `-/-/`.
        if path.startswith("-/") and not path.startswith("-/-/"):
            return self._service(path, ask)
        package, rest = names.take(path)
        if rest is None:
            return self._packument(package, _variant(ask.headers.get("accept", "")))
        if rest.startswith("-/"):
            return self._tarball(package, rest[2:])
        return self._manifest(package, rest)

    # --- documents ---

    def _packument(self, package: str, variant: str) -> Route:
        short = variant == "abbreviated"
        return self._index(
            package,
            self._under(names.escaped(package)),
            PACKUMENT_TTL,
            variant=variant,
            media_type=ABBREVIATED if short else JSON,
            headers=_ASK_ABBREVIATED if short else _ASK_JSON,
            rendered=True,
            purl=names.purl(package),
        )

    def _tags(self, package: str) -> Route:
        return replace(self._packument(package, "abbreviated"), media_type=TAGS)

    def _manifest(self, package: str, wanted: str) -> Route:
        if not wanted or "/" in wanted or "%2F" in wanted or wanted.startswith("-"):
            raise NotServed("no such path in an npm registry")
        version = names.decoded(wanted)
        known = version if names.order(version) else ""
        return self._index(
            f"{package}/{wanted}",
            self._under(f"{names.escaped(package)}/{wanted.replace('+', '%2B')}"),
            PACKUMENT_TTL,
            rendered=True,
            purl=names.purl(package, known),
        )

    def _index(
        self,
        path: str,
        sources: tuple[str, ...],
        ttl: float,
        *,
        variant: str = "",
        media_type: str = JSON,
        headers: tuple[Header, ...] = _ASK_JSON,
        rendered: bool = False,
        purl: str = "",
    ) -> Route:
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, path, variant),
            sources,
            media_type=media_type,
            headers=headers,
            ttl=ttl,
            rendered=rendered,
            teaches=rendered,
            expects_html=False,
            purl=purl,
        )

    def _under(self, path: str) -> tuple[str, ...]:
        return tuple(upstream + path for upstream in self.site.upstreams)

    # --- tarballs ---

    def _tarball(self, package: str, below: str) -> Route:
        if not below or below.endswith("/"):
            raise NotServed("no tarball is named by this path")
        file = self._tarballs.find(package, below)
        if not file.alias and not file.filename.endswith(ARCHIVES):
            return self._relayed(file.path, file.sources)
        return Route(
            Kind.ARTIFACT,
            ArtifactKey(self.site.repo, file.path),
            file.sources,
            negative_ttl=MISSING_FILE_TTL,
            foreign=file.foreign,
            teachers=(Ask(self.site.repo, package, headers={"accept": ABBREVIATED}),),
            expects_html=False,
            filename=file.filename,
            purl=names.purl(package, names.version_of(package, file.filename)),
        )

    # --- services ---

    def _service(self, path: str, ask: Ask) -> Route | Reply:
        if path == "-/ping":
            return Reply(200, b"{}", JSON)
        if path == "-/npm/v1/keys":
            return self._index(path, self._under(path), KEYS_TTL)
        if path in _AUDITS:
            if ask.method != "POST":
                raise MethodRefused("an audit is asked for with POST")
            carried = tuple((name, ask.headers[name]) for name in _AUDIT_HEADERS if name in ask.headers)
            return self._relayed(path, self._under(path), carried)
        if path == "-/v1/search":
            return self._search(path, ask.query)
        if path.startswith("-/package/"):
            package, rest = names.take(path.removeprefix("-/package/"))
            if rest == "dist-tags":
                return self._tags(package)
        if path.startswith("-/npm/v1/attestations/"):
            return self._attestations(path.removeprefix("-/npm/v1/attestations/"))
        if any(path == account or path.startswith(f"{account}/") for account in _ACCOUNT):
            raise NotServed(_ONLY_READS)
        raise NotServed("no such path in an npm registry")

    def _attestations(self, wanted: str) -> Route:
        spec, _, version = wanted.rpartition("@")
        package, rest = names.take(spec)
        if rest is not None or not names.order(names.decoded(version)):
            raise NotServed("no attestations are named by this path")
        return self._index(
            f"-/npm/v1/attestations/{package}@{version}",
            self._under(f"-/npm/v1/attestations/{names.escaped(package)}@{version.replace('+', '%2B')}"),
            ATTESTATIONS_TTL,
            purl=names.purl(package, names.decoded(version)),
        )

    def _search(self, path: str, query: str) -> Route:
        judge_query(query)
        terms = [term for term in query.split("&") if term.partition("=")[0] in _SEARCH_TERMS]
        target = f"{path}?{'&'.join(terms)}" if terms else path
        if len(target) > LONGEST:
            raise BadPath(f"the path is longer than {LONGEST} bytes")
        return self._relayed(target, self._under(target), (("accept", JSON),))

    def _relayed(self, path: str, sources: tuple[str, ...], headers: tuple[Header, ...] = ()) -> Route:
        return Route(
            Kind.PASS,
            ArtifactKey(self.site.repo, path),
            sources,
            media_type=JSON if path.startswith("-/") else "application/octet-stream",
            headers=headers,
            expects_html=False,
        )

    # --- reading and writing ---

    def learn(self, route: Route, body: bytes, url: str) -> Iterable[Promise]:
        del url
        package, rest = names.take(route.key.path)
        read = packument.promises if rest is None else packument.manifest_promises
        return read(route.key, package, body, self._tarballs)

    def render(self, route: Route, body: bytes, base: str, view: View, url: str) -> Rendered:
        del url
        package, rest = names.take(route.key.path)
        if rest is not None:
            return Rendered(packument.render_manifest(package, body, self._tarballs, base, view.hidden))
        if route.media_type == TAGS:
            return Rendered(packument.render_tags(package, body, self._tarballs, view.hidden))
        abbreviated = route.media_type == ABBREVIATED
        rendered = packument.render(package, body, self._tarballs, base, view.hidden, abbreviated=abbreviated)
        return Rendered(rendered)

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """For npm, which shows `error`, and pnpm, which shows the reason phrase."""
        del ask
        printable = "".join(c if " " <= c <= "~" else " " for c in fault.detail)
        sentence = " ".join(printable.split())[:200]
        return Page(json_text({"error": fault.detail}), JSON, sentence)


def _variant(accept: str) -> str:
    """The short form only for who names it: `*/*` and what cannot be read get the whole."""
    if ABBREVIATED not in accept.lower():
        return "full"
    # One more range, so that a header in which nothing can be read accepts nothing, not anything.
    return negotiate(f"{accept}, x/none;q=0.001", _OFFERS) or "full"


PROVIDER = Npm
