"""The Python package index: simple API in HTML and JSON, files, core metadata, the older JSON.

Immutable: `packages/<host>/<path>`, a distribution by its file name (an index never reuses one), its
`.metadata` and `.asc`; promised by the hashes of the project page.
Mutable: `simple/`, `simple/<name>/`, `pypi/<name>[/<version>]/json` (all rendered), attestations.
One body of a project page is stored, HTML or JSON as upstream sent it; `Route.media_type` names the
form that this client is given. References: PEP 503, 592, 658, 691, 700, 714, 740; 381 for `packages/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO
from urllib.parse import unquote

from artifactproxy.errors import BadPath, Fault, NotServed
from artifactproxy.model import ArtifactKey, Ask, Kind, Promise, Rendered, Reply, Route, View
from artifactproxy.providers._base import ClientSetup, Page, Provider, PublicOrigins, Site
from artifactproxy.providers._hosts import LONGEST
from artifactproxy.providers.pypi import jsonpage, legacy, markup, names, wheel
from artifactproxy.providers.pypi.addresses import Places
from artifactproxy.providers.pypi.page import Listing, Project, is_json, promises
from artifactproxy.rules.http import negotiate
from artifactproxy.rules.paths import canonical_path, judge_path

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
TEXT_HTML = "text/html; charset=utf-8"
_OFFERS = (
    ("text/html", TEXT_HTML),
    (HTML, HTML),
    ("application/vnd.pypi.simple.latest+html", HTML),
    (JSON, JSON),
    ("application/vnd.pypi.simple.latest+json", JSON),
)
_FORMATS = dict(_OFFERS)
_GZIP = ("accept-encoding", "gzip, identity;q=0.5")
_ASK_SIMPLE = (("accept", f"{JSON}, {HTML};q=0.2, text/html;q=0.1"), _GZIP)
_ASK_JSON = (("accept", "application/json"), _GZIP)
_ASK_PROVENANCE = (("accept", "application/vnd.pypi.integrity.v1+json, application/json;q=0.5"), _GZIP)

PAGE_TTL = 120.0
LISTING_TTL = 1800.0
PROVENANCE_TTL = 3600.0
MISSING_FILE_TTL = 10.0  # an index that names a file which upstream lacks is a passing state
SIDECAR_BYTES = 16 * 2**20

_MEDIA_TYPES = {
    ".whl": "application/zip",
    ".zip": "application/zip",
    ".egg": "application/zip",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".metadata": "text/plain; charset=utf-8",
    ".asc": "text/plain; charset=utf-8",
}

_CLIENTS = (
    ClientSetup(
        "pip",
        "# pip.conf, or the same with: pip config set global.index-url {base}/simple/\n"
        "[global]\nindex-url = {base}/simple/\n",
        insecure="trusted-host = {host}\n",
        command="pip install --index-url {base}/simple/ PACKAGE",
    ),
    ClientSetup(
        "uv",
        "# uv.toml, or the environment: UV_DEFAULT_INDEX={base}/simple/\n"
        '[[index]]\nurl = "{base}/simple/"\ndefault = true\n',
        insecure="# or the environment: UV_INSECURE_HOST={host}\n",
        command="uv pip install --default-index {base}/simple/ PACKAGE",
    ),
    ClientSetup(
        "poetry",
        "# in the project\npoetry source add --priority=primary proxy {base}/simple/\n",
        command="poetry source add --priority=primary proxy {base}/simple/",
    ),
    ClientSetup(
        "pdm",
        "# for the user\npdm config pypi.url {base}/simple/\n",
        insecure="pdm config pypi.verify_ssl false\n",
        command="pdm config pypi.url {base}/simple/",
    ),
)


class PyPI(Provider):
    name = "pypi"
    revision = 1
    clients = _CLIENTS

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._places = Places(site.upstreams, site.file_hosts)
        # The older JSON and attestations lie beside `simple/`, where upstream follows the custom.
        self._parents = tuple(u.removesuffix("simple/") for u in site.upstreams if u.endswith("/simple/"))

    @classmethod
    def public_upstream(cls, origin_of: PublicOrigins) -> str | None:
        return origin_of.repository("pkg:pypi/pip") + "simple/"

    def classify(self, ask: Ask) -> Route | Reply:
        judge_path(ask.path)
        path = canonical_path(ask.path)
        if len(path) > LONGEST:
            raise BadPath(f"the path is longer than {LONGEST} bytes")
        first, slash, rest = path.partition("/")
        if not slash and first == "simple":
            return _moved("simple/", ask)
        if not slash or "%2F" in path:
            raise NotServed("no such path in a Python index")
        if first == "simple":
            return self._simple(path, rest, ask)
        if first == "packages":
            return self._file(path)
        if first in ("pypi", "integrity") and self._parents:
            return self._beside(path, first, rest)
        raise NotServed("no such path in a Python index")

    def _simple(self, path: str, rest: str, ask: Ask) -> Route | Reply:
        if not rest:
            return self._index(
                "simple/", self._under(""), media_type=_form(ask), ttl=LISTING_TTL, headers=_ASK_SIMPLE
            )
        name, slash, below = rest.partition("/")
        if not names.PROJECT.fullmatch(name):
            raise NotServed("no project can have this name")
        if not slash:
            return _moved(f"{name}/", ask)
        if below:
            return self._relayed(path, self._under(rest))
        project = names.normalised(name)
        return self._index(
            f"simple/{project}/",
            self._under(f"{project}/"),
            media_type=_form(ask),
            ttl=PAGE_TTL,
            headers=_ASK_SIMPLE,
            purl=names.purl(project),
        )

    def _beside(self, path: str, first: str, rest: str) -> Route:
        match (first, *rest.split("/")):
            case ("pypi", name, "json") if names.PROJECT.fullmatch(name):
                project, version = names.normalised(name), ""
                path = f"pypi/{project}/json"
            case ("pypi", name, version, "json") if names.PROJECT.fullmatch(name):
                project = names.normalised(name)
                path = f"pypi/{project}/{version}/json"
            case ("integrity", name, version, file, "provenance") if names.PROJECT.fullmatch(name):
                path = f"integrity/{names.normalised(name)}/{version}/{file}/provenance"
                return self._provenance(path, tuple(parent + path for parent in self._parents))
            case _:
                return self._relayed(path, tuple(parent + path for parent in self._parents))
        sources = tuple(parent + path for parent in self._parents)
        purl = names.purl(project, names.decoded(version))
        return self._index(
            path, sources, media_type="application/json", ttl=PAGE_TTL, headers=_ASK_JSON, purl=purl
        )

    def _under(self, rest: str) -> tuple[str, ...]:
        return tuple(base + rest for base in self.site.upstreams)

    def _index(
        self,
        path: str,
        sources: tuple[str, ...],
        *,
        media_type: str,
        ttl: float,
        headers: tuple[tuple[str, str], ...],
        purl: str = "",
    ) -> Route:
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, path),
            sources,
            media_type=media_type,
            headers=headers,
            ttl=ttl,
            rendered=True,
            teaches=True,
            expects_html=path.startswith("simple/"),
            purl=purl,
        )

    def _relayed(self, path: str, sources: tuple[str, ...]) -> Route:
        return Route(Kind.PASS, ArtifactKey(self.site.repo, path), sources)

    def _provenance(self, path: str, sources: tuple[str, ...], *, foreign: bool = False) -> Route:
        return Route(
            Kind.INDEX,
            ArtifactKey(self.site.repo, path),
            sources,
            media_type="application/vnd.pypi.integrity.v1+json",
            headers=_ASK_PROVENANCE,
            ttl=PROVENANCE_TTL,
            foreign=foreign,
            expects_html=False,
        )

    def _file(self, path: str) -> Route:
        path, source, foreign = self._places.find(path)
        filename = names.decoded(path.rpartition("/")[2])
        suffix = next((s for s in (".metadata", ".asc", ".provenance") if filename.endswith(s)), "")
        distribution = filename.removesuffix(suffix)
        if not names.is_distribution(distribution):
            raise NotServed("not the file name of a distribution")
        if suffix == ".provenance":
            return self._provenance(path, (source,), foreign=foreign)
        project, version = names.split(distribution)
        is_wheel = distribution.lower().endswith(".whl")
        return Route(
            Kind.ARTIFACT,
            ArtifactKey(self.site.repo, path),
            (source,),
            media_type=_media_type(filename),
            negative_ttl=MISSING_FILE_TTL,
            foreign=foreign,
            teachers=(Ask(self.site.repo, f"simple/{project}/"),) if names.PROJECT.fullmatch(project) else (),
            derived_from=path.removesuffix(suffix) if suffix == ".metadata" and is_wheel else "",
            expects_html=False,
            filename=filename,
            purl=names.purl(project, version) if names.PROJECT.fullmatch(project) else "",
            max_bytes=SIDECAR_BYTES if suffix else None,
        )

    def learn(self, route: Route, body: bytes, url: str) -> Iterable[Promise]:
        if route.key.path == "simple/":
            _read_listing(body, url)
            return []
        if route.key.path.startswith("pypi/"):
            return legacy.promises(route.key, body, url)
        if not route.key.path.startswith("simple/"):
            return []
        return promises(route.key, _read_project(route, body, url))

    def render(self, route: Route, body: bytes, base: str, view: View, url: str) -> Rendered:
        if route.key.path.startswith("pypi/"):
            return Rendered(legacy.render(body, base, view.hidden, url))
        wants_json = route.media_type == JSON
        if route.key.path == "simple/":
            listing = _read_listing(body, url)
            if wants_json:
                return Rendered(jsonpage.write_listing(listing))
            return Rendered(markup.write_listing(listing).encode())
        project = _read_project(route, body, url).without(view.hidden)
        for file in project.files:
            file.provenance = self._ours(file.provenance, base)
        if wants_json:
            return Rendered(jsonpage.write_project(project, "../../"))
        return Rendered(markup.write_project(project, "../../").encode())

    def _ours(self, provenance: str | None, base: str) -> str | None:
        """PEP 740 wants an absolute https URL: ours if we have one, else upstream's stays."""
        if provenance and base.startswith("https://"):
            for parent in self._parents:
                if provenance.startswith(f"{parent}integrity/"):
                    return f"{base}/{provenance[len(parent) :]}"
        return provenance

    def derive(self, route: Route, source: BinaryIO) -> bytes | None:
        wheel_name = route.filename.removesuffix(".metadata")
        if not wheel_name.lower().endswith(".whl") or wheel_name == route.filename:
            return None
        return wheel.metadata(source, wheel_name)

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """For pip, which shows nothing but the reason phrase, so the sentence stands there too."""
        del ask
        printable = "".join(c if " " <= c <= "~" else " " for c in fault.detail)
        sentence = " ".join(printable.split())[:200]
        return Page((sentence + "\n").encode("ascii"), "text/plain; charset=utf-8", sentence)


