"""Paths of an npm registry, as npm, pnpm, yarn, bun, corepack and strangers ask for them."""

from __future__ import annotations

import json

from artifactproxy.errors import BadPath, MethodRefused, NotServed
from artifactproxy.model import Ask, Route
from artifactproxy.providers._base import Site
from tests.providers.cases import ARTIFACT, INDEX, PASS, Sample, case

SITE = Site(
    "js",
    ("https://registry.example/npm/", "http://mirror.example:4873/"),
    file_hosts=("cdn.example",),
)
UP = "https://registry.example/npm/"
SHORT = "application/vnd.npm.install-v1+json"
FULL = "application/json"
NPM = f"{SHORT}; q=1.0, {FULL}; q=0.8, */*"
SOUP = (Ask("js", "@pots/soup", headers={"accept": SHORT}),)
POT = (Ask("js", "pot", headers={"accept": SHORT}),)


def accept(value: str) -> dict[str, str]:
    return {"accept": value}


CASES = [
    # package documents
    case(
        "a package, in full",
        "pot",
        INDEX,
        "https://registry.example/npm/pot",
        key_path="pot",
        key_variant="full",
        sources=("https://registry.example/npm/pot", "http://mirror.example:4873/pot"),
        media_type=FULL,
        ttl=120.0,
        rendered=True,
        teaches=True,
        expects_html=False,
        purl="pkg:npm/pot",
    ),
    case(
        "a package, abbreviated",
        "pot",
        INDEX,
        "https://registry.example/npm/pot",
        headers=accept(NPM),
        key_path="pot",
        key_variant="abbreviated",
        media_type=SHORT,
    ),
    case(
        "a scoped package goes upstream as one segment",
        "@pots/soup",
        INDEX,
        "https://registry.example/npm/@pots%2fsoup",
        key_path="@pots/soup",
        purl="pkg:npm/%40pots/soup",
    ),
    case("%2f", "@pots%2fsoup", INDEX, f"{UP}@pots%2fsoup", key_path="@pots/soup"),
    case("%2F", "@pots%2Fsoup", INDEX, f"{UP}@pots%2fsoup", key_path="@pots/soup"),
    case("%40", "%40pots/soup", INDEX, f"{UP}@pots%2fsoup", key_path="@pots/soup"),
    case("%40 and %2f", "%40pots%2fsoup", INDEX, f"{UP}@pots%2fsoup", key_path="@pots/soup"),
    case("letters escaped", "p%6Ft", INDEX, f"{UP}pot", key_path="pot"),
    case("old names have capitals", "JSONPot", INDEX, f"{UP}JSONPot", key_path="JSONPot", purl="pkg:npm/jsonpot"),
    case("and odd characters", "~(pot)!'*", INDEX, purl="pkg:npm/~%28pot%29%21%27%2A"),
    case("a package called dash", "-", INDEX, f"{UP}-", key_path="-"),
    case("a query is dropped", "pot", INDEX, f"{UP}pot", query="write=true", key_path="pot"),
    case("a scope alone", "@pots", NotServed),
    case("a scope and a slash", "@pots/", NotServed),
    case("no scope", "@/soup", NotServed),
    case("a name that begins with a dot", ".pot", NotServed),
    case("a name that begins with an underscore", "_all_docs", NotServed),
    case("a name with a colon", "po:t", NotServed),
    case("a name with a space", "po%20t", NotServed),
    case("a name that is no ASCII", "p%C3%B6t", NotServed),
    case("a name that is too long", "p" * 215, NotServed),
    case("a scope that climbs", "@pots%2f..", BadPath),
    case("an encoded slash without a scope", "pots%2fsoup", BadPath),
    case("escaped twice", "@pots%252fsoup", BadPath),
    case("a trailing slash", "pot/", NotServed),
    case("the root", "", NotServed),
    # negotiation
    case("no Accept: full", "pot", INDEX, media_type=FULL),
    case("anything: full", "pot", INDEX, headers=accept("*/*"), media_type=FULL),
    case("any application: full", "pot", INDEX, headers=accept("application/*"), media_type=FULL),
    case("full by name", "pot", INDEX, headers=accept(FULL), media_type=FULL),
    case("abbreviated alone", "pot", INDEX, headers=accept(SHORT), media_type=SHORT),
    case("abbreviated in capitals", "pot", INDEX, headers=accept(SHORT.upper()), media_type=SHORT),
    case("alike: abbreviated", "pot", INDEX, headers=accept(f"{FULL}, {SHORT}"), media_type=SHORT),
    case("q decides", "pot", INDEX, headers=accept(f"{SHORT};q=0.1, {FULL}"), media_type=FULL),
    case("q=0 refuses", "pot", INDEX, headers=accept(f"{SHORT};q=0, */*"), media_type=FULL),
    case("nothing we have: full", "pot", INDEX, headers=accept("text/html"), media_type=FULL),
    case("a q that is none", "pot", INDEX, headers=accept(f"{SHORT};q=high"), media_type=FULL),
    case("no list at all", "pot", INDEX, headers=accept(';;,"/'), media_type=FULL),
    # one version
    case(
        "a manifest by version",
        "@pots%2fsoup/1.0.0",
        INDEX,
        f"{UP}@pots%2fsoup/1.0.0",
        key_path="@pots/soup/1.0.0",
        key_variant="",
        media_type=FULL,
        rendered=True,
        teaches=True,
        purl="pkg:npm/%40pots/soup@1.0.0",
    ),
    case("by tag", "pot/latest", INDEX, f"{UP}pot/latest", headers=accept(NPM), purl="pkg:npm/pot"),
    case("by version with a build", "pot/1.0.0+b", INDEX, f"{UP}pot/1.0.0%2Bb", key_path="pot/1.0.0+b"),
    case("a range", "pot/%5E1.0.0", INDEX, f"{UP}pot/%5E1.0.0", key_path="pot/%5E1.0.0"),
    case("something below a version", "pot/1.0.0/x", NotServed),
    case("a revision", "pot/-rev/1-a", NotServed),
    # tarballs
    case(
        "a tarball",
        "pot/-/pot-1.0.0.tgz",
        ARTIFACT,
        f"{UP}pot/-/pot-1.0.0.tgz",
        key_path="pot/-/pot-1.0.0.tgz",
        key_variant="",
        media_type="application/octet-stream",
        sources=(f"{UP}pot/-/pot-1.0.0.tgz", "http://mirror.example:4873/pot/-/pot-1.0.0.tgz"),
        ttl=None,
        negative_ttl=10.0,
        foreign=False,
        rendered=False,
        teaches=False,
        expects_html=False,
        filename="pot-1.0.0.tgz",
        teachers=POT,
        taught_if_possible=False,
        purl="pkg:npm/pot@1.0.0",
    ),
    case(
        "of a scoped package",
        "@pots/soup/-/soup-1.0.0-beta.1.tgz",
        ARTIFACT,
        f"{UP}@pots/soup/-/soup-1.0.0-beta.1.tgz",
        teachers=SOUP,
        purl="pkg:npm/%40pots/soup@1.0.0-beta.1",
    ),
    case(
        "whose name is escaped: the same",
        "%40pots%2Fsoup/-/soup-1.0.0-beta.1.tgz",
        ARTIFACT,
        key_path="@pots/soup/-/soup-1.0.0-beta.1.tgz",
    ),
    case(
        "with the scope repeated",
        "@pots/soup/-/@pots/soup-1.0.0.tgz",
        ARTIFACT,
        f"{UP}@pots/soup/-/@pots/soup-1.0.0.tgz",
        key_path="@pots/soup/-/@pots/soup-1.0.0.tgz",
        purl="pkg:npm/%40pots/soup@1.0.0",
        filename="soup-1.0.0.tgz",
    ),
    case(
        "with the scope repeated and escaped: the same",
        "@pots/soup/-/@pots%2fsoup-1.0.0.tgz",
        ARTIFACT,
        key_path="@pots/soup/-/@pots/soup-1.0.0.tgz",
    ),
    case("with another's scope", "@pots/soup/-/@pans/soup-1.0.0.tgz", NotServed),
    case("of the package called dash", "-/-/--0.0.1.tgz", ARTIFACT, f"{UP}-/-/--0.0.1.tgz"),
    case(
        "a plus stays encoded towards upstream",
        "pot/-/pot-1.0.0+b.tgz",
        ARTIFACT,
        f"{UP}pot/-/pot-1.0.0%2Bb.tgz",
        key_path="pot/-/pot-1.0.0+b.tgz",
        purl="pkg:npm/pot@1.0.0%2Bb",
    ),
    case("a file that is called otherwise", "pot/-/lid.tgz", ARTIFACT, purl="pkg:npm/pot"),
    case("what is no tarball is relayed", "pot/-/pot.txt", PASS, f"{UP}pot/-/pot.txt"),
    case("no file name", "pot/-/", NotServed),
    case("a folder", "pot/-/x/", NotServed),
    case("a folder that is no host", "pot/-/x/pot-1.0.0.tgz", NotServed),
    # tarballs elsewhere
    case(
        "on a host that only a document can name",
        "@pots/soup/-/files.example/a/b.tgz",
        ARTIFACT,
        "https://files.example/a/b.tgz",
        key_path="@pots/soup/-/files.example/a/b.tgz",
        foreign=True,
        teachers=SOUP,
        filename="b.tgz",
        purl="pkg:npm/%40pots/soup",
    ),
    case("on a file host", "pot/-/cdn.example/a/pot-1.0.0.tgz", ARTIFACT, "https://cdn.example/a/pot-1.0.0.tgz", foreign=False),
    case("in capitals", "pot/-/CDN.example/a.tgz", ARTIFACT, key_path="pot/-/cdn.example/a.tgz"),
    case("on upstream, elsewhere", "pot/-/registry.example/dl/a.tgz", ARTIFACT, "https://registry.example/dl/a.tgz", foreign=False),
    case("on upstream, but no tarball", "pot/-/registry.example/npm/-/whoami", ARTIFACT, foreign=True),
    case("upstream's scheme and port", "pot/-/mirror.example:4873/a.tgz", ARTIFACT, "http://mirror.example:4873/a.tgz", foreign=False),
    case("another port is another host", "pot/-/registry.example:8443/a.tgz", ARTIFACT, foreign=True),
    case("a host without a dot", "pot/-/localhost:4873/a.tgz", ARTIFACT, "https://localhost:4873/a.tgz", foreign=True),
    case("what a query told apart", "pot/-/cdn.example/get%3F1.0.0", ARTIFACT, "https://cdn.example/get", foreign=True, filename="get"),
    case("a scope in the path", "@pots/soup/-/files.example/@pots%2fsoup/1", ARTIFACT, "https://files.example/@pots%2Fsoup/1"),
    case("a port that is none", "pot/-/files.example:99999/a.tgz", NotServed),
    case("userinfo is no host", "pot/-/u@files.example/a.tgz", NotServed),
    case("a host alone", "pot/-/files.example/", NotServed),
    case("dot dot", "pot/-/files.example/../a.tgz", BadPath),
    case("encoded dot dot", "pot/-/files.example/%2e%2e/a.tgz", BadPath),
    case("too long for a key", "pot/-/files.example/" + "a" * 2100, BadPath),
    # services
    case(
        "tags are those of the package document",
        "-/package/@pots%2fsoup/dist-tags",
        INDEX,
        f"{UP}@pots%2fsoup",
        key_path="@pots/soup",
        key_variant="abbreviated",
        media_type="application/json; charset=utf-8",
        rendered=True,
    ),
    case("tags, another spelling", "-/package/@pots/soup/dist-tags", INDEX, key_path="@pots/soup"),
    case("one tag", "-/package/pot/dist-tags/latest", NotServed),
    case("who may publish", "-/package/pot/collaborators", NotServed),
    case("keys", "-/npm/v1/keys", INDEX, f"{UP}-/npm/v1/keys", ttl=3600.0, rendered=False, teaches=False, media_type=FULL),
    case(
        "attestations",
        "-/npm/v1/attestations/@pots%2fsoup@1.0.0",
        INDEX,
        f"{UP}-/npm/v1/attestations/@pots%2fsoup@1.0.0",
        key_path="-/npm/v1/attestations/@pots/soup@1.0.0",
        ttl=86400.0,
        rendered=False,
        purl="pkg:npm/%40pots/soup@1.0.0",
    ),
    case("attestations, another spelling", "-/npm/v1/attestations/@pots/soup@1.0.0", INDEX, key_path="-/npm/v1/attestations/@pots/soup@1.0.0"),
    case("attestations of no version", "-/npm/v1/attestations/pot", NotServed),
    case("attestations of a tag", "-/npm/v1/attestations/pot@latest", NotServed),
    case(
        "search",
        "-/v1/search",
        PASS,
        f"{UP}-/v1/search?text=pot&size=20",
        query="text=pot&token=s3cret&size=20",
        key_path="-/v1/search?text=pot&size=20",
        headers=accept("*/*"),
    ),
    case("search for nothing", "-/v1/search", PASS, f"{UP}-/v1/search"),
    case("search with broken escapes", "-/v1/search", BadPath, query="text=%zz"),
    case("ping", "-/ping", 200, body=b"{}", media_type=FULL),
    case("an audit is no GET", "-/npm/v1/security/advisories/bulk", MethodRefused),
    case("the whole registry", "-/all", NotServed),
    case("whoami", "-/whoami", NotServed),
    case("login", "-/v1/login", NotServed),
    case("a user", "-/user/org.couchdb.user:cook", NotServed),
    case("tokens", "-/npm/v1/tokens", NotServed),
    case("a profile", "-/npm/v1/user", NotServed),
    case("anything else", "-/npm/v1/hooks", NotServed),
    case("a bare dash", "-/", NotServed),
    case("NUL", "p%00t", BadPath),
    case("not UTF-8", "%ff", BadPath),
    case("an empty segment", "pot//-/a.tgz", BadPath),
]  # fmt: skip

