"""Registries of container images and other artifacts, as docker, podman, containerd and helm ask them.

Paths are those behind `/v2/`. Immutable: manifests and blobs under their digest, which also promises
their bytes. Mutable: tags, which are pointers (their document is that of the digest they mean), also
those that look like digests; lists of tags; lists of referrers. A blob is asked for, and kept, for each
name by itself: that another name has it says nothing about who may read it here. Manifests leave byte
for byte as they came, with the type upstream gave them. Reference: OCI distribution specification 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from packageurl import PackageURL

from artifactproxy.errors import Blocked, Fault, MethodRefused, NotServed, UpstreamBroken
from artifactproxy.model import (
    ArtifactKey,
    Ask,
    Header,
    Kind,
    Operation,
    Promise,
    Rendered,
    Reply,
    Right,
    Route,
    View,
)
from artifactproxy.providers._base import Page, Provider, PublicOrigins, Site
from artifactproxy.providers.oci import referrers, registries
from artifactproxy.providers.oci.setup import DOCKER, clients_of
from artifactproxy.rules.oci import manifests, media, problems
from artifactproxy.rules.oci.names import digest_of
from artifactproxy.rules.oci.operations import (
    READING,
    Blob,
    Catalog,
    Manifest,
    Ping,
    Referrers,
    Tags,
    Target,
    operation_of,
)

TAG_TTL = 120.0
LIST_TTL = 60.0
NEGATIVE_TTL = 30.0
LIST_BYTES = 16 * 2**20

DIGEST = "Docker-Content-Digest"
JSON = "application/json"
VERSION: Header = ("Docker-Distribution-Api-Version", "registry/2.0")
FILTERED: Header = ("OCI-Filters-Applied", "artifactType")

_ANY_MANIFEST = ", ".join((*media.MODERN, media.OCI_ARTIFACT, *sorted(media.SCHEMA1), "*/*;q=0.1"))


class Oci(Provider):
    name = "oci"
    clients = clients_of(DOCKER)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._bases = tuple(map(registries.api_of, site.upstreams))
        if site.upstreams:
            self.clients = clients_of(registries.host_of(site.upstreams[0]))

    @classmethod
    def public_upstream(cls, origin_of: PublicOrigins) -> str | None:
        del origin_of
        return registries.PUBLIC["docker.io"]

    @classmethod
    def default_mounts(cls, origin_of: PublicOrigins) -> dict[str, str]:
        del origin_of
        return dict(registries.PUBLIC)

    @classmethod
    def reached_at(cls, upstream: str) -> str:
        return registries.PUBLIC["docker.io"] if registries.is_docker_hub(upstream) else upstream

    def operation(self, ask: Ask) -> Operation:
        """Reading, of an image by its full name: what is left out of it grants and hides nothing."""
        try:
            name = operation_of("GET", ask.path, ask.query).name
        except Fault:
            name = ""  # `classify` will say what is wrong with it
        return Operation(Right.READ, ask.repo, self._full(name) if name else "")

    def classify(self, ask: Ask) -> Route | Reply:
        # Asked as reading always: what a writing method is refused for is that nothing is taken here.
        target = operation_of("GET", ask.path, ask.query).target
        if ask.method not in READING:
            raise MethodRefused("this repository can only be read", code="unsupported")
        if isinstance(target, Ping):
            return Reply(200, b"{}\n", JSON, (VERSION,))
        if isinstance(target, Manifest):
            return self._manifest(target, ask)
        if isinstance(target, Blob):
            return self._blob(target)
        if isinstance(target, Tags):
            return self._tags(target, ask.query)
        if isinstance(target, Referrers):
            return self._referrers(target, ask.query)
        what = "the catalog" if isinstance(target, Catalog) else "an upload"
        raise NotServed(f"{what} of another registry is not handed on", code="unsupported")

    def pointed(self, route: Route, digest: str) -> Route | None:
        said = digest_of(digest.strip())
        name = route.key.path.rpartition("/manifests/")[0]
        if said is None:
            return None
        found = self.classify(Ask(self.site.repo, f"{name}/manifests/{said}"))
        return found if isinstance(found, Route) else None

    # --- routes ---

    def _manifest(self, target: Manifest, ask: Ask) -> Route:
        name = self._full(target.name)
        path = f"{name}/manifests/{target.reference}"
        if target.digest is not None:
            key = ArtifactKey(self.site.repo, path)
            return Route(
                Kind.ARTIFACT,
                key,
                self._under(path),
                media_type=media.OCI_MANIFEST,
                headers=(("accept", _ANY_MANIFEST),),
                promise=Promise(key, (target.digest,)),
                negative_ttl=NEGATIVE_TTL,
                expects_html=False,
                filename=path,
                purl=self._purl(name, str(target.digest)),
                max_bytes=manifests.MANIFEST_BYTES,
                typed=True,
                digest_header=DIGEST,
                answers=(VERSION,),
            )
        for pattern in self.site.deny_tags:
            if fnmatchcase(target.tag, pattern):
                raise Blocked(
                    f"the tag {target.tag} is not given out here (deny_tags: {pattern}); "
                    "name the image by its digest or by another tag",
                    code="denied",
                )
        variant = media.variant_of(ask.headers.get("accept", ""))
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, path, "" if variant == media.ALL else variant),
            self._under(path),
            media_type=media.OCI_MANIFEST,
            headers=(("accept", media.upstream_accept(variant)),),
            ttl=TAG_TTL,
            negative_ttl=NEGATIVE_TTL,
            teaches=True,
            expects_html=False,
            filename=path,
            purl=self._purl(name),
            max_bytes=manifests.MANIFEST_BYTES,
            typed=True,
            digest_header=DIGEST,
            answers=(VERSION, ("Vary", "Accept")),
            pointer=DIGEST.lower(),
        )

    def _blob(self, target: Blob) -> Route:
        name = self._full(target.name)
        path = f"{name}/blobs/{target.digest}"
        key = ArtifactKey(self.site.repo, path)
        return Route(
            Kind.ARTIFACT,
            key,
            self._under(path),
            media_type=media.BLOB,
            promise=Promise(key, (target.digest,)),
            negative_ttl=NEGATIVE_TTL,
            filename=path,
            purl=self._purl(name),
            digest_header=DIGEST,
            answers=(VERSION,),
            shared=True,
        )

    def _tags(self, target: Tags, query: str) -> Route:
        path = f"{self._full(target.name)}/tags/list"
        return self._list(path, registries.page_query(query), JSON)

    def _referrers(self, target: Referrers, query: str) -> Route:
        """Filtered here: upstream's whole list serves every filter, also those it does not know."""
        path = f"{self._full(target.name)}/referrers/{target.digest}"
        return self._list(path, registries.page_query(query), media.OCI_INDEX, target.artifact_type)

    def _list(self, path: str, page: str, media_type: str, only: str = "") -> Route:
        paged = f"{path}?{page}" if page else path
        kept = registries.with_filter(page, only)
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, f"{path}?{kept}" if kept else path),
            self._under(paged),
            media_type=media_type,
            headers=(("accept", media_type),),
            ttl=LIST_TTL,
            negative_ttl=NEGATIVE_TTL,
            rendered=bool(only),
            teaches=True,
            expects_html=False,
            filename=path,
            purl=self._purl(path.rpartition("/tags/" if media_type == JSON else "/referrers/")[0]),
            max_bytes=LIST_BYTES,
            answers=(VERSION, FILTERED) if only else (VERSION,),
            paged=True,
        )

    def _full(self, name: str) -> str:
        """The name as the registry knows it: of docker's own images clients leave out `library/`."""
        single = "/" not in name and any(map(registries.is_docker_hub, self.site.upstreams))
        return f"library/{name}" if single else name

    def _under(self, path: str) -> tuple[str, ...]:
        return tuple(base + path for base in self._bases)

    def _purl(self, name: str, digest: str = "") -> str:
        """`pkg:oci`, whose name is the last part of an image's; the rest stands in `repository_url`."""
        at = f"{registries.host_of(self.site.upstreams[0])}/{name}" if self.site.upstreams else name
        short = name.rpartition("/")[2]
        return str(PackageURL("oci", None, short, digest or None, {"repository_url": at}).to_string())

    # --- documents ---

    def learn(self, route: Route, body: bytes, url: str) -> Iterable[Promise]:
        """Nothing is promised: digests are in the addresses already. But what is no such document never
        takes the place of one."""
        del url
        if route.pointer:
            try:
                manifests.read(body)
            except manifests.NotAManifestError as error:
                raise UpstreamBroken(f"upstream sent no manifest: {error}", code="bad_index") from error
        elif route.media_type == JSON:
            referrers.check_tags(body)
        else:
            referrers.read(body)
        return ()

    def render(self, route: Route, body: bytes, base: str, view: View, url: str) -> Rendered:
        del base, view, url
        return Rendered(referrers.only(body, registries.filter_of(route.key.path)))

    def problem(self, fault: Fault, ask: Ask) -> Page:
        code = problems.code_of(fault, _about(ask))
        return Page(problems.document(code, fault.detail), problems.MEDIA_TYPE)


def _about(ask: Ask) -> Target | None:
    try:
        return operation_of("GET", ask.path).target
    except Fault:
        return None


PROVIDER = Oci