def _read_listing(body: bytes, url: str) -> Listing:
    return jsonpage.read_listing(body) if is_json(body) else markup.read_listing(body, url)


def _read_project(route: Route, body: bytes, url: str) -> Project:
    name = route.key.path.split("/")[1]
    read = jsonpage.read_project if is_json(body) else markup.read_project
    return read(body, name, url)


def _media_type(filename: str) -> str:
    dot = filename.rfind(".")
    return _MEDIA_TYPES.get(filename[dot:].lower(), "application/octet-stream")


def _wanted_format(query: str) -> str:
    """The media type of `?format=`, "" without one. A plus may have become a space on its way."""
    for parameter in query.split("&"):
        if parameter.startswith("format="):
            return unquote(parameter[7:]).replace(" ", "+").strip().lower()
    return ""


def _form(ask: Ask) -> str:
    """The representation for this client; HTML for whoever names none that we have."""
    chosen = _FORMATS.get(_wanted_format(ask.query))
    return chosen or negotiate(ask.headers.get("accept", ""), _OFFERS) or TEXT_HTML


def _moved(location: str, ask: Ask) -> Reply:
    """A relative address stays right behind every prefix. PEP 503 wants the slash."""
    wanted = _wanted_format(ask.query)
    query = f"?format={wanted}" if wanted in _FORMATS else ""
    return Reply(301, headers=(("location", location + query),))


PROVIDER = PyPI