PAGE = f"{UP}@pots%2fsoup"
HIDDEN = frozenset({"2.0.0", "2.1.0-beta.2", "1.2.0"})
SAMPLES = [
    Sample("full", "@pots/soup", PAGE, "full.json"),
    Sample("full", "@pots/soup", PAGE, "full.short.json", accept=NPM),
    Sample("full", "@pots/soup", PAGE, "full.hidden.json", hidden=HIDDEN),
    Sample("full", "@pots/soup", PAGE, "full.hidden.short.json", accept=NPM, hidden=HIDDEN),
    Sample("full", "-/package/@pots/soup/dist-tags", PAGE, "full.tags.json"),
    Sample("full", "-/package/@pots/soup/dist-tags", PAGE, "full.hidden.tags.json", hidden=HIDDEN),
    Sample("short", "@pots/soup", PAGE, "short.json", accept=NPM),
    Sample("short", "@pots/soup", PAGE, "short.json"),
    Sample("elsewhere", "@pots/soup", PAGE, "elsewhere.json"),
    Sample("elsewhere", "@pots/soup", PAGE, "elsewhere.short.json", accept=NPM),
    Sample("lying", "@pots/soup", PAGE, "lying.json"),
    Sample("manifest", "@pots/soup/1.0.0", f"{PAGE}/1.0.0", "manifest.json"),
    Sample("unpublished", "pot", f"{UP}pot", "unpublished.json"),
]  # fmt: skip


def links(route: Route, body: bytes, base: str) -> list[str]:
    """The address of every tarball in a rendered document."""
    del base
    document = json.loads(body)
    manifests = (
        [document] if "/" in route.key.path.partition("/")[2] else [*document.get("versions", {}).values()]
    )
    return [manifest["dist"]["tarball"] for manifest in manifests]
