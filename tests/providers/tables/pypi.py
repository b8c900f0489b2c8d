"""Paths of the Python index, as pip, uv, poetry, pdm, mirrors and strangers ask for them."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import urljoin

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.model import Ask, Route
from artifactproxy.providers._base import Site
from tests.providers.cases import ARTIFACT, INDEX, PASS, Sample, case

SITE = Site(
    "py",
    ("https://index.example/simple/", "http://mirror.example:8080/root/+simple/"),
    file_hosts=("cdn.example", "http://plain.example:8081"),
)
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
TEXT = "text/html; charset=utf-8"
PIP = f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"
UV = f"{JSON}, {HTML};q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
WHEEL = "ab/cd/pot_soup-1.2.0-py3-none-any.whl"


def accept(value: str) -> dict[str, str]:
    return {"accept": value}


CASES = [
    # the list of projects
    case(
        "the list",
        "simple/",
        INDEX,
        "https://index.example/simple/",
        ttl=1800.0,
        rendered=True,
        expects_html=True,
    ),
    case("the list without a slash", "simple", 301, headers={}, location="simple/"),
    case("the list as JSON", "simple/", INDEX, headers=accept(UV), media_type=JSON),
    # project pages
    case(
        "a project page",
        "simple/pot-soup/",
        INDEX,
        "https://index.example/simple/pot-soup/",
        ttl=120.0,
        rendered=True,
        teaches=True,
        expects_html=True,
        purl="pkg:pypi/pot-soup",
        key_path="simple/pot-soup/",
    ),
    case(
        "its name is normalised",
        "simple/Pot_.Soup/",
        INDEX,
        "https://index.example/simple/pot-soup/",
        key_path="simple/pot-soup/",
    ),
    case("an escaped name is the same", "simple/%50ot-soup/", INDEX, key_path="simple/pot-soup/"),
    case("without a slash: redirect, relative", "simple/Pot_Soup", 301, location="Pot_Soup/"),
    case(
        "a redirect keeps the format",
        "simple/pot",
        301,
        query=f"format={JSON}",
        location=f"pot/?format={JSON}",
    ),
    case("a redirect keeps nothing else", "simple/pot", 301, query="x=//evil.example", location="pot/"),
    case("a name cannot start with a dash", "simple/-pot/", NotServed),
    case("a name has no space", "simple/po%20t/", NotServed),
    case("a name is ASCII", "simple/p%C3%B6t/", NotServed),
    case(
        "something below a page is relayed",
        "simple/pot/extra.txt",
        PASS,
        "https://index.example/simple/pot/extra.txt",
    ),
    # negotiation
    case("no Accept: HTML", "simple/pot/", INDEX, media_type=TEXT),
    case("anything: HTML", "simple/pot/", INDEX, headers=accept("*/*"), media_type=TEXT),
    case("a browser: HTML", "simple/pot/", INDEX, headers=accept(BROWSER), media_type=TEXT),
    case("pip: JSON", "simple/pot/", INDEX, headers=accept(PIP), media_type=JSON),
    case("uv: JSON", "simple/pot/", INDEX, headers=accept(UV), media_type=JSON),
    case("old pip: HTML", "simple/pot/", INDEX, headers=accept("text/html"), media_type=TEXT),
    case("v1+html", "simple/pot/", INDEX, headers=accept(HTML), media_type=HTML),
    case(
        "latest+json is answered as v1",
        "simple/pot/",
        INDEX,
        headers=accept("application/vnd.pypi.simple.latest+json"),
        media_type=JSON,
    ),
    case(
        "latest+html is answered as v1",
        "simple/pot/",
        INDEX,
        headers=accept("application/vnd.pypi.simple.latest+html"),
        media_type=HTML,
    ),
    case(
        "q decides", "simple/pot/", INDEX, headers=accept(f"{JSON};q=0.3, text/html;q=0.4"), media_type=TEXT
    ),
    case("q=0 refuses", "simple/pot/", INDEX, headers=accept(f"{JSON};q=0, {HTML}"), media_type=HTML),
    case(
        "unknown types are passed over",
        "simple/pot/",
        INDEX,
        headers=accept(f"application/x-msgpack, {JSON};q=0.9"),
        media_type=JSON,
    ),
    case("nothing we have: HTML", "simple/pot/", INDEX, headers=accept("image/png"), media_type=TEXT),
    case("format in the query", "simple/pot/", INDEX, query=f"format={JSON}", media_type=JSON),
    case(
        "format wins over Accept",
        "simple/pot/",
        INDEX,
        query="format=text/html",
        headers=accept(UV),
        media_type=TEXT,
    ),
    case(
        "format with an encoded plus",
        "simple/pot/",
        INDEX,
        query="format=application/vnd.pypi.simple.v1%2Bjson",
        media_type=JSON,
    ),
    case(
        "an unknown format is passed over",
        "simple/pot/",
        INDEX,
        query="format=pdf",
        headers=accept(UV),
        media_type=JSON,
    ),
    case("the form is not part of the key", "simple/pot/", INDEX, headers=accept(UV), key_variant=""),
    # files
    case(
        "a wheel on a host that only an index can name",
        f"packages/files.example/{WHEEL}",
        ARTIFACT,
        f"https://files.example/{WHEEL}",
        foreign=True,
        teachers=(Ask("py", "simple/pot-soup/"),),
        expects_html=False,
        filename="pot_soup-1.2.0-py3-none-any.whl",
        purl="pkg:pypi/pot-soup@1.2.0",
        rendered=False,
        derived_from="",
    ),
    case(
        "a wheel on the upstream itself",
        f"packages/index.example/{WHEEL}",
        ARTIFACT,
        f"https://index.example/{WHEEL}",
        foreign=False,
    ),
    case(
        "upstream's scheme and port",
        f"packages/mirror.example:8080/{WHEEL}",
        ARTIFACT,
        f"http://mirror.example:8080/{WHEEL}",
        foreign=False,
    ),
    case(
        "another port is another host",
        f"packages/index.example:8443/{WHEEL}",
        ARTIFACT,
        f"https://index.example:8443/{WHEEL}",
        foreign=True,
    ),
    case(
        "a file host",
        f"packages/cdn.example/{WHEEL}",
        ARTIFACT,
        f"https://cdn.example/{WHEEL}",
        foreign=False,
    ),
    case(
        "a file host with a scheme",
        f"packages/plain.example:8081/{WHEEL}",
        ARTIFACT,
        f"http://plain.example:8081/{WHEEL}",
        foreign=False,
    ),
    case(
        "a host in capitals",
        f"packages/CDN.example/{WHEEL}",
        ARTIFACT,
        f"https://cdn.example/{WHEEL}",
        key_path=f"packages/cdn.example/{WHEEL}",
    ),
    case(
        "pip spells the colon as an escape",
        f"packages/mirror.example%3A8080/{WHEEL}",
        ARTIFACT,
        foreign=False,
        key_path=f"packages/mirror.example:8080/{WHEEL}",
    ),
    case(
        "localhost is a host",
        "packages/localhost/a-1.zip",
        ARTIFACT,
        "https://localhost/a-1.zip",
        foreign=True,
    ),
    case(
        "what looks like an address and is none is a folder of the upstream itself",
        "packages/%5B:::1%5D:8080/a-1.zip",
        ARTIFACT,
        "https://index.example/packages/%5B:::1%5D:8080/a-1.zip",
    ),
    case(
        "an address in brackets",
        "packages/%5B::1%5D:8080/a-1.zip",
        ARTIFACT,
        "https://[::1]:8080/a-1.zip",
        foreign=True,
    ),
    case(
        "the old layout has no host",
        "packages/source/p/pot/pot-1.0.tar.gz",
        ARTIFACT,
        "https://index.example/packages/source/p/pot/pot-1.0.tar.gz",
        foreign=False,
        key_path="packages/index.example/packages/source/p/pot/pot-1.0.tar.gz",
    ),
    case(
        "py2.py3 is a folder",
        "packages/py2.py3/p/pot/pot-1.0-py2.py3-none-any.whl",
        ARTIFACT,
        "https://index.example/packages/py2.py3/p/pot/pot-1.0-py2.py3-none-any.whl",
        foreign=False,
    ),
    case(
        "2.7 is a folder",
        "packages/2.7/p/pot/pot-1.0-py2.7.egg",
        ARTIFACT,
        "https://index.example/packages/2.7/p/pot/pot-1.0-py2.7.egg",
        foreign=False,
        purl="pkg:pypi/pot@1.0",
    ),
    case(
        "a local version: one key",
        "packages/cdn.example/t-1.0+cu1.whl",
        ARTIFACT,
        "https://cdn.example/t-1.0%2Bcu1.whl",
        key_path="packages/cdn.example/t-1.0+cu1.whl",
    ),
    case(
        "a local version, encoded: the same key",
        "packages/cdn.example/t-1.0%2Bcu1.whl",
        ARTIFACT,
        "https://cdn.example/t-1.0%2Bcu1.whl",
        key_path="packages/cdn.example/t-1.0+cu1.whl",
    ),
    case(
        "a source distribution",
        "packages/cdn.example/pot_soup-1.2.tar.gz",
        ARTIFACT,
        media_type="application/gzip",
        teachers=(Ask("py", "simple/pot-soup/"),),
        purl="pkg:pypi/pot-soup@1.2",
    ),
    case(
        "an installer",
        "packages/cdn.example/pot-1.2.win-amd64-py3.4.exe",
        ARTIFACT,
        teachers=(Ask("py", "simple/pot/"),),
        purl="pkg:pypi/pot@1.2",
    ),
    case(
        "the query is dropped",
        f"packages/cdn.example/{WHEEL}",
        ARTIFACT,
        f"https://cdn.example/{WHEEL}",
        query="token=1",
    ),
    case(
        "core metadata",
        f"packages/files.example/{WHEEL}.metadata",
        ARTIFACT,
        f"https://files.example/{WHEEL}.metadata",
        teachers=(Ask("py", "simple/pot-soup/"),),
        derived_from=f"packages/files.example/{WHEEL}",
        expects_html=False,
        foreign=True,
        media_type="text/plain; charset=utf-8",
    ),
    case(
        "core metadata of a source distribution is never derived",
        "packages/cdn.example/a-1.tar.gz.metadata",
        ARTIFACT,
        derived_from="",
    ),
    case(
        "a signature",
        f"packages/cdn.example/{WHEEL}.asc",
        ARTIFACT,
        teachers=(Ask("py", "simple/pot-soup/"),),
        derived_from="",
    ),
    case(
        "attestations beside a file",
        f"packages/cdn.example/{WHEEL}.provenance",
        INDEX,
        ttl=3600.0,
        rendered=False,
    ),
    case("no file name", "packages/cdn.example/ab/", NotServed),
    case("a host alone", "packages/cdn.example", NotServed),
    case("nothing at all", "packages/", NotServed),
    case("no distribution", "packages/cdn.example/passwords.txt", NotServed),
    case("no distribution on a foreign host", "packages/files.example/index.html", NotServed),
    case("a slash in a name", "packages/cdn.example/@a%2Fb-1.whl", NotServed),
    case(
        "userinfo is no host",
        "packages/u@files.example/a-1.whl",
        ARTIFACT,
        "https://index.example/packages/u@files.example/a-1.whl",
    ),
    case(
        "a port that is none",
        "packages/files.example:99999/a-1.whl",
        ARTIFACT,
        "https://index.example/packages/files.example:99999/a-1.whl",
    ),
    # beside the simple API
    case(
        "older JSON",
        "pypi/Pot_Soup/json",
        INDEX,
        "https://index.example/pypi/pot-soup/json",
        key_path="pypi/pot-soup/json",
        media_type="application/json",
        rendered=True,
        teaches=True,
        expects_html=False,
    ),
    case(
        "older JSON of a version",
        "pypi/pot/1.0/json",
        INDEX,
        "https://index.example/pypi/pot/1.0/json",
        purl="pkg:pypi/pot@1.0",
    ),
    case(
        "attestations",
        f"integrity/Pot/1.0/{WHEEL.rpartition('/')[2]}/provenance",
        INDEX,
        f"https://index.example/integrity/pot/1.0/{WHEEL.rpartition('/')[2]}/provenance",
        ttl=3600.0,
    ),
    case("the rest of that API is relayed", "pypi/pot/other", PASS, "https://index.example/pypi/pot/other"),
    # not ours
    case("the root", "", NotServed),
    case("search", "search", NotServed),
    case("uploads", "legacy/", NotServed),
    case("XML-RPC", "pypi", NotServed),
    case("case matters", "Simple/pot/", NotServed),
    case("dot dot", "simple/../etc/", BadPath),
    case("encoded dot dot", "packages/cdn.example/%2e%2e/a-1.whl", BadPath),
    case("encoded slashes", "simple/..%2f..%2fetc", BadPath),
    case("encoded twice", "packages/cdn.example/%252e%252e/a-1.whl", BadPath),
    case("an empty segment", "packages/cdn.example//a-1.whl", BadPath),
    case("NUL", "packages/cdn.example/a%00-1.whl", BadPath),
    case("not UTF-8", "packages/cdn.example/%ff-1.whl", BadPath),
    case("too long for a key", "packages/cdn.example/" + "a" * 2100 + "-1.whl", BadPath),
]

PAGE = "https://index.example/simple/pot-soup/"
SAMPLES = [
    Sample("registry-html", "simple/pot-soup/", PAGE, "registry-html.json", accept=UV),
    Sample("registry-html", "simple/pot-soup/", PAGE, "registry-html.html"),
    Sample("full-json", "simple/pot-soup/", PAGE, "full-json.json", accept=UV),
    Sample("full-json", "simple/pot-soup/", PAGE, "full-json.html", accept=HTML),
    Sample("full-json", "simple/pot-soup/", PAGE, "full-json.hidden.json", accept=UV, hidden=frozenset({"pot_soup-2.0-py3-none-any.whl"})),
    Sample("static-html", "simple/pot-soup/", "http://mirror.example:8080/root/+simple/pot-soup/", "static-html.json", accept=UV),
    Sample("list-html", "simple/", "https://index.example/simple/", "list-html.json", accept=UV),
    Sample("list-html", "simple/", "https://index.example/simple/", "list-html.html"),
    Sample("list-json", "simple/", "https://index.example/simple/", "list-json.html"),
    Sample("legacy", "pypi/pot-soup/json", "https://index.example/pypi/pot-soup/json", "legacy.json"),
    Sample("legacy", "pypi/pot-soup/json", "https://index.example/pypi/pot-soup/json", "legacy.hidden.json", hidden=frozenset({"pot_soup-2.0-py3-none-any.whl"})),
]  # fmt: skip


def links(route: Route, body: bytes, base: str) -> list[str]:
    """Absolute addresses of files in a rendered document, the way a client resolves them."""
    document = f"{base}/{route.key.path}"
    if route.media_type == JSON:
        return [urljoin(document, file["url"]) for file in json.loads(body).get("files", [])]
    if route.media_type == "application/json":
        loaded = json.loads(body)
        entries = [*loaded["urls"], *(e for files in loaded.get("releases", {}).values() for e in files)]
        return [entry["url"] for entry in entries]
    if route.key.path == "simple/":
        return []
    hrefs = re.findall(r'<a href="([^"]*)"', body.decode())
    return [urljoin(document, unescape(href)).partition("#")[0] for href in hrefs]
